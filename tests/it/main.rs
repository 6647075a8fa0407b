//! Promises over real sockets: one file for each.

mod drain;
mod framing;
mod harness;
mod hop;
mod http2;
mod identity;
mod pool;
mod story;
mod streaming;
mod target;
mod time;
mod tls;
mod upgrade;
