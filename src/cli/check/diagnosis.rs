//! Why there is no answer, in words for the operator, and who can mend it.

use std::error::Error;
use std::io;

use http::StatusCode;
use rustls::CertificateError;

use crate::auth::{BadDocument, DiscoveryError, JwksError};
use crate::observe::causes;
use crate::tls::client::HandshakeError;
use crate::upstream::{ConnectError, FetchError};

/// Who can mend a part that does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The operator of callgate: `proxy.toml` or a file that it names is wrong.
    Configuration,
    /// The operator of another server, or of the network.
    Outside,
}

impl Fault {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Outside => "outside",
        }
    }
}

/// An error as the operator needs it.
#[derive(Debug)]
pub(super) struct Diagnosis {
    pub(super) fault: Fault,
    pub(super) answer: String,
    /// What the operator can do, if the error says it.
    pub(super) advice: Option<String>,
}

impl Diagnosis {
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let chain = chain(error);
        let fault =
            if chain.iter().any(|one| is_of_configuration(*one)) { Fault::Configuration } else { Fault::Outside };
        let handshake = chain.iter().find_map(|one| one.downcast_ref::<HandshakeError>());
        match handshake {
            Some(HandshakeError { advice, source }) => {
                Self { fault, answer: causes(source), advice: Some(advice.clone()) }
            }
            None => Self { fault, answer: causes(error), advice: None },
        }
    }
}

/// Returns an error and all its causes, also those that speak through another one.
fn chain<'e>(error: &'e (dyn Error + 'static)) -> Vec<&'e (dyn Error + 'static)> {
    let (mut chain, mut next) = (Vec::new(), Some(error));
    while let Some(error) = next {
        chain.push(error);
        next = cause(error);
    }
    chain
}

fn cause<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    if let Some(ConnectError::Io(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    if let Some(DiscoveryError::Fetch(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    if let Some(DiscoveryError::Document(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// Tells whether the operator mends this in `proxy.toml`.
fn is_of_configuration(error: &(dyn Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return is_of_trust(error);
    }
    let refused = match (error.downcast_ref(), error.downcast_ref()) {
        (Some(JwksError::Status(status)), _) | (_, Some(DiscoveryError::Status(_, status))) => Some(*status),
        _ => None,
    };
    matches!(error.downcast_ref(), Some(FetchError::Url(_)))
        || matches!(error.downcast_ref(), Some(BadDocument::Issuer))
        || refused.is_some_and(is_of_address)
}

/// Tells whether `ca`, `pin`, `server_name` or the scheme of `url` does not fit the server.
fn is_of_trust(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidMessage(_)
            | rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer
                    | CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. }
                    | CertificateError::Other(_)
            )
    )
}

/// Tells whether a status means that the address is wrong; otherwise the server has a problem.
pub(super) fn is_of_address(status: StatusCode) -> bool {
    !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: impl Error + 'static, fault: Fault, answer: &str) {
        let found = Diagnosis::of(&error);
        assert_eq!((found.fault, found.answer.as_str()), (fault, answer));
    }

    #[test]
    fn the_file_is_at_fault_where_it_names_the_wrong_server_or_the_wrong_trust() {
        let refused = |error: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let unknown = || refused(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        let through = crate::tls::client::handshake_error(unknown());
        assert!(Diagnosis::of(&ConnectError::from(through)).advice.is_some_and(|advice| advice.contains("`ca`")));
        check(
            FetchError::Connect(unknown().into()),
            Fault::Configuration,
            "cannot connect: invalid peer certificate: UnknownIssuer",
        );
        let expired = refused(rustls::Error::InvalidCertificate(CertificateError::Expired));
        check(ConnectError::from(expired), Fault::Outside, "invalid peer certificate: Expired");
        check(ConnectError::Timeout, Fault::Outside, "no connection in time");
        check(FetchError::Url("it names no host"), Fault::Configuration, "it names no host");
        for (status, fault) in
            [(404, Fault::Configuration), (302, Fault::Configuration), (429, Fault::Outside), (503, Fault::Outside)]
        {
            let status = StatusCode::from_u16(status).unwrap();
            check(JwksError::Status(status), fault, &format!("the server of the keys answers {status}"));
            check(DiscoveryError::Status("key set", status), fault, &format!("its key set is answered with {status}"));
        }
        let issuer = "it says that it is another issuer than the configured one";
        check(DiscoveryError::Document(BadDocument::Issuer), Fault::Configuration, issuer);
        check(
            DiscoveryError::Document(BadDocument::NotAnObject),
            Fault::Outside,
            "its discovery document is not a JSON object",
        );
        check(DiscoveryError::Fetch(FetchError::Timeout), Fault::Outside, "no answer in time");
    }
}
