//! The program: arguments → command → exit code.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Measured against the system's allocator and mimalloc 3: this one needs the least CPU for small exchanges.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    callgate::cli::main()
}
