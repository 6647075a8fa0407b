//! Floor 1: `proxy.toml` as types that cannot be wrong.

pub mod check;
pub mod source;
pub mod types;

pub use types::*;
