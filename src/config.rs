//! Floor 1: `proxy.toml` as types that cannot be wrong.

mod check;
mod document;
pub mod problem;
mod source;
pub mod types;

pub use self::check::{load, parse};
pub use self::problem::{Problem, Problems};
pub use self::types::*;
