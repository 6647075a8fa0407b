//! Floor 2: what the gate tells its operator: one line for each exchange, one for each login, events on standard error,
//! counts of everything, and which parts are ready.

pub mod access;
pub mod audit;
mod chained_file;
pub mod hash_chain;
pub mod health;
pub mod heartbeat;
mod line;
mod log_destination;
pub mod metrics;
pub mod request_id;
pub mod sink;
mod syslog;
pub mod trace;

use std::error::Error;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use tokio::time::Instant;

pub use self::request_id::RequestId;
use self::sink::{ClosingLog, FlushRequest, Sink};
use crate::config::{AccessLogTarget, Config, LogFormat, WhenStuck, can_write};

/// Where lines go: cheap to copy; each worker has a copy that gathers its own ([`Logs::of_worker`]).
#[derive(Debug, Clone)]
pub struct Logs {
    access: Option<Sink>,
    audit: Sink,
    /// Audit lines are JSON wherever they are alone.
    audit_format: LogFormat,
    /// Where each audit line goes as well.
    syslog: Option<Sink>,
    format: LogFormat,
    when_stuck: WhenStuck,
}

/// Why a login goes no further: its line cannot be written.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{prefix}: {0}", prefix = NO_LINE)]
pub struct Unaudited(String);

/// How the reason begins of a login that was refused because its line could not be written. Where that line came to be
/// written after all, this refusal stands behind it.
pub const NO_LINE: &str = "the login has no audit line";

impl Logs {
    /// Opens what the configuration names. Audit lines without a file of their own go where access lines go.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn open(config: &Config) -> io::Result<Self> {
        let format = config.log.format;
        let access = match &config.log.access {
            AccessLogTarget::Off => None,
            AccessLogTarget::Stdout => Some(Sink::stdout(format)?),
            AccessLogTarget::File(path) => Some(named(path, Sink::file(path, format))?),
        };
        Self::beside(access, config)
    }

    /// Tells whether [`Logs::open`] could open what the configuration names, without opening or making anything.
    ///
    /// # Errors
    /// When a file cannot be written, with its name.
    pub fn inspect(config: &Config) -> io::Result<()> {
        let access = match &config.log.access {
            AccessLogTarget::File(path) => Some(path),
            AccessLogTarget::Off | AccessLogTarget::Stdout => None,
        };
        access.into_iter().chain(&config.audit.file).try_for_each(|path| named(path, can_write(path)))
    }

    /// Opens what the configuration names for audit lines, for a command that is no gate.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn alone(config: &Config) -> io::Result<Self> {
        Self::beside(None, config)
    }

    /// Opens what the configuration names for audit lines.
    fn beside(access: Option<Sink>, config: &Config) -> io::Result<Self> {
        let format = config.log.format;
        let (audit, audit_format) = match (&config.audit.file, &access) {
            (Some(path), _) if config.audit.chain => (named(path, Sink::chain(path))?, LogFormat::Json),
            (Some(path), _) => (named(path, Sink::file(path, LogFormat::Json))?, LogFormat::Json),
            (None, Some(access)) => (access.clone(), format),
            (None, None) => (Sink::stdout(format)?, format),
        };
        let syslog = config.audit.syslog.clone().map(Sink::syslog).transpose()?;
        Ok(Self { access, audit, audit_format, syslog, format, when_stuck: config.audit.when_stuck })
    }

    /// Returns a copy for one worker, whose lines gather apart from those of others.
    #[must_use]
    pub fn of_worker(&self) -> Self {
        let access = self.access.as_ref().map(Sink::of_worker);
        // Lines of one place stay in their order.
        let audit = access.as_ref().filter(|access| access.is(&self.audit)).cloned();
        let audit = audit.unwrap_or_else(|| self.audit.of_worker());
        Self { access, audit, syslog: self.syslog.as_ref().map(Sink::of_worker), ..self.clone() }
    }

    /// Opens what another configuration names, or goes on where both name the same.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn successor(&self, before: &Config, config: &Config) -> io::Result<Self> {
        let is_same = (&before.log.access, before.log.format, &before.audit)
            == (&config.log.access, config.log.format, &config.audit);
        if is_same { Ok(self.clone()) } else { Self::open(config) }
    }

    /// Opens the log files again: they may have been moved away. Does not wait for it.
    pub fn reopen(&self) {
        self.sinks().for_each(Sink::reopen);
    }

    /// Opens logs that discard every line, for a gate that is built and not started.
    ///
    /// # Errors
    /// When `/dev/null` cannot be opened or no thread can be started.
    pub fn discarding(format: LogFormat) -> io::Result<Self> {
        let audit = Sink::file(Path::new("/dev/null"), format)?;
        let when_stuck = WhenStuck::default();
        Ok(Self { access: None, audit, audit_format: format, syslog: None, format, when_stuck })
    }

    /// Tells whether access lines are written at all.
    #[must_use]
    pub const fn access(&self) -> bool {
        self.access.is_some()
    }

    /// Writes the line of an exchange. Never waits: when too many lines wait, it is counted as lost.
    pub fn write_access(&self, exchange: &access::AccessRecord) {
        if let Some(sink) = &self.access {
            sink.line_with(|bytes| exchange.write(bytes, self.format, Timestamp::now()));
        }
    }

    /// Tells whether logins may go on: a login whose line could not be written would end without an answer.
    ///
    /// # Errors
    /// When the audit log is stuck or cannot be written, and the configuration does not let logins go on without it.
    pub fn check_audit(&self) -> Result<(), Unaudited> {
        match self.when_stuck {
            WhenStuck::Refuse => self.audit.check().map_err(Unaudited),
            WhenStuck::GoOn => Ok(()),
        }
    }

    /// Writes the line of a login that is granted, and waits until it is written, with a deadline. Syslog hears of it
    /// then, and nothing waits for that.
    ///
    /// # Errors
    /// When it is not written, and the configuration does not let logins go on without it.
    pub async fn write_grant(&self, entry: &audit::LoginRecord) -> Result<(), Unaudited> {
        let now = Timestamp::now();
        let written = self.audit.awaited_line(&entry.line(self.audit_format, now), self.when_stuck).await;
        if self.when_stuck == WhenStuck::Refuse {
            written.map_err(Unaudited)?;
        }
        self.write_syslog(|| entry.line(LogFormat::Json, now));
        Ok(())
    }

    /// Writes the line of a login that is refused. Never waits: there is room for it even where there is none for access
    /// lines, and beyond that it is counted as lost.
    pub fn write_refusal(&self, entry: &audit::LoginRecord) {
        self.write_needed(|format, now| entry.line(format, now));
    }

    /// Writes a line about something other than one login, as [`Logs::write_refusal`] does.
    pub fn write_note(&self, note: &audit::EventRecord) {
        self.write_needed(|format, now| note.line(format, now));
    }

    fn write_needed(&self, line: impl Fn(LogFormat, Timestamp) -> String) {
        let now = Timestamp::now();
        self.audit.needed_line(&line(self.audit_format, now));
        self.write_syslog(|| line(LogFormat::Json, now));
    }

    fn write_syslog(&self, line: impl FnOnce() -> String) {
        if let Some(syslog) = &self.syslog {
            syslog.needed_line(&line());
        }
    }

    /// Returns how many lines each log has lost since the start, events included.
    #[must_use]
    pub fn lost(&self) -> Vec<(&'static str, u64)> {
        let access = self.access.as_ref().filter(|access| !access.is(&self.audit));
        let access = access.map(|access| ("access", access.lost()));
        // Audit lines among the access lines are lost with them.
        let syslog = self.syslog.as_ref().map(|syslog| ("syslog", syslog.lost()));
        access
            .into_iter()
            .chain([("audit", self.audit.lost())])
            .chain(syslog)
            .chain([("events", trace::lost())])
            .collect()
    }

    /// Tells whether the logs can be written. One that could not is tried again meanwhile.
    ///
    /// # Errors
    /// What is wrong with each.
    pub fn check(&self) -> Result<(), String> {
        let logs = self.sinks().filter(|log| self.syslog.as_ref().is_none_or(|syslog| !log.is(syslog)));
        let problems: Vec<_> = logs.filter_map(|log| log.check().err()).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join(", ")) }
    }

    /// Tells whether syslog takes lines, where it is configured.
    ///
    /// # Errors
    /// When it takes none. Those lines are counted as lost; they stand elsewhere, so logins go on.
    pub fn check_syslog(&self) -> Option<Result<(), String>> {
        self.syslog.as_ref().map(Sink::check)
    }

    /// Waits until all that was said by any worker is written or lost, or until the deadline. Tells whether it is.
    pub fn flush(&self, deadline: Instant) -> bool {
        // Each is waited for: a log that is stuck keeps no other from its end.
        self.sinks().filter(|sink| !sink.flush(deadline)).count() == 0
    }

    /// Asks for all to be written that was said by any worker. Does not wait for it.
    #[must_use]
    pub fn ask(&self) -> Vec<FlushRequest> {
        self.sinks().map(Sink::ask).collect()
    }

    /// Returns what tells when these logs have ended, once all copies are dropped.
    #[must_use]
    pub fn closing(&self) -> Vec<ClosingLog> {
        self.sinks().map(Sink::closing).collect()
    }

    fn sinks(&self) -> impl Iterator<Item = &Sink> {
        let access = self.access.iter().filter(|access| !access.is(&self.audit));
        access.chain([&self.audit]).chain(&self.syslog)
    }
}

/// Tells an error cause by cause.
#[must_use]
pub fn causes(error: &dyn Error) -> String {
    let source = error.source().map(|source| format!(": {}", causes(source)));
    format!("{error}{}", source.unwrap_or_default())
}

/// Puts the name of a file in front of why it cannot be opened.
fn named<T>(path: &Path, opened: io::Result<T>) -> io::Result<T> {
    opened.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
