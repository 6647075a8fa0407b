//! The newest process and the old ones that keep tunnels after a hand-over: what it orders them, and how they answer.
//!
//! Each old process has one end of a socket pair. The newest process has the other ends: it gets them with the listening
//! sockets, so that no old process depends on another one. When the newest process is gone, every old one reads the end of
//! its socket.

mod line_stream;
pub(super) mod memory;
mod message;
mod passed_ends;
mod predecessors;
mod successor_link;

pub(super) use self::message::SuccessionOrder;
pub(super) use self::passed_ends::pass_ends_on;
pub(super) use self::predecessors::{OldProcess, Predecessors};
pub(super) use self::successor_link::SuccessorLink;
