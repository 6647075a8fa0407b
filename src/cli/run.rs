//! `callgate run`: serves until a signal says to end.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Done, EX_CUT, complain, load};
use crate::config::Config;
use crate::observe::{Logs, trace};
use crate::server::Server;

/// Serves until a signal says to end.
pub(super) fn run(path: &Path) -> Done {
    let config = load(path)?;
    trace::init(config.log.level, config.log.format);
    runtime()?.block_on(serve(config, |_| {}))
}

/// Makes the runtime that waits for signals; exchanges have their own.
pub(super) fn runtime() -> Result<Runtime, ExitCode> {
    runtime::Builder::new_current_thread().enable_all().build().map_err(|error| complain("cannot start", &error))
}

/// Serves until a signal says to end. `ready` is called once connections are accepted.
pub(super) async fn serve(config: Config, ready: impl FnOnce(&Server)) -> Done {
    let mut signals = Signals::listen().map_err(|error| complain("cannot listen for signals", &error))?;
    let logs = Logs::open(&config).map_err(|error| complain("cannot open the logs", &error))?;
    let server = Server::start(config, logs).map_err(|error| complain("cannot start", &error))?;
    for address in server.addresses() {
        tracing::info!(%address, "listening");
    }
    ready(&server);
    signals.next().await;
    tracing::info!("draining");
    server.drain();
    let drained = tokio::task::spawn_blocking(move || server.join());
    tokio::select! {
        cut = drained => match cut.unwrap_or_default() {
            0 => Ok(()),
            cut => {
                tracing::warn!(cut, "connections were cut off at the drain deadline");
                Err(ExitCode::from(EX_CUT))
            }
        },
        // The worker threads are left as they are: the second signal means now.
        () = signals.next() => std::process::exit(i32::from(EX_CUT)),
    }
}

/// SIGTERM and SIGINT, which end; SIGHUP, which must not.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal to end.
    async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                // Nobody listening would mean the end of all calls, by the habit of a log rotation.
                _ = self.hangup.recv() => tracing::warn!("SIGHUP changes nothing: files are read at the start only"),
            }
        }
    }
}
