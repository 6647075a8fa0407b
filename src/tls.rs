//! Floor 2: TLS on both sides, with rustls and aws-lc-rs.

pub mod client;
pub mod dev;
pub mod server;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// Returns the one cryptography provider of this program, handed over explicitly everywhere.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
