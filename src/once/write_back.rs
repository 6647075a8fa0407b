//! Writing back: the engine gets the marks and ended logins that this member knows, each time it is reached anew, and when
//! it has lost what it knew.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::shared_marks::SharedMarks;
use crate::members::EngineDown;
use crate::state::Store;

/// The interval at which the generation of the engine's memory is read.
const LOOK: Duration = Duration::from_secs(1);
/// How long after a failure the engine is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// How many marks or ended logins are written at the same time.
const AT_ONCE: usize = 16;

/// Writes back for ever.
pub(super) async fn run(store: &Store, shared: &SharedMarks) {
    let mut reached = shared.engine().reached();
    loop {
        reached.borrow_and_update();
        while !shared.is_up() {
            if reached.changed().await.is_err() {
                return;
            }
        }
        if write_all(store, shared).await.is_err() {
            sleep(AGAIN).await;
            continue;
        }
        wait_until_unwritten(shared, &mut reached).await;
    }
}

/// Waits until the engine may lack something.
async fn wait_until_unwritten(shared: &SharedMarks, reached: &mut tokio::sync::watch::Receiver<u64>) {
    loop {
        tokio::select! {
            _ = reached.changed() => return,
            () = shared.unwritten() => return,
            // What it finds, it notes.
            () = sleep(LOOK) => drop(shared.look().await),
        }
    }
}

/// Writes all that this member knows, in batches. What the engine has, it keeps.
async fn write_all(store: &Store, shared: &SharedMarks) -> Result<(), EngineDown> {
    shared.look().await?;
    for marks in store.live_marks().chunks(AT_ONCE) {
        let written = marks.iter().map(|(key, until)| shared.write_mark(key, store.life(*until)));
        join_all(written).await.into_iter().collect::<Result<(), _>>()?;
    }
    for ended in store.live_ended().chunks(AT_ONCE) {
        let written = ended.iter().map(|(key, ended)| shared.end_logins(key, ended.at, store.life(ended.until)));
        join_all(written).await.into_iter().collect::<Result<(), _>>()?;
    }
    Ok(())
}
