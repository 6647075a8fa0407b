//! Method `mtls`: the caller's end of the connection showed a certificate that an authority of ours has signed.
//!
//! The handshake has verified it. Which of its names is the caller is for the operator to say, and a name that could
//! be read in two ways is none.

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::{Ask, Proof, Verdict};
use crate::config::{ClientCertificate, Identity};
use crate::model::principal::{Claim, Claims, Principal};
use crate::tls::server::Authority;

/// What certificates of some authorities say.
#[derive(Debug)]
pub struct Mtls {
    name: String,
    settings: ClientCertificate,
    authority: Option<Authority>,
}

/// The names in a certificate.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    uris: Vec<String>,
    emails: Vec<String>,
    hosts: Vec<String>,
    common: Vec<String>,
    fingerprint: String,
    /// What else it says: each once.
    facts: Vec<(&'static str, String)>,
}

impl Mtls {
    /// Prepares to look at certificates.
    #[must_use]
    pub fn new(name: String, settings: ClientCertificate) -> Self {
        let authority = settings.client_ca.as_deref().map(Authority::of);
        Self { name, settings, authority }
    }

    /// Tells whether the caller shows a certificate that is this method's to judge.
    pub(super) fn finds_credential(&self, ask: &Ask<'_>) -> bool {
        ask.certificate.is_some() && (self.authority.is_none() || self.authority.as_ref() == ask.authority)
    }

    /// Says who the certificate is for.
    pub(super) fn judge(&self, ask: &Ask<'_>, now: Timestamp) -> Verdict {
        let certificate = ask.certificate.ok_or("there is no certificate");
        match certificate.and_then(|certificate| self.principal(certificate, now)) {
            Ok(principal) => Verdict::Admit(Proof::ambient(principal)),
            Err(reason) => Verdict::refuse(self.name.clone(), reason),
        }
    }

    fn principal(&self, certificate: &CertificateDer<'_>, now: Timestamp) -> Result<Principal, &'static str> {
        let fingerprint = digest(&SHA256, certificate);
        let listed = &self.settings.fingerprints;
        if !listed.is_empty() && !listed.iter().any(|known| known == fingerprint.as_ref()) {
            return Err("the certificate is not among the fingerprints");
        }
        let names = read(certificate, hex::encode(fingerprint), now)?;
        let identity = names.identity(&self.settings.identity)?;
        let (subject, claims) = (identity.to_lowercase(), names.claims(identity));
        Ok(Principal { method: self.name.clone(), subject, claims })
    }
}

impl Names {
    /// Returns the first kind of name that is there.
    fn identity(&self, kinds: &[Identity]) -> Result<&str, &'static str> {
        for kind in kinds {
            let names = match kind {
                Identity::SanUri => &self.uris,
                Identity::SanEmail => &self.emails,
                Identity::SanDns => &self.hosts,
                Identity::Cn => &self.common,
                Identity::Fingerprint => return Ok(&self.fingerprint),
            };
            match names.as_slice() {
                [] => {}
                [name] => return Ok(name),
                _ => return Err("the certificate has several names of the kind that is its identity"),
            }
        }
        Err("the certificate has no name of a kind that is an identity")
    }

    /// Turns names into claims: every name in a list, and as a text where it is the only one of its kind.
    fn claims(&self, identity: &str) -> Claims {
        let mut claims = Claims::from([
            ("identity".to_owned(), identity.into()),
            ("fingerprint".to_owned(), self.fingerprint.as_str().into()),
        ]);
        let kinds = [
            ("uri", Some("san_uri"), &self.uris),
            ("email", Some("san_email"), &self.emails),
            ("dns", Some("san_dns"), &self.hosts),
            ("cn", None, &self.common),
        ];
        for (one, all, names) in kinds {
            if let [name] = names.as_slice() {
                claims.insert(one.to_owned(), name.as_str().into());
            }
            if let Some(all) = all.filter(|_| !names.is_empty()) {
                claims.insert(all.to_owned(), Claim::List(names.clone()));
            }
        }
        claims.extend(self.facts.iter().map(|(name, fact)| ((*name).to_owned(), fact.as_str().into())));
        claims
    }
}

/// Reads a certificate that is good now. The handshake looked at its dates, but a connection may last for days, and a
/// session that is resumed for hours.
fn read(certificate: &CertificateDer<'_>, fingerprint: String, now: Timestamp) -> Result<Names, &'static str> {
    const UNREADABLE: &str = "the certificate cannot be read";
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Err(UNREADABLE) };
    let validity = parsed.validity();
    if !(validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now.as_second()) {
        return Err("the certificate has expired since its connection began");
    }
    let mut names = Names { fingerprint, ..Names::default() };
    let alternative = parsed.subject_alternative_name().map_err(|_| UNREADABLE)?;
    for name in alternative.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(name) => names.uris.push(plain(name)?),
            GeneralName::RFC822Name(name) => names.emails.push(plain(name)?),
            GeneralName::DNSName(name) => names.hosts.push(plain(name)?.to_ascii_lowercase()),
            GeneralName::Invalid(..) => return Err(UNREADABLE),
            _ => {}
        }
    }
    let subject = parsed.subject();
    names.common = texts(subject.iter_common_name())?;
    let facts = [
        ("o", texts(subject.iter_organization())?),
        ("ou", texts(subject.iter_organizational_unit())?),
        ("issuer", common_names(parsed.issuer())?),
        ("serial", vec![hex::encode(parsed.raw_serial())]),
    ];
    // Of two, nobody could tell which a rule means.
    names.facts = facts
        .into_iter()
        .filter_map(|(name, texts)| Some((name, <[String; 1]>::try_from(texts).ok()?)))
        .map(|(name, [text])| (name, text))
        .collect();
    Ok(names)
}

fn common_names(name: &X509Name<'_>) -> Result<Vec<String>, &'static str> {
    texts(name.iter_common_name())
}

fn texts<'a>(attributes: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Result<Vec<String>, &'static str> {
    let text = |attribute: &AttributeTypeAndValue<'_>| match attribute.as_str() {
        Ok(text) if !text.is_empty() && !text.chars().any(char::is_control) => Ok(text.to_owned()),
        Ok(_) | Err(_) => Err(ODD),
    };
    attributes.map(text).collect()
}

/// Takes a name that has one reading: a NUL ends it for some, and other alphabets have letters that look like ours.
fn plain(name: &str) -> Result<String, &'static str> {
    let is_plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    if is_plain { Ok(name.to_owned()) } else { Err(ODD) }
}

const ODD: &str = "a name in the certificate has characters that no name has";
