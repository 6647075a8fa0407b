//! Reloads the configuration: at SIGHUP, and when one of its files has changed.
//!
//! A thread of its own reads the files, since a network disk may block for long. Signals are handled meanwhile.

use std::error::Error;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::environment;
use super::sandbox::{OutsideSandbox, Sandbox};
use crate::config::{self, Config, FileSnapshot, FileWatch, LastGood, Problems};
use crate::observe::{causes, trace};
use crate::server::{ReloadError, ReloadOrder, ReloadOutcome, Server};

/// The files of the configuration, read by a thread of their own.
pub(super) struct ConfigSource {
    /// Tells the thread to read at once, for the request with this number. The thread ends when this is dropped.
    requests: Sender<u64>,
    /// The number of the last request.
    requested: u64,
    /// The orders that wait for the reading of their request.
    waiting: Vec<(u64, ReloadOrder)>,
    readings: mpsc::Receiver<ConfigReading>,
    /// The deadline of a requested reading.
    deadline: Option<Instant>,
    /// Whether the last reload was refused.
    was_wrong: bool,
    /// What this process may read and write; `None`: what its user may.
    sandbox: Option<Sandbox>,
}

/// The result of reading the files once.
pub(super) struct ConfigReading {
    config: Result<Config, Problems>,
    files: FileSnapshot,
    /// The changed files.
    changed: Vec<String>,
    /// The last request that this reading answers: it began later.
    answers: u64,
}

/// A requested reading did not end in time.
#[derive(Debug, thiserror::Error)]
#[error("the files of the configuration cannot be read in time: does their disk answer?")]
pub(super) struct ReadTimeout;

/// Why a configuration that was read did not replace the running one.
#[derive(Debug, thiserror::Error)]
enum ReplaceError {
    #[error("the configuration is wrong")]
    Wrong(Problems),
    #[error(transparent)]
    Outside(#[from] OutsideSandbox),
    #[error(transparent)]
    Unusable(#[from] ReloadError),
}

/// The thread that reads the files.
struct ReaderThread {
    path: PathBuf,
    watch: FileWatch,
    /// What stays in use of certificates that cannot be read.
    last_good: LastGood,
    requests: Receiver<u64>,
    /// The last request that came.
    last: u64,
    readings: mpsc::Sender<ConfigReading>,
}

impl ReaderThread {
    /// Reads on request, and when a file has changed and has not changed again since the last look.
    fn run(mut self) {
        loop {
            match self.requests.recv_timeout(PERIOD) {
                // One reading answers all requests so far.
                Ok(request) => self.last = self.requests.try_iter().last().unwrap_or(request),
                Err(RecvTimeoutError::Timeout) if self.watch.has_changed() => {}
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let reading = self.read();
            if self.readings.blocking_send(reading).is_err() {
                return;
            }
        }
    }

    fn read(&mut self) -> ConfigReading {
        let config::ReadOutcome { config, files } = config::read(&self.path, &environment, &self.last_good);
        if let Ok(config) = &config {
            self.last_good = config.last_good();
        }
        let changed = files.changed_since(self.watch.read()).into_iter().map(|path| path.display().to_string());
        let changed = changed.collect();
        self.watch = FileWatch::new(files.clone());
        ConfigReading { config, files, changed, answers: self.last }
    }
}

impl ConfigSource {
    /// Starts the thread that watches the files that were read at the start.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn watch(
        path: &Path,
        files: FileSnapshot,
        last_good: LastGood,
        sandbox: Option<Sandbox>,
    ) -> io::Result<Self> {
        let (requests, asked) = channel();
        let (readings, read) = mpsc::channel(1);
        let (path, watch) = (path.to_owned(), FileWatch::new(files));
        let reader = ReaderThread { path, watch, last_good, requests: asked, last: 0, readings };
        // Not joined at the end: a disk may block it, and it writes nothing.
        thread::Builder::new().name("callgate-files".to_owned()).spawn(move || reader.run())?;
        Ok(Self {
            requests,
            requested: 0,
            waiting: Vec::new(),
            readings: read,
            deadline: None,
            was_wrong: false,
            sandbox,
        })
    }

    /// Returns what this process may read and write; `None`: what its user may.
    pub(super) const fn sandbox(&self) -> Option<&Sandbox> {
        self.sandbox.as_ref()
    }

    /// Requests a reading at once.
    pub(super) fn request(&mut self) {
        self.requested += 1;
        // `read` notices when the thread has ended.
        let _ = self.requests.send(self.requested);
        self.deadline = Some(Instant::now() + PATIENCE);
    }

    /// Requests a reading at once, whose outcome answers an order.
    pub(super) fn carry_out(&mut self, order: ReloadOrder) {
        self.request();
        self.waiting.retain(|(_, other)| other.is_awaited());
        self.waiting.push((self.requested, order));
    }

    /// Waits for the next reading, on request or after a change.
    ///
    /// # Errors
    /// Once, when a requested reading is late. A later call still returns that reading.
    pub(super) async fn read(&mut self) -> Result<Box<ConfigReading>, ReadTimeout> {
        let deadline = self.deadline;
        let is_late = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        let read = tokio::select! {
            read = self.readings.recv() => read,
            () = is_late => {
                self.deadline = None;
                return Err(ReadTimeout);
            }
        };
        self.deadline = None;
        match read {
            Some(reading) => Ok(Box::new(reading)),
            // The thread has panicked, and its panic was logged.
            None => pending().await,
        }
    }

    /// Replaces the running configuration if all of the new one is right, and logs the result.
    pub(super) async fn reload(&mut self, reading: Box<ConfigReading>, server: &mut Server) {
        let ConfigReading { config, files: read, changed, answers } = *reading;
        let files = if changed.is_empty() { "none".to_owned() } else { changed.join(", ") };
        let (file, warnings) = config.as_ref().map(told).unwrap_or_default();
        let replaced = replace_config(server, config, self.sandbox()).await;
        let was_refused = std::mem::replace(&mut self.was_wrong, replaced.is_err());
        let hidden = self.sandbox.iter().flat_map(|sandbox| sandbox.hidden(&read));
        let hidden: Vec<_> = hidden.map(|hidden| hidden.to_string()).collect();
        // Without a certificate that it may not read, the configuration is replaced.
        for hidden in &hidden {
            tracing::error!("{hidden}");
        }
        let outcome = match &replaced {
            Ok(()) => {
                let message = if was_refused { "reloaded: the error is corrected" } else { "reloaded" };
                tracing::info!(files, "{message}");
                ReloadOutcome::Taken { file, changed, warnings }
            }
            Err(refused) => {
                log_refusal(refused);
                refused.outcome(hidden)
            }
        };
        for (_, order) in self.waiting.extract_if(.., |(request, _)| *request <= answers) {
            order.answer(outcome.clone());
        }
    }
}

impl ReplaceError {
    /// Returns what the sender of an order learns. `hidden`: the files that the process may not read.
    fn outcome(&self, hidden: Vec<String>) -> ReloadOutcome {
        let mut problems = hidden;
        if let Self::Wrong(wrong) = self {
            problems.extend(wrong.as_slice().iter().map(ToString::to_string));
        }
        ReloadOutcome::Refused { reason: causes(self), problems }
    }
}

/// Returns the file of a configuration, its warnings, and what is wrong with its certificates.
fn told(config: &Config) -> (String, Vec<String>) {
    let warnings = config.warnings.iter().map(ToString::to_string);
    (config.file.clone(), warnings.chain(config.certificate_alarms(Timestamp::now())).collect())
}

async fn replace_config(
    server: &mut Server,
    config: Result<Config, Problems>,
    sandbox: Option<&Sandbox>,
) -> Result<(), ReplaceError> {
    let config = config.map_err(ReplaceError::Wrong).and_then(|config| {
        sandbox.map_or(Ok(()), |sandbox| sandbox.permit(&config))?;
        Ok(config)
    });
    let config = config.inspect_err(|_| server.not_reloaded())?;
    let (log, warnings) = (config.log.clone(), config.warnings.clone());
    server.reload(config).await?;
    trace::change(log.level, log.format);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// Logs each error in the configuration, as `callgate check` prints it, and that nothing was changed.
fn log_refusal(refused: &ReplaceError) {
    if let ReplaceError::Wrong(problems) = refused {
        for problem in problems.as_slice() {
            tracing::error!("{problem}");
        }
    }
    tracing::error!(error = refused as &dyn Error, "not reloaded: everything stays as it was");
}

/// How often the thread looks for changed files.
const PERIOD: Duration = Duration::from_secs(2);
/// How long a requested reading may take before that is logged.
const PATIENCE: Duration = Duration::from_secs(10);
