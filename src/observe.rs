//! What the gate tells its operator: one line for each exchange, one for each login, events on standard error.

pub mod access;
pub mod audit;
mod line;
mod place;
pub mod request_id;
pub mod sink;
pub mod trace;

pub use place::Memory;
