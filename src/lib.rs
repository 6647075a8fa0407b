//! **callgate**: one TLS door in front of a web app and a Vodia PBX, which logs *proven* callers in to both the PBX
//! (third-party login) and a Voximplant web phone (one-time keys).
//!
//! # The house
//! Each floor uses only those below it; neighbours on one floor do not know each other.
//!
//! | floor | modules | what they do |
//! |---|---|---|
//! | 9 | `cli` | commands |
//! | 8 | [`demo`] | stand-ins for the PBX, Voximplant and the app |
//! | 7 | [`server`] | sockets, worker threads, connections; reload, hand-over, drain |
//! | 6 | [`proxy`] | the path of a request |
//! | 5 | [`auth`], [`exchange`] | who is calling?; a client's connection, its requests and their answers |
//! | 4 | [`pbx`], [`limit`], [`tickets`], [`freeze`] | asking the PBX for sessions; quotas; single-use tickets; accounts without access |
//! | 3 | [`upstream`] | every byte that goes to an upstream |
//! | 2 | [`tls`], [`observe`], [`state`] | certificates and trust; logs, counts, health; what outlives a restart |
//! | 1 | [`message`], [`config`], [`budget`], `lazy_timer`, `backoff`, `descriptors` | rules of HTTP messages; `proxy.toml`; what clients may hold; deadlines; pauses; open files |
//! | 0 | [`model`], `random` | plain types and rules: no I/O, no clock; bytes from the system's generator |
//!
//! # What always holds
//! 1. Nothing in [`model`] waits, reads, writes or knows what time it is.
//! 2. *Who* is never taken from the request's wish: credential → [`model::principal::Principal`] → rule →
//!    [`model::account::Role`]. Only a rule makes a grant.
//! 3. The PBX administrator's credential lives in [`pbx`] and travels on connections of its own, never on pass-through.
//! 4. Matching uses the canonical path, forwarding the original bytes.
//! 5. A session id is in one answer and nowhere else: no cache, no log, no error text.
//! 6. A configuration is replaced whole, never edited, and one that is wrong changes nothing.
//! 7. Every task has an owner, every wait has a deadline, every buffer has a bound.
//! 8. A connection, its exchanges and its upstream connections live and die on one thread, which counts them alone.
//! 9. What is counted has names from closed sets: no request and no identity makes a series.

pub mod auth;
mod backoff;
pub mod budget;
pub mod cli;
pub mod config;
pub mod demo;
mod descriptors;
pub mod exchange;
pub mod freeze;
mod lazy_timer;
pub mod limit;
pub mod message;
pub mod model;
pub mod observe;
pub mod pbx;
pub mod proxy;
mod random;
pub mod server;
pub mod state;
pub mod tickets;
pub mod tls;
pub mod upstream;
