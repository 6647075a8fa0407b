//! Reading the configuration again: at SIGHUP, and when one of its files has changed.
//!
//! Files are read on a thread of their own. One that lies on a network's disk may hold that up for long, and signals are
//! heeded meanwhile.

use std::error::Error;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::environment;
use crate::config::{self, Config, FileSnapshot, FileWatch, Problems};
use crate::observe::trace;
use crate::server::{ReloadError, Server};

/// Where the configuration comes from.
pub(super) struct Source {
    /// Asks the thread to read at once; closed, it ends it.
    wishes: Sender<()>,
    readings: mpsc::Receiver<Reading>,
    /// When what was asked for is late.
    late: Option<Instant>,
    /// Whether the files were wrong when they were last read.
    is_refused: bool,
}

/// What the files say.
pub(super) struct Reading {
    config: Result<Config, Problems>,
    /// The names of those that have changed.
    changed: String,
}

/// The files do not come.
#[derive(Debug, thiserror::Error)]
#[error("the files of the configuration cannot be read in time: does their disk answer?")]
pub(super) struct Late;

/// Why the files that were read did not take the place of the running configuration.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the configuration is wrong")]
    Wrong(Problems),
    #[error(transparent)]
    Unusable(#[from] ReloadError),
}

/// The files, as the thread sees them.
struct Reader {
    path: PathBuf,
    watch: FileWatch,
    wishes: Receiver<()>,
    readings: mpsc::Sender<Reading>,
}

impl Reader {
    /// Reads when asked to, and when a file has changed and holds still.
    fn work(mut self) {
        loop {
            match self.wishes.recv_timeout(PERIOD) {
                // However often it was asked by now.
                Ok(()) => while self.wishes.try_recv().is_ok() {},
                Err(RecvTimeoutError::Timeout) if self.watch.look() => {}
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let reading = self.read();
            if self.readings.blocking_send(reading).is_err() {
                return;
            }
        }
    }

    fn read(&mut self) -> Reading {
        let config::ReadOutcome { config, files } = config::read(&self.path, &environment);
        let changed = files.changed_since(self.watch.read()).into_iter().map(|path| path.display().to_string());
        let changed = changed.collect::<Vec<_>>().join(", ");
        self.watch = FileWatch::new(files);
        Reading { config, changed }
    }
}

impl Source {
    /// Takes note of what was read at the start, and begins to watch.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn watch(path: &Path, files: FileSnapshot) -> io::Result<Self> {
        let (wishes, asked) = channel();
        let (readings, read) = mpsc::channel(1);
        let reader = Reader { path: path.to_owned(), watch: FileWatch::new(files), wishes: asked, readings };
        // Not waited for at the end: a disk may hold it up, and it writes nothing.
        thread::Builder::new().name("callgate-files".to_owned()).spawn(move || reader.work())?;
        Ok(Self { wishes, readings: read, late: None, is_refused: false })
    }

    /// Asks for everything to be read at once.
    pub(super) fn ask(&mut self) {
        // A thread that is gone is noticed below.
        let _ = self.wishes.send(());
        self.late = Some(Instant::now() + PATIENCE);
    }

    /// Waits until everything was read, because that was asked for or a file has changed and holds still.
    ///
    /// # Errors
    /// Once, when what was asked for takes too long. It is waited for all the same.
    pub(super) async fn read(&mut self) -> Result<Box<Reading>, Late> {
        let late = self.late;
        let is_late = async {
            match late {
                Some(late) => sleep_until(late).await,
                None => pending().await,
            }
        };
        let read = tokio::select! {
            read = self.readings.recv() => read,
            () = is_late => {
                self.late = None;
                return Err(Late);
            }
        };
        self.late = None;
        match read {
            Some(reading) => Ok(Box::new(reading)),
            // The thread is gone, which its panic has told.
            None => pending().await,
        }
    }

    /// Puts what was read in the place of what runs if all of it is right. Says what came of it.
    pub(super) async fn reload(&mut self, reading: Box<Reading>, server: &mut Server) {
        let Reading { config, changed } = *reading;
        let files = if changed.is_empty() { "none".to_owned() } else { changed };
        let replaced = replace(server, config).await;
        let was_refused = std::mem::replace(&mut self.is_refused, replaced.is_err());
        match &replaced {
            Ok(()) if was_refused => tracing::info!(files, "reloaded: what was wrong is mended"),
            Ok(()) => tracing::info!(files, "reloaded"),
            Err(refused) => complain(refused),
        }
    }
}

async fn replace(server: &mut Server, config: Result<Config, Problems>) -> Result<(), Refused> {
    let config = config.map_err(Refused::Wrong).inspect_err(|_| server.not_reloaded())?;
    let (log, warnings) = (config.log.clone(), config.warnings.clone());
    server.reload(config).await?;
    trace::change(log.level, log.format);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// Says each problem, as `callgate check` does, and what follows from it.
fn complain(refused: &Refused) {
    if let Refused::Wrong(problems) = refused {
        for problem in problems.as_slice() {
            tracing::error!("{problem}");
        }
    }
    tracing::error!(error = refused as &dyn Error, "not reloaded: everything stays as it was");
}

/// How often the files are looked at.
const PERIOD: Duration = Duration::from_secs(2);
/// How long reading may take, once it was asked for, until that is said.
const PATIENCE: Duration = Duration::from_secs(10);
