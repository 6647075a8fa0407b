//! Events on standard error: queued like the lines of any log, so that a terminal or a pipe that takes nothing holds up
//! nothing else.

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

/// What is written of events, and how.
type EventLayer = Box<dyn Layer<Registry> + Send + Sync>;

static EVENTS: OnceLock<Handle<EventLayer, Registry>> = OnceLock::new();
/// The queue of standard error.
static LOG: OnceLock<Sink> = OnceLock::new();

/// How long a program that ends, or a panic of its first thread, waits for its events to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Sends events to standard error: ours from `level` up, those of libraries from `WARN` up. Panics are told there, too.
///
/// Always without colours: lines are read by journals more often than by eyes. A second call changes nothing.
pub fn init(level: Level, format: LogFormat) {
    let (layer, handle) = reload::Layer::new(events(level, format));
    match tracing_subscriber::registry().with(layer).try_init() {
        // Only the first call comes here.
        Ok(()) => {
            let _ = EVENTS.set(handle);
            match Sink::stderr(format) {
                Ok(log) => drop(LOG.set(log)),
                Err(error) => tracing::warn!(%error, "events are written without a queue"),
            }
            panic::set_hook(Box::new(tell_panic));
        }
        Err(_) => tracing::debug!("events are already sent elsewhere"),
    }
}

/// Waits until the events are written, but not for long. To be called before the program ends.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.flush(Instant::now() + LAST_WORDS);
    }
}

/// Returns how many events were lost since the start, because standard error took none.
#[must_use]
pub fn lost() -> u64 {
    LOG.get().map_or(0, Sink::lost)
}

/// Tells whether events can be written; nothing where they are written elsewhere.
///
/// # Errors
/// With what is wrong.
pub fn check() -> Option<Result<(), String>> {
    LOG.get().map(Sink::check)
}

/// Tells of a panic by an event: the standard library would write to standard error, and wait for it.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload().downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.payload().downcast_ref::<String>().map(String::as_str));
    tracing::error!(thread = name, place, "panicked: {}", message.unwrap_or("no message"));
    // The program may end with it.
    if name == "main" {
        flush();
    }
}

/// Goes on with another level and another format, if it was this module that began.
pub fn change(level: Level, format: LogFormat) {
    if let Some(handle) = EVENTS.get()
        && let Err(error) = handle.reload(events(level, format))
    {
        tracing::error!(%error, "events go on as before");
    }
}

/// The targets are outermost: only there is a no final, so that what libraries would say to nobody is not asked about
/// for every request anew.
fn events(level: Level, format: LogFormat) -> EventLayer {
    let lines = fmt::layer().with_writer(EventQueue).with_ansi(false);
    match format {
        LogFormat::Text => lines.and_then(targets(level)).boxed(),
        LogFormat::Json => lines.json().and_then(targets(level)).boxed(),
    }
}

/// Makes what takes one event.
struct EventQueue;

/// Takes one event, which the formatter writes whole.
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
