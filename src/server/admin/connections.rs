//! The connections of the admin listener: a bounded number, of which the one that has been open for longest is closed for the
//! next.
//!
//! A connection carries one request, which is answered at once. One that is still open when many others have come after it
//! sends no request, or does not read its answer. Only an order that changes the state is carried out to its end.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::task::{AbortHandle, JoinSet};

/// The connections of the admin listener.
pub(super) struct AdminConnections {
    most: usize,
    serving: JoinSet<()>,
    /// From the oldest to the newest.
    open: VecDeque<(AbortHandle, OrderInProgress)>,
}

/// Whether the order of a connection is carried out at the moment.
#[derive(Debug, Clone, Default)]
pub(super) struct OrderInProgress(Rc<Cell<bool>>);

impl OrderInProgress {
    /// Records that the order is carried out from now on, to the end of the connection.
    pub(super) fn begin(&self) {
        self.0.set(true);
    }
}

impl AdminConnections {
    pub(super) fn new(most: usize) -> Self {
        Self { most, serving: JoinSet::new(), open: VecDeque::new() }
    }

    /// Serves one more connection. At the bound, an older one is closed first.
    pub(super) async fn serve<F: Future<Output = ()> + 'static>(&mut self, serve: impl FnOnce(OrderInProgress) -> F) {
        while self.serving.try_join_next().is_some() {}
        while self.serving.len() >= self.most {
            self.close_oldest();
            self.serving.join_next().await;
        }
        let order = OrderInProgress::default();
        let handle = self.serving.spawn_local(serve(order.clone()));
        self.open.push_back((handle, order));
    }

    /// Closes the oldest connection without an order in progress. Returns whether there is one.
    pub(super) fn close_oldest(&mut self) -> bool {
        self.open.retain(|(handle, _)| !handle.is_finished());
        let longest = self.open.iter().position(|(_, order)| !order.0.get());
        let ended = longest.and_then(|at| self.open.remove(at));
        ended.map(|(handle, _)| handle.abort()).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::task::LocalSet;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn the_oldest_connection_is_closed_unless_it_carries_out_an_order() {
        let ended = Rc::new(Cell::new(0));
        struct Ends(Rc<Cell<u32>>, u32);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.set(self.0.get() * 10 + self.1);
            }
        }
        let visit = |nth: u32, orders: bool| {
            let ends = Ends(Rc::clone(&ended), nth);
            move |busy: OrderInProgress| async move {
                let _ends = ends;
                if orders {
                    busy.begin();
                }
                pending::<()>().await;
            }
        };
        let mut connections = AdminConnections::new(3);
        let all = async {
            for (nth, orders) in [(1, true), (2, false), (3, false), (4, false), (5, false)] {
                connections.serve(visit(nth, orders)).await;
                tokio::task::yield_now().await;
            }
            assert_eq!(ended.get(), 23);
            assert!(timeout(Duration::from_millis(1), pending::<()>()).await.is_err());
            assert_eq!(connections.serving.len(), 3);
        };
        LocalSet::new().run_until(all).await;
    }
}
