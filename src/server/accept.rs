//! The accept loop of one listening socket.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::acceptor::Acceptor;
use super::admission::AdmissionPermit;
use super::client_io::ClientStream;
use super::worker::Worker;
use super::{ACCEPT_BACK_OFF, GRACE, ServerState, connection, redirect};

/// How long no connection may come until a queue is taken for empty.
const QUIET: Duration = Duration::from_millis(20);

/// Starts the task of an accepted connection.
pub(super) type Serve = fn(&Rc<Worker>, ClientStream, SocketAddr, AdmissionPermit);

/// Serves a connection over TLS.
pub(super) fn serve_tls(worker: &Rc<Worker>, stream: ClientStream, address: SocketAddr, permit: AdmissionPermit) {
    worker.tally.accepted(true);
    tokio::task::spawn_local(connection::serve(stream, address, permit, Rc::clone(worker)));
}

/// Redirects a connection over plain HTTP.
pub(super) fn serve_redirect(worker: &Rc<Worker>, stream: ClientStream, address: SocketAddr, permit: AdmissionPermit) {
    tokio::task::spawn_local(redirect::serve(stream, address, permit, Rc::clone(worker)));
}

/// Accepts connections until the server drains, and then those that are in the queue.
pub(super) async fn accept(
    acceptor: Acceptor,
    worker: Rc<Worker>,
    serve: Serve,
    mut state: watch::Receiver<ServerState>,
) {
    // An error means that the server is gone, which ends this as well.
    let drained = async { drop(state.wait_for(|state| *state != ServerState::Ready).await) };
    accept_until(drained, &acceptor, &worker, serve).await;
    // The queue lives on: the next process serves it.
    if acceptor.is_lent || *state.borrow() == ServerState::HandedOver {
        return;
    }
    // Closing a socket resets the connections in its queue. So the server has stopped new ones at every socket before, and
    // those that are in the queue, or whose TCP handshake goes on, are served first.
    accept_until(sleep(GRACE), &acceptor, &worker, serve).await;
    drop(timeout(GRACE, accept_queued(&acceptor, &worker, serve)).await);
}

/// Accepts the connections that are left in a queue.
async fn accept_queued(acceptor: &Acceptor, worker: &Rc<Worker>, serve: Serve) {
    while let Ok(Ok((stream, address))) = timeout(QUIET, acceptor.accept()).await {
        let permit = worker.admit().await;
        serve(worker, stream, address, permit);
    }
}

/// Accepts connections until `end`. A failed accept ends nothing: it is retried after a pause. An accepted connection waits
/// for its permit, also beyond the end.
async fn accept_until(end: impl Future<Output = ()>, acceptor: &Acceptor, worker: &Rc<Worker>, serve: Serve) {
    let mut end = pin!(end);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut end => return,
            accepted = acceptor.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let permit = worker.admit().await;
                serve(worker, stream, address, permit);
            }
            Err(error) => {
                worker.tally.accepted(false);
                worker.evict_after(&error);
                sleep(ACCEPT_BACK_OFF).await;
            }
        }
    }
}
