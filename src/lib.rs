//! callgate
mod alarm;
pub mod auth;
pub mod config;
pub mod message;
pub mod model;
pub mod pbx;
pub mod tls;
pub mod upstream;
