//! Method `mtls`: the other end of the connection showed a certificate that a configured authority signed.
//!
//! The handshake has verified the certificate. The operator configures which of its names identifies the caller. A name
//! that can be read in two ways, or a wildcard, makes its kind unclear. An unclear kind is neither an identity nor a
//! claim, and does not affect the other kinds.

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::AttributeTypeAndValue;

use super::credentials::{Credentials, Shown};
use super::{AuthRequest, Error, Proof, Verdict};
use crate::config::{CertificateName, MtlsConfig};
use crate::model::principal::{Claim, Claims, Principal};
use crate::observe::metrics;
use crate::tls::server::ClientCa;

/// Certificates of configured authorities.
#[derive(Debug)]
pub(super) struct MtlsMethod {
    name: String,
    settings: MtlsConfig,
    client_ca: Option<ClientCa>,
}

/// The names in a certificate.
#[derive(Debug, PartialEq, Eq)]
struct CertificateNames {
    uris: NamesOfKind,
    emails: NamesOfKind,
    hosts: NamesOfKind,
    common: NamesOfKind,
    fingerprint: String,
    /// Other claims of the certificate, each once.
    facts: Vec<(&'static str, String)>,
}

/// All names of one kind, or the reason why the kind is unclear.
type NamesOfKind = Result<Vec<String>, &'static str>;

impl Credentials for MtlsMethod {
    fn label(&self) -> metrics::CountedMethod {
        metrics::CountedMethod::Mtls
    }

    /// Finds a certificate that the authorities of this method signed.
    fn find<'a>(&self, request: &AuthRequest<'a>) -> Option<Shown<'a>> {
        let is_own = self.client_ca.is_none() || self.client_ca.as_ref() == request.client_ca;
        (request.certificate.is_some() && is_own).then_some(Shown::InRequest)
    }

    async fn judge(&self, _shown: &Shown<'_>, request: &AuthRequest<'_>) -> Result<Verdict, Error> {
        let certificate = request.certificate.ok_or("there is no certificate");
        Ok(match certificate.and_then(|certificate| self.principal(certificate, Timestamp::now())) {
            Ok(principal) => Verdict::Admit(Proof::ambient(principal)),
            Err(reason) => Verdict::reject(self.name.clone(), reason),
        })
    }

    fn fingerprint(&self, _shown: &Shown<'_>, request: &AuthRequest<'_>) -> Vec<Vec<u8>> {
        request.certificate.iter().map(|certificate| certificate.to_vec()).collect()
    }
}

impl MtlsMethod {
    pub(super) fn new(name: String, settings: MtlsConfig) -> Self {
        let client_ca = settings.client_ca.as_deref().map(ClientCa::of);
        Self { name, settings, client_ca }
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

impl CertificateNames {
    /// Returns the name of the first kind that the certificate has.
    fn identity(&self, kinds: &[CertificateName]) -> Result<&str, &'static str> {
        for kind in kinds {
            let names = match kind {
                CertificateName::SanUri => &self.uris,
                CertificateName::SanEmail => &self.emails,
                CertificateName::SanDns => &self.hosts,
                CertificateName::Cn => &self.common,
                CertificateName::Fingerprint => return Ok(&self.fingerprint),
            };
            // An unclear kind is not skipped: otherwise the maker of the certificate could choose the next kind.
            match names.as_ref().map(Vec::as_slice) {
                Ok([]) => {}
                Ok([name]) => return Ok(name),
                Ok(_) => return Err("the certificate has several names of the kind that is its identity"),
                Err(reason) => return Err(reason),
            }
        }
        Err("the certificate has no name of a kind that is an identity")
    }

    /// Turns names into claims: all names of a kind as a list, and a single one also as a text.
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
            let Ok(names) = names else { continue };
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

/// Reads a certificate that is valid now. The handshake checked the dates, but a connection may last for days, and a TLS
/// session may be resumed for hours.
fn read(
    certificate: &CertificateDer<'_>,
    fingerprint: String,
    now: Timestamp,
) -> Result<CertificateNames, &'static str> {
    const UNREADABLE: &str = "the certificate cannot be read";
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Err(UNREADABLE) };
    let validity = parsed.validity();
    if !(validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now.as_second()) {
        return Err("the certificate has expired since its connection began");
    }
    let [uris, emails, hosts, common] = [const { Ok(Vec::new()) }; 4];
    let mut names = CertificateNames { uris, emails, hosts, common, fingerprint, facts: Vec::new() };
    let alternative = parsed.subject_alternative_name().map_err(|_| UNREADABLE)?;
    for name in alternative.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(name) => add(&mut names.uris, without_star(plain(name)?)),
            GeneralName::RFC822Name(name) => add(&mut names.emails, email(plain(name)?)),
            GeneralName::DNSName(name) => add(&mut names.hosts, host(plain(name)?)),
            GeneralName::Invalid(..) => return Err(UNREADABLE),
            _ => {}
        }
    }
    let subject = parsed.subject();
    names.common = texts(subject.iter_common_name())?;
    let facts = [
        ("o", texts(subject.iter_organization())?),
        ("ou", texts(subject.iter_organizational_unit())?),
        ("issuer", texts(parsed.issuer().iter_common_name())?),
        ("serial", Ok(vec![hex::encode(parsed.raw_serial())])),
    ];
    // Where there are two, it is not clear which one a rule means.
    names.facts = facts
        .into_iter()
        .filter_map(|(name, texts)| Some((name, <[String; 1]>::try_from(texts.ok()?).ok()?)))
        .map(|(name, [text])| (name, text))
        .collect();
    Ok(names)
}

/// Adds a name to its kind. An unclear name makes the kind unclear.
fn add(kind: &mut NamesOfKind, name: Result<String, &'static str>) {
    match (kind.as_mut(), name) {
        (Ok(names), Ok(name)) => names.push(name),
        (Ok(_), Err(reason)) => *kind = Err(reason),
        (Err(_), _) => {}
    }
}

/// Reads the texts of one kind in a subject: UTF-8 or a part of ASCII. Strings of other types (T61, BMP, Universal) have
/// more than one reading.
fn texts<'a>(attributes: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Result<NamesOfKind, &'static str> {
    let mut kind = Ok(Vec::new());
    for attribute in attributes {
        match attribute.as_str() {
            Ok(text) if text.is_empty() || text.chars().any(char::is_control) => return Err(ODD),
            Ok(text) => add(&mut kind, without_star(text.to_owned())),
            Err(_) => add(&mut kind, Err("a text in the certificate is not in UTF-8")),
        }
    }
    Ok(kind)
}

/// Accepts printable ASCII without spaces. For some readers a NUL ends the name, and other alphabets have letters that
/// look like ASCII.
fn plain(name: &str) -> Result<String, &'static str> {
    let is_plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    if is_plain { Ok(name.to_owned()) } else { Err(ODD) }
}

/// Accepts a name that is not a wildcard.
fn without_star(name: String) -> Result<String, &'static str> {
    if name.contains('*') { Err(WILDCARD) } else { Ok(name) }
}

/// Accepts a host name (RFC 1123 §2.1) and normalizes its case and a final dot.
fn host(name: String) -> Result<String, &'static str> {
    let name = without_star(name)?.to_ascii_lowercase();
    let bare = name.strip_suffix('.').unwrap_or(&name);
    let is_label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !label.is_empty() && label.bytes().all(fits)
    };
    if bare.split('.').all(is_label) { Ok(bare.to_owned()) } else { Err("a host name in the certificate is not valid") }
}

/// Accepts a plain mail address: one with quotes or a second `@` has more than one reading.
fn email(name: String) -> Result<String, &'static str> {
    let name = without_star(name)?;
    let odd = |letter: char| "\"'()<>[],:;\\".contains(letter);
    let is_plain = name
        .split_once('@')
        .is_some_and(|(local, domain)| !local.is_empty() && !local.contains(odd) && host(domain.to_owned()).is_ok());
    if is_plain { Ok(name) } else { Err("a mail address in the certificate is not a plain one") }
}

const ODD: &str = "a name in the certificate has characters that are not allowed";
const WILDCARD: &str = "a name in the certificate is a wildcard";

#[cfg(test)]
mod tests {
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    use super::*;

    /// CertificateNames as `kind:name`.
    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        for name in names {
            let (kind, name) = name.split_once(':').unwrap();
            let text = || Ia5String::try_from(name).unwrap();
            match kind {
                "uri" => params.subject_alt_names.push(SanType::URI(text())),
                "email" => params.subject_alt_names.push(SanType::Rfc822Name(text())),
                "dns" => params.subject_alt_names.push(SanType::DnsName(text())),
                "cn" => params.distinguished_name.push(DnType::CommonName, name),
                "o" => params.distinguished_name.push(DnType::OrganizationName, name),
                _ => unreachable!("{kind}"),
            }
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn principal(names: &[&str], identity: &[CertificateName], now: &str) -> Result<Principal, &'static str> {
        let settings = MtlsConfig { identity: identity.to_vec(), fingerprints: Vec::new(), client_ca: None };
        MtlsMethod::new("mtls".into(), settings).principal(&certificate(names), now.parse().unwrap())
    }

    const NOW: &str = "2026-01-01T00:00:00Z";
    const ALL: [CertificateName; 4] =
        [CertificateName::SanUri, CertificateName::SanEmail, CertificateName::SanDns, CertificateName::Cn];

    #[test]
    fn the_first_kind_of_name_that_is_there_is_the_identity() {
        #[track_caller]
        fn check(names: &[&str], identity: &[CertificateName], expected: Option<&str>) {
            let subject = principal(names, identity, NOW).map(|principal| principal.subject);
            assert_eq!(subject.ok().as_deref(), expected, "{names:?}");
        }
        check(&["cn:Ann", "dns:Ann.test", "email:a@b.test", "uri:urn:ann"], &ALL, Some("urn:ann"));
        check(&["cn:Ann", "dns:Ann.test", "email:A@b.test"], &ALL, Some("a@b.test"));
        check(&["cn:Ann", "dns:Ann.test"], &ALL, Some("ann.test"));
        check(&["cn:Ann"], &ALL, Some("ann"));
        check(&["cn:Ann", "dns:ann.test"], &[CertificateName::Cn, CertificateName::SanDns], Some("ann"));
        check(&["cn:Ann"], &ALL[..3], None);
        check(&[], &ALL, None);
        // Two names of one kind are ambiguous, and the next kind does not replace them.
        check(&["email:a@b.test", "email:c@b.test", "dns:ann.test"], &ALL, None);
        check(&["email:a@b.test", "email:c@b.test", "dns:ann.test"], &[CertificateName::SanDns], Some("ann.test"));
    }

    #[test]
    fn trap_a_name_with_a_nul_or_a_letter_of_another_alphabet_is_none() {
        for name in ["dns:ann.test\0.evil.test", "email:ann@b.test\0", "uri:urn:a b", "email:", "cn:ann\0", "o:a\nb"] {
            assert_eq!(
                principal(&["dns:ann.test", name], &[CertificateName::SanDns], NOW).unwrap_err(),
                ODD,
                "{name:?}"
            );
        }
        assert!(principal(&["dns:ann.test", "o:Ännchen"], &[CertificateName::SanDns], NOW).is_ok());
    }

    #[test]
    fn trap_a_name_that_stands_for_many_is_no_identity_and_spoils_no_other() {
        for (name, kind) in [
            ("dns:*.ann.test", CertificateName::SanDns),
            ("dns:*", CertificateName::SanDns),
            ("dns:.ann.test", CertificateName::SanDns),
            ("dns:ann..test", CertificateName::SanDns),
            ("dns:ann.test/", CertificateName::SanDns),
            ("email:ann", CertificateName::SanEmail),
            ("email:@b.test", CertificateName::SanEmail),
            ("email:ann@", CertificateName::SanEmail),
            ("email:ann@b.test@c.test", CertificateName::SanEmail),
            ("email:\"ann@c.test\"@b.test", CertificateName::SanEmail),
            ("email:ann,bob@b.test", CertificateName::SanEmail),
            ("email:*@b.test", CertificateName::SanEmail),
            ("uri:spiffe://a.test/*", CertificateName::SanUri),
            ("cn:*.ann.test", CertificateName::Cn),
        ] {
            let names = [name, "o:Acme"];
            assert!(
                principal(&names, &[kind, CertificateName::Fingerprint], NOW).is_err(),
                "{name:?}: the next kind must not help"
            );
            let claims = principal(&names, &[CertificateName::Fingerprint], NOW).unwrap().claims;
            let known: Vec<_> = claims.keys().map(String::as_str).filter(|name| *name != "issuer").collect();
            assert_eq!(known, ["fingerprint", "identity", "o", "serial"], "{name:?} is no claim");
        }
        // Beside a clear name of the same kind too.
        assert_eq!(
            principal(&["dns:ann.test", "dns:*.ann.test"], &[CertificateName::SanDns], NOW).unwrap_err(),
            WILDCARD
        );
        assert!(principal(&["email:ann@b.test", "dns:*.ann.test"], &[CertificateName::SanEmail], NOW).is_ok());
    }

    #[test]
    fn a_final_dot_does_not_make_another_host() {
        let subject = |name| principal(&[name], &[CertificateName::SanDns], NOW).unwrap().subject;
        assert_eq!(subject("dns:Ann.test."), subject("dns:ann.test"));
    }

    #[test]
    fn trap_texts_of_odd_string_types_are_read_once_or_not_at_all() {
        use rcgen::string::{BmpString, PrintableString, TeletexString, UniversalString};
        let odd = |text| {
            [
                DnValue::BmpString(BmpString::try_from(text).unwrap()),
                DnValue::TeletexString(TeletexString::try_from(text).unwrap()),
                DnValue::UniversalString(UniversalString::try_from(text).unwrap()),
            ]
        };
        let read = |kind: DnType, value: DnValue, identity| {
            let mut params = CertificateParams::new(vec!["ann.test".to_owned()]).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(kind, value);
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2030, 1, 1);
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let settings = MtlsConfig { identity: vec![identity], fingerprints: Vec::new(), client_ca: None };
            MtlsMethod::new("mtls".into(), settings).principal(certificate.der(), NOW.parse().unwrap())
        };
        for value in odd("Ann") {
            assert!(read(DnType::CommonName, value.clone(), CertificateName::Cn).is_err(), "{value:?}");
            let claims = read(DnType::OrganizationName, value, CertificateName::SanDns).unwrap().claims;
            assert!(!claims.contains_key("o"));
        }
        let printable = DnValue::PrintableString(PrintableString::try_from("Ann").unwrap());
        assert_eq!(read(DnType::CommonName, printable, CertificateName::Cn).unwrap().subject, "ann");
    }

    #[test]
    fn dates_count_when_somebody_logs_in() {
        for (now, good) in [
            ("2019-12-31T23:59:59Z", false),
            ("2020-01-01T00:00:00Z", true),
            ("2030-01-01T00:00:00Z", true),
            ("2030-01-01T00:00:01Z", false),
        ] {
            assert_eq!(principal(&["dns:ann.test"], &ALL, now).is_ok(), good, "{now}");
        }
    }

    #[test]
    fn every_name_is_a_claim_and_alone_of_its_kind_also_a_text() {
        let names = ["uri:urn:a", "uri:urn:b", "email:a@b.test", "cn:Ann", "o:Acme"];
        let claims = principal(&names, &[CertificateName::Fingerprint], NOW).unwrap().claims;
        let text = |name: &str| claims.get(name).and_then(Claim::text);
        assert_eq!(claims["san_uri"], Claim::List(vec!["urn:a".into(), "urn:b".into()]));
        assert_eq!(claims["san_email"], Claim::List(vec!["a@b.test".into()]));
        assert_eq!((text("uri"), text("email"), text("dns")), (None, Some("a@b.test"), None));
        assert_eq!((text("cn"), text("o"), text("issuer"), text("ou")), (Some("Ann"), Some("Acme"), Some("Ann"), None));
        assert_eq!(text("identity"), text("fingerprint"));
        assert_eq!(text("fingerprint").map(str::len), Some(64));
        assert!(text("serial").is_some() && !claims.contains_key("san_dns"));
    }

    #[test]
    fn only_listed_certificates_where_there_is_a_list() {
        let certificate = certificate(&["dns:ann.test"]);
        let own: [u8; 32] = digest(&SHA256, &certificate).as_ref().try_into().unwrap();
        for (fingerprints, good) in [(vec![], true), (vec![[0; 32], own], true), (vec![[0; 32]], false)] {
            let settings = MtlsConfig { identity: ALL.to_vec(), fingerprints, client_ca: None };
            let method = MtlsMethod::new("mtls".into(), settings);
            assert_eq!(method.principal(&certificate, NOW.parse().unwrap()).is_ok(), good);
        }
    }
}
