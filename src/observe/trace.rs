//! Events on standard error, or in the journal of systemd if standard error leads there. They wait in a queue, as the lines of
//! any log, so that a terminal or a pipe that is not read blocks nothing else.

mod export;
mod journal;

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::panic::{self, PanicHookInfo};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{Level, Metadata};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt};

use self::export::ExportLayer;
pub use self::export::{export, in_span, unexported};
use self::journal::JournalFormat;
use super::sink::Sink;
use crate::config::LogFormat;

/// The filter and the format of events.
type EventLayer = Box<dyn Layer<Registry> + Send + Sync>;

static EVENTS: OnceLock<Events> = OnceLock::new();
/// Tells that the operator ordered a level.
static ORDERED: Notify = Notify::const_new();
/// The queue of standard error.
static LOG: OnceLock<Sink> = OnceLock::new();

/// How long a program that ends, or a panic of its first thread, waits for its events to be written.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// The events of the process, and what of them is written.
struct Events {
    handle: Handle<EventLayer, Registry>,
    settings: Mutex<EventSettings>,
}

/// What of the events is written, and how.
#[derive(Debug, Clone, Copy)]
struct EventSettings {
    levels: EventLevels,
    format: LogFormat,
    /// Whether standard error leads to the journal.
    is_journal: bool,
}

/// A level that holds for a while instead of the configured one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderedLevel {
    /// The level.
    pub level: Level,
    /// When the configured level holds again.
    pub until: Instant,
}

/// The levels of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLevels {
    /// The level of the configuration.
    pub configured: Level,
    /// The level that the operator ordered, if that holds now.
    pub ordered: Option<OrderedLevel>,
}

impl EventLevels {
    /// Returns the level that holds now.
    #[must_use]
    pub fn current(&self) -> Level {
        self.ordered.map_or(self.configured, |ordered| ordered.level)
    }
}

impl Events {
    fn settings(&self) -> MutexGuard<'_, EventSettings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut EventSettings)) {
        let mut settings = self.settings();
        change(&mut settings);
        if let Err(error) = self.handle.reload(events(&settings)) {
            tracing::error!(%error, "cannot change the level and the format of events");
        }
    }
}

/// Sends events to standard error: those of callgate from `level` up, those of libraries from `WARN` up. A panic
/// becomes an event, too.
///
/// Without colours: most lines are read in a journal. A second call changes nothing.
pub fn init(level: Level, format: LogFormat) {
    let levels = EventLevels { configured: level, ordered: None };
    let settings = EventSettings { levels, format, is_journal: journal::is_stderr() };
    let (layer, handle) = reload::Layer::new(events(&settings));
    match tracing_subscriber::registry().with(layer).try_init() {
        // Only the first call succeeds.
        Ok(()) => {
            let _ = EVENTS.set(Events { handle, settings: Mutex::new(settings) });
            let sink = if settings.is_journal { Sink::journal } else { Sink::stderr };
            match sink(&format.into()) {
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

/// Changes the configured level and the format, if [`init`] installed the layer. A level that the operator ordered stays.
pub fn change(level: Level, format: LogFormat) {
    if let Some(events) = EVENTS.get() {
        events.change(|settings| (settings.levels.configured, settings.format) = (level, format));
    }
}

/// Returns the levels of events; nothing if [`init`] did not install the layer.
#[must_use]
pub fn levels() -> Option<EventLevels> {
    EVENTS.get().map(|events| events.settings().levels)
}

/// Sets the level that holds instead of the configured one, or ends it. [`end_ordered_levels`] ends it in time.
pub fn order_level(ordered: Option<OrderedLevel>) {
    if let Some(events) = EVENTS.get() {
        events.change(|settings| settings.levels.ordered = ordered);
        ORDERED.notify_one();
    }
}

/// Ends each ordered level when its time is over.
pub async fn end_ordered_levels() -> Infallible {
    let Some(events) = EVENTS.get() else { return pending().await };
    loop {
        let ordered = events.settings().levels.ordered;
        let over = async {
            match ordered {
                Some(ordered) => sleep_until(ordered.until).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = over => {
                events.change(|settings| settings.levels.ordered = settings.levels.ordered.filter(|now| Some(*now) != ordered));
                tracing::warn!("the time of the ordered level of events is over");
            }
            () = ORDERED.notified() => {}
        }
    }
}

/// The targets are the outermost layer: only there is their refusal final and cached, so that events of libraries below
/// their level are not checked anew for each request.
fn events(settings: &EventSettings) -> EventLayer {
    let targets = targets(settings.levels.current());
    let lines = fmt::layer().with_writer(EventQueue).with_ansi(false);
    match (settings.format, settings.is_journal) {
        (LogFormat::Text, false) => both(lines, targets),
        (LogFormat::Json, false) => both(lines.json(), targets),
        (LogFormat::Text, true) => both(journal::text(lines).map_event_format(JournalFormat), targets),
        (LogFormat::Json, true) => both(lines.json().map_event_format(JournalFormat), targets),
    }
}

/// Writes lines, and exports the same events.
fn both(lines: impl Layer<Registry> + Send + Sync, targets: Targets) -> EventLayer {
    lines.and_then(ExportLayer).and_then(targets).boxed()
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
        for (format, is_journal) in [(LogFormat::Text, false), (LogFormat::Json, false), (LogFormat::Text, true)] {
            let levels = EventLevels { configured: Level::INFO, ordered: None };
            let settings = EventSettings { levels, format, is_journal };
            assert_eq!(events(&settings).max_level_hint(), Some(LevelFilter::INFO), "{settings:?}");
        }
    }

    #[test]
    fn a_second_call_changes_nothing() {
        init(Level::ERROR, LogFormat::Text);
        init(Level::ERROR, LogFormat::Json);
    }
}
