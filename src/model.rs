//! Floor 0: plain types and rules. No I/O, no async, no clock; of the HTTP crates only `http` (types).

pub mod account;
pub mod condition;
pub mod digest;
pub mod field;
pub mod freeze_target;
pub mod grant;
pub mod hours;
pub mod html;
pub mod identity;
pub mod json;
pub mod jwt;
pub mod landing;
pub mod link;
pub mod loopback;
pub mod mentions;
pub mod ott;
pub mod path;
pub mod principal;
pub mod rate;
pub mod redact;
pub mod rsa;
pub mod secret;
pub mod session;
pub mod shield;
pub mod table;
pub mod template;
