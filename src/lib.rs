//! **callgate**: a TLS-terminating reverse proxy for a web app and a Vodia PBX. It logs *proven* callers in to the PBX
//! (third-party login) and to a Voximplant web phone (one-time keys).
//!
//! # The house
//! Each floor uses only those below it; modules on one floor do not import each other.
//!
//! | floor | modules | what they do |
//! |---|---|---|
//! | 9 | `cli` | commands |
//! | 8 | [`demo`] | stand-ins for the PBX, Voximplant and the app |
//! | 7 | [`server`] | sockets, worker threads, connections; reload, hand-over, drain |
//! | 6 | `proxy` | the path of a request |
//! | 5 | `auth`, `exchange` | proof of the caller; a client's connection, its requests and their answers |
//! | 4 | `pbx`, [`limit`], `tickets`, `freeze`, `voximplant`, `acme`, `telemetry` | sessions of the PBX; quotas; single-use tickets; frozen accounts; users at Voximplant; certificates from an ACME server; spans, metrics and logs for a collector of OpenTelemetry |
//! | 3 | `upstream`, `once` | connections to the app and the PBX; what works once and what has ended, here and at all members |
//! | 2 | [`tls`], [`observe`], [`state`], `members` | certificates and trust; logs, metrics, health; state that outlives a restart; the engine that members share |
//! | 1 | [`message`], [`config`], `budget`, `lazy_timer`, `backoff`, `descriptors`, `memory`, `seal`, `handshake_advice` | rules of HTTP messages; `proxy.toml`; bytes in buffers; deadlines; pauses between tries; open files; what a process remembers, for the next one; texts that browsers keep and cannot read; what to do about a TLS handshake that failed |
//! | 0 | [`model`], `random` | plain types and rules: no I/O, no clock; bytes from the system's generator |
//!
//! # What always holds
//! 1. [`model`] has no I/O and no clock.
//! 2. An account never comes from a parameter of the request: credential → [`model::principal::Principal`] → rule →
//!    [`model::account::Role`]. Only a rule makes a grant.
//! 3. The PBX administrator's password stays in `pbx` and travels on separate connections, never on those of clients.
//! 4. Rules compare the canonical path; upstreams get the original bytes.
//! 5. A session id is in one answer and nowhere else: no cache, no log, no error text.
//! 6. A configuration is replaced as a whole, never edited. A wrong one changes nothing.
//! 7. Every task has an owner, every wait has a deadline, every buffer has a bound.
//! 8. A connection, its exchanges and its upstream connections stay on one thread, which counts them alone.
//! 9. Labels of metrics come from closed sets: no request and no identity adds a series.

mod acme;
mod auth;
mod backoff;
mod budget;
pub mod cli;
pub mod config;
pub mod demo;
mod descriptors;
mod exchange;
mod freeze;
mod handshake_advice;
mod lazy_timer;
pub mod limit;
mod members;
mod memory;
pub mod message;
pub mod model;
pub mod observe;
mod once;
mod pbx;
mod proxy;
mod random;
mod seal;
pub mod server;
pub mod state;
mod telemetry;
mod tickets;
pub mod tls;
mod upstream;
mod voximplant;
