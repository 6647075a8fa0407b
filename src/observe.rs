//! Floor 2: what the gate tells its operator: one line for each exchange, one for each login, events on standard error,
//! counts of everything, and which parts are ready.

pub mod access;
pub mod audit;
pub mod chain;
mod chained;
pub mod health;
mod line;
pub mod metrics;
mod place;
pub mod request_id;
pub mod sink;
mod syslog;
pub mod trace;

use std::error::Error;
use std::io;

use jiff::Timestamp;

pub use self::place::Memory;
pub use self::request_id::RequestId;
use self::sink::Sink;
use crate::config::{Access, Config, Format};

/// Where lines go: cheap to copy, shared by all workers.
#[derive(Debug, Clone)]
pub struct Logs {
    access: Option<Sink>,
    audit: Sink,
    /// Audit lines are JSON wherever they are alone.
    audit_format: Format,
    /// Where each audit line goes as well.
    syslog: Option<Sink>,
    format: Format,
}

impl Logs {
    /// Opens what the configuration names. Audit lines without a file of their own go where access lines go.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn open(config: &Config) -> io::Result<Self> {
        let format = config.log.format;
        let access = match &config.log.access {
            Access::Off => None,
            Access::Stdout => Some(Sink::stdout(format)?),
            Access::File(path) => Some(Sink::file(path, format)?),
        };
        Self::beside(access, config)
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
            (Some(path), _) if config.audit.chain => (Sink::chain(path)?, Format::Json),
            (Some(path), _) => (Sink::file(path, Format::Json)?, Format::Json),
            (None, Some(access)) => (access.clone(), format),
            (None, None) => (Sink::stdout(format)?, format),
        };
        let syslog = config.audit.syslog.clone().map(Sink::syslog).transpose()?;
        Ok(Self { access, audit, audit_format, syslog, format })
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

    /// Opens the log files again: they may have been moved away.
    pub fn reopen(&self) {
        self.audit.reopen();
        if let Some(access) = &self.access {
            access.reopen();
        }
    }

    /// Writes all lines to one log in memory, for tests.
    #[must_use]
    pub fn memory(format: Format) -> (Self, Memory) {
        let (sink, memory) = Sink::memory(format);
        (Self { access: Some(sink.clone()), audit: sink, audit_format: format, syslog: None, format }, memory)
    }

    /// Writes access lines in memory, and audit lines to where a configuration says, for tests.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn in_memory(config: &Config) -> io::Result<(Self, Memory)> {
        let (sink, memory) = Sink::memory(config.log.format);
        Ok((Self::beside(Some(sink), config)?, memory))
    }

    /// Tells whether access lines are written at all.
    #[must_use]
    pub const fn access(&self) -> bool {
        self.access.is_some()
    }

    /// Writes the line of an exchange; loses it rather than waits.
    pub fn write_access(&self, exchange: &access::Exchange) {
        if let Some(sink) = &self.access {
            sink.line(exchange.line(self.format, Timestamp::now()));
        }
    }

    /// Writes the line of a login; waits rather than loses it.
    pub fn write_audit(&self, entry: &audit::Entry) {
        self.write_both(|format, now| entry.line(format, now));
    }

    /// Writes a line about something other than one login; waits rather than loses it.
    pub fn write_note(&self, note: &audit::Note) {
        self.write_both(|format, now| note.line(format, now));
    }

    fn write_both(&self, line: impl Fn(Format, Timestamp) -> String) {
        let now = Timestamp::now();
        self.audit.sure_line(line(self.audit_format, now));
        if let Some(syslog) = &self.syslog {
            syslog.line(line(Format::Json, now));
        }
    }

    /// Returns how many lines each log has lost since the start.
    #[must_use]
    pub fn lost(&self) -> Vec<(&'static str, u64)> {
        let access = self.access.as_ref().filter(|access| !access.is(&self.audit));
        let access = access.map(|access| ("access", access.lost()));
        // Audit lines among the access lines are lost with them.
        let syslog = self.syslog.as_ref().map(|syslog| ("syslog", syslog.lost()));
        access.into_iter().chain([("audit", self.audit.lost())]).chain(syslog).collect()
    }

    /// Tells whether the logs can be written. One that could not is tried again meanwhile. What is lost on the way to
    /// syslog is counted, but the line stands elsewhere, and logins go on.
    ///
    /// # Errors
    /// The names of those that cannot.
    pub fn check(&self) -> Result<(), String> {
        let logs = self.access.iter().filter(|access| !access.is(&self.audit)).chain([&self.audit]);
        let failing: Vec<_> = logs.filter(|log| log.is_failing()).map(|log| log.place().to_owned()).collect();
        if failing.is_empty() { Ok(()) } else { Err(format!("cannot write {}", failing.join(", "))) }
    }

    /// Waits until all that was said is written.
    pub fn flush(&self) {
        self.audit.flush();
        if let Some(access) = &self.access {
            access.flush();
        }
        if let Some(syslog) = &self.syslog {
            syslog.flush();
        }
    }
}

/// Tells an error cause by cause.
#[must_use]
pub fn causes(error: &dyn Error) -> String {
    let source = error.source().map(|source| format!(": {}", causes(source)));
    format!("{error}{}", source.unwrap_or_default())
}
