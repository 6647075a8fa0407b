//! Certificates for development and the demo, made at run time. No client trusts them by itself.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::config;

/// A certificate, its key, and the authority that was made to sign it alone, all in PEM.
#[derive(Debug)]
pub struct DevCertificate {
    /// The certificate of the authority, for clients that are to trust it.
    pub ca: String,
    /// The chain to serve.
    pub chain: String,
    /// The private key (PKCS #8).
    pub key: String,
}

impl DevCertificate {
    /// Returns the files of the certificate: the name, the mode and the content of each.
    #[must_use]
    pub fn files(&self) -> [(&'static str, u32, &str); 3] {
        [("privkey.pem", 0o600, &self.key), ("fullchain.pem", 0o644, &self.chain), ("ca.pem", 0o644, &self.ca)]
    }

    /// Writes the files into a folder, which is made where it is missing. A file that is replaced keeps its owner and its mode,
    /// unless the folder is another user's or others may write to it.
    ///
    /// # Errors
    /// When a file cannot be written, or one of them exists and `replaces` is false: then no file is written.
    pub fn write(&self, folder: &Path, replaces: bool) -> io::Result<()> {
        let files = self.files();
        if let Some((name, ..)) =
            files.iter().find(|(name, ..)| !replaces && folder.join(name).symlink_metadata().is_ok())
        {
            return Err(io::Error::other(format!("{} exists", folder.join(name).display())));
        }
        fs::create_dir_all(folder)?;
        let _lock = config::lock_folder(folder)?;
        for (name, mode, text) in files {
            let (path, draft) = (folder.join(name), folder.join(format!(".{name}.callgate")));
            // A draft that a crash has left behind.
            let _ = fs::remove_file(&draft);
            let written = write_draft(&draft, mode, text, &path).and_then(|()| match replaces {
                true => fs::rename(&draft, &path),
                false => config::put_new(&draft, &path),
            });
            let _ = fs::remove_file(&draft);
            written?;
        }
        Ok(())
    }
}

/// Writes a file that is to be at `path`, with the rights of the one that is there, or with a mode.
fn write_draft(draft: &Path, mode: u32, text: &str, path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(draft)?;
    if let Some(before) = config::rights_to_keep(path) {
        config::keep_rights(&file, &before)?;
    }
    file.write_all(text.as_bytes())
}

/// Makes a certificate for `names` (host names or addresses), valid for 390 days from now.
///
/// # Errors
/// When a name is not a host name.
pub fn certificate(names: &[&str]) -> Result<DevCertificate, rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "callgate development authority");
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);

    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    leaf.distinguished_name.push(DnType::CommonName, "callgate development certificate");
    leaf.use_authority_key_identifier_extension = true;
    // Browsers refuse certificates that live longer than 398 days.
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let ymd = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let (from, until) = (now.yesterday().unwrap_or(now), now.saturating_add(jiff::Span::new().days(390)));
    leaf.not_before = ymd(from);
    leaf.not_after = ymd(until);
    let chain = leaf.signed_by(&key, &issuer)?;
    Ok(DevCertificate { ca: ca_certificate.pem(), chain: chain.pem(), key: key.serialize_pem() })
}
