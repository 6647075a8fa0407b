//! `callgate version`: the version, and what this program was built from.

use super::{CommandResult, print_line};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print also the commit, the target, the compiler, and the TLS library
    #[arg(long, short)]
    verbose: bool,
}

/// Prints the version.
pub(super) fn run(arguments: &Arguments) -> CommandResult {
    print_line(&concat!("callgate ", env!("CARGO_PKG_VERSION")))?;
    if !arguments.verbose {
        return Ok(());
    }
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    for (part, value) in [
        ("commit", env!("CALLGATE_COMMIT")),
        ("target", env!("CALLGATE_TARGET")),
        ("rustc", env!("CALLGATE_RUSTC")),
        ("build", build),
        // The package has no features that can be switched.
        ("features", "none"),
        ("tls", concat!("rustls ", env!("CALLGATE_RUSTLS"), ", aws-lc-rs ", env!("CALLGATE_AWS_LC_RS"))),
        ("http", concat!("hyper ", env!("CALLGATE_HYPER"))),
    ] {
        print_line(&format_args!("{part}: {value}"))?;
    }
    Ok(())
}
