use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::flow::OVERHEAD;
use super::room::{LEAST, POOL};
use super::*;

const MIB: usize = 1 << 20;

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Returns a waker, and how often it was woken.
fn counting_waker() -> (Waker, Arc<Count>) {
    let count = Arc::new(Count(AtomicUsize::new(0)));
    (Waker::from(Arc::clone(&count)), count)
}

fn connection(worker: &Arc<WorkerBudget>, address: &str) -> Arc<Ledger> {
    worker.open(Some(worker.process().client(address.parse().unwrap())))
}

#[test]
fn taken_bytes_make_room_and_wake_the_waiting_flow() {
    let worker = WorkerBudget::new(Budget::new(64 * MIB));
    let ledger = connection(&worker, "192.0.2.1");
    let (one, two) = (Flow::new(&ledger), Flow::new(&ledger));
    let (waker, count) = counting_waker();
    let mut cx = Context::from_waker(&waker);
    assert_eq!(one.poll_room(&mut cx), Poll::Ready(usize::MAX));
    let large = one.count(Bytes::from(vec![0; POOL]));
    assert!(ledger.ends_turn());
    assert_eq!((one.poll_room(&mut cx), two.poll_room(&mut cx)), (Poll::Pending, Poll::Ready(LEAST)));
    let small = two.count(Bytes::from_static(b"hello"));
    assert!(two.poll_room(&mut cx).is_pending());
    drop(small);
    assert_eq!((count.get(), two.poll_room(&mut cx)), (1, Poll::Ready(LEAST)));
    assert_eq!(worker.process().held(), POOL + OVERHEAD);
    drop(large);
    assert_eq!((ledger.held(), worker.process().held()), (0, 0));
    assert_eq!(one.poll_room(&mut cx), Poll::Ready(usize::MAX));
}

#[test]
fn a_ledger_gives_back_its_bytes_when_it_is_dropped() {
    let worker = WorkerBudget::new(Budget::new(64 * MIB));
    let ledger = connection(&worker, "192.0.2.1");
    let client = ledger.client().unwrap().clone();
    let flow = Flow::new(&ledger);
    flow.set_waiting(MIB);
    flow.set_ahead(3 * MIB);
    // However much its client may have sent ahead.
    assert_eq!((ledger.held(), client.held(), worker.process().held()), (2 * MIB, 2 * MIB, 2 * MIB));
    ledger.replace(0, 100_000);
    drop((flow, ledger));
    assert_eq!((client.held(), worker.process().held()), (0, 0));
}

#[test]
fn connections_that_hold_most_for_what_they_move_are_slowest() {
    let worker = WorkerBudget::new(Budget::new(64 * MIB));
    let (slow, fast) = (connection(&worker, "192.0.2.1"), connection(&worker, "192.0.2.2"));
    let flows = [Flow::new(&slow), Flow::new(&fast)];
    let _waiting: Vec<_> = flows.iter().map(|flow| flow.count(Bytes::from(vec![0; MIB]))).collect();
    let start = Instant::now();
    slow.refresh(start);
    fast.refresh(start);
    assert_eq!((slow.slowness(), fast.slowness()), (None, None));
    drop(flows[0].count(Bytes::from(vec![0; 1024])));
    drop(flows[1].count(Bytes::from(vec![0; 4 * MIB])));
    let later = start + Duration::from_secs(1);
    slow.refresh(later);
    fast.refresh(later);
    assert!(slow.slowness().is_some_and(|seconds| seconds > 500));
    assert_eq!(fast.slowness(), None);
}

#[test]
fn a_flow_without_room_is_woken_once_there_is_some() {
    let worker = WorkerBudget::new(Budget::new(16 * MIB));
    let ledger = connection(&worker, "192.0.2.1");
    let flow = Flow::new(&ledger);
    let full = flow.count(Bytes::from(vec![0; 13 * MIB]));
    assert!(ledger.ends_turn());
    let (waker, count) = counting_waker();
    let other = Flow::new(&ledger);
    assert!(other.poll_room(&mut Context::from_waker(&waker)).is_pending());
    ledger.refresh(Instant::now());
    assert_eq!(count.get(), 0);
    drop(full);
    ledger.refresh(Instant::now());
    assert_eq!(count.get(), 1);
}

#[tokio::test]
async fn a_connection_that_moves_much_hands_the_thread_on() {
    let worker = WorkerBudget::new(Budget::new(64 * MIB));
    let ledger = connection(&worker, "192.0.2.1");
    let (one, two) = (Flow::new(&ledger), Flow::new(&ledger));
    let (waker, count) = counting_waker();
    let mut cx = Context::from_waker(&waker);
    drop(one.count(Bytes::from(vec![0; TURN - 1])));
    assert!(one.poll_room(&mut cx).is_ready());
    drop(two.count(Bytes::from_static(b"x")));
    assert!(one.poll_room(&mut cx).is_pending(), "the flows of a connection take their turn together");
    assert_eq!(count.get(), 0, "others go first");
    tokio::task::yield_now().await;
    assert_eq!((count.get(), one.poll_room(&mut cx)), (1, Poll::Ready(usize::MAX)));
}
