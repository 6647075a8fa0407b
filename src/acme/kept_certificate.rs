//! A certificate as it is kept: in the state file, and sealed in the engine that members share.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::state::Store;
use crate::tls::issued::{IssuedCertificate, IssuedError};

/// A certificate with its key, and where it is from.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptCertificate {
    /// The directory of the server that issued it.
    pub(super) directory: String,
    /// The chain, in PEM.
    pub(super) chain: String,
    /// The private key, in PEM.
    pub(super) key: String,
}

impl KeptCertificate {
    /// Returns the certificate of a name that the state file has; nothing if it has none.
    pub(super) fn of(store: &Store, name: &str) -> Option<Self> {
        serde_json::from_slice(&store.record(&record(name))?).ok()
    }

    /// Returns the text under which it is kept.
    pub(super) fn text(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(serde_json::to_vec(self).expect("texts are JSON"))
    }

    /// Reads it for use under a name.
    pub(super) fn read(&self, name: &str) -> Result<IssuedCertificate, IssuedError> {
        IssuedCertificate::read(name, &self.chain, &self.key)
    }
}

/// Returns the name under which a certificate is kept.
pub(super) fn record(name: &str) -> String {
    format!("acme certificate {name}")
}
