//! Events as records for a collector of OpenTelemetry, beside their lines.

use std::cell::Cell;
use std::error::Error;
use std::fmt::{self, Debug, Write as _};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::LocalKey;

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::model::trace_context::TraceContext;
use crate::observe::attribute::{Attribute, AttributeValue};
use crate::observe::causes;
use crate::observe::export_queue::ExportQueue;
use crate::observe::log_record::LogRecord;

/// The most bytes of a value and of a message.
const LONGEST: usize = 4 << 10;

/// Where records wait; nothing: events are not exported.
static RECORDS: RwLock<Option<Arc<ExportQueue<LogRecord>>>> = RwLock::new(None);

thread_local! {
    /// The span of the exchange that this thread works on.
    static SPAN: Cell<Option<TraceContext>> = const { Cell::new(None) };
    /// Whether this thread works on the export itself.
    static IS_EXPORT: Cell<bool> = const { Cell::new(false) };
}

/// Exports events from now on, or none.
pub fn export(records: Option<&Arc<ExportQueue<LogRecord>>>) {
    *RECORDS.write().unwrap_or_else(PoisonError::into_inner) = records.cloned();
}

/// Runs a future whose events belong to this span.
pub async fn in_span<T>(span: Option<TraceContext>, mut work: Pin<&mut impl Future<Output = T>>) -> T {
    poll_fn(|context| with(&SPAN, span, || work.as_mut().poll(context))).await
}

/// Runs a future whose events are not exported: the export would export its own complaints, and complain of that.
pub async fn unexported<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| with(&IS_EXPORT, true, || work.as_mut().poll(context))).await
}

/// Sets a value of this thread for a moment, which a panic ends, too.
fn with<V: Copy, T>(cell: &'static LocalKey<Cell<V>>, value: V, work: impl FnOnce() -> T) -> T {
    let _restored = Restored { cell, before: cell.replace(value) };
    work()
}

/// Sets the value before again when it is dropped.
struct Restored<V: Copy + 'static> {
    cell: &'static LocalKey<Cell<V>>,
    before: V,
}

impl<V: Copy> Drop for Restored<V> {
    fn drop(&mut self) {
        self.cell.set(self.before);
    }
}

/// Adds each event to the records that wait.
pub(super) struct ExportLayer;

impl<S: Subscriber> Layer<S> for ExportLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if IS_EXPORT.get() {
            return;
        }
        let records = RECORDS.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(records) = records {
            records.add(record(event));
        }
    }
}

fn record(event: &Event<'_>) -> LogRecord {
    let mut fields =
        EventFields { message: String::new(), attributes: vec![("target", event.metadata().target().into())] };
    event.record(&mut fields);
    LogRecord {
        time: Timestamp::now(),
        level: *event.metadata().level(),
        body: fields.message,
        attributes: fields.attributes,
        trace: SPAN.get(),
    }
}

/// The fields of an event.
struct EventFields {
    message: String,
    attributes: Vec<Attribute>,
}

impl EventFields {
    fn add(&mut self, field: &Field, value: AttributeValue) {
        self.attributes.push((field.name(), value));
    }

    fn add_text(&mut self, field: &Field, text: impl fmt::Display) {
        let mut bounded = BoundedText(String::new());
        // An error tells only that the text is cut.
        let _ = write!(bounded, "{text}");
        match field.name() {
            "message" => self.message = bounded.0,
            _ => self.add(field, AttributeValue::Text(bounded.0)),
        }
    }
}

/// A text that is cut.
struct BoundedText(String);

impl fmt::Write for BoundedText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LONGEST - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let ends = text.char_indices().map(|(at, letter)| at + letter.len_utf8());
        let end = ends.take_while(|end| *end <= room).last().unwrap_or_default();
        self.0.push_str(&text[..end]);
        Err(fmt::Error)
    }
}

impl Visit for EventFields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, AttributeValue::Fraction(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, AttributeValue::Number(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, AttributeValue::Flag(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.add_text(field, causes(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add_text(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use futures_util::FutureExt as _;
    use tracing::Level;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Keeps the records of events.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<LogRecord>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            self.0.lock().unwrap().push(record(event));
        }
    }

    fn records(events: impl FnOnce()) -> Vec<LogRecord> {
        let kept = Kept::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(kept.clone()), events);
        kept.0.lock().unwrap().clone()
    }

    #[test]
    fn a_record_has_the_fields_of_its_event() {
        let span = TraceContext { trace: [1; 16], span: [2; 8], is_sampled: true };
        let error = io::Error::other("no way");
        let records = records(|| {
            let work = pin!(async {
                tracing::warn!(id = "9f31", left = -3, lines = 3_u64, share = 0.5, is_late = true, shown = ?[1], "stays");
            });
            in_span(Some(span), work).now_or_never().unwrap();
            tracing::error!(error = &error as &dyn Error, "cannot {}", "go");
        });
        let text = AttributeValue::from;
        assert_eq!(
            records[0].attributes,
            [
                ("target", text(module_path!())),
                ("id", text("9f31")),
                ("left", AttributeValue::Number(-3)),
                ("lines", AttributeValue::Number(3)),
                ("share", AttributeValue::Fraction(0.5)),
                ("is_late", AttributeValue::Flag(true)),
                ("shown", text("[1]")),
            ]
        );
        assert_eq!((records[0].body.as_str(), records[0].level, records[0].trace), ("stays", Level::WARN, Some(span)));
        assert_eq!((records[1].body.as_str(), records[1].level, records[1].trace), ("cannot go", Level::ERROR, None));
        assert_eq!(records[1].attributes[1], ("error", text("no way")));
    }

    #[test]
    fn a_long_value_is_cut_for_a_collector() {
        let long = "é".repeat(LONGEST);
        let records = records(|| tracing::info!(long, "x{long}"));
        let AttributeValue::Text(text) = &records[0].attributes[1].1 else { panic!("{records:?}") };
        assert_eq!((text.len(), records[0].body.len()), (LONGEST, LONGEST - 1));
    }
}
