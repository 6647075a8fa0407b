//! Floor 1: rules about HTTP messages (RFC 9110's word). No sockets.

pub mod forwarded;
pub mod hop;
pub mod target;
