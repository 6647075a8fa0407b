//! A thread with a runtime of its own.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Runtime};

/// Starts a thread that works in a runtime. Returns once the runtime exists.
///
/// The new thread makes the runtime: one made here could not be dropped here if no thread can be started.
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
        // The caller waits for this.
        let _ = made.send(made_so);
        if let Some(runtime) = runtime {
            work(runtime);
        }
    })?;
    is_made.recv().unwrap_or_else(|_| Err(io::Error::other("it panicked"))).map(|()| thread)
}
