//! The limit of open files, and the number of connections that it permits: each connection of a client is one file, and so
//! is each connection to an upstream (`descriptors.rs`).
//!
//! Some descriptors are kept back from both, so that health checks are answered, logs are opened again and files are read
//! while clients hold all that they may.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::admin;
use crate::config::Config;
use crate::descriptors;

/// The descriptors of a runtime: to wait for sockets, to be woken, to receive signals.
const PER_RUNTIME: u64 = 5;
/// The most descriptors that are kept back: for the admin listener, DNS look-ups, keys that are fetched, files that are read
/// again.
const MOST_KEPT_BACK: u64 = 192;
/// The fewest descriptors that are kept back.
const LEAST_KEPT_BACK: u64 = 16;

/// The limit of open files, as it was at the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct FdLimit {
    limit: u64,
    /// The files that are open all the time: listeners, logs, runtimes and others.
    fixed: u64,
    kept_back: u64,
}

impl FdLimit {
    /// Raises the limit to the number of files that the configuration needs, as far as the system permits.
    pub(super) fn raise(config: &Config, workers: usize) -> Self {
        let fixed = open_now() + fixed(config, workers as u64);
        let wanted = fixed + MOST_KEPT_BACK + config.server.max_connections as u64 + wanted_upstreams(config);
        let limit = raise_to(wanted);
        let files = Self { limit, fixed, kept_back: (limit / 8).clamp(LEAST_KEPT_BACK, MOST_KEPT_BACK) };
        descriptors::set_limit(files.left());
        files
    }

    /// Lowers the limits of connections in a configuration to the permitted number.
    pub(super) fn fit(&self, config: &mut Config) {
        let server = &mut config.server;
        let (configured, most) = (server.max_connections, descriptors::client_share(self.left()).max(1));
        if configured <= most {
            return;
        }
        server.max_connections = most;
        server.max_connections_per_client = of_one_client(server.max_connections_per_client, configured, most);
        tracing::warn!(
            open_files = self.limit,
            configured,
            used = most,
            hint = "raise LimitNOFILE (systemd) or the hard limit of `ulimit -n`, or lower `max_connections`",
            "too few files may be open: `max_connections` is lowered"
        );
    }

    /// Returns how many connections may be open, of clients and to upstreams together.
    fn left(&self) -> usize {
        usize::try_from(self.limit.saturating_sub(self.fixed + self.kept_back)).unwrap_or(usize::MAX)
    }

    /// Returns how many connections the admin listener may have.
    pub(super) fn admin(&self) -> usize {
        admin::MAX_CONNECTIONS.min((self.kept_back / 2) as usize)
    }
}

/// Returns how many of the `permitted` connections one client may have: the configured number `one`, but at most three
/// quarters, unless it was configured to have `all` of them.
fn of_one_client(one: usize, all: usize, permitted: usize) -> usize {
    if one >= all { permitted } else { one.min(permitted - permitted / 4) }
}

/// Returns how many more files will be open all the time, beside those that are open now.
fn fixed(config: &Config, workers: u64) -> u64 {
    // Each worker has each listener, the server has a copy, and one accepted connection of each may wait for its permit.
    let listeners = 3 * workers * config.listen.len() as u64 + 6;
    listeners + (workers + 2) * PER_RUNTIME
}

fn wanted_upstreams(config: &Config) -> u64 {
    let app = config.app.iter().map(|app| &app.upstream);
    let pbx = config.pbx.iter().map(|pbx| &pbx.upstream);
    let of_upstreams: u64 = app.chain(pbx).map(|upstream| upstream.max_connections as u64).sum();
    // Each connection of a client may be one that is passed on.
    let passed_on = if config.passthrough.is_empty() { 0 } else { config.server.max_connections as u64 };
    of_upstreams + passed_on
}

fn open_now() -> u64 {
    // Without /proc: the three of every process, logs, and those of the main thread's runtime.
    fs::read_dir("/proc/self/fd").map_or(16, |files| files.count() as u64)
}

/// Raises the soft limit of open files, and returns the new one.
fn raise_to(wanted: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let (Some(soft), hard) = (current, maximum.unwrap_or(u64::MAX)) else { return u64::MAX };
    let enough = raised(soft, hard, wanted);
    if enough > soft
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(enough), maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Returns the soft limit to set: at most as many as are wanted, never fewer than before.
fn raised(soft: u64, hard: u64, wanted: u64) -> u64 {
    soft.max(hard.min(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_needed_and_permitted() {
        assert_eq!(raised(1024, 1_000_000, 20_256), 20_256);
        assert_eq!(raised(1024, 4096, 20_256), 4096);
        assert_eq!(raised(1024, 4096, 100), 1024);
        assert_eq!(raised(65_536, u64::MAX, 10_000), 65_536);
    }

    #[test]
    fn some_descriptors_are_kept_back() {
        let left = |limit| FdLimit { limit, fixed: 30, kept_back: 20 }.left();
        assert_eq!((left(10), left(50), left(100), left(u64::MAX)), (0, 0, 50, usize::MAX - 50));
    }

    #[test]
    fn one_client_keeps_its_number_and_leaves_a_quarter() {
        assert_eq!(of_one_client(12_288, 16_384, 100), 75);
        assert_eq!(of_one_client(2, 16_384, 16_000), 2);
        assert_eq!(of_one_client(16_384, 16_384, 100), 100);
        assert_eq!(of_one_client(7, 16_384, 1), 1);
    }
}
