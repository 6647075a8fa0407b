//! Floor 1: reads `proxy.toml` into types that cannot hold an invalid value.

mod advice;
mod check;
mod document;
mod draft_file;
mod effective;
mod encoding;
mod files;
pub mod keys;
mod outbound_proxy;
mod permissions;
pub mod problem;
mod schema;
mod source;
pub mod types;

pub use self::check::{
    ChainFlaw, ReadOutcome, admin, audit_file, key_ring_file, load, load_elsewhere, parse, parse_with, read,
};
pub use self::draft_file::{keep_rights, lock_folder, put_new, rights_to_keep};
pub use self::effective::EffectiveConfig;
pub use self::files::{FileSnapshot, FileWatch, can_write};
pub use self::outbound_proxy::OutboundProxy;
pub use self::permissions::{exposed_secret, is_strangers};
pub use self::problem::{Problem, Problems, UnseenSecret};
pub use self::schema::{inner_keys, schema, written_value};
pub use self::types::*;
