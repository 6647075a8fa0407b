//! The old processes, as the newest one knows them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::line_stream::LineStream;
use super::message::{NumberedOrder, OldProcessReport, SuccessionOrder};
use crate::random;

/// How long an old process may take to carry out an order. One that is stuck delays nothing longer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the last process may take to leave the older ones to this one.
const GREETING: Duration = Duration::from_secs(5);
/// How many orders may wait for one old process; further ones count as not carried out.
const WAITING: usize = 16;
/// How often the end of the old processes is looked for.
const POLL: Duration = Duration::from_millis(20);

/// The old processes that keep tunnels, each with a task that sends it orders.
#[derive(Debug, Default)]
pub(in crate::server) struct Predecessors(Mutex<Vec<Predecessor>>);

/// One old process.
#[derive(Debug)]
struct Predecessor {
    /// The process id; 0 if the system does not tell.
    id: i32,
    /// A copy of the socket, for the next process.
    socket: UnixStream,
    /// Closed when the process has ended.
    orders: mpsc::Sender<PendingOrder>,
}

/// An order that waits for its answer.
#[derive(Debug)]
struct PendingOrder {
    order: SuccessionOrder,
    answer: oneshot::Sender<OldProcessReport>,
}

/// An old process, and its answer.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::server) struct OldProcess {
    /// The process id; 0 if the system does not tell.
    pub(in crate::server) id: i32,
    /// Its answer; nothing if it gave none in time.
    pub(in crate::server) report: Option<OldProcessReport>,
}

impl OldProcess {
    /// Returns whether it has carried the order out.
    pub(in crate::server) fn obeys(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.obeyed)
    }
}

impl Predecessors {
    /// Takes the sockets of the old processes: that of the `last` one, which starts this process, and those of `older` ones,
    /// which the last one still uses until it says otherwise.
    ///
    /// # Errors
    /// When a socket cannot be used by this thread's runtime.
    pub(in crate::server) fn adopt(last: Option<UnixStream>, older: Vec<UnixStream>) -> io::Result<Self> {
        let (greeted, is_left) = watch::channel(());
        let mut all = Vec::new();
        let last = last.map(|last| (last, Some(greeted)));
        for (socket, greets) in last.into_iter().chain(older.into_iter().map(|one| (one, None))) {
            let (orders, ordered) = mpsc::channel(WAITING);
            let lines = LineStream::new(socket.try_clone()?)?;
            all.push(Predecessor { id: lines.peer(), socket, orders });
            tokio::spawn(lead(lines, ordered, greets, is_left.clone()));
        }
        Ok(Self(Mutex::new(all)))
    }

    /// Returns whether an old process goes on.
    pub(in crate::server) fn are_any(&self) -> bool {
        !self.running().is_empty()
    }

    /// Copies the sockets of the processes that go on, for the next process.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(in crate::server) fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        self.running().iter().map(|one| one.socket.try_clone().map(OwnedFd::from)).collect()
    }

    /// Leaves the old processes to the next process.
    pub(in crate::server) fn leave(&self) {
        self.running().clear();
    }

    /// Sends an order to all, without waiting for the answers.
    pub(in crate::server) fn post(&self, order: &SuccessionOrder) {
        for one in self.running().iter() {
            // One that is stuck has many orders waiting.
            let _ = one.orders.try_send(PendingOrder { order: order.clone(), answer: oneshot::channel().0 });
        }
    }

    /// Sends an order to all, and waits for their answers. Those that have ended are not in the result.
    pub(in crate::server) async fn ask(&self, order: &SuccessionOrder) -> Vec<OldProcess> {
        let ask = |one: &Predecessor| {
            let (answer, answered) = oneshot::channel();
            let _ = one.orders.try_send(PendingOrder { order: order.clone(), answer });
            (one.id, one.orders.clone(), answered)
        };
        let asked: Vec<_> = self.running().iter().map(ask).collect();
        let due = Instant::now() + PATIENCE;
        let mut found = Vec::new();
        for (id, orders, answered) in asked {
            let report = timeout_at(due, answered).await.ok().and_then(Result::ok);
            if report.is_some() || !orders.is_closed() {
                found.push(OldProcess { id, report });
            }
        }
        found
    }

    /// Lets all drain, and waits until they have ended, at the latest until `due`.
    pub(in crate::server) async fn end(&self, due: Instant) {
        self.ask(&SuccessionOrder::Drain).await;
        while !self.running().is_empty() && Instant::now() < due {
            sleep(POLL).await;
        }
    }

    /// Returns those that have not ended.
    fn running(&self) -> MutexGuard<'_, Vec<Predecessor>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| !one.orders.is_closed());
        all
    }
}

/// Sends orders to one old process, and passes its answers on, until it ends.
async fn lead(
    mut lines: LineStream,
    mut orders: mpsc::Receiver<PendingOrder>,
    greets: Option<watch::Sender<()>>,
    mut is_left: watch::Receiver<()>,
) {
    // Until then the last process may read from the sockets of the older ones.
    match greets {
        Some(greeted) => {
            drop(timeout(GREETING, lines.next::<Value>()).await);
            drop(greeted);
        }
        None => while is_left.changed().await.is_ok() {},
    }
    loop {
        let pending = tokio::select! {
            pending = orders.recv() => pending,
            // A late answer.
            line = lines.next::<Value>() => match line {
                Some(_) => continue,
                None => return,
            },
        };
        let Some(PendingOrder { order, answer }) = pending else { return };
        match timeout(PATIENCE, obeyed(&mut lines, order)).await {
            // The asker may have stopped waiting.
            Ok(Some(report)) => drop(answer.send(report)),
            Ok(None) => return,
            Err(_) => {}
        }
    }
}

/// Sends an order and waits for its answer. Returns `None` when the process is gone.
async fn obeyed(lines: &mut LineStream, order: SuccessionOrder) -> Option<OldProcessReport> {
    // Another process has not used this random number.
    let number = u64::from_ne_bytes(random::bytes());
    lines.send(&NumberedOrder { number, order }).await.ok()?;
    loop {
        let report: OldProcessReport = lines.next().await?;
        if report.number == number {
            return Some(report);
        }
    }
}
