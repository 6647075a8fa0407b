//! What the operator can do about a TLS handshake of callgate's with a server that failed.

use std::io;

use rustls::{CertificateError, Error};

/// The words of the configuration for a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerWords {
    /// What the operator writes for a server without TLS.
    pub(crate) plain: &'static str,
    /// What the operator writes when the certificate is for another name.
    pub(crate) name: &'static str,
}

/// Says what the operator can do about a failed handshake; nothing: the error says it itself.
pub(crate) fn of(error: &io::Error, words: ServerWords) -> Option<String> {
    let advice = match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(_)) => {
            return Some(format!("it does not speak TLS (should {}?)", words.plain));
        }
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "the authority that signed its certificate is not known: name it in `ca`"
        }
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => return Some(format!("its certificate is for another name: {}", words.name)),
        Some(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
            "its certificate has expired: renew it there"
        }
        None if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            "it closed the connection during the TLS handshake: does it speak TLS?"
        }
        _ => return None,
    };
    Some(advice.to_owned())
}
