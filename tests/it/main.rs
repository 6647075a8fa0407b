//! Promises over real sockets: one file for each.

mod browser;
mod harness;
mod story;
