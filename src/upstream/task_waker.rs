//! Wakes the task of an exchange for its upstream connection, but not when it is the task itself that rings.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// The waker of one connection, which serves the task that holds the connection now.
///
/// hyper hands a body over through a channel, and taking from it wakes the connection. Here both ends are in one task,
/// which polls the connection next anyway: waking it would cost another round through everything for each answer.
#[derive(Debug)]
pub(super) struct TaskWaker {
    waker: Waker,
    clapper: Arc<CurrentTask>,
}

#[derive(Debug)]
struct CurrentTask {
    task: Mutex<Waker>,
    muffled: AtomicBool,
}

impl TaskWaker {
    pub(super) fn new() -> Self {
        let clapper =
            Arc::new(CurrentTask { task: Mutex::new(Waker::noop().clone()), muffled: AtomicBool::new(false) });
        Self { waker: Waker::from(Arc::clone(&clapper)), clapper }
    }

    /// Returns the context to poll the connection with, which wakes the task of `cx`.
    pub(super) fn context(&self, cx: &Context<'_>) -> Context<'_> {
        let mut task = self.clapper.task.lock().unwrap_or_else(PoisonError::into_inner);
        task.clone_from(cx.waker());
        drop(task);
        Context::from_waker(&self.waker)
    }

    /// Does something that rings, without waking anybody. The connection must be polled before the task rests.
    pub(super) fn muffled<T>(&self, ring: impl FnOnce() -> T) -> T {
        self.clapper.muffled.store(true, Ordering::Relaxed);
        let done = ring();
        self.clapper.muffled.store(false, Ordering::Relaxed);
        done
    }
}

impl Wake for CurrentTask {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.muffled.load(Ordering::Relaxed) {
            self.task.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
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
    fn rings_for_the_task_that_polled_last_unless_muffled() {
        let (first, last) = (Arc::new(Count(AtomicUsize::new(0))), Arc::new(Count(AtomicUsize::new(0))));
        let bell = TaskWaker::new();
        let kept = bell.context(&Context::from_waker(&Waker::from(Arc::clone(&first)))).waker().clone();
        let _ = bell.context(&Context::from_waker(&Waker::from(Arc::clone(&last))));
        kept.wake_by_ref();
        bell.muffled(|| kept.wake_by_ref());
        kept.wake();
        assert_eq!((first.0.load(Ordering::Relaxed), last.0.load(Ordering::Relaxed)), (0, 2));
    }
}
