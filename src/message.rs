//! Floor 1: rules for HTTP messages (in the sense of RFC 9110), and for the first message of TLS. No sockets.

pub mod account_fields;
pub mod authentication;
pub mod client_hello;
pub mod cookies;
pub mod fields;
pub mod forwarded;
pub mod forwarded_chain;
pub mod framing;
pub mod guard;
pub mod hop;
pub mod http2;
pub mod newline;
pub mod screen;
pub mod target;
pub mod websocket;
