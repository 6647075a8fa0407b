//! Promises over real sockets: one file for each.

#![expect(clippy::unwrap_used, reason = "what a test cannot go on without, it fails without")]
#![expect(unreachable_pub, reason = "a test binary has no outside; `pub` is what one file offers the others")]

mod browser;
#[allow(dead_code, reason = "it offers more than each set of tests takes")]
mod harness;
mod story;
