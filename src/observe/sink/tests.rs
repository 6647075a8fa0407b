use std::sync::mpsc;

use futures_util::FutureExt;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::config::LogFormat;
use crate::observe::log_destination::Memory;

const LONG: Duration = Duration::from_secs(30);

/// Starts a log in memory.
fn memory_log(format: LogFormat) -> (Sink, Memory) {
    let memory = Memory::default();
    (Sink::start(LogDestination::Memory(memory.clone()), &format.into()).unwrap(), memory)
}

fn soon() -> Instant {
    Instant::now() + LONG
}

/// Drops the last handle and waits for the end.
fn close(sink: Sink) {
    let closing = sink.closing();
    drop(sink);
    let end = soon();
    while !closing.is_over() {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(1));
    }
}

fn lines(memory: &Memory) -> Vec<String> {
    memory.text().lines().map(str::to_owned).collect()
}

/// Lets the thread get stuck on its first line, for which it needs the locked memory.
fn get_stuck(sink: &Sink) {
    sink.needed_line("first");
    sink.hurry();
    while !sink.buffer.is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Locks a memory on a thread of its own until the returned sender is dropped.
fn hold(memory: &Memory) -> mpsc::Sender<()> {
    let (let_go, is_let_go) = mpsc::channel();
    let (hold, is_held) = mpsc::channel();
    let memory = memory.clone();
    thread::spawn(move || {
        let _stuck = memory.bytes();
        hold.send(()).unwrap();
        // An error is the end.
        let _ = is_let_go.recv();
    });
    is_held.recv().unwrap();
    let_go
}

#[test]
fn writes_every_line_in_order_before_it_ends() {
    let (sink, memory) = memory_log(LogFormat::Text);
    for number in 0..5000 {
        sink.line(&number.to_string());
    }
    close(sink);
    assert_eq!(lines(&memory), (0..5000).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn the_last_handle_of_a_log_ends_it() {
    let (sink, memory) = memory_log(LogFormat::Text);
    let (other, worker) = (sink.clone(), sink.of_worker());
    drop(sink);
    worker.line("of a worker");
    drop(worker);
    other.line("late");
    close(other);
    assert_eq!(memory.text(), "late\nof a worker\n");
}

#[test]
fn a_flush_waits_for_what_every_worker_has_gathered() {
    let (sink, memory) = memory_log(LogFormat::Text);
    let worker = sink.of_worker();
    for expected in [2, 4] {
        sink.line("one");
        thread::scope(|scope| scope.spawn(|| worker.line("two")).join().unwrap());
        assert!(sink.flush(soon()));
        assert_eq!(lines(&memory).len(), expected);
    }
}

#[test]
fn lines_gather_and_no_flush_is_needed() {
    let (sink, memory) = memory_log(LogFormat::Text);
    sink.line("one");
    sink.line("two");
    let end = soon();
    while memory.text().is_empty() {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(memory.text(), "one\ntwo\n");
}

#[test]
fn nothing_waits_for_a_stuck_place_and_its_room_has_a_bound() {
    let (sink, memory) = memory_log(LogFormat::Json);
    let stuck = memory.bytes();
    get_stuck(&sink);
    let line = "x".repeat(1023);
    for _ in 0..MAX_WAITING / 1024 {
        sink.line(&line);
    }
    let lost = MAX_WAITING / 1024 - MAX_UNNEEDED / 1024 + 1;
    assert_eq!(sink.lost(), lost as u64);
    for _ in 0..MAX_WAITING / 1024 {
        sink.needed_line(&line);
    }
    assert_eq!(sink.lost(), 2 * lost as u64 - 1);
    sink.reopen();
    assert!(!sink.flush(Instant::now() + Duration::from_millis(10)));
    assert!(!sink.request_flush().is_done() && !sink.closing().is_over());
    drop(stuck);
    close(sink);
    let (notes, lines): (Vec<_>, Vec<_>) = lines(&memory).into_iter().partition(|line| line.contains("lost"));
    assert_eq!(lines.len(), MAX_WAITING / 1024);
    let notes = notes.iter().map(|note| serde_json::from_str::<serde_json::Value>(note).unwrap());
    assert_eq!(notes.map(|note| note["lines"].as_u64().unwrap()).sum::<u64>(), 2 * lost as u64 - 1);
}

#[tokio::test]
async fn an_awaited_line_is_written_before_its_caller_goes_on() {
    let (sink, memory) = memory_log(LogFormat::Text);
    let worker = sink.of_worker();
    worker.line("before");
    assert_eq!(worker.awaited_line("login", WhenStuck::Refuse).await, Ok(()));
    assert_eq!(memory.text(), "before\nlogin\n");
}

#[tokio::test]
async fn lines_of_logins_at_the_same_time_are_written_at_once() {
    let (sink, memory) = memory_log(LogFormat::Text);
    let waiting = || sink.shared.waiting.load(Ordering::SeqCst);
    sink.shared.wait_for_sleep();
    let mut logins: Vec<_> = (0..10).map(|_| Box::pin(sink.awaited_line("login", WhenStuck::Refuse))).collect();
    assert!(logins.iter_mut().all(|login| login.as_mut().now_or_never().is_none()));
    // Time in which the thread would take what it was woken for.
    thread::sleep(Duration::from_millis(50));
    assert_eq!((waiting(), memory.text().as_str()), (60, ""));
    for login in logins.drain(1..) {
        assert_eq!(login.await, Ok(()));
    }
    assert_eq!((waiting(), lines(&memory).len()), (0, 10));
}

#[tokio::test]
async fn the_line_of_a_login_whose_caller_leaves_is_written_as_soon() {
    let (sink, memory) = memory_log(LogFormat::Text);
    assert!(Box::pin(sink.awaited_line("login", WhenStuck::Refuse)).now_or_never().is_none());
    let end = soon();
    while memory.text() != "login\n" {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn an_awaited_line_that_is_late_is_taken_back_or_stays() {
    let (sink, memory) = memory_log(LogFormat::Text);
    let held = hold(&memory);
    get_stuck(&sink);
    let late = Err("memory took no line in time".to_owned());
    let (refused, gone_on) =
        tokio::join!(sink.awaited_line("refused", WhenStuck::Refuse), sink.awaited_line("gone on", WhenStuck::GoOn));
    assert_eq!((refused, gone_on), (late.clone(), late));
    assert!(sink.check().unwrap_err().starts_with("memory has taken no line for "));
    let at_once = timeout(PATIENCE / 2, sink.awaited_line("at once", WhenStuck::GoOn)).await.unwrap();
    assert!(at_once.unwrap_err().starts_with("memory has taken no line for "));
    drop(held);
    assert!(sink.flush(soon()));
    assert_eq!((memory.text().as_str(), sink.check(), sink.lost()), ("first\ngone on\nat once\n", Ok(()), 0));
}

#[tokio::test]
async fn an_awaited_line_that_cannot_be_written_is_told_at_once() {
    let sink = Sink::file(Path::new("/dev/full"), &LogFormat::Text.into()).unwrap();
    let told = sink.awaited_line("login", WhenStuck::Refuse).await;
    assert!(sink.flush(soon()));
    assert_eq!(told, Err("cannot write /dev/full".to_owned()));
    assert_eq!((sink.check(), sink.lost()), (Err("cannot write /dev/full".to_owned()), 1));
}

#[test]
fn a_receipt_is_not_answered_before_its_line_is_written() {
    let (sink, memory) = memory_log(LogFormat::Text);
    let stuck = memory.bytes();
    get_stuck(&sink);
    let mut receipt = sink.buffer.push_awaited("second", |length| sink.shared.reserve(length, MAX_WAITING)).unwrap();
    sink.hurry();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(receipt.written.try_recv(), Err(TryRecvError::Empty));
    drop(stuck);
    assert!(sink.flush(soon()));
    assert_eq!(receipt.written.try_recv(), Ok(true));
}
