//! Floor 0: plain types and rules. No I/O, no async, no clock; of the HTTP crates only `http` (types).

pub mod account;
pub mod field;
pub mod grant;
pub mod jwt;
pub mod landing;
pub mod loopback;
pub mod ott;
pub mod path;
pub mod principal;
pub mod rate;
pub mod redact;
pub mod secret;
pub mod session;
pub mod template;
