//! callgate
pub mod config;
pub mod model;
