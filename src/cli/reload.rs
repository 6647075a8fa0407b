//! Reading the configuration again: at SIGHUP, and when one of its files has changed.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::environment;
use crate::config::{self, Config, Files, Problems, Watch};
use crate::observe::trace;
use crate::server::{ReloadError, Server};

/// Where the configuration comes from.
pub(super) struct Source {
    path: PathBuf,
    watch: Watch,
    ticks: Interval,
    /// Whether the files were wrong when they were last read.
    is_refused: bool,
}

/// Why the files that were read did not take the place of the running configuration.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the configuration is wrong")]
    Wrong(Problems),
    #[error(transparent)]
    Unusable(#[from] ReloadError),
}

impl Source {
    /// Takes note of what was read at the start.
    pub(super) fn new(path: &Path, files: Files) -> Self {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { path: path.to_owned(), watch: Watch::new(files), ticks, is_refused: false }
    }

    /// Waits until a file has changed and holds still.
    pub(super) async fn changed(&mut self) {
        loop {
            self.ticks.tick().await;
            if self.watch.look() {
                return;
            }
        }
    }

    /// Reads everything again, and puts it in the place of what runs if all of it is right. Says what came of it.
    pub(super) async fn reload(&mut self, server: &mut Server) {
        let reading = config::read(&self.path, &environment);
        let changed = reading.files.changed_since(self.watch.read()).into_iter().map(|path| path.display().to_string());
        let files = changed.collect::<Vec<_>>().join(", ");
        let files = if files.is_empty() { "none".to_owned() } else { files };
        self.watch = Watch::new(reading.files);
        let replaced = replace(server, reading.config).await;
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
