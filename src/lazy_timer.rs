//! A timer for deadlines that are often moved and seldom reached.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is reused for many waits.
///
/// Moving a deadline further away costs nothing: the timer fires at the old deadline, sees the new one and sleeps on.
/// A connection that answers thousands of requests thus changes tokio's timer wheel only a few times a minute.
#[derive(Debug, Default)]
pub(crate) struct LazyTimer(Option<Pin<Box<Sleep>>>);

impl LazyTimer {
    /// Completes once `due` has passed; until then, wakes the task at `due` or earlier.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        loop {
            // Outside tokio's task budget: a peer that never stops sending would use that up, and its deadline would
            // never pass.
            ready!(Pin::new(&mut unconstrained(sleep.as_mut())).poll(cx));
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;

    use tokio::task::coop::consume_budget;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn fires_at_the_deadline_of_the_latest_wait() {
        let mut timer = LazyTimer::default();
        let begun = Instant::now();
        for seconds in [10, 30, 20] {
            let due = begun + Duration::from_secs(seconds);
            let polled = poll_fn(|cx| Poll::Ready(timer.poll(cx, due).is_ready())).await;
            assert!(!polled, "{seconds}");
        }
        poll_fn(|cx| timer.poll(cx, begun + Duration::from_secs(20))).await;
        assert_eq!(begun.elapsed().as_secs(), 20);
    }

    #[tokio::test]
    async fn fires_in_a_task_that_has_used_up_its_budget() {
        let mut timer = LazyTimer::default();
        let due = Instant::now() + Duration::from_millis(10);
        poll_fn(|cx| timer.poll(cx, due)).await;
        timer = LazyTimer::default();
        poll_fn(|cx| {
            while pin!(consume_budget()).poll(cx).is_ready() {}
            assert!(timer.poll(cx, due).is_ready());
            Poll::Ready(())
        })
        .await;
    }
}
