//! A thread with a runtime of its own.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Runtime};

/// Starts a thread that works in a runtime, and returns once there is one.
///
/// The runtime is made where it works: one that is made here could not be dropped here, should no thread be had.
///
/// # Errors
/// When no thread or no runtime can be made.
pub(super) fn start(name: &str, work: impl FnOnce(Runtime) + Send + 'static) -> io::Result<JoinHandle<()>> {
    let (made, is_made) = mpsc::channel();
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        let (made_so, runtime) = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => (Ok(()), Some(runtime)),
            Err(error) => (Err(error), None),
        };
        // Whoever starts the thread waits for this.
        let _ = made.send(made_so);
        if let Some(runtime) = runtime {
            work(runtime);
        }
    })?;
    is_made.recv().unwrap_or_else(|_| Err(io::Error::other("it panicked"))).map(|()| thread)
}
