//! Events as entries of systemd's journal, in its native protocol: fields that `journalctl` can search.

use std::env;
use std::fmt::{self, Debug, Write as _};
use std::io;

use rustix::fs::fstat;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{DefaultFields, Format, FormatEvent, FormatFields, Full, Writer};
use tracing_subscriber::fmt::{self as formatting, FmtContext};
use tracing_subscriber::registry::LookupSpan;

use crate::observe::syslog_message::JOURNAL_SEPARATOR;

/// The most bytes of a value and of a message: a datagram with all fields of an event fits into the buffer of a socket.
const LONGEST: usize = 4 << 10;
const LONGEST_MESSAGE: usize = 64 << 10;

/// Writes an event as the fields of one entry. The message is the event in the format inside.
pub(super) struct JournalFormat<F>(pub(super) F);

/// Tells whether standard error leads to the journal (systemd.exec(5), `JOURNAL_STREAM`).
pub(super) fn is_stderr() -> bool {
    let Ok(stderr) = fstat(io::stderr()) else { return false };
    env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// Makes the format of messages: the journal knows time, level and target by itself.
pub(super) fn text<S, W>(
    lines: formatting::Layer<S, DefaultFields, Format<Full>, W>,
) -> formatting::Layer<S, DefaultFields, Format<Full, ()>, W> {
    lines.without_time().with_level(false).with_target(false)
}

impl<S, N, F> FormatEvent<S, N> for JournalFormat<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let about = event.metadata();
        let mut entry = JournalEntry(format!("PRIORITY={}", priority(*about.level())));
        entry.add("SYSLOG_IDENTIFIER", "callgate", LONGEST);
        entry.add("CALLGATE_TARGET", about.target(), LONGEST);
        event.record(&mut entry);
        let mut message = String::new();
        self.0.format_event(context, Writer::new(&mut message), event)?;
        entry.add("MESSAGE", message.trim_end_matches('\n'), LONGEST_MESSAGE);
        to.write_str(&entry.0)?;
        to.write_char('\n')
    }
}

/// Returns the priority of a level (sd-daemon(3)).
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// The fields of an entry, on one line.
struct JournalEntry(String);

impl JournalEntry {
    /// Adds a field. No value can leave it: newlines and separators in a value are escaped.
    fn add(&mut self, name: &str, value: &str, most: usize) {
        self.0.push(JOURNAL_SEPARATOR);
        self.0.push_str(name);
        self.0.push('=');
        for (_, letter) in value.char_indices().take_while(|(at, _)| *at < most) {
            match letter {
                '\n' | JOURNAL_SEPARATOR => self.0.extend(letter.escape_default()),
                letter => self.0.push(letter),
            }
        }
    }

    fn add_own(&mut self, field: &Field, value: &str) {
        if field.name() != "message" {
            let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
            let name: String = "CALLGATE_".chars().chain(field.name().chars().map(letter)).collect();
            self.add(&name, value, LONGEST);
        }
    }
}

impl Visit for JournalEntry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_own(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add_own(field, &crate::observe::causes(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // Writing to memory does not fail.
        let _ = write!(text, "{value:?}");
        self.add_own(field, &text);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Returns the fields of the entries of events.
    fn entries(is_json: bool, events: impl FnOnce()) -> Vec<Vec<String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines = formatting::layer().with_ansi(false).with_writer(Arc::new(file.reopen().unwrap()));
        match is_json {
            false => {
                let layer = text(lines).map_event_format(JournalFormat);
                tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), events);
            }
            true => {
                let layer = lines.json().map_event_format(JournalFormat);
                tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), events);
            }
        }
        let text = fs::read_to_string(file.path()).unwrap();
        text.lines().map(|line| line.split(JOURNAL_SEPARATOR).map(str::to_owned).collect()).collect()
    }

    #[test]
    fn an_entry_has_the_fields_of_its_event() {
        let entries = entries(false, || {
            tracing::warn!(id = "9f31", lost.lines = 3, error = %"no\nway\u{1e}PRIORITY=0", "cannot go on");
            tracing::error!("stopped");
        });
        assert_eq!(
            entries,
            [
                vec![
                    "PRIORITY=4",
                    "SYSLOG_IDENTIFIER=callgate",
                    "CALLGATE_TARGET=callgate::observe::trace::journal::tests",
                    "CALLGATE_ID=9f31",
                    "CALLGATE_LOST_LINES=3",
                    "CALLGATE_ERROR=no\\nway\\u{1e}PRIORITY=0",
                    "MESSAGE=cannot go on id=\"9f31\" lost.lines=3 error=no\\nway\\u{1e}PRIORITY=0",
                ],
                vec![
                    "PRIORITY=3",
                    "SYSLOG_IDENTIFIER=callgate",
                    "CALLGATE_TARGET=callgate::observe::trace::journal::tests",
                    "MESSAGE=stopped",
                ],
            ]
        );
    }

    #[test]
    fn the_message_is_json_where_lines_are() {
        let entries = entries(true, || tracing::info!(id = "9f31", "ready"));
        let message = entries[0].last().unwrap().strip_prefix("MESSAGE=").unwrap();
        let message: serde_json::Value = serde_json::from_str(message).unwrap();
        assert_eq!((&message["fields"]["id"], &entries[0][0]), (&"9f31".into(), &"PRIORITY=6".to_owned()));
    }

    #[test]
    fn a_long_value_is_cut() {
        let long = "é".repeat(LONGEST);
        let entries = entries(false, || tracing::debug!(long, "{long}"));
        assert_eq!(entries[0][3].len(), "CALLGATE_LONG=".len() + LONGEST);
        assert!(entries[0][4].len() <= "MESSAGE=".len() + LONGEST_MESSAGE);
    }
}
