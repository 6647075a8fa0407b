//! `callgate run`: serves until a signal asks to stop.

use std::env;
use std::error::Error;
use std::future::pending;
use std::io;
use std::process::{Command, ExitCode};

use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::reload::{ConfigReading, ConfigSource, ReadTimeout};
use super::sandbox::Sandbox;
use super::{
    CommandResult, ConfigArgument, EX_CONFIG, EX_CUT, accept, environment, print_remark, report_error, systemd,
};
use crate::config::{self, Config, LastGood, Listen};
use crate::observe::{Logs, trace};
use crate::server::{InheritedSockets, KeptTunnels, ReloadOrder, ReloadOrders, Server, ServerState, StartError};
use crate::state::OpenError;

/// Loads the configuration and serves until a signal asks to stop.
pub(super) fn run(config: &ConfigArgument) -> CommandResult {
    config.tell();
    let path = config.path();
    let inherited = InheritedSockets::from_env()
        .map_err(|error| report_error("cannot take the sockets that were passed", &error))?;
    let reading = config::read(path, &environment, &LastGood::default());
    let config = accept(reading.config)?;
    trace::init(config.log.level, config.log.format);
    let sandbox = Sandbox::enter(&config, &reading.files).map_err(|error| {
        report_error("cannot enter the sandbox: `[server] insecure_no_sandbox` starts without it", &error)
    })?;
    let source = ConfigSource::watch(path, reading.files, config.last_good(), sandbox);
    let source = source.map_err(|error| report_error("cannot start a thread", &error))?;
    runtime()?.block_on(Box::pin(serve(config, Some(source), inherited, |_| {})))
}

/// Builds the runtime that waits for signals; the worker threads have runtimes of their own.
pub(super) fn runtime() -> Result<Runtime, ExitCode> {
    runtime::Builder::new_current_thread().enable_all().build().map_err(|error| report_error("cannot start", &error))
}

/// Waits until a signal asks to stop.
pub(super) async fn until_terminated() -> io::Result<()> {
    Signals::listen()?.terminated().await;
    Ok(())
}

/// Serves until a signal asks to stop, then drains. Without a source there is no reload and no hand-over.
///
/// Calls `ready` once connections are accepted.
pub(super) async fn serve(
    config: Config,
    mut source: Option<ConfigSource>,
    mut inherited: InheritedSockets,
    ready: impl FnOnce(&Server),
) -> CommandResult {
    let mut signals = Signals::listen().map_err(|error| report_error("cannot listen for signals", &error))?;
    let logs = Logs::open(&config).map_err(|error| report_error("cannot open the logs", &error))?;
    let server = Server::start_with(config, logs, &mut inherited);
    let mut server = server.map_err(|error| report_start_error(&error))?;
    for address in server.listening() {
        tracing::info!(%address, "listening");
    }
    ready(&server);
    let mut orders = server.take_reload_orders();
    let watchdog = systemd::Watchdog::start(server.heartbeats());
    let watchdog = watchdog.map_err(|error| report_error("cannot start a thread", &error))?;
    systemd::ready();
    inherited.ready();
    let mut is_reloading = false;
    loop {
        let event = tokio::select! {
            event = signals.next() => event,
            read = next_reading(&mut source) => ServeEvent::FilesRead(read),
            order = next_order(&mut orders) => ServeEvent::ReloadOrdered(order),
        };
        match (event, &mut source) {
            (ServeEvent::Terminate, _) => break,
            (ServeEvent::ReloadOrdered(order), None) => drop(order),
            (_, None) => {
                tracing::warn!("ignored a signal: without configuration files there is no reload and no hand-over")
            }
            (ServeEvent::HandOver, Some(source)) => {
                match hand_over(&mut server, &mut signals, source.sandbox()).await {
                    HandOverOutcome::HandedOver => {
                        // The new process watches the files and notifies the watchdog.
                        drop((source, watchdog, orders));
                        keep_tunnels(&mut server, &mut signals).await;
                        break;
                    }
                    HandOverOutcome::Interrupted => break,
                    HandOverOutcome::StayedHere => {}
                }
            }
            (ServeEvent::Hangup, Some(source)) => {
                server.reopen_logs();
                systemd::reloading();
                is_reloading = true;
                source.request();
            }
            (ServeEvent::ReloadOrdered(order), Some(source)) => {
                server.reopen_logs();
                systemd::reloading();
                is_reloading = true;
                source.carry_out(order);
            }
            (ServeEvent::FilesRead(read), Some(source)) => {
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

/// How a hand-over ended.
enum HandOverOutcome {
    /// Another process accepts the connections now.
    HandedOver,
    /// The new process did not take over; this one goes on.
    StayedHere,
    /// A signal to stop came first.
    Interrupted,
}

/// Starts the program again with the same arguments, and hands the listening sockets over to the new process.
///
/// The new process runs what the program's file holds now, such as an upgrade.
async fn hand_over(server: &mut Server, signals: &mut Signals, sandbox: Option<&Sandbox>) -> HandOverOutcome {
    let mut arguments = env::args_os();
    // Looked up as a shell does: /proc/self/exe would be the old file, which an upgrade may have removed.
    let mut command = Command::new(arguments.next().unwrap_or_else(|| "callgate".into()));
    command.args(arguments).env_remove(systemd::WATCHDOG_PID);
    if let Some(sandbox) = sandbox {
        sandbox.hand_on(&mut command);
    }
    tracing::info!("handing over");
    let handed = tokio::select! {
        handed = server.hand_over(command) => handed,
        () = signals.terminated() => return HandOverOutcome::Interrupted,
    };
    match handed {
        Ok(id) => {
            systemd::handed_over(id);
            tracing::info!(id, "handed over");
            HandOverOutcome::HandedOver
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn Error, "not handed over: everything stays as it was");
            HandOverOutcome::StayedHere
        }
    }
}

/// Serves the tunnels that a hand-over has left here, until the last one has ended, the newest process is gone, or a signal
/// asks to stop.
async fn keep_tunnels(server: &mut Server, signals: &mut Signals) {
    tracing::info!("draining: tunnels go on");
    loop {
        let event = tokio::select! {
            kept = server.keep_tunnels() => match kept {
                KeptTunnels::Ended => return,
                KeptTunnels::SuccessorGone { is_child } => return outlive_successor(is_child),
            },
            event = signals.next() => event,
        };
        match event {
            ServeEvent::Terminate => return,
            ServeEvent::Hangup => server.reopen_logs(),
            ServeEvent::HandOver | ServeEvent::FilesRead(_) | ServeEvent::ReloadOrdered(_) => {
                tracing::warn!("ignored a signal: another process accepts connections");
            }
        }
    }
}

/// Reports that the newest process is gone: this process drains, because no freeze reaches it any more. Under systemd, the
/// parent of the newest process ends at once: systemd watches only its own children, so it learns only in this way that it
/// must restart the service.
fn outlive_successor(is_child: bool) {
    tracing::error!("the process that accepts connections is gone: tunnels end with `drain`");
    if is_child && systemd::main_again() {
        trace::flush();
        std::process::exit(1);
    }
}

/// Returns advice about an address that cannot be bound.
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

/// Reports why the server did not start, and returns the exit code: 78 where a restart cannot help, else 1.
fn report_start_error(error: &StartError) -> ExitCode {
    let code = report_error("cannot start", error);
    if let StartError::Listen { address, source } = error
        && let Some(advice) = listen_advice(address, source.kind())
    {
        print_remark(&format_args!("    {advice}"));
    }
    let may_pass = matches!(error, StartError::State(OpenError::Locked(_)));
    if matches!(error, StartError::State(_)) && !may_pass { ExitCode::from(EX_CONFIG) } else { code }
}

async fn next_reading(source: &mut Option<ConfigSource>) -> Result<Box<ConfigReading>, ReadTimeout> {
    match source {
        Some(source) => source.read().await,
        None => pending().await,
    }
}

async fn next_order(orders: &mut Option<ReloadOrders>) -> ReloadOrder {
    match orders {
        Some(orders) => orders.next().await,
        None => pending().await,
    }
}

/// Drains: ends after the exchanges in flight, or at the next signal to stop.
async fn drain(server: Server, mut signals: Signals) -> CommandResult {
    tracing::info!("draining");
    // After a hand-over, systemd watches the new process.
    if *server.state().borrow() == ServerState::Ready {
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
            tracing::error!("the drain is stuck: exiting");
            exit_now()
        }
        () = signals.terminated() => exit_now(),
    }
}

/// Exits at once. Other threads are not joined: one of them may be blocked for ever.
fn exit_now() -> ! {
    trace::flush();
    std::process::exit(i32::from(EX_CUT))
}

/// An event that `serve` acts on: a signal, or configuration files that were read.
enum ServeEvent {
    /// SIGTERM or SIGINT.
    Terminate,
    /// SIGHUP: reopen the logs and reload the configuration.
    Hangup,
    /// The files of the configuration were read, on request or because one of them changed.
    FilesRead(Result<Box<ConfigReading>, ReadTimeout>),
    /// An operator ordered a reload at the admin listener, and waits for its outcome.
    ReloadOrdered(ReloadOrder),
    /// SIGUSR2: hand over to a new process.
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
    async fn next(&mut self) -> ServeEvent {
        tokio::select! {
            _ = self.terminate.recv() => ServeEvent::Terminate,
            _ = self.interrupt.recv() => ServeEvent::Terminate,
            _ = self.hangup.recv() => ServeEvent::Hangup,
            _ = self.user.recv() => ServeEvent::HandOver,
        }
    }

    /// Waits for a signal to stop.
    async fn terminated(&mut self) {
        while !matches!(self.next().await, ServeEvent::Terminate) {}
    }
}
