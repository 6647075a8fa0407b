//! Tests over real sockets, in folders by subject.

#![expect(clippy::unwrap_used, reason = "what a test cannot go on without, it fails without")]
#![expect(unreachable_pub, reason = "a test binary has no outside; `pub` is what one file offers the others")]

mod browser;
mod http2;

/// Messages of HTTP/1.1: how requests are read and passed on.
mod http {
    pub mod client_address;
    pub mod expect_continue;
    pub mod framing;
    pub mod hop_by_hop;
    pub mod identity_fields;
    pub mod interim;
    pub mod request_bytes;
    pub mod request_target;
    pub mod rest;
    pub mod streaming;
    pub mod tls;
    pub mod upgrade;
}

/// Helpers that tests share: gates, servers, clients, programs.
mod kit {
    pub mod app;
    pub mod client;
    pub mod client_certificates;
    pub mod commands;
    pub mod engine;
    pub mod engines;
    pub mod events;
    pub mod explain_agrees;
    pub mod frames;
    pub mod gate;
    pub mod hello;
    pub mod issuer;
    pub mod json_schema;
    pub mod links;
    pub mod load;
    pub mod management;
    pub mod nodes;
    pub mod office;
    pub mod oidc;
    #[allow(dead_code, reason = "tests/docs uses the rest")]
    pub mod openmetrics;
    pub mod outbound_proxy;
    pub mod pebble;
    pub mod program;
    pub mod programs;
    #[path = "../../../src/demo/client.rs"]
    mod raw_client;
    pub mod records;
    pub mod rfc9112;
    pub mod scripted_body;
    pub mod stage;
    pub mod syslog_server;
    pub mod upstream;
    pub mod visitor;
    pub mod vodia;
    pub mod voximplant;
}

/// Bounds in number, size and time.
mod limits {
    pub mod attack;
    pub mod budget;
    pub mod bulk;
    pub mod deadlines;
    pub mod lockout;
    pub mod quotas;
    pub mod shadow;
}

/// Several members that share one engine.
mod members {
    pub mod acme_members;
    pub mod balancer;
    pub mod breaker;
    pub mod engine_faults;
    pub mod freezes;
    pub mod names;
    pub mod once;
    pub mod quotas;
    pub mod ring;
    pub mod round_trips;
    pub mod sessions;
    pub mod topologies;
}

/// Methods of login, and the rules that grant accounts.
mod login {
    pub mod backchannel;
    pub mod behind_nginx;
    pub mod callers;
    pub mod certificate_policy;
    pub mod credentials;
    pub mod explain;
    pub mod jwt;
    pub mod link;
    pub mod link_recipes;
    pub mod logout;
    pub mod misuse;
    pub mod mtls;
    pub mod oidc;
    pub mod optional_certificates;
    pub mod rules;
    pub mod trusted_header;
    pub mod vendors;
    pub mod whoami_cache;
}

/// Several PBX nodes behind one gate.
mod nodes {
    pub mod handover;
    pub mod logins;
    pub mod members;
    pub mod misuse;
    pub mod operate;
}

/// Commands, configuration, logs, the admin listener, and the life of the process.
mod operate {
    pub mod acme;
    pub mod acme_on_demand;
    pub mod admin;
    pub mod audit;
    pub mod certificates;
    pub mod check;
    pub mod command_output;
    pub mod commands;
    pub mod config_dump;
    pub mod config_file;
    pub mod core_dumps;
    pub mod demo;
    pub mod drain;
    pub mod foreign_challenges;
    pub mod freeze;
    pub mod handover;
    pub mod init;
    pub mod keys;
    pub mod log_level;
    pub mod logs;
    pub mod memory;
    pub mod monitoring;
    pub mod old_processes;
    pub mod old_sessions;
    pub mod otlp;
    pub mod phones;
    pub mod provision;
    pub mod reload;
    pub mod reload_order;
    pub mod sandbox;
    pub mod scarce_resources;
    pub mod sockets;
    pub mod state;
    pub mod status;
    pub mod status_command;
    pub mod stuck_logs;
    pub mod syslog;
    pub mod telemetry;
    pub mod unseen_secrets;
    pub mod upgrade;
}

/// Comparisons with foreign parsers, and with direct exchanges.
mod oracle {
    pub mod hyper;
    pub mod reparse;
    pub mod transparency;
}

/// Sessions of the Vodia PBX and one-time keys of Voximplant.
mod telephony {
    pub mod auto;
    pub mod end_to_end;
    pub mod inject;
    pub mod landings;
    pub mod newcomers;
    pub mod openapi;
    pub mod ott;
    pub mod passthrough;
    pub mod passthrough_ends;
    pub mod pbx;
    pub mod sessions;
    pub mod shield;
    pub mod socket;
    pub mod socket_ends;
    pub mod ticket;
    pub mod voximplant;
}

/// Connections to upstreams, and upstreams that fail or lie.
mod upstream {
    pub mod failover;
    pub mod hostile_upstream;
    pub mod ntlm;
    pub mod outbound_proxy;
    pub mod policy;
    pub mod pool;
    pub mod tls;
}
