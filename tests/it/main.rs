//! Promises over real sockets: one file for each.

#![expect(clippy::unwrap_used, reason = "what a test cannot go on without, it fails without")]
#![expect(unreachable_pub, reason = "a test binary has no outside; `pub` is what one file offers the others")]

mod admin;
mod anatomy;
mod attack;
mod audit;
mod behind_nginx;
mod bound;
mod browser;
mod budget;
mod bulk;
mod bytes;
mod cached;
mod callers;
mod check;
mod commands;
mod credentials;
mod drain;
mod expect;
mod explain;
mod failover;
mod framing;
mod freeze;
mod guard;
mod handover;
#[allow(dead_code, reason = "it offers more than each set of tests takes")]
mod harness;
mod hop;
mod http2;
mod identity;
mod inject;
mod interim;
mod issuer;
mod jwt;
mod liar;
mod limits;
mod link;
mod load;
mod lockout;
mod logs;
mod misuse;
mod mtls;
mod oidc;
#[allow(dead_code, reason = "tests/docs.rs takes the rest")]
mod openmetrics;
mod origin;
mod ott;
mod output;
mod pbx;
mod pool;
#[allow(dead_code, reason = "tests/docs.rs takes the rest")]
mod programs;
mod provision;
mod recipes;
mod reload;
mod reparse;
mod resources;
mod rules;
mod shield;
mod sockets;
mod sso;
mod stage;
mod state;
mod story;
mod streaming;
mod stuck;
mod target;
mod time;
mod tls;
mod transparency;
mod upgrade;
mod upstream_tls;
mod vendors;
mod voximplant_health;
