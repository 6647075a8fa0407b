//! `callgate run`.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{EX_CUT, complain, load};
use crate::config::Config;
use crate::observe::{Logs, trace};
use crate::server::Server;

/// Serves until a signal says to end.
pub(super) fn run(path: &Path) -> ExitCode {
    let config = match load(path) {
        Ok(config) => config,
        Err(code) => return code,
    };
    trace::init(config.log.level, config.log.format);
    match runtime() {
        Ok(runtime) => runtime.block_on(serve(config, |_| {})),
        Err(error) => complain("cannot start", &error),
    }
}

/// Makes the runtime that waits for signals; exchanges have their own.
pub(super) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Serves until a signal says to end. `ready` is called once connections are accepted.
pub(super) async fn serve(config: Config, ready: impl FnOnce(&Server)) -> ExitCode {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return complain("cannot listen for signals", &error),
    };
    let logs = match Logs::open(&config) {
        Ok(logs) => logs,
        Err(error) => return complain("cannot open the logs", &error),
    };
    let server = match Server::start(config, logs) {
        Ok(server) => server,
        Err(error) => return complain("cannot start", &error),
    };
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
            0 => ExitCode::SUCCESS,
            cut => {
                tracing::warn!(cut, "connections were cut off at the drain deadline");
                ExitCode::from(EX_CUT)
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
