//! Promises over real sockets: one file for each.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]
#![expect(unreachable_pub, reason = "a test binary is nobody's library: pub marks what other files use")]

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
