//! The program: arguments → command → exit code.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Chosen by the figures in docs/performance.md.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    callgate::cli::main()
}
