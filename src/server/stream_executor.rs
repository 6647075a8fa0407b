//! The tasks of HTTP/2 streams. A stream whose client takes no byte for `write_stall` is reset alone, and the other streams
//! of the connection go on. A tunnel runs beside the stream that it has become, and ends with it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::{self, JoinHandle};
use tokio::time::Instant;

use super::registry::Registry;
use crate::lazy_timer::LazyTimer;

/// Since when a stream waits for its client to take bytes, shared by its body and its task.
#[derive(Debug, Clone, Default)]
pub(super) struct StallClock(Rc<Cell<Option<Instant>>>);

impl StallClock {
    /// Starts to wait for the client now.
    pub(super) fn start(&self) {
        self.0.set(Some(Instant::now()));
    }

    pub(super) fn stop(&self) {
        self.0.set(None);
    }
}

/// Runs the streams of one connection on its own thread.
#[derive(Clone)]
pub(super) struct StreamExecutor {
    write_stall: Duration,
    /// The task that hyper hands over next: it calls the service, and then hands over the task of that call.
    next: Rc<Cell<NextTask>>,
    /// The tasks of exchanges that have not ended.
    exchanges: Rc<RefCell<Vec<JoinHandle<()>>>>,
    /// Knows when only tunnels may go on.
    registry: Rc<Registry>,
}

/// The task that hyper hands over next.
#[derive(Default)]
enum NextTask {
    #[default]
    Unknown,
    /// Writes the answer of an exchange.
    Exchange(StallClock),
    /// Writes to the stream that becomes this tunnel.
    Tunnel(Pin<Box<dyn Future<Output = ()>>>),
}

impl StreamExecutor {
    pub(super) fn new(write_stall: Duration, registry: Rc<Registry>) -> Self {
        Self { write_stall, next: Rc::default(), exchanges: Rc::default(), registry }
    }

    /// Begins a stream. Returns the clock that its body is to keep.
    pub(super) fn begin(&self) -> StallClock {
        let clock = StallClock::default();
        self.next.set(NextTask::Exchange(clock.clone()));
        clock
    }

    /// Lets the stream whose successful answer is made now become a tunnel.
    pub(super) fn become_tunnel(&self, tunnel: impl Future<Output = ()> + 'static) {
        self.next.set(NextTask::Tunnel(Box::pin(tunnel)));
    }

    /// Ends all exchanges, which resets their streams. Tunnels go on.
    pub(super) async fn end_exchanges(&self) {
        let exchanges = self.exchanges.take();
        for exchange in &exchanges {
            exchange.abort();
        }
        for exchange in exchanges {
            // It has ended, as it was to.
            let _ = exchange.await;
        }
    }

    fn spawn_exchange<F: Future<Output: 'static> + 'static>(&self, stream: F, clock: StallClock) {
        // A stream that is dropped is reset.
        if !self.registry.is_overtime() {
            let exchange = task::spawn_local(self.clone().run_exchange(stream, clock));
            self.exchanges.borrow_mut().push(exchange);
        }
    }

    /// Runs an exchange. A stream that is dropped unfinished is reset.
    async fn run_exchange<F: Future>(self, stream: F, clock: StallClock) {
        let mut stream = pin!(stream);
        let mut timer = LazyTimer::default();
        poll_fn(|cx| match (stream.as_mut().poll(cx), clock.0.get()) {
            (Poll::Ready(_), _) => Poll::Ready(()),
            (Poll::Pending, Some(since)) => timer.poll(cx, since + self.write_stall),
            (Poll::Pending, None) => Poll::Pending,
        })
        .await;
        // A tunnel may have been agreed to although the client has reset its stream.
        self.next.take();
        let own = task::id();
        self.exchanges.borrow_mut().retain(|exchange| exchange.id() != own);
    }
}

/// Runs a tunnel beside the task that writes to its stream. If the tunnel breaks, that task is dropped unfinished, and the
/// stream is reset: a connection that breaks must not look like one that ends (RFC 8441 §5).
async fn run_tunnel<F: Future>(writer: F, mut tunnel: Pin<Box<dyn Future<Output = ()>>>) {
    let mut writer = pin!(Some(writer));
    poll_fn(|cx| {
        if writer.as_mut().as_pin_mut().is_some_and(|writer| writer.poll(cx).is_ready()) {
            // The tunnel notices the drop.
            writer.set(None);
        }
        tunnel.as_mut().poll(cx)
    })
    .await;
}

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        match self.next.take() {
            NextTask::Unknown => self.spawn_exchange(stream, StallClock::default()),
            NextTask::Exchange(clock) => self.spawn_exchange(stream, clock),
            NextTask::Tunnel(tunnel) => drop(task::spawn_local(run_tunnel(stream, tunnel))),
        }
    }
}
