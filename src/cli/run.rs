//! `callgate run`: serves until a signal says to end.

use std::future::pending;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::reload::Source;
use super::{Done, EX_CUT, complain, environment, take};
use crate::config::{self, Config};
use crate::observe::{Logs, trace};
use crate::server::Server;

/// Serves until a signal says to end.
pub(super) fn run(path: &Path) -> Done {
    let reading = config::read(path, &environment);
    let config = take(reading.config)?;
    trace::init(config.log.level, config.log.format);
    runtime()?.block_on(async { serve(config, Some(Source::new(path, reading.files)), |_| {}).await })
}

/// Makes the runtime that waits for signals; exchanges have their own.
pub(super) fn runtime() -> Result<Runtime, ExitCode> {
    runtime::Builder::new_current_thread().enable_all().build().map_err(|error| complain("cannot start", &error))
}

/// Serves until a signal says to end. Without a source, the configuration stays what it is. `ready` is called once
/// connections are accepted.
pub(super) async fn serve(config: Config, mut source: Option<Source>, ready: impl FnOnce(&Server)) -> Done {
    let mut signals = Signals::listen().map_err(|error| complain("cannot listen for signals", &error))?;
    let logs = Logs::open(&config).map_err(|error| complain("cannot open the logs", &error))?;
    let mut server = Server::start(config, logs).map_err(|error| complain("cannot start", &error))?;
    for address in server.addresses() {
        tracing::info!(%address, "listening");
    }
    ready(&server);
    loop {
        let wish = tokio::select! {
            wish = signals.next() => wish,
            () = changed(&mut source) => Wish::Reload,
        };
        match wish {
            Wish::End => break,
            Wish::Refresh => server.reopen_logs(),
            Wish::Reload => {}
        }
        if let Some(source) = &mut source {
            source.reload(&mut server).await;
        }
    }
    drain(server, signals).await
}

async fn changed(source: &mut Option<Source>) {
    match source {
        Some(source) => source.changed().await,
        None => pending().await,
    }
}

/// Ends after the exchanges in flight, or at the next signal to end.
async fn drain(server: Server, mut signals: Signals) -> Done {
    tracing::info!("draining");
    server.drain();
    let drained = tokio::task::spawn_blocking(move || server.join());
    let told_again = async { while signals.next().await != Wish::End {} };
    tokio::select! {
        cut = drained => match cut.unwrap_or_default() {
            0 => Ok(()),
            cut => {
                tracing::warn!(cut, "connections were cut off at the drain deadline");
                Err(ExitCode::from(EX_CUT))
            }
        },
        // The worker threads are left as they are: the second signal means now.
        () = told_again => std::process::exit(i32::from(EX_CUT)),
    }
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// SIGTERM, SIGINT.
    End,
    /// SIGHUP: other log files, and what the files of the configuration say now.
    Refresh,
    /// Files have changed.
    Reload,
}

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

    /// Waits for the next signal.
    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::End,
            _ = self.interrupt.recv() => Wish::End,
            _ = self.hangup.recv() => Wish::Refresh,
        }
    }
}
