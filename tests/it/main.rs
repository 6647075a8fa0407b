//! Promises over real sockets: one file for each.

#![expect(clippy::unwrap_used, reason = "what a test cannot go on without, it fails without")]
#![expect(unreachable_pub, reason = "a test binary has no outside; `pub` is what one file offers the others")]

mod callers;
mod commands;
mod harness;
mod inject;
mod limits;
mod logs;
mod ott;
mod pbx;
mod stage;
mod story;
