//! Work on a file, which may block.

use std::io;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long the work may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// The users file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the users file cannot be written")]
pub(super) struct FileError(#[source] io::Error);

/// Waits for work on a file, on another thread.
///
/// # Errors
/// When it fails, or does not end in time.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, FileError> {
    let done = timeout(DEADLINE, spawn_blocking(work)).await;
    done.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).and_then(|joined| joined?).map_err(FileError)
}
