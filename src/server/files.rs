//! How many files may be open: each connection is one, and a second one while an upstream answers it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Listeners, logs, runtimes and such.
const OTHERS: u64 = 256;

/// Lets so many connections be open at once, as far as the system permits, and says if it does not.
pub(super) fn allow(connections: usize) {
    let connections = connections as u64;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let (Some(soft), hard) = (current, maximum.unwrap_or(u64::MAX)) else { return };
    let enough = raised(soft, hard, connections);
    if enough > soft
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(enough), maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    if getrlimit(Resource::Nofile).current.is_some_and(|files| files < connections + OTHERS) {
        let hint = "raise LimitNOFILE (systemd) or the hard limit of `ulimit -n`, or lower `max_connections`";
        tracing::warn!(files = enough, max_connections = connections, hint, "too few files may be open");
    }
}

/// Returns the soft limit to set: what is needed at most, never less than before.
fn raised(soft: u64, hard: u64, connections: u64) -> u64 {
    soft.max(hard.min(2 * connections + OTHERS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_needed_and_permitted() {
        assert_eq!(raised(1024, 1_000_000, 10_000), 20_256);
        assert_eq!(raised(1024, 4096, 10_000), 4096);
        assert_eq!(raised(1024, 4096, 100), 1024);
        assert_eq!(raised(65_536, u64::MAX, 10_000), 65_536);
    }
}
