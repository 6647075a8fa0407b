//! Floor 1: `proxy.toml` as types that cannot be wrong.

mod check;
mod document;
pub mod problem;
mod source;
pub mod types;

pub use check::load;
pub use check::parse;
pub use problem::Problem;
pub use problem::Problems;
pub use types::*;
