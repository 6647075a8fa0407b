//! How many answers to challenges are looked up in the engine at once, in all and for one client: a client that asks for many
//! waits behind itself, and the server of an order finds its answer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// How many answers are looked up at once. Further clients wait.
const LOOKS: usize = 16;
/// How many of them for one client.
const LOOKS_OF_CLIENT: usize = 4;

/// The look-ups that are under way.
pub(super) struct ChallengeLooks {
    all: Semaphore,
    /// Those of the clients that have one or wait for one.
    of_clients: Mutex<HashMap<IpAddr, ClientLooks>>,
}

/// The look-ups of one client.
struct ClientLooks {
    looks: Arc<Semaphore>,
    /// How many requests of the client have a look-up or wait for one.
    requests: usize,
}

/// The right to one look-up, until it is dropped.
pub(super) struct LookPermit<'l> {
    _of_all: SemaphorePermit<'l>,
    _of_client: OwnedSemaphorePermit,
    _request: ClientRequest<'l>,
}

/// A request of a client that has a look-up or waits for one, until it is dropped.
struct ClientRequest<'l> {
    looks: &'l ChallengeLooks,
    client: IpAddr,
}

impl ChallengeLooks {
    pub(super) fn new() -> Self {
        Self { all: Semaphore::new(LOOKS), of_clients: Mutex::default() }
    }

    /// Waits for the right to a look-up. `client`: as limits count it.
    pub(super) async fn permit(&self, client: IpAddr) -> Option<LookPermit<'_>> {
        let (of_client, request) = self.enter(client);
        let of_client = of_client.acquire_owned().await.ok()?;
        Some(LookPermit { _of_all: self.all.acquire().await.ok()?, _of_client: of_client, _request: request })
    }

    fn enter(&self, client: IpAddr) -> (Arc<Semaphore>, ClientRequest<'_>) {
        let mut clients = self.clients();
        let new = || ClientLooks { looks: Arc::new(Semaphore::new(LOOKS_OF_CLIENT)), requests: 0 };
        let own = clients.entry(client).or_insert_with(new);
        own.requests += 1;
        (Arc::clone(&own.looks), ClientRequest { looks: self, client })
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, ClientLooks>> {
        self.of_clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ClientRequest<'_> {
    fn drop(&mut self) {
        let mut clients = self.looks.clients();
        if let Some(own) = clients.get_mut(&self.client) {
            own.requests -= 1;
            if own.requests == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    const FLOOD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[tokio::test]
    async fn a_client_that_asks_for_many_leaves_room_for_others() {
        let looks = ChallengeLooks::new();
        let mut flood = Box::pin(join_all((0..1000).map(|_| looks.permit(FLOOD))));
        assert!(flood.as_mut().now_or_never().is_none());
        assert_eq!(looks.all.available_permits(), LOOKS - LOOKS_OF_CLIENT);
        let others: Vec<_> = (2..=4).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        for other in others {
            let held: Vec<_> = (0..LOOKS_OF_CLIENT).map(|_| looks.permit(other).now_or_never().flatten()).collect();
            assert!(held.iter().all(Option::is_some), "{other}");
        }
        drop(flood);
        assert!(looks.clients().is_empty(), "nothing is remembered of clients that have left");
        assert_eq!(looks.all.available_permits(), LOOKS);
    }

    #[tokio::test]
    async fn all_clients_together_have_a_bound() {
        let looks = ChallengeLooks::new();
        let clients = (0..=LOOKS).map(|last| IpAddr::from([192, 0, 2, last as u8]));
        let held: Vec<_> = clients.map(|client| looks.permit(client).now_or_never().flatten()).collect();
        assert_eq!(held.iter().flatten().count(), LOOKS);
    }
}
