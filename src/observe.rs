//! Floor 2: what the gate tells its operator: one line for each exchange, one for each login, events on standard error,
//! counts of everything, and which parts are ready.

pub mod access;
pub mod audit;
pub mod health;
mod line;
pub mod metrics;
mod place;
pub mod request_id;
pub mod sink;
pub mod trace;

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
        let audit = match (&config.audit, &access) {
            (Some(path), _) => Sink::file(path, format)?,
            (None, Some(access)) => access.clone(),
            (None, None) => Sink::stdout(format)?,
        };
        Ok(Self { access, audit, format })
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
        (Self { access: Some(sink.clone()), audit: sink, format }, memory)
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
        self.audit.sure_line(entry.line(self.format, Timestamp::now()));
    }

    /// Returns how many lines each log has lost since the start.
    #[must_use]
    pub fn lost(&self) -> Vec<(&'static str, u64)> {
        let access = self.access.as_ref().filter(|access| !access.is(&self.audit));
        let access = access.map(|access| ("access", access.lost()));
        // Audit lines among the access lines are lost with them.
        access.into_iter().chain([("audit", self.audit.lost())]).collect()
    }

    /// Tells whether the logs can be written. One that could not is tried again meanwhile.
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
    }
}
