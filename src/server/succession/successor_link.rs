//! An old process's end of the socket that leads to the newest one.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::timeout;

use super::line_stream::LineStream;
use super::message::{NumberedOrder, OldProcessReport, SuccessionOrder};

/// How long an answer may take to be written: the newest process has stopped waiting for it then.
const PATIENCE: Duration = Duration::from_secs(1);

/// An old process's end of the socket that leads to the newest one.
#[derive(Debug)]
pub(in crate::server) struct SuccessorLink {
    lines: LineStream,
    /// When this process handed over.
    since: Timestamp,
    /// The number of the order that has no answer yet.
    asked: u64,
    /// Closed when the process that this one started has ended.
    child: watch::Receiver<()>,
}

impl SuccessorLink {
    /// Takes the end of the socket, and the process that this one handed over to.
    ///
    /// # Errors
    /// When the stream cannot be used by this thread's runtime.
    pub(in crate::server) fn new(stream: UnixStream, mut child: Child) -> io::Result<Self> {
        let (end, ended) = watch::channel(());
        // The process is this one's child, so this one takes note of its end, also if it handed over itself.
        tokio::spawn(async move {
            drop(child.wait().await);
            drop(end);
        });
        Ok(Self { lines: LineStream::new(stream)?, since: Timestamp::now(), asked: 0, child: ended })
    }

    /// Tells the newest process that this one has left the other old processes to it.
    pub(in crate::server) async fn greet(&mut self) {
        // Nothing is lost if the newest process is gone.
        drop(timeout(PATIENCE, self.lines.send(&json!({ "left": true }))).await);
    }

    /// Waits for the next order, which is to be answered. Returns `None` when the newest process is gone.
    pub(in crate::server) async fn next(&mut self) -> Option<SuccessionOrder> {
        let NumberedOrder { number, order } = self.lines.next().await?;
        self.asked = number;
        Some(order)
    }

    /// Answers the last order: whether it was carried out, how many sessions it ended, and how many tunnels there are now.
    pub(in crate::server) async fn answer(&mut self, obeyed: bool, ended: u64, tunnels: u64) {
        let report = OldProcessReport { number: self.asked, obeyed, since: self.since, tunnels, ended };
        drop(timeout(PATIENCE, self.lines.send(&report)).await);
    }

    /// Returns whether the process that this one handed over to has ended.
    pub(in crate::server) async fn has_child_ended(&mut self) -> bool {
        timeout(PATIENCE, self.child.changed()).await.is_ok()
    }
}
