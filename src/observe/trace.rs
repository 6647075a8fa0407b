//! Events on standard error. They wait in a queue, as the lines of any log, so that a terminal or a pipe that is not
//! read blocks nothing else.

use std::io;
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt};

use super::sink::Sink;
use crate::config::LogFormat;

/// The filter and the format of events.
type EventLayer = Box<dyn Layer<Registry> + Send + Sync>;

static EVENTS: OnceLock<Handle<EventLayer, Registry>> = OnceLock::new();
/// The queue of standard error.
static LOG: OnceLock<Sink> = OnceLock::new();

/// How long a program that ends, or a panic of its first thread, waits for its events to be written.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// Sends events to standard error: those of callgate from `level` up, those of libraries from `WARN` up. A panic
/// becomes an event, too.
///
/// Without colours: most lines are read in a journal. A second call changes nothing.
pub fn init(level: Level, format: LogFormat) {
    let (layer, handle) = reload::Layer::new(events(level, format));
    match tracing_subscriber::registry().with(layer).try_init() {
        // Only the first call succeeds.
        Ok(()) => {
            let _ = EVENTS.set(handle);
            match Sink::stderr(&format.into()) {
                Ok(log) => drop(LOG.set(log)),
                Err(error) => tracing::warn!(%error, "events are written without a queue"),
            }
            panic::set_hook(Box::new(log_panic));
        }
        Err(_) => tracing::debug!("events are already sent elsewhere"),
    }
}

/// Waits until the events are written, for a second at most. Call it before the program ends.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.flush(Instant::now() + FLUSH_TIME);
    }
}

/// Returns how many events were lost since the start because standard error accepted none.
#[must_use]
pub fn lost() -> u64 {
    LOG.get().map_or(0, Sink::lost)
}

/// Checks that events can be written; nothing if they do not go through this queue.
///
/// # Errors
/// Names the cause.
pub fn check() -> Option<Result<(), String>> {
    LOG.get().map(Sink::check)
}

/// Reports a panic as an event: the standard library would write to standard error and block.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload().downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.payload().downcast_ref::<String>().map(String::as_str));
    tracing::error!(thread = name, location, "panicked: {}", message.unwrap_or("no message"));
    // The program may end with this panic.
    if name == "main" {
        flush();
    }
}

/// Changes the level and the format, if [`init`] installed the layer.
pub fn change(level: Level, format: LogFormat) {
    if let Some(handle) = EVENTS.get()
        && let Err(error) = handle.reload(events(level, format))
    {
        tracing::error!(%error, "cannot change the level and the format of events");
    }
}

/// The targets are the outermost layer: only there is their refusal final and cached, so that events of libraries below
/// their level are not checked anew for each request.
fn events(level: Level, format: LogFormat) -> EventLayer {
    let lines = fmt::layer().with_writer(EventQueue).with_ansi(false);
    match format {
        LogFormat::Text => lines.and_then(targets(level)).boxed(),
        LogFormat::Json => lines.json().and_then(targets(level)).boxed(),
    }
}

/// Makes a writer for each event.
struct EventQueue;

/// Receives one event, which the formatter writes in one call.
struct EventWriter {
    is_urgent: bool,
}

impl<'a> MakeWriter<'a> for EventQueue {
    type Writer = EventWriter;

    fn make_writer(&'a self) -> EventWriter {
        EventWriter { is_urgent: false }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> EventWriter {
        EventWriter { is_urgent: *about.level() <= Level::WARN }
    }
}

impl io::Write for EventWriter {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let Some(log) = LOG.get() else { return io::stderr().write(event) };
        log.line_with(|bytes| bytes.extend_from_slice(event.strip_suffix(b"\n").unwrap_or(event)));
        if self.is_urgent {
            log.hurry();
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn targets(level: Level) -> Targets {
    Targets::new().with_default(level.min(Level::WARN)).with_target("callgate", level)
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::filter::LevelFilter;

    use super::*;

    #[track_caller]
    fn check(level: Level, target: &str, expected: Level) {
        let targets = targets(level);
        for event in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
            assert_eq!(targets.would_enable(target, &event), event <= expected, "{target} {event} at {level}");
        }
    }

    #[test]
    fn our_events_follow_the_level() {
        check(Level::DEBUG, "callgate::proxy", Level::DEBUG);
        check(Level::INFO, "callgate", Level::INFO);
        check(Level::ERROR, "callgate::pbx", Level::ERROR);
    }

    #[test]
    fn libraries_are_quieter() {
        check(Level::TRACE, "hyper::proto", Level::WARN);
        check(Level::INFO, "rustls", Level::WARN);
        check(Level::ERROR, "rustls", Level::ERROR);
    }

    #[test]
    fn what_nobody_hears_is_known_without_asking() {
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(events(Level::INFO, format).max_level_hint(), Some(LevelFilter::INFO), "{format:?}");
        }
    }

    #[test]
    fn a_second_call_changes_nothing() {
        init(Level::ERROR, LogFormat::Text);
        init(Level::ERROR, LogFormat::Json);
    }
}
