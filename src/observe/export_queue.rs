//! What waits for the exporter to a collector of OpenTelemetry, which may be slow or gone: a request never waits for it.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// The most items that wait.
const MAX_WAITING: usize = 2048;
/// The most bytes that they may have, about.
const MAX_BYTES: usize = 4 << 20;
/// The most items of one batch.
const BATCH: usize = 512;
/// How long items gather before they are taken, unless they fill a batch.
const GATHER: Duration = Duration::from_secs(1);

/// Something that can be posted to a collector.
pub trait Exported {
    /// Returns how many bytes of memory it takes, about.
    fn size(&self) -> usize;
}

/// Holds what waits for a collector, within bounds.
#[derive(Debug)]
pub struct ExportQueue<T> {
    waiting: Mutex<WaitingItems<T>>,
    arrived: Notify,
    /// Tells that nothing is to be gathered any longer.
    hurried: Notify,
    is_ending: AtomicBool,
    counts: Arc<ExportCounts>,
}

#[derive(Debug)]
struct WaitingItems<T> {
    items: VecDeque<T>,
    bytes: usize,
    /// How many were taken of which it is not known whether the collector has them.
    unsettled: usize,
}

/// How many items a collector has, and how many none gets. Outlives the queue, because counters never go back.
#[derive(Debug, Default)]
pub struct ExportCounts {
    sent: AtomicU64,
    lost: AtomicU64,
}

/// Items that were taken. They count as lost when this is dropped, also by a reload.
#[derive(Debug)]
pub struct ExportBatch<'q, T: Exported> {
    queue: &'q ExportQueue<T>,
    items: Vec<T>,
}

impl ExportCounts {
    /// Counts what the collector has.
    pub fn note_sent(&self, items: usize) {
        self.sent.fetch_add(items as u64, Ordering::Relaxed);
    }

    /// Counts what no collector gets.
    pub fn note_lost(&self, items: usize) {
        self.lost.fetch_add(items as u64, Ordering::Relaxed);
    }

    /// Returns how many were sent, and how many were lost.
    #[must_use]
    pub fn read(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }
}

impl<T: Exported> ExportQueue<T> {
    /// Makes an empty queue that goes on counting here.
    #[must_use]
    pub fn new(counts: &Arc<ExportCounts>) -> Self {
        Self {
            waiting: Mutex::new(WaitingItems { items: VecDeque::new(), bytes: 0, unsettled: 0 }),
            arrived: Notify::new(),
            hurried: Notify::new(),
            is_ending: AtomicBool::new(false),
            counts: Arc::clone(counts),
        }
    }

    /// Adds an item. Never waits; counts it as lost if too many wait.
    pub fn add(&self, item: T) {
        let size = item.size();
        let mut waiting = self.waiting();
        if waiting.items.len() >= MAX_WAITING || waiting.bytes + size > MAX_BYTES {
            drop(waiting);
            return self.counts.note_lost(1);
        }
        waiting.items.push_back(item);
        waiting.bytes += size;
        let is_batch = waiting.items.len() >= BATCH;
        drop(waiting);
        self.arrived.notify_one();
        if is_batch {
            self.hurried.notify_one();
        }
    }

    /// Waits for items and takes some, at least one.
    pub async fn batch(&self) -> ExportBatch<'_, T> {
        loop {
            if let Some(batch) = self.take() {
                return batch;
            }
            self.arrived.notified().await;
            if !self.is_ending.load(Ordering::SeqCst) {
                // Late is as good as hurried.
                let _ = timeout(GATHER, self.hurried.notified()).await;
            }
        }
    }

    fn take(&self) -> Option<ExportBatch<'_, T>> {
        let mut waiting = self.waiting();
        let count = waiting.items.len().min(BATCH);
        let items: Vec<T> = waiting.items.drain(..count).collect();
        waiting.bytes -= items.iter().map(T::size).sum::<usize>();
        waiting.unsettled += count;
        drop(waiting);
        (count > 0).then_some(ExportBatch { queue: self, items })
    }

    /// From now on items do not gather: the process ends.
    pub fn hurry(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
        self.hurried.notify_one();
    }

    /// Returns whether it is known of all items so far whether the collector has them.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let waiting = self.waiting();
        waiting.items.is_empty() && waiting.unsettled == 0
    }

    fn waiting(&self) -> MutexGuard<'_, WaitingItems<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for ExportQueue<T> {
    fn drop(&mut self) {
        let waiting = self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.counts.note_lost(waiting.items.len());
    }
}

impl<T: Exported> ExportBatch<'_, T> {
    /// Returns the items, at least one.
    #[must_use]
    pub fn items(&self) -> &[T] {
        &self.items
    }

    /// Counts the items as sent, except for those that the collector rejects.
    pub fn settle(mut self, rejected: usize) {
        let all = mem::take(&mut self.items).len();
        let rejected = rejected.min(all);
        self.queue.counts.note_sent(all - rejected);
        self.queue.counts.note_lost(rejected);
        self.queue.waiting().unsettled -= all;
    }
}

impl<T: Exported> Drop for ExportBatch<'_, T> {
    fn drop(&mut self) {
        self.queue.counts.note_lost(self.items.len());
        self.queue.waiting().unsettled -= self.items.len();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    struct Item(usize);

    impl Exported for Item {
        fn size(&self) -> usize {
            self.0
        }
    }

    fn queue() -> ExportQueue<Item> {
        ExportQueue::new(&Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn items_that_find_no_room_are_counted() {
        let queue = queue();
        (0..MAX_WAITING + 3).for_each(|_| queue.add(Item(1)));
        assert_eq!(queue.counts.read(), (0, 3));
        let batch = queue.batch().await;
        assert_eq!(batch.items().len(), BATCH);
        batch.settle(2);
        assert_eq!(queue.counts.read(), (BATCH as u64 - 2, 5));
        queue.add(Item(1));
        assert_eq!((queue.counts.read().1, queue.waiting().items.len()), (5, MAX_WAITING - BATCH + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn large_items_are_bounded_by_their_bytes() {
        let queue = queue();
        (0..5).for_each(|_| queue.add(Item(MAX_BYTES / 4)));
        assert_eq!(queue.counts.read(), (0, 1));
        queue.batch().await.settle(0);
        queue.add(Item(MAX_BYTES));
        queue.add(Item(1));
        assert_eq!(queue.counts.read(), (4, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_dropped_is_lost() {
        let counts = Arc::default();
        let queue = ExportQueue::new(&counts);
        (0..=BATCH).for_each(|_| queue.add(Item(1)));
        drop(queue.batch().await);
        assert_eq!(counts.read(), (0, BATCH as u64));
        drop(queue);
        assert_eq!(counts.read(), (0, BATCH as u64 + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn items_gather_until_they_fill_a_batch_or_the_process_ends() {
        let queue = queue();
        let take = async |expected: usize, duration: Duration| {
            let begun = Instant::now();
            let batch = queue.batch().await;
            assert_eq!((batch.items().len(), begun.elapsed()), (expected, duration));
            batch.settle(0);
        };
        queue.add(Item(1));
        // Those that wait already are taken at once.
        take(1, Duration::ZERO).await;
        let both = async |count: usize, duration: Duration| {
            tokio::join!(take(count, duration), async { (0..count).for_each(|_| queue.add(Item(1))) });
        };
        both(1, GATHER).await;
        both(BATCH, Duration::ZERO).await;
        assert!(queue.is_settled());
        queue.hurry();
        both(1, Duration::ZERO).await;
        queue.add(Item(1));
        assert!(!queue.is_settled());
        let batch = queue.batch().await;
        assert!(!queue.is_settled());
        drop(batch);
        assert!(queue.is_settled());
    }
}
