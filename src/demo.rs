//! Floor 8: the stand-ins of `callgate demo` and of the tests: a PBX, a telephony cloud and a customer portal.
//!
//! Each is a real HTTP/1.1 server on a port of its own at 127.0.0.1 and speaks the real protocol, by code of its own,
//! so that an error of the proxy cannot hide behind the same error here. They are healthy: tests/it/kit wraps their
//! handlers in others that fail, answer wrongly and record what they were asked.

pub mod app;
#[cfg(test)]
mod client;
mod page;
pub mod server;
pub mod vodia;
pub mod voximplant;
