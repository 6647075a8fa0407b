//! The waker of an upstream connection: wakes the task of the exchange that holds it, except while that task itself
//! causes the wake-up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// Wakes the task that polled a connection last.
///
/// hyper hands a body over through a channel, and taking from the channel wakes the connection. Here both ends are in
/// one task, which polls the connection next anyway; waking it would poll everything once more for each answer.
#[derive(Debug)]
pub(super) struct TaskWaker {
    waker: Waker,
    current: Arc<CurrentTask>,
}

#[derive(Debug)]
struct CurrentTask {
    waker: Mutex<Waker>,
    is_muted: AtomicBool,
}

impl TaskWaker {
    pub(super) fn new() -> Self {
        let current =
            Arc::new(CurrentTask { waker: Mutex::new(Waker::noop().clone()), is_muted: AtomicBool::new(false) });
        Self { waker: Waker::from(Arc::clone(&current)), current }
    }

    /// Returns the context to poll the connection with. It wakes the task of `cx`.
    pub(super) fn context(&self, cx: &Context<'_>) -> Context<'_> {
        let mut waker = self.current.waker.lock().unwrap_or_else(PoisonError::into_inner);
        waker.clone_from(cx.waker());
        drop(waker);
        Context::from_waker(&self.waker)
    }

    /// Runs `action`, during which nothing is woken. The caller must poll the connection before its task sleeps.
    pub(super) fn muted<T>(&self, action: impl FnOnce() -> T) -> T {
        self.current.is_muted.store(true, Ordering::Relaxed);
        let done = action();
        self.current.is_muted.store(false, Ordering::Relaxed);
        done
    }
}

impl Wake for CurrentTask {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_muted.load(Ordering::Relaxed) {
            self.waker.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn wakes_the_task_that_polled_last_unless_muted() {
        let (first, last) = (Arc::new(Count(AtomicUsize::new(0))), Arc::new(Count(AtomicUsize::new(0))));
        let task_waker = TaskWaker::new();
        let kept = task_waker.context(&Context::from_waker(&Waker::from(Arc::clone(&first)))).waker().clone();
        let _ = task_waker.context(&Context::from_waker(&Waker::from(Arc::clone(&last))));
        kept.wake_by_ref();
        task_waker.muted(|| kept.wake_by_ref());
        kept.wake();
        assert_eq!((first.0.load(Ordering::Relaxed), last.0.load(Ordering::Relaxed)), (0, 2));
    }
}
