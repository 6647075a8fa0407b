//! The documents are true: their commands are run, their configurations loaded, their scripts called, and their
//! tables compared with what they speak of.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![expect(unreachable_pub, reason = "a test binary has no outside; `pub` is what one file offers the others")]

mod blocks;
mod bounds;
mod claims;
mod configurations;
mod links;
mod machine;
#[path = "../it/kit/openmetrics.rs"]
mod openmetrics;
#[path = "../it/kit/programs.rs"]
#[allow(dead_code, reason = "it is written for the tests in tests/it")]
mod programs;
mod recipes;
mod rules;
mod schema;
mod scripts;
mod tables;
mod transcripts;
