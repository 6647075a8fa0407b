//! Events on standard error.

use std::io;

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::Format;

/// Sends events to standard error: ours from `level` up, those of libraries from `WARN` up.
///
/// Always without colours: lines are read by journals more often than by eyes. A second call changes nothing.
pub fn init(level: Level, format: Format) {
    let registry = tracing_subscriber::registry().with(targets(level));
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(false);
    let first = match format {
        Format::Text => registry.with(lines).try_init(),
        Format::Json => registry.with(lines.json()).try_init(),
    };
    if first.is_err() {
        tracing::debug!("events are already sent elsewhere");
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
