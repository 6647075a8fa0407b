//! What fifty members and a million users need, and what breaks first (docs/scale.md).
//!
//! `engine` measures a real `redis-server` under the real scripts, asked by many members; it prints its figures:
//! `cargo test --test scale -- --ignored --nocapture`. `simulation` takes these figures where one machine cannot show the
//! rest. It has no clock, so it says the same in each run, and the table of the documents is compared with it.

#![expect(clippy::unwrap_used, reason = "what a test cannot go on without, it fails without")]

mod engine;
mod engine_figures;
mod scenarios;
mod simulation;
