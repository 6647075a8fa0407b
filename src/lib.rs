//! callgate
pub mod config;
pub mod limit;
pub mod model;
pub mod observe;
pub mod replay;
