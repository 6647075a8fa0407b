//! Floor 2: logs, metrics and readiness for the operator: one access line for each exchange, one audit line for each
//! login, events on standard error, counts, and the parts that are not ready.

pub mod access;
pub mod attribute;
pub mod audit;
mod chained_file;
pub mod client_fields;
mod combined;
pub mod export_queue;
mod exports;
pub mod hash_chain;
pub mod health;
pub mod heartbeat;
pub mod history;
pub mod line;
mod log_destination;
pub mod log_record;
pub mod metrics;
pub(crate) mod notice;
pub mod passed_connection;
pub mod refusals;
pub mod request_id;
pub mod sink;
pub mod spans;
mod syslog;
mod syslog_message;
mod syslog_probe;
mod syslog_stream;
pub mod trace;

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

use http::HeaderMap;
use jiff::Timestamp;
use tokio::time::Instant;

use self::client_fields::ClientFields;
use self::export_queue::ExportQueue;
pub use self::exports::ExportTotals;
use self::exports::Exports;
use self::line::LineStyle;
use self::log_record::LogRecord;
pub use self::request_id::RequestId;
use self::sink::{ClosingLog, FlushRequest, Sink};
use self::spans::Tracer;
pub(crate) use self::syslog_probe::probe_syslog;
use crate::config::{AccessFormat, AccessLogTarget, AuditConfig, Config, LogFormat, WhenStuck, can_write};

/// The logs of a configuration. A clone is cheap; each worker has one with buffers of its own ([`Logs::of_worker`]).
#[derive(Debug, Clone)]
pub struct Logs {
    access: Option<Sink>,
    audit: Sink,
    /// The style of audit lines: JSON if they have a file of their own.
    audit_style: LineStyle,
    /// A syslog daemon that receives a copy of each audit line.
    syslog: Option<Sink>,
    style: LineStyle,
    /// Whether access lines have the combined format, and not this style.
    is_combined: bool,
    when_stuck: WhenStuck,
    exports: Exports,
}

/// A login was refused because its audit line cannot be written.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{prefix}: {0}", prefix = NO_LINE)]
pub struct Unaudited(String);

/// The begin of the reason of a login that was refused because its audit line could not be written. If the line is
/// written later after all, the line of this refusal follows it.
pub const NO_LINE: &str = "the login has no audit line";

impl Logs {
    /// Opens the logs of a configuration. Audit lines without a file of their own go to the access log.
    ///
    /// # Errors
    /// When a file cannot be opened or no thread can be started.
    pub fn open(config: &Config) -> io::Result<Self> {
        let style = access_style(config);
        let access = match &config.log.access {
            AccessLogTarget::Off => None,
            AccessLogTarget::Stdout => Some(Sink::stdout(&style)?),
            AccessLogTarget::File(path) => Some(with_name(path, Sink::file(path, &style))?),
        };
        Self::open_beside(access, config)
    }

    /// Checks that [`Logs::open`] could open the logs of a configuration. Opens and creates nothing.
    ///
    /// # Errors
    /// When a file cannot be written; the error names it.
    pub fn inspect(config: &Config) -> io::Result<()> {
        let access = match &config.log.access {
            AccessLogTarget::File(path) => Some(path),
            AccessLogTarget::Off | AccessLogTarget::Stdout => None,
        };
        access.into_iter().chain(&config.audit.file).try_for_each(|path| with_name(path, can_write(path)))
    }

    /// Opens the audit log of a configuration, without an access log, for a command beside the gate.
    ///
    /// # Errors
    /// When a file cannot be opened or no thread can be started.
    pub fn open_audit(config: &Config) -> io::Result<Self> {
        Self::open_beside(None, config)
    }

    /// Opens the audit log, which is the access log if it has no file of its own.
    fn open_beside(access: Option<Sink>, config: &Config) -> io::Result<Self> {
        let style = style(config);
        let (audit, audit_style) = match (&config.audit.file, &access) {
            (Some(path), _) if config.audit.chain => (with_name(path, Sink::chain(path, &style))?, style.json()),
            (Some(path), _) => (with_name(path, Sink::file(path, &style.json()))?, style.json()),
            (None, Some(access)) => (access.clone(), access_style(config)),
            (None, None) => (Sink::stdout(&style)?, style.clone()),
        };
        let syslog = config.audit.syslog.clone().map(|to| Sink::syslog(to, &style)).transpose()?;
        let is_combined = config.log.access_format == AccessFormat::Combined;
        let style = access_style(config);
        let (when_stuck, exports) = (config.audit.when_stuck, Exports::new(config, Arc::default()));
        Ok(Self { access, audit, audit_style, syslog, style, is_combined, when_stuck, exports })
    }

    /// Returns a clone for one worker, with buffers of its own.
    #[must_use]
    pub fn of_worker(&self) -> Self {
        let access = self.access.as_ref().map(Sink::of_worker);
        // Lines of one log stay in order.
        let audit = access.as_ref().filter(|access| access.is(&self.audit)).cloned();
        let audit = audit.unwrap_or_else(|| self.audit.of_worker());
        Self { access, audit, syslog: self.syslog.as_ref().map(Sink::of_worker), ..self.clone() }
    }

    /// Opens the logs of another configuration; continues these logs if both configurations name the same.
    ///
    /// # Errors
    /// When a file cannot be opened or no thread can be started.
    pub fn successor(&self, before: &Config, config: &Config) -> io::Result<Self> {
        let is_same = LogSettings::of(before) == LogSettings::of(config);
        let logs = if is_same { self.clone() } else { Self::open(config)? };
        Ok(Self { exports: self.exports.successor(before, config), ..logs })
    }

    /// Opens the log files again after a rotation. Does not wait.
    pub fn reopen(&self) {
        self.sinks().for_each(Sink::reopen);
    }

    /// Opens logs that discard every line, for a gate that is built and not started.
    ///
    /// # Errors
    /// When `/dev/null` cannot be opened or no thread can be started.
    pub fn discarding(format: LogFormat) -> io::Result<Self> {
        let audit = Sink::file(Path::new("/dev/null"), &format.into())?;
        let when_stuck = WhenStuck::default();
        let style = LineStyle::from(format);
        let audit_style = style.clone();
        let exports = Exports::default();
        Ok(Self { access: None, audit, audit_style, syslog: None, style, is_combined: false, when_stuck, exports })
    }

    /// Returns what records spans, if a collector is configured.
    #[must_use]
    pub const fn tracer(&self) -> Option<&Arc<Tracer>> {
        self.exports.tracer.as_ref()
    }

    /// Returns the log records that wait for a collector, if it gets any.
    #[must_use]
    pub const fn records(&self) -> Option<&Arc<ExportQueue<LogRecord>>> {
        self.exports.records.as_ref()
    }

    /// Returns what became of telemetry for a collector.
    #[must_use]
    pub fn export_totals(&self) -> &ExportTotals {
        &self.exports.totals
    }

    /// From now on nothing gathers for the collector: the process ends.
    pub fn hurry_exports(&self) {
        self.exports.hurry();
    }

    /// Returns whether it is known of all telemetry so far whether the collector has it.
    #[must_use]
    pub fn are_exports_settled(&self) -> bool {
        self.exports.are_settled()
    }

    /// Returns whether access lines are written, or exported.
    #[must_use]
    pub const fn access(&self) -> bool {
        self.access.is_some() || self.exports.records.is_some()
    }

    /// Returns the fields of a request that access lines show.
    #[must_use]
    pub fn client_fields(&self, headers: &HeaderMap) -> ClientFields {
        if self.is_combined { ClientFields::of(headers) } else { ClientFields::default() }
    }

    /// Writes an access line, and exports it. Never waits; counts the line as lost if the queue is full.
    pub fn write_access(&self, exchange: &access::AccessRecord) {
        if let Some(records) = &self.exports.records {
            records.add(exchange.record(Timestamp::now()));
        }
        if let Some(sink) = &self.access {
            sink.line_with(|bytes| match self.is_combined {
                true => combined::write(bytes, exchange, Timestamp::now()),
                false => exchange.write(bytes, &self.style, Timestamp::now()),
            });
        }
    }

    /// Writes the line of a connection that was passed on, as [`Logs::write_access`] does.
    pub fn write_passed_connection(&self, connection: &passed_connection::PassthroughRecord) {
        if let Some(records) = &self.exports.records {
            records.add(connection.record(Timestamp::now()));
        }
        if let Some(sink) = &self.access {
            sink.line_with(|bytes| match self.is_combined {
                true => combined::write_passed(bytes, connection, Timestamp::now()),
                false => connection.write(bytes, &self.style, Timestamp::now()),
            });
        }
    }

    /// Checks that the audit log can be written, before a login causes any effect.
    ///
    /// # Errors
    /// When the audit log is stuck or cannot be written, and `when_stuck` is `refuse`.
    pub fn check_audit(&self) -> Result<(), Unaudited> {
        match self.when_stuck {
            WhenStuck::Refuse => self.audit.check().map_err(Unaudited),
            WhenStuck::GoOn => Ok(()),
        }
    }

    /// Writes the audit line of a granted login and waits until it is written, for two seconds at most. The copy to
    /// syslog follows without a wait.
    ///
    /// # Errors
    /// When the line is not written and `when_stuck` is `refuse`.
    pub async fn write_grant(&self, entry: &audit::LoginRecord) -> Result<(), Unaudited> {
        let now = Timestamp::now();
        let written = self.audit.awaited_line(&entry.line(&self.audit_style, now), self.when_stuck).await;
        if self.when_stuck == WhenStuck::Refuse {
            written.map_err(Unaudited)?;
        }
        self.write_syslog(|style| entry.line(style, now));
        Ok(())
    }

    /// Writes the audit line of a refused login. Never waits. The queue reserves room for audit lines; the line is
    /// counted as lost if that room is full, too.
    pub fn write_refusal(&self, entry: &audit::LoginRecord) {
        self.write_audit(|style, now| entry.line(style, now));
    }

    /// Writes the audit line of an event that is not a login, as [`Logs::write_refusal`] does.
    pub fn write_note(&self, note: &audit::EventRecord) {
        self.write_audit(|style, now| note.line(style, now));
    }

    fn write_audit(&self, line: impl Fn(&LineStyle, Timestamp) -> String) {
        let now = Timestamp::now();
        self.audit.needed_line(&line(&self.audit_style, now));
        self.write_syslog(|style| line(style, now));
    }

    fn write_syslog(&self, line: impl FnOnce(&LineStyle) -> String) {
        if let Some(syslog) = &self.syslog {
            syslog.needed_line(&line(&self.style.json()));
        }
    }

    /// Returns how many lines each log has lost since the start, events included.
    #[must_use]
    pub fn lost(&self) -> Vec<(&'static str, u64)> {
        let access = self.access.as_ref().filter(|access| !access.is(&self.audit));
        let access = access.map(|access| ("access", access.lost()));
        // Audit lines in the access log count among its lost lines.
        let syslog = self.syslog.as_ref().map(|syslog| ("syslog", syslog.lost()));
        access
            .into_iter()
            .chain([("audit", self.audit.lost())])
            .chain(syslog)
            .chain([("events", trace::lost())])
            .collect()
    }

    /// Checks that the logs can be written. A check lets a log that failed try again.
    ///
    /// # Errors
    /// Names each log that cannot be written, with the cause.
    pub fn check(&self) -> Result<(), String> {
        let logs = self.sinks().filter(|log| !self.is_syslog(log));
        let problems: Vec<_> = logs.filter_map(|log| log.check().err()).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join(", ")) }
    }

    /// Checks that syslog accepts lines; nothing if no syslog is configured.
    ///
    /// # Errors
    /// When it accepts none. Such lines are counted as lost; the audit log has them, so logins go on.
    pub fn check_syslog(&self) -> Option<Result<(), String>> {
        self.syslog.as_ref().map(Sink::check)
    }

    /// Waits until all lines so far, of all workers, are written or lost, or until the deadline. Returns whether they
    /// are; the copy for syslog is waited for, and does not count.
    pub fn flush(&self, deadline: Instant) -> bool {
        // Waits for every log: one that is stuck must not cut another short.
        let late = self.sinks().filter(|sink| !sink.flush(deadline));
        late.filter(|late| !self.is_syslog(late)).count() == 0
    }

    /// Requests that all lines so far, of all workers, are written. Does not wait.
    #[must_use]
    pub fn request_flush(&self) -> Vec<FlushRequest> {
        self.sinks().map(Sink::request_flush).collect()
    }

    /// Returns handles that tell when these logs have ended, after all clones are dropped.
    #[must_use]
    pub fn closing(&self) -> Vec<ClosingLog> {
        self.sinks().map(Sink::closing).collect()
    }

    fn is_syslog(&self, log: &Sink) -> bool {
        self.syslog.as_ref().is_some_and(|syslog| log.is(syslog))
    }

    fn sinks(&self) -> impl Iterator<Item = &Sink> {
        let access = self.access.iter().filter(|access| !access.is(&self.audit));
        access.chain([&self.audit]).chain(&self.syslog)
    }
}

/// The settings of a configuration that logs depend on.
#[derive(PartialEq, Eq)]
struct LogSettings<'c> {
    access: (&'c AccessLogTarget, AccessFormat),
    style: LineStyle,
    audit: &'c AuditConfig,
}

impl<'c> LogSettings<'c> {
    fn of(config: &'c Config) -> Self {
        let access = (&config.log.access, config.log.access_format);
        Self { access, style: style(config), audit: &config.audit }
    }
}

/// Returns the style of access lines, and of those among them.
fn access_style(config: &Config) -> LineStyle {
    match config.log.access_format {
        AccessFormat::Lines(format) => LineStyle { format, ..style(config) },
        AccessFormat::Combined => style(config),
    }
}

/// Returns the style of the lines of a configuration.
fn style(config: &Config) -> LineStyle {
    LineStyle { format: config.log.format, member: config.member.clone() }
}

/// Returns the text of an error and of each of its causes.
#[must_use]
pub fn causes(error: &dyn Error) -> String {
    let source = error.source().map(|source| format!(": {}", causes(source)));
    format!("{error}{}", source.unwrap_or_default())
}

/// Adds the name of a file to the error of opening it.
fn with_name<T>(path: &Path, opened: io::Result<T>) -> io::Result<T> {
    opened.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
