//! Promises over real sockets: one file for each.

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
