//! The events that the program writes while a gate runs.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The events since the start of the oldest gate that still runs. Earlier ones are dropped.
#[derive(Default)]
struct EventBuffer {
    bytes: Vec<u8>,
    /// The number of dropped bytes.
    gone: usize,
    /// The position at which each running gate began.
    begun: Vec<usize>,
}

static EVENTS: OnceLock<Arc<Mutex<EventBuffer>>> = OnceLock::new();

struct EventWriter(Arc<Mutex<EventBuffer>>);

impl std::io::Write for EventWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        locked(&self.0).bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn locked(events: &Mutex<EventBuffer>) -> MutexGuard<'_, EventBuffer> {
    events.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Collects every event of the program, down to the finest, for the search for secrets.
fn event_buffer() -> MutexGuard<'static, EventBuffer> {
    locked(EVENTS.get_or_init(|| {
        let events = Arc::<Mutex<EventBuffer>>::default();
        let writer = Arc::clone(&events);
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || EventWriter(Arc::clone(&writer)));
        tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
        events
    }))
}

/// The events that the program writes while a gate runs.
pub struct EventRecorder(usize);

impl EventRecorder {
    pub fn begin() -> Self {
        let mut locked = event_buffer();
        let now = locked.gone + locked.bytes.len();
        locked.begun.push(now);
        Self(now)
    }

    pub fn text(&self) -> String {
        let locked = event_buffer();
        String::from_utf8_lossy(&locked.bytes[self.0 - locked.gone..]).into_owned()
    }
}

impl Drop for EventRecorder {
    fn drop(&mut self) {
        let mut locked = event_buffer();
        let at = locked.begun.iter().position(|begun| *begun == self.0).unwrap();
        locked.begun.swap_remove(at);
        let oldest = locked.begun.iter().min().copied().unwrap_or(locked.gone + locked.bytes.len());
        let gone = oldest - locked.gone;
        locked.bytes.drain(..gone);
        locked.gone = oldest;
    }
}
