//! The events that the program writes while a gate runs.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// What the program told since the oldest gate began that still runs: nobody searches further back.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    /// How many bytes were told before those.
    gone: usize,
    /// Where each running gate began.
    begun: Vec<usize>,
}

static EVENTS: OnceLock<Arc<Mutex<Kept>>> = OnceLock::new();

struct Events(Arc<Mutex<Kept>>);

impl std::io::Write for Events {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        kept(&self.0).bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn kept(events: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    events.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Collects every event of the program, down to the finest, for the search for secrets.
fn collected() -> MutexGuard<'static, Kept> {
    kept(EVENTS.get_or_init(|| {
        let events = Arc::<Mutex<Kept>>::default();
        let writer = Arc::clone(&events);
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || Events(Arc::clone(&writer)));
        tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
        events
    }))
}

/// What the program tells while a gate runs.
pub struct Told(usize);

impl Told {
    pub fn begin() -> Self {
        let mut kept = collected();
        let now = kept.gone + kept.bytes.len();
        kept.begun.push(now);
        Self(now)
    }

    pub fn text(&self) -> String {
        let kept = collected();
        String::from_utf8_lossy(&kept.bytes[self.0 - kept.gone..]).into_owned()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let mut kept = collected();
        let at = kept.begun.iter().position(|begun| *begun == self.0).unwrap();
        kept.begun.swap_remove(at);
        let oldest = kept.begun.iter().min().copied().unwrap_or(kept.gone + kept.bytes.len());
        let gone = oldest - kept.gone;
        kept.bytes.drain(..gone);
        kept.gone = oldest;
    }
}
