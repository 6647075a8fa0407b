//! Floor 8: the stand-ins of `callgate demo` and of the tests: a PBX, a telephony cloud and a customer portal.
//!
//! Each is a real HTTP/1.1 server on a port of its own at 127.0.0.1 that speaks the real protocol, strange failures
//! included, and keeps a record of what it was asked. They share no code with the proxy, so an error there cannot
//! hide behind the same error here.

pub mod app;
mod body;
#[cfg(test)]
mod client;
pub mod management;
mod page;
mod server;
pub mod vodia;
pub mod voximplant;

pub use server::Seen;
