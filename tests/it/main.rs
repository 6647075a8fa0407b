//! Promises over real sockets: one file for each.

mod harness;
mod story;
