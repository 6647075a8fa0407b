//! `callgate run`: serves until a signal says to end.

use std::env;
use std::error::Error;
use std::future::pending;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};

use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::reload::{Late, Reading, Source};
use super::{Done, EX_CONFIG, EX_CUT, complain, environment, remark, systemd, take};
use crate::config::{self, Config, Listen};
use crate::observe::{Logs, trace};
use crate::server::{Inherited, Server, StartError, State};
use crate::state::OpenError;

/// Serves until a signal says to end.
pub(super) fn run(path: &Path) -> Done {
    let inherited =
        Inherited::from_env().map_err(|error| complain("cannot take the sockets that were passed", &error))?;
    let reading = config::read(path, &environment);
    let config = take(reading.config)?;
    trace::init(config.log.level, config.log.format);
    let source = Source::watch(path, reading.files).map_err(|error| complain("cannot start a thread", &error))?;
    runtime()?.block_on(async { serve(config, Some(source), inherited, |_| {}).await })
}

/// Makes the runtime that waits for signals; exchanges have their own.
pub(super) fn runtime() -> Result<Runtime, ExitCode> {
    runtime::Builder::new_current_thread().enable_all().build().map_err(|error| complain("cannot start", &error))
}

/// Serves until a signal says to end. Without a source, the configuration stays what it is, and so does the process.
/// `ready` is called once connections are accepted.
pub(super) async fn serve(
    config: Config,
    mut source: Option<Source>,
    mut inherited: Inherited,
    ready: impl FnOnce(&Server),
) -> Done {
    let mut signals = Signals::listen().map_err(|error| complain("cannot listen for signals", &error))?;
    let logs = Logs::open(&config).map_err(|error| complain("cannot open the logs", &error))?;
    let server = Server::start_with(config, logs, &mut inherited);
    let mut server = server.map_err(|error| refuse(&error))?;
    for address in server.listening() {
        tracing::info!(%address, "listening");
    }
    ready(&server);
    systemd::ready();
    inherited.ready();
    let mut is_reloading = false;
    loop {
        let wish = tokio::select! {
            wish = signals.next() => wish,
            read = read(&mut source) => Wish::Reload(read),
        };
        match (wish, &mut source) {
            (Wish::End, _) => break,
            (_, None) => tracing::warn!("there are no files to read again, and no process to hand over to"),
            (Wish::HandOver, Some(_)) => match hand_over(&server, &mut signals).await {
                Passed::On | Passed::End => break,
                Passed::Back => {}
            },
            (Wish::Refresh, Some(source)) => {
                server.reopen_logs();
                systemd::reloading();
                is_reloading = true;
                source.ask();
            }
            (Wish::Reload(read), Some(source)) => {
                match read {
                    Ok(reading) => {
                        if !is_reloading {
                            systemd::reloading();
                        }
                        source.reload(reading, &mut server).await;
                    }
                    Err(late) => tracing::error!(error = &late as &dyn Error, "not reloaded yet"),
                }
                systemd::ready();
                is_reloading = false;
            }
        }
    }
    drain(server, signals).await
}

/// What came of a hand-over.
enum Passed {
    /// Another process accepts the connections.
    On,
    /// No other process could, so this one goes on.
    Back,
    /// A signal to end came first.
    End,
}

/// Starts the program once more, as it was started, and leaves the listening sockets to it. What the file of the program
/// holds now is what runs then.
async fn hand_over(server: &Server, signals: &mut Signals) -> Passed {
    let mut arguments = env::args_os();
    // Looked up as a shell does: what /proc says would be the file of before, which may be gone.
    let mut command = Command::new(arguments.next().unwrap_or_else(|| "callgate".into()));
    command.args(arguments);
    tracing::info!("handing over");
    let handed = tokio::select! {
        handed = server.hand_over(command) => handed,
        () = signals.end() => return Passed::End,
    };
    match handed {
        Ok(id) => {
            systemd::handed_over(id);
            tracing::info!(id, "handed over");
            Passed::On
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn Error, "not handed over: everything stays as it was");
            Passed::Back
        }
    }
}

/// Says what to do about an address that cannot be listened at.
fn listen_advice(address: &Listen, why: io::ErrorKind) -> Option<String> {
    let port = address.tcp().map(|address| address.port());
    Some(match (why, port) {
        (io::ErrorKind::AddrInUse, Some(port)) => {
            format!("another program listens there, perhaps another callgate: ss -ltnp 'sport = :{port}' names it")
        }
        (io::ErrorKind::AddrInUse, None) => "another program listens there: ss -lxp names it".to_owned(),
        (io::ErrorKind::PermissionDenied, Some(..=1023)) => {
            "ports below 1024 need a right: AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit of systemd, or \
             setcap cap_net_bind_service=+ep on the program"
                .to_owned()
        }
        (io::ErrorKind::PermissionDenied, None) => {
            "let the user callgate runs as write the folder of the socket".to_owned()
        }
        (io::ErrorKind::NotFound, None) => {
            "make the folder of the socket, such as by RuntimeDirectory= in the unit of systemd".to_owned()
        }
        (io::ErrorKind::AddrNotAvailable, _) => {
            "no interface of this machine has this address: ip -br address lists those that do".to_owned()
        }
        _ => return None,
    })
}

/// Says why nothing was started. A state file that is wrong is not mended by starting again.
fn refuse(error: &StartError) -> ExitCode {
    let code = complain("cannot start", error);
    if let StartError::Listen { address, source } = error
        && let Some(advice) = listen_advice(address, source.kind())
    {
        remark(&format_args!("    {advice}"));
    }
    let may_pass = matches!(error, StartError::State(OpenError::Locked(_)));
    if matches!(error, StartError::State(_)) && !may_pass { ExitCode::from(EX_CONFIG) } else { code }
}

async fn read(source: &mut Option<Source>) -> Result<Box<Reading>, Late> {
    match source {
        Some(source) => source.read().await,
        None => pending().await,
    }
}

/// Ends after the exchanges in flight, or at the next signal to end.
async fn drain(server: Server, mut signals: Signals) -> Done {
    tracing::info!("draining");
    // After a hand-over, this process is no longer the one that systemd asks about.
    if *server.state().borrow() == State::Ready {
        systemd::stopping();
    }
    server.drain();
    let end = sleep(server.longest_drain());
    tokio::select! {
        cut = server.join() => match cut {
            0 => Ok(()),
            cut => {
                tracing::warn!(cut, "connections were cut off at the drain deadline");
                Err(ExitCode::from(EX_CUT))
            }
        },
        () = end => {
            tracing::error!("something does not end: leaving it");
            leave()
        }
        () = signals.end() => leave(),
    }
}

/// Ends now. All other threads are left as they are: some of them may wait for ever.
fn leave() -> ! {
    trace::flush();
    std::process::exit(i32::from(EX_CUT))
}

/// What a signal asks for, or what a changed file does.
enum Wish {
    /// SIGTERM, SIGINT.
    End,
    /// SIGHUP: other log files, and what the files of the configuration say now.
    Refresh,
    /// What was read takes the place of what runs.
    Reload(Result<Box<Reading>, Late>),
    /// SIGUSR2: a new process shall go on.
    HandOver,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next signal.
    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::End,
            _ = self.interrupt.recv() => Wish::End,
            _ = self.hangup.recv() => Wish::Refresh,
            _ = self.user.recv() => Wish::HandOver,
        }
    }

    /// Waits for a signal to end.
    async fn end(&mut self) {
        while !matches!(self.next().await, Wish::End) {}
    }
}
