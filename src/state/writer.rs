//! The thread that writes the state file. Whatever waits when it begins to write is written at once.

use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::clock::Clock;
use super::file::{Found, OpenError, StateFile};
use super::tables::{Change, Given, Refused, Row};
use super::{DEADLINE, Shared};

/// How many changes may wait for the file.
const QUEUE: usize = 1024;
/// How soon a file that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often the file is looked at when nothing is written.
const LOOK: Duration = Duration::from_secs(1);
/// How often the time is written down.
const TIME: Duration = Duration::from_secs(60);

/// The writer's thread. It ends, and the file is closed, when this is dropped.
pub(super) struct Writer {
    path: PathBuf,
    orders: Option<Sender<Order>>,
    /// How many changes wait for the file.
    waiting: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
    /// Closed when the thread has ended.
    ended: Mutex<Receiver<()>>,
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
        let (file, Found { tables, time }) = file?;
        *shared.tables() = tables;
        if let Some(time) = time {
            *shared.clock.lock().unwrap_or_else(PoisonError::into_inner) = Clock::since(time);
        }
        let ((orders, given), (end, ended)) = (channel(), channel());
        let waiting = Arc::<AtomicUsize>::default();
        let file = Holding::Open(file);
        let desk = Desk { path: path.to_owned(), shared, waiting: Arc::clone(&waiting), file, timed: None };
        let work = move || {
            desk.work(&given);
            drop(end);
        };
        let thread = thread::Builder::new().name("callgate-state".to_owned()).spawn(work);
        let thread = thread.map_err(|error| OpenError::Io(path.to_owned(), error))?;
        Ok(Self {
            path: path.to_owned(),
            orders: Some(orders),
            waiting,
            thread: Some(thread),
            ended: Mutex::new(ended),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a change, and waits until it is on the disk.
    pub(super) async fn write(&self, change: Change) -> Result<Given, Refused> {
        let (answer, answered) = oneshot::channel();
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        if before >= QUEUE || !self.order(Order::Change(Waiting { change, answer })) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Unavailable);
        }
        answered.await.unwrap_or(Err(Refused::Unavailable))
    }

    pub(super) async fn pause(&self) {
        let (paused, is_paused) = oneshot::channel();
        if self.order(Order::Pause(paused)) {
            // A thread that is gone holds no file.
            let _ = is_paused.await;
        }
    }

    pub(super) fn resume(&self) {
        self.order(Order::Resume);
    }

    pub(super) fn leave(&self) {
        self.order(Order::Leave);
    }

    /// Gives the thread an order, without waiting. Tells whether it is there.
    fn order(&self, order: Order) -> bool {
        let is_there = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        if !is_there {
            tracing::error!("the state thread is gone");
        }
        is_there
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.orders.take());
        // A disk that does not answer holds up no end.
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            return tracing::error!("the state file is still being written, and is left behind");
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the state thread panicked");
        }
    }
}

/// What the thread works with.
struct Desk {
    path: PathBuf,
    shared: Arc<Shared>,
    waiting: Arc<AtomicUsize>,
    file: Holding,
    /// When the time was written down last.
    timed: Option<Instant>,
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
        loop {
            let order = match next.take() {
                Some(order) => order,
                None => match orders.recv_timeout(LOOK) {
                    Ok(order) => order,
                    Err(RecvTimeoutError::Timeout) => {
                        self.look();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
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
                    self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
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

    /// Looks at the file, so that what others do to it is noticed before it matters.
    fn look(&mut self) {
        match &self.file {
            Holding::Open(file) => {
                if let Err(problem) = file.check() {
                    self.complain(format!("cannot write {}: {problem}", self.path.display()));
                }
            }
            Holding::Broken(_) => self.reopen(),
            Holding::Paused(_) | Holding::Left => {}
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
        let Holding::Open(file) = &mut self.file else {
            return batch.into_iter().for_each(|waiting| answer(waiting.answer, Err(Refused::Unavailable)));
        };
        let now = self.shared.now();
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
        let is_timed = self.timed.is_some_and(|at| at.elapsed() < TIME) || self.shared.tables().is_empty();
        if !is_timed {
            rows.push(Row::Time(now));
            self.timed = Some(Instant::now());
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
        match StateFile::open(&self.path).map(|(file, found)| self.restore(file, found)) {
            Ok(Ok(file)) => {
                tracing::info!(path = %self.path.display(), "the state file is written again");
                *self.shared.problem() = None;
                self.file = Holding::Open(file);
            }
            Ok(Err(problem)) => self.complain(format!("cannot write {}: {problem}", self.path.display())),
            Err(error) => self.complain(told(&error)),
        }
    }

    /// Takes over what the file says that is not known, and tells the file what it does not know: a copy that was put back
    /// is older than what is remembered here.
    fn restore(&self, mut file: StateFile, found: Found) -> Result<StateFile, String> {
        let missing = self.shared.tables().merge(found.tables);
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
