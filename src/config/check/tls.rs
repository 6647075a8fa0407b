//! `tls`: certificates with their keys, and the CAs of `ca` and `client_ca`.

pub(super) mod acme;
pub(super) mod chain_flaw;
mod file_content;
mod leaf;
mod pair;

use std::collections::HashMap;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use self::pair::{CertificateEntry, KEPT, chain};
use super::passthrough::ServedHere;
use super::values::each;
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{AcmeConfig, Certificate, CertificateRequest, HostPattern, MissingCertificate};

/// Whether each client must show a certificate, by the words of `client_auth`.
const CLIENT_AUTH: [(&str, bool); 2] = [("required", false), ("optional", true)];

const ONE_FORM: &str = "write { cert = \"fullchain.pem\", key = \"privkey.pem\" } or { certificates = [ { cert = \"…\", key = \"…\" }, … ] }";

/// The certificates of `tls`.
pub(super) struct ReadCertificates {
    /// Those that were read, now or before.
    pub(super) usable: Vec<Certificate>,
    /// Those that cannot be read, and were not read before.
    pub(super) missing: Vec<MissingCertificate>,
    /// Those that callgate gets by itself.
    pub(super) acme: Option<AcmeConfig>,
}

impl ReadCertificates {
    /// Returns what is asked of clients on the names of each certificate, also of a missing one.
    fn client_auths(&self) -> impl Iterator<Item = Option<&CertificateRequest>> {
        let usable = self.usable.iter().map(|one| one.client_auth.as_ref());
        let missing = self.missing.iter().map(|one| one.client_auth.as_ref());
        usable.chain(missing).chain(self.acme.iter().map(|acme| acme.client_auth.as_ref()))
    }

    /// Returns the client certificates that are asked for.
    pub(super) fn asked(&self) -> impl Iterator<Item = &CertificateRequest> {
        self.client_auths().flatten()
    }

    /// Finds a name that two certificates have with different `client_ca` or `client_auth`: clients could then avoid
    /// showing a certificate.
    fn contradictory_name(&self) -> Option<&str> {
        let usable = self.usable.iter().map(|one| (&one.names, &one.client_auth));
        let missing = self.missing.iter().map(|one| (&one.names, &one.client_auth));
        let mut asked = HashMap::new();
        let mut names = usable.chain(missing).flat_map(|(names, auth)| names.iter().map(move |name| (name, auth)));
        names.find(|(name, auth)| asked.entry(*name).or_insert(*auth) != auth).map(|(name, _)| name.as_str())
    }

    /// Tells whether it is unknown which names ask for client certificates: a certificate with another `client_auth` could
    /// open a name that belongs to the missing one.
    fn hides_client_auth(&self) -> bool {
        let is_hidden = |one: &&MissingCertificate| one.names.is_empty() && one.client_auth.is_some();
        let mut hidden = self.missing.iter().filter(is_hidden);
        hidden.any(|one| self.client_auths().any(|auth| auth != one.client_auth.as_ref()))
    }
}

/// Reads `{ cert, key }` or `{ certificates = [ { cert, key }, … ] }`, and `acme`, which may stand alone. A certificate that cannot be read is only noted,
/// unless there is no other, or names could be opened that ask for client certificates.
pub(super) fn certificates(
    table: &TomlTable<'_, '_>,
    around: &Surroundings<'_>,
    root: &TomlTable<'_, '_>,
) -> Option<ReadCertificates> {
    let has_http = root.get("redirect_http").is_some();
    let acme = table.get("acme").map(|node| acme(&node, table, around, has_http));
    let files = if acme.is_some() && FILES.iter().all(|key| table.get(key).is_none()) {
        Some(Vec::new())
    } else {
        entries(table, around)
    };
    let acme = acme.map_or(Some(None), |acme| acme.map(Some));
    let mut read = ReadCertificates { usable: Vec::new(), missing: Vec::new(), acme: acme? };
    let mut problems = Vec::new();
    for (entry, client_auth) in files? {
        match entry {
            CertificateEntry::Usable(certificate) => {
                read.usable.push(Certificate { client_auth, ..*certificate });
            }
            CertificateEntry::Missing { names, problems: found } => {
                read.missing.push(MissingCertificate { names, client_auth });
                problems.extend(found);
            }
        }
    }
    if let (Some(name), Some(list)) = (read.contradictory_name(), table.get("certificates")) {
        return list.refuse(
            format_args!("{name} is in two certificates with different `client_ca` or `client_auth`"),
            "give both the same, or take the name out of one: only the first would count for it",
        );
    }
    if read.usable.is_empty() && read.acme.is_none() || read.hides_client_auth() {
        return table.report(problems);
    }
    if let (Some(acme), Some(node)) = (&mut read.acme, table.get("acme")) {
        acme::leave_out_covered(&node, acme, &read.usable);
    }
    around.certificates.note(problems, "until that is corrected, handshakes for its names are refused");
    if let Some(list) = table.get("certificates") {
        warn_of_lost_names(&list, &read, around);
    }
    Some(read)
}

/// Warns of a name that a renewed certificate has lost to a wildcard of another one: from now on, what that one asks of clients
/// counts for it.
fn warn_of_lost_names(list: &TomlNode<'_, '_>, read: &ReadCertificates, around: &Surroundings<'_>) {
    for known in &around.certificates.last_good.certificates {
        let Some(renewed) = read.usable.iter().find(|one| one.files == known.files) else { continue };
        let lost = known.names.iter().filter(|name| renewed.client_auth.is_some() && !renewed.covers(name));
        for name in lost {
            let other = read.usable.iter().find(|one| one.covers(name));
            if let Some(other) = other.filter(|one| one.client_auth != renewed.client_auth) {
                list.warn(
                    format_args!(
                        "{name} is no longer in {}, which has `client_ca`: {} serves it now, with another `client_ca` or without",
                        renewed.files.cert.display(),
                        other.files.cert.display()
                    ),
                    "have the name in the renewed certificate again, or give both the same `client_ca`",
                );
            }
        }
    }
}

/// The keys of certificates in files.
const FILES: [&str; 3] = ["cert", "key", "certificates"];

/// Reads `acme`. Its names ask the same of clients as the table says for all certificates.
fn acme(
    node: &TomlNode<'_, '_>,
    tls: &TomlTable<'_, '_>,
    around: &Surroundings<'_>,
    has_http: bool,
) -> Option<AcmeConfig> {
    // Beside files, the reader of these reports what is wrong with `client_ca`.
    let client_auth = node.apart(|| client_auth(tls, around));
    let acme = node.table(|table| acme::read(table, around, has_http));
    match client_auth {
        Ok(client_auth) => Some(AcmeConfig { client_auth, ..acme? }),
        Err(problems) if FILES.iter().all(|key| tls.get(key).is_none()) => node.report(problems),
        Err(_) => None,
    }
}

/// Reads each certificate, with what it asks of clients.
fn entries(
    table: &TomlTable<'_, '_>,
    around: &Surroundings<'_>,
) -> Option<Vec<(CertificateEntry, Option<CertificateRequest>)>> {
    let Some(list) = table.get("certificates") else {
        return entry(table, around).map(|one| vec![one]);
    };
    let client_auth = client_auth(table, around);
    let single = ["cert", "key"].map(|key| table.get(key));
    if single.iter().any(Option::is_some) {
        return table.refuse("has both one certificate and a list", ONE_FORM);
    }
    let entries = each(&list.list()?, |item| item.table(|table| entry(table, around)))?;
    let client_auth = client_auth?;
    Some(entries.into_iter().map(|(entry, own)| (entry, own.or_else(|| client_auth.clone()))).collect())
}

fn entry(
    table: &TomlTable<'_, '_>,
    around: &Surroundings<'_>,
) -> Option<(CertificateEntry, Option<CertificateRequest>)> {
    let (cert, key) = (table.require("cert"), table.require("key"));
    let client_auth = client_auth(table, around);
    let entry = pair::read(&cert?, &key?, around);
    Some((entry?, client_auth?))
}

/// Reads `client_ca`, and `client_auth`, which belongs to the `client_ca` in the same table. An unreadable list must not
/// count as a missing one, which would admit clients without a certificate.
#[expect(clippy::option_option, reason = "a missing key and a wrong value differ")]
fn client_auth(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<Option<CertificateRequest>> {
    let (ca, mode) = (table.get("client_ca"), table.get("client_auth"));
    let is_optional = mode.as_ref().map_or(Some(false), |node| node.choice(&CLIENT_AUTH));
    match (ca, mode) {
        (Some(ca), _) => {
            let ca = client_authorities(&ca, around);
            Some(Some(CertificateRequest { ca: ca?, is_optional: is_optional? }))
        }
        (None, Some(mode)) => mode.refuse(
            "there is no `client_ca` beside it",
            "name the authorities of the certificates in the same table, client_ca = \"client-ca.pem\", or remove this key",
        ),
        (None, None) => Some(None),
    }
}

/// Reads the CAs that may sign another side's certificate: an upstream's or a client's.
pub(super) fn authorities(node: &TomlNode<'_, '_>, around: &Surroundings<'_>) -> Option<Vec<CertificateDer<'static>>> {
    let chain = chain(node, around)?;
    let mut store = RootCertStore::empty();
    if chain.iter().any(|certificate| store.add(certificate.clone()).is_err()) {
        return node
            .refuse("has a certificate that cannot be read", "is the file what the certificate authority sent?");
    }
    Some(chain)
}

/// As [`authorities`], for the certificates of clients: while the file cannot be read, those that were read before count. At
/// the start there are none, so the file is refused.
pub(super) fn client_authorities(
    node: &TomlNode<'_, '_>,
    around: &Surroundings<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let path = around.path(node)?;
    let ca = match (node.apart(|| authorities(node, around)), around.certificates.last_good.authorities.get(&path)) {
        (Ok(ca), _) => ca,
        (Err(problems), Some(known)) => {
            around.certificates.note(problems, KEPT);
            known.clone()
        }
        (Err(problems), None) => return node.report(problems),
    };
    around.certificates.authorities.borrow_mut().insert(path, ca.clone());
    Some(ca)
}

/// Checks the certificates against the rest of the configuration.
pub(super) fn check(
    tls: Option<&TomlNode<'_, '_>>,
    certificates: Option<&ReadCertificates>,
    here: &ServedHere<'_>,
    root: &TomlTable<'_, '_>,
) {
    let (Some(tls), Some(certificates)) = (tls, certificates) else { return };
    if let (Some(acme), Some(node)) = (&certificates.acme, tls.entry("acme")) {
        acme::check(&node, acme, here, root);
    }
    warn_uncovered(tls, certificates, here);
}

/// Warns of hosts that are served here and that no certificate covers.
fn warn_uncovered(tls: &TomlNode<'_, '_>, certificates: &ReadCertificates, here: &ServedHere<'_>) {
    // A missing certificate may cover them.
    if !certificates.missing.is_empty() {
        return;
    }
    let upstreams = here.app.into_iter().chain(here.pbx.iter().map(|pbx| &pbx.upstream));
    let is_covered = |host: &HostPattern| match host {
        HostPattern::Exact(name) => {
            let is_ordered = certificates.acme.iter().any(|acme| acme.names.contains(name));
            is_ordered || certificates.usable.iter().any(|one| one.covers(name))
        }
        HostPattern::Below(suffix) => {
            let on_demand = certificates.acme.iter().filter_map(|acme| acme.on_demand.as_ref());
            // Without hosts of its own it is for all of the PBX.
            on_demand.map(|one| &one.hosts).any(|hosts| hosts.is_empty() || hosts.iter().any(|one| one.covers(host)))
                || certificates.usable.iter().any(|one| one.names_host(&format!("*{suffix}")))
        }
    };
    let mut hosts: Vec<_> = upstreams.flat_map(|upstream| &upstream.hosts).filter(|host| !is_covered(host)).collect();
    hosts.sort_by_key(|host| host.to_string());
    hosts.dedup();
    for host in hosts {
        tls.warn(
            format_args!("no certificate of `tls` is for {host}, which is in `hosts`: browsers will warn"),
            "add a certificate for it",
        );
    }
}
