//! The thread that writes the state file. Whatever waits when it begins to write is written at once.

use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Shared;
use super::file::{OpenError, StateFile};
use super::tables::{Change, Given, Refused, Row, Tables};

/// How many changes may wait for the file.
const QUEUE: usize = 1024;
/// How soon a file that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The writer's thread. It ends, and the file is closed, when this is dropped.
pub(super) struct Writer {
    path: PathBuf,
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Change(Waiting),
    Pause(oneshot::Sender<()>),
    Resume,
    Leave,
}

/// A change and who waits for it.
struct Waiting {
    change: Change,
    answer: oneshot::Sender<Result<Given, Refused>>,
}

impl Writer {
    /// Opens the file and starts the thread.
    pub(super) fn start(path: &Path, shared: Arc<Shared>) -> Result<Self, OpenError> {
        let file = match StateFile::open(path) {
            Err(OpenError::Io(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                StateFile::make(path)?;
                tracing::info!(path = %path.display(), "a new state file");
                StateFile::open(path)
            }
            opened => opened,
        };
        let (file, tables) = file?;
        *shared.tables() = tables;
        let (orders, given) = sync_channel(QUEUE);
        let desk = Desk { path: path.to_owned(), shared, file: Holding::Open(file) };
        let thread = thread::Builder::new().name("callgate-state".to_owned()).spawn(move || desk.work(&given));
        let thread = thread.map_err(|error| OpenError::Io(path.to_owned(), error))?;
        Ok(Self { path: path.to_owned(), orders: Some(orders), thread: Some(thread) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a change, and waits until it is on the disk.
    pub(super) async fn write(&self, change: Change) -> Result<Given, Refused> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Change(Waiting { change, answer }))?;
        answered.await.unwrap_or(Err(Refused::Unavailable))
    }

    pub(super) async fn pause(&self) {
        let (paused, is_paused) = oneshot::channel();
        if self.order(Order::Pause(paused)).is_ok() {
            // A thread that is gone holds no file.
            let _ = is_paused.await;
        }
    }

    pub(super) fn resume(&self) {
        self.insist(Order::Resume);
    }

    pub(super) fn leave(&self) {
        self.insist(Order::Leave);
    }

    fn order(&self, order: Order) -> Result<(), Refused> {
        let orders = self.orders.as_ref().ok_or(Refused::Unavailable)?;
        orders.try_send(order).map_err(|_| Refused::Unavailable)
    }

    /// Waits for a place in the queue. The thread takes from it whatever becomes of the file.
    fn insist(&self, order: Order) {
        if self.orders.as_ref().is_none_or(|orders| orders.send(order).is_err()) {
            tracing::error!("the state thread is gone");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.orders.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the state thread panicked");
        }
    }
}

/// What the thread works with.
struct Desk {
    path: PathBuf,
    shared: Arc<Shared>,
    file: Holding,
}

/// Whose the file is.
enum Holding {
    Open(StateFile),
    /// It could not be written, and is tried again from this moment.
    Broken(Instant),
    /// Another process may have it for a while; changes wait.
    Paused(Vec<Waiting>),
    /// Another process has it.
    Left,
}

impl Desk {
    fn work(mut self, orders: &Receiver<Order>) {
        let mut next = None;
        while let Ok(order) = next.take().map_or_else(|| orders.recv(), Ok::<_, RecvError>) {
            match order {
                Order::Change(first) => {
                    let mut batch = vec![first];
                    // Whatever waits by now shares one write; what is no change comes after it.
                    while batch.len() < QUEUE
                        && let Ok(order) = orders.try_recv()
                    {
                        match order {
                            Order::Change(waiting) => batch.push(waiting),
                            order => {
                                next = Some(order);
                                break;
                            }
                        }
                    }
                    self.change(batch);
                }
                Order::Pause(paused) => {
                    self.file = Holding::Paused(Vec::new());
                    let _ = paused.send(());
                }
                Order::Resume => {
                    let waiting = match mem::replace(&mut self.file, Holding::Broken(Instant::now())) {
                        Holding::Paused(waiting) => waiting,
                        Holding::Open(_) | Holding::Broken(_) | Holding::Left => Vec::new(),
                    };
                    self.change(waiting);
                }
                // Whoever waits is told by the end of its channel.
                Order::Leave => self.file = Holding::Left,
            }
        }
    }

    fn change(&mut self, mut batch: Vec<Waiting>) {
        if let Holding::Paused(waiting) = &mut self.file {
            waiting.append(&mut batch);
            waiting.retain(|waiting| !waiting.answer.is_closed());
            waiting.truncate(QUEUE);
            return;
        }
        self.reopen();
        let Holding::Open(file) = &self.file else {
            return batch.into_iter().for_each(|waiting| answer(waiting.answer, Err(Refused::Unavailable)));
        };
        let now = Timestamp::now();
        let (mut rows, mut made) = (Vec::new(), Vec::new());
        let is_about_freezes =
            |waiting: &Waiting| matches!(waiting.change, Change::Freeze { .. } | Change::Thaw { .. } | Change::Sweep);
        let before = batch.iter().any(is_about_freezes).then(|| self.shared.tables().freezes.clone());
        // Whoever has given up is not told, and must not be taken for one who was.
        for waiting in batch.into_iter().filter(|waiting| !waiting.answer.is_closed()) {
            match self.shared.tables().change(waiting.change, now) {
                Ok((given, changed)) => {
                    rows.extend(changed);
                    made.push((waiting.answer, given));
                }
                Err(refused) => answer(waiting.answer, Err(refused)),
            }
        }
        let written = if rows.is_empty() { Ok(()) } else { file.write(&rows) };
        if let Err(problem) = written {
            // What was marked stays so: it may be on the disk. An account is frozen or not as the file says.
            if let Some(before) = before {
                self.shared.tables().freezes = before;
            }
            self.complain(format!("cannot write {}: {problem}", self.path.display()));
            return made.into_iter().for_each(|(to, _)| answer(to, Err(Refused::Unavailable)));
        }
        for (to, given) in made {
            answer(to, Ok(given));
        }
    }

    /// Opens the file again once it may be tried. It must still be there: an empty one would let everything be used again.
    fn reopen(&mut self) {
        let Holding::Broken(again) = self.file else { return };
        if Instant::now() < again {
            return;
        }
        match StateFile::open(&self.path).map(|(file, tables)| self.restore(file, tables)) {
            Ok(Ok(file)) => {
                tracing::info!(path = %self.path.display(), "the state file is written again");
                *self.shared.problem() = None;
                self.file = Holding::Open(file);
            }
            Ok(Err(problem)) => self.complain(format!("cannot write {}: {problem}", self.path.display())),
            Err(error) => self.complain(told(&error)),
        }
    }

    /// Takes over what the file says, and keeps what was marked since. The file is told of that.
    fn restore(&self, file: StateFile, mut found: Tables) -> Result<StateFile, String> {
        let mut tables = self.shared.tables();
        let missing: Vec<_> = tables.marks.iter().filter(|(key, _)| !found.marks.contains_key(*key)).collect();
        let missing: Vec<_> = missing.into_iter().map(|(key, until)| Row::Mark(*key, Some(*until))).collect();
        found.marks.extend(mem::take(&mut tables.marks));
        *tables = found;
        drop(tables);
        file.write(&missing).map(|()| file)
    }

    /// Says once what an operator must do, and waits before the file is tried again.
    fn complain(&mut self, problem: String) {
        self.file = Holding::Broken(Instant::now() + AGAIN);
        let before = self.shared.problem().replace(problem.clone());
        if before.as_ref() != Some(&problem) {
            tracing::error!(problem, "the state file cannot be used: logins that need it are refused until it can");
        }
    }
}

/// Tells an error with its cause.
fn told(error: &OpenError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

fn answer(to: oneshot::Sender<Result<Given, Refused>>, answer: Result<Given, Refused>) {
    // Whoever waited may have left.
    let _ = to.send(answer);
}
