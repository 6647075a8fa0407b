//! The thread that writes the state file. All changes that wait when it begins a write share that write.

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
/// How long after a failure the file is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often an idle file is checked.
const LOOK: Duration = Duration::from_secs(1);
/// How often the believed time is stored.
const TIME: Duration = Duration::from_secs(60);

/// A handle to the writer's thread. Dropping it ends the thread and closes the file.
pub(super) struct StateWriter {
    path: PathBuf,
    orders: Option<Sender<WriterOrder>>,
    /// How many changes wait for the file.
    waiting: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
    /// Disconnected when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

enum WriterOrder {
    Change(PendingChange),
    Pause(oneshot::Sender<()>),
    Resume,
    Leave,
}

/// A change and its caller.
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
                tracing::info!(path = %path.display(), "made a new state file");
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
        let thread =
            WriterThread { path: path.to_owned(), shared, waiting: Arc::clone(&waiting), file, time_stored: None };
        let run = move || {
            thread.run(&given);
            drop(end);
        };
        let handle = thread::Builder::new().name("callgate-state".to_owned()).spawn(run);
        let handle = handle.map_err(|error| OpenError::Io(path.to_owned(), error))?;
        Ok(Self {
            path: path.to_owned(),
            orders: Some(orders),
            waiting,
            thread: Some(handle),
            ended: Mutex::new(ended),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Applies a change and waits until it is durable.
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
            // A thread that has ended holds no file.
            let _ = is_paused.await;
        }
    }

    pub(super) fn resume(&self) {
        self.order(WriterOrder::Resume);
    }

    pub(super) fn leave(&self) {
        self.order(WriterOrder::Leave);
    }

    /// Sends an order to the thread, without waiting. Returns whether the thread runs.
    fn order(&self, order: WriterOrder) -> bool {
        let is_there = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        if !is_there {
            tracing::error!("the state thread has ended");
        }
        is_there
    }
}

impl Drop for StateWriter {
    fn drop(&mut self) {
        drop(self.orders.take());
        // A disk that does not answer must not block the end of the process.
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            return tracing::error!("the state file is still being written; callgate ends without waiting for it");
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the state thread panicked");
        }
    }
}

/// The state of the writer's thread.
struct WriterThread {
    path: PathBuf,
    shared: Arc<StoreState>,
    waiting: Arc<AtomicUsize>,
    file: FileAccess,
    /// When the believed time was last stored.
    time_stored: Option<Instant>,
}

/// Whether this process may write the file.
enum FileAccess {
    Open(StateFile),
    /// It could not be written; the next attempt is at this moment.
    Broken(Instant),
    /// Another process may have it for a while; changes wait.
    Paused(Vec<PendingChange>),
    /// Another process has taken it over.
    Left,
}

impl WriterThread {
    fn run(mut self, orders: &Receiver<WriterOrder>) {
        let mut next = None;
        loop {
            let order = match next.take() {
                Some(order) => order,
                None => match orders.recv_timeout(LOOK) {
                    Ok(order) => order,
                    Err(RecvTimeoutError::Timeout) => {
                        self.check_file();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            match order {
                WriterOrder::Change(first) => {
                    let mut batch = vec![first];
                    // The changes that wait by now share one write; another order follows it.
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
                    self.apply_batch(batch);
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
                    self.apply_batch(waiting);
                }
                // Callers that wait learn it by the end of their channel.
                WriterOrder::Leave => self.file = FileAccess::Left,
            }
        }
    }

    /// Checks the file, to notice what other programs do to it.
    fn check_file(&mut self) {
        match &self.file {
            FileAccess::Open(file) => {
                if let Err(problem) = file.check() {
                    self.report_problem(format!("cannot write {}: {problem}", self.path.display()));
                }
            }
            FileAccess::Broken(_) => self.reopen(),
            FileAccess::Paused(_) | FileAccess::Left => {}
        }
    }

    fn apply_batch(&mut self, mut batch: Vec<PendingChange>) {
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
        // A caller that has given up would not learn of success: its change must not be applied.
        for waiting in batch.into_iter().filter(|waiting| !waiting.answer.is_closed()) {
            match self.shared.tables().apply(waiting.change, now) {
                Ok((given, changed)) => {
                    rows.extend(changed);
                    made.push((waiting.answer, given));
                }
                Err(refused) => answer(waiting.answer, Err(refused)),
            }
        }
        let is_time_stored = self.time_stored.is_some_and(|at| at.elapsed() < TIME) || self.shared.tables().is_empty();
        if !is_time_stored {
            rows.push(FileRow::Time(now));
            self.time_stored = Some(Instant::now());
        }
        let written = if rows.is_empty() { Ok(()) } else { file.write(&rows) };
        if let Err(problem) = written {
            // Marks stay: they may be in the file. Freezes are as the file has them.
            if let Some(before) = before {
                self.shared.tables().freezes = before;
            }
            self.report_problem(format!("cannot write {}: {problem}", self.path.display()));
            return made.into_iter().for_each(|(to, _)| answer(to, Err(ChangeError::Unavailable)));
        }
        for (to, given) in made {
            answer(to, Ok(given));
        }
    }

    /// Opens the file again when its time has come. It must exist: with a new file, all credentials could be used
    /// again.
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
            Ok(Err(problem)) => self.report_problem(format!("cannot write {}: {problem}", self.path.display())),
            Err(error) => self.report_problem(with_cause(&error)),
        }
    }

    /// Merges the file with the state in memory, and writes what the file lacks: a copy that was put back is older.
    fn restore(&self, mut file: StateFile, found: FileContents) -> Result<StateFile, String> {
        let missing = self.shared.tables().merge(found.tables);
        file.write(&missing).map(|()| file)
    }

    /// Reports once what the operator must do, and schedules the next attempt.
    fn report_problem(&mut self, problem: String) {
        self.file = FileAccess::Broken(Instant::now() + AGAIN);
        let before = self.shared.problem().replace(problem.clone());
        if before.as_ref() != Some(&problem) {
            tracing::error!(problem, "the state file cannot be used: logins that need it are refused");
        }
    }
}

/// Returns the text of an error and its cause.
fn with_cause(error: &OpenError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

fn answer(to: oneshot::Sender<Result<TakenTicket, ChangeError>>, answer: Result<TakenTicket, ChangeError>) {
    // The caller may have left.
    let _ = to.send(answer);
}
