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

use super::clock::BelievedClock;
use super::file::{FileContents, OpenError, StateFile};
use super::tables::{Change, ChangeError, FileRow, TakenTicket};
use super::{DEADLINE, StoreState};

/// How many changes may wait for the file.
const QUEUE: usize = 1024;
/// How soon a file that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often the file is looked at when nothing is written.
const LOOK: Duration = Duration::from_secs(1);
/// How often the time is written down.
const TIME: Duration = Duration::from_secs(60);

/// The writer's thread. It ends, and the file is closed, when this is dropped.
pub(super) struct StateWriter {
    path: PathBuf,
    orders: Option<Sender<WriterOrder>>,
    /// How many changes wait for the file.
    waiting: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
    /// Closed when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

enum WriterOrder {
    Change(PendingChange),
    Pause(oneshot::Sender<()>),
    Resume,
    Leave,
}

/// A change and who waits for it.
struct PendingChange {
    change: Change,
    answer: oneshot::Sender<Result<TakenTicket, ChangeError>>,
}

impl StateWriter {
    /// Opens the file and starts the thread.
    pub(super) fn start(path: &Path, shared: Arc<StoreState>) -> Result<Self, OpenError> {
        let file = match StateFile::open(path) {
            Err(OpenError::Io(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                StateFile::make(path)?;
                tracing::info!(path = %path.display(), "a new state file");
                StateFile::open(path)
            }
            opened => opened,
        };
        let (file, FileContents { tables, time }) = file?;
        *shared.tables() = tables;
        if let Some(time) = time {
            *shared.clock.lock().unwrap_or_else(PoisonError::into_inner) = BelievedClock::since(time);
        }
        let ((orders, given), (end, ended)) = (channel(), channel());
        let waiting = Arc::<AtomicUsize>::default();
        let file = FileAccess::Open(file);
        let desk = WriterThread { path: path.to_owned(), shared, waiting: Arc::clone(&waiting), file, timed: None };
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
    pub(super) async fn write(&self, change: Change) -> Result<TakenTicket, ChangeError> {
        let (answer, answered) = oneshot::channel();
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        if before >= QUEUE || !self.order(WriterOrder::Change(PendingChange { change, answer })) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(ChangeError::Unavailable);
        }
        answered.await.unwrap_or(Err(ChangeError::Unavailable))
    }

    pub(super) async fn pause(&self) {
        let (paused, is_paused) = oneshot::channel();
        if self.order(WriterOrder::Pause(paused)) {
            // A thread that is gone holds no file.
            let _ = is_paused.await;
        }
    }

    pub(super) fn resume(&self) {
        self.order(WriterOrder::Resume);
    }

    pub(super) fn leave(&self) {
        self.order(WriterOrder::Leave);
    }

    /// Gives the thread an order, without waiting. Tells whether it is there.
    fn order(&self, order: WriterOrder) -> bool {
        let is_there = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        if !is_there {
            tracing::error!("the state thread is gone");
        }
        is_there
    }
}

impl Drop for StateWriter {
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
struct WriterThread {
    path: PathBuf,
    shared: Arc<StoreState>,
    waiting: Arc<AtomicUsize>,
    file: FileAccess,
    /// When the time was written down last.
    timed: Option<Instant>,
}

/// Whose the file is.
enum FileAccess {
    Open(StateFile),
    /// It could not be written, and is tried again from this moment.
    Broken(Instant),
    /// Another process may have it for a while; changes wait.
    Paused(Vec<PendingChange>),
    /// Another process has it.
    Left,
}

impl WriterThread {
    fn work(mut self, orders: &Receiver<WriterOrder>) {
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
                WriterOrder::Change(first) => {
                    let mut batch = vec![first];
                    // Whatever waits by now shares one write; what is no change comes after it.
                    while batch.len() < QUEUE
                        && let Ok(order) = orders.try_recv()
                    {
                        match order {
                            WriterOrder::Change(waiting) => batch.push(waiting),
                            order => {
                                next = Some(order);
                                break;
                            }
                        }
                    }
                    self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
                    self.change(batch);
                }
                WriterOrder::Pause(paused) => {
                    self.file = FileAccess::Paused(Vec::new());
                    let _ = paused.send(());
                }
                WriterOrder::Resume => {
                    let waiting = match mem::replace(&mut self.file, FileAccess::Broken(Instant::now())) {
                        FileAccess::Paused(waiting) => waiting,
                        FileAccess::Open(_) | FileAccess::Broken(_) | FileAccess::Left => Vec::new(),
                    };
                    self.change(waiting);
                }
                // Whoever waits is told by the end of its channel.
                WriterOrder::Leave => self.file = FileAccess::Left,
            }
        }
    }

    /// Looks at the file, so that what others do to it is noticed before it matters.
    fn look(&mut self) {
        match &self.file {
            FileAccess::Open(file) => {
                if let Err(problem) = file.check() {
                    self.complain(format!("cannot write {}: {problem}", self.path.display()));
                }
            }
            FileAccess::Broken(_) => self.reopen(),
            FileAccess::Paused(_) | FileAccess::Left => {}
        }
    }

    fn change(&mut self, mut batch: Vec<PendingChange>) {
        if let FileAccess::Paused(waiting) = &mut self.file {
            waiting.append(&mut batch);
            waiting.retain(|waiting| !waiting.answer.is_closed());
            waiting.truncate(QUEUE);
            return;
        }
        self.reopen();
        let FileAccess::Open(file) = &mut self.file else {
            return batch.into_iter().for_each(|waiting| answer(waiting.answer, Err(ChangeError::Unavailable)));
        };
        let now = self.shared.now();
        let (mut rows, mut made) = (Vec::new(), Vec::new());
        let is_about_freezes = |waiting: &PendingChange| {
            matches!(waiting.change, Change::Freeze { .. } | Change::Thaw { .. } | Change::Sweep)
        };
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
            rows.push(FileRow::Time(now));
            self.timed = Some(Instant::now());
        }
        let written = if rows.is_empty() { Ok(()) } else { file.write(&rows) };
        if let Err(problem) = written {
            // What was marked stays so: it may be on the disk. An account is frozen or not as the file says.
            if let Some(before) = before {
                self.shared.tables().freezes = before;
            }
            self.complain(format!("cannot write {}: {problem}", self.path.display()));
            return made.into_iter().for_each(|(to, _)| answer(to, Err(ChangeError::Unavailable)));
        }
        for (to, given) in made {
            answer(to, Ok(given));
        }
    }

    /// Opens the file again once it may be tried. It must still be there: an empty one would let everything be used again.
    fn reopen(&mut self) {
        let FileAccess::Broken(again) = self.file else { return };
        if Instant::now() < again {
            return;
        }
        match StateFile::open(&self.path).map(|(file, found)| self.restore(file, found)) {
            Ok(Ok(file)) => {
                tracing::info!(path = %self.path.display(), "the state file is written again");
                *self.shared.problem() = None;
                self.file = FileAccess::Open(file);
            }
            Ok(Err(problem)) => self.complain(format!("cannot write {}: {problem}", self.path.display())),
            Err(error) => self.complain(told(&error)),
        }
    }

    /// Takes over what the file says that is not known, and tells the file what it does not know: a copy that was put back
    /// is older than what is remembered here.
    fn restore(&self, mut file: StateFile, found: FileContents) -> Result<StateFile, String> {
        let missing = self.shared.tables().merge(found.tables);
        file.write(&missing).map(|()| file)
    }

    /// Says once what an operator must do, and waits before the file is tried again.
    fn complain(&mut self, problem: String) {
        self.file = FileAccess::Broken(Instant::now() + AGAIN);
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

fn answer(to: oneshot::Sender<Result<TakenTicket, ChangeError>>, answer: Result<TakenTicket, ChangeError>) {
    // Whoever waited may have left.
    let _ = to.send(answer);
}
