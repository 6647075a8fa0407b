//! Recognizes the contents of a file that should hold a certificate or a key, and names the remedy if it holds
//! something else.

/// The contents of a file, recognized by its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileContent {
    Certificate,
    Key,
    EncryptedKey,
    PublicKey,
    /// A key in the format of OpenSSH.
    SshKey,
    /// A certificate signing request.
    Request,
    /// PKCS #7, in which some CAs send chains.
    Bundle,
    DerCertificate,
    DerKey,
    /// PKCS #12, a certificate with its key under a password.
    Archive,
    Other,
}

/// The labels of PEM (RFC 7468), special ones first.
const LABELS: [(&str, FileContent); 11] = [
    ("CERTIFICATE REQUEST-----", FileContent::Request),
    ("-----BEGIN PKCS7-----", FileContent::Bundle),
    ("-----BEGIN CERTIFICATE-----", FileContent::Certificate),
    ("-----BEGIN X509 CERTIFICATE-----", FileContent::Certificate),
    ("-----BEGIN TRUSTED CERTIFICATE-----", FileContent::Certificate),
    ("-----BEGIN ENCRYPTED PRIVATE KEY-----", FileContent::EncryptedKey),
    ("Proc-Type: 4,ENCRYPTED", FileContent::EncryptedKey),
    ("-----BEGIN OPENSSH PRIVATE KEY-----", FileContent::SshKey),
    ("ssh-", FileContent::SshKey),
    ("PRIVATE KEY-----", FileContent::Key),
    ("PUBLIC KEY-----", FileContent::PublicKey),
];

impl FileContent {
    /// Recognizes bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let labelled = LABELS.iter().find(|(label, _)| match *label {
            "ssh-" => text.starts_with(label),
            label => text.contains(label),
        });
        labelled.map_or_else(|| Self::of_der(bytes), |(_, sort)| *sort)
    }

    /// Recognizes a DER sequence by its first element: another sequence in a certificate, a version in the others.
    const fn of_der(bytes: &[u8]) -> Self {
        match bytes {
            [0x30, 0x82, _, _, 0x30, ..] => Self::DerCertificate,
            [0x30, 0x82, _, _, 0x02, 0x01, 0x03, ..] => Self::Archive,
            [0x30, 0x82, _, _, 0x02, ..] | [0x30, 0x81, _, 0x02, ..] | [0x30, 0x2e | 0x77, 0x02, ..] => Self::DerKey,
            _ => Self::Other,
        }
    }

    /// Returns the problem with a file in place of a certificate, and the remedy. `file`: its name.
    pub(super) fn as_no_certificate(self, file: &str) -> (&'static str, String) {
        match self {
            Self::Key | Self::EncryptedKey | Self::SshKey | Self::DerKey => (
                "is a private key and no certificate",
                "name the certificate; are `cert` and `key` the wrong way round?".to_owned(),
            ),
            Self::PublicKey => {
                ("is a public key and no certificate", "name the certificate that was issued for it".to_owned())
            }
            Self::Request => (
                "is a request for a certificate, not one",
                "send it to a certificate authority, and name the file that comes back".to_owned(),
            ),
            Self::Bundle => (
                "is PKCS #7, not PEM certificates",
                format!("run: openssl pkcs7 -print_certs -in {file} -out fullchain.pem"),
            ),
            Self::DerCertificate => (
                "is a certificate in DER form, not in PEM",
                format!("run: openssl x509 -inform DER -in {file} -out cert.pem"),
            ),
            Self::Archive => (
                "is PKCS #12, not PEM certificates",
                format!("run: openssl pkcs12 -nokeys -in {file} -out fullchain.pem"),
            ),
            Self::Certificate => (
                "has a certificate that is cut off or changed",
                "copy the file again, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----".to_owned(),
            ),
            Self::Other => {
                ("has no certificate in PEM form", "a certificate starts with -----BEGIN CERTIFICATE-----".to_owned())
            }
        }
    }

    /// Returns the problem with a file in place of a private key, and the remedy. `file`: its name.
    pub(super) fn as_no_key(self, file: &str) -> (&'static str, String) {
        match self {
            Self::EncryptedKey => (
                "the key is encrypted",
                format!("store it decrypted, readable by its owner only: umask 077; openssl pkey -in {file} -out privkey.pem"),
            ),
            Self::Certificate | Self::DerCertificate | Self::Bundle => {
                ("is a certificate and no private key", "are `cert` and `key` the wrong way round?".to_owned())
            }
            Self::PublicKey => ("is a public key, not the private one", "name the file of the private key".to_owned()),
            Self::Request => (
                "is a request for a certificate, not a private key",
                "name the key that the request was made with".to_owned(),
            ),
            Self::SshKey => (
                "is a key of OpenSSH, not a private key in PEM form",
                "make a key for TLS, and have a certificate issued for it: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256".to_owned(),
            ),
            Self::DerKey => {
                ("is a key in DER form, not in PEM", format!("run: umask 077; openssl pkey -inform DER -in {file} -out privkey.pem"))
            }
            Self::Archive => (
                "is PKCS #12, not a private key in PEM form",
                format!("run: umask 077; openssl pkcs12 -nocerts -nodes -in {file} -out privkey.pem"),
            ),
            Self::Key => (
                "has a private key that is cut off or changed",
                "copy the file again, from -----BEGIN PRIVATE KEY----- to -----END PRIVATE KEY-----".to_owned(),
            ),
            Self::Other => ("has no private key in PEM form", "a key starts with -----BEGIN PRIVATE KEY-----".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_files_by_how_they_begin() {
        for (text, expected) in [
            ("-----BEGIN CERTIFICATE-----\n", FileContent::Certificate),
            ("subject=CN = a\n-----BEGIN CERTIFICATE-----\n", FileContent::Certificate),
            ("-----BEGIN CERTIFICATE REQUEST-----\n", FileContent::Request),
            ("-----BEGIN NEW CERTIFICATE REQUEST-----\n", FileContent::Request),
            ("-----BEGIN PKCS7-----\n", FileContent::Bundle),
            ("-----BEGIN PRIVATE KEY-----\n", FileContent::Key),
            ("-----BEGIN EC PARAMETERS-----\n-----BEGIN EC PRIVATE KEY-----\n", FileContent::Key),
            ("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n", FileContent::EncryptedKey),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\n", FileContent::EncryptedKey),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\n", FileContent::SshKey),
            ("ssh-ed25519 AAAA", FileContent::SshKey),
            ("-----BEGIN PUBLIC KEY-----\n", FileContent::PublicKey),
            ("hello", FileContent::Other),
            ("", FileContent::Other),
        ] {
            assert_eq!(FileContent::of(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(FileContent::of(b"\x30\x82\x01\x0a\x30\x82"), FileContent::DerCertificate);
        assert_eq!(FileContent::of(b"\x30\x82\x01\x0a\x02\x01\x03\x30"), FileContent::Archive);
        assert_eq!(FileContent::of(b"\x30\x82\x04\xbd\x02\x01\x00\x30"), FileContent::DerKey);
        assert_eq!(FileContent::of(b"\x30\x81\x87\x02\x01\x00\x30"), FileContent::DerKey);
    }
}
