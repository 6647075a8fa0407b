//! callgate
mod alarm;
pub mod auth;
pub mod config;
pub mod limit;
pub mod message;
pub mod model;
pub mod observe;
pub mod pbx;
pub mod proxy;
pub mod replay;
pub mod server;

pub mod tls;
pub mod upstream;
