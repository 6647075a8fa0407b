//! Events on standard error.

use std::io;
use std::sync::OnceLock;

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::Format;

/// What is written of events, and how.
type Events = Box<dyn Layer<Registry> + Send + Sync>;

static EVENTS: OnceLock<Handle<Events, Registry>> = OnceLock::new();

/// Sends events to standard error: ours from `level` up, those of libraries from `WARN` up.
///
/// Always without colours: lines are read by journals more often than by eyes. A second call changes nothing.
pub fn init(level: Level, format: Format) {
    let (layer, handle) = reload::Layer::new(events(level, format));
    match tracing_subscriber::registry().with(layer).try_init() {
        // Only the first call comes here.
        Ok(()) => drop(EVENTS.set(handle)),
        Err(_) => tracing::debug!("events are already sent elsewhere"),
    }
}

/// Goes on with another level and another format, if it was this module that began.
pub fn change(level: Level, format: Format) {
    if let Some(handle) = EVENTS.get()
        && let Err(error) = handle.reload(events(level, format))
    {
        tracing::error!(%error, "events go on as before");
    }
}

/// The targets are outermost: what a layer says of a place in the code that will never be heard is remembered there, but
/// only if no other layer is around it.
fn events(level: Level, format: Format) -> Events {
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(false);
    match format {
        Format::Text => lines.and_then(targets(level)).boxed(),
        Format::Json => lines.json().and_then(targets(level)).boxed(),
    }
}

fn targets(level: Level) -> Targets {
    Targets::new().with_default(level.min(Level::WARN)).with_target("callgate", level)
}

#[cfg(test)]
mod tests {
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
    fn a_second_call_changes_nothing() {
        init(Level::ERROR, Format::Text);
        init(Level::ERROR, Format::Json);
    }
}
