//! Names become addresses on a few threads that all of the process shares.
//!
//! The system's resolver (`getaddrinfo`) blocks its thread, perhaps for many seconds. So each name is looked up once for
//! all who ask at that moment, on at most [`THREADS`] threads, and whoever asks has a deadline of their own.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use crate::config::HostPort;

/// How many threads there are: so many names may be slow at once before another one waits.
const THREADS: usize = 4;
/// How many names may wait for a thread.
const MAX_NAMES: usize = 64;
/// How many may wait for one name.
const MAX_WAITING: usize = 4096;

/// What became of a look-up, for all who asked.
type LookupResult = Result<Arc<[IpAddr]>, Arc<io::Error>>;

/// How a name is looked up.
type Resolve = fn(&str) -> io::Result<Vec<IpAddr>>;

/// The look-ups of the process.
static LOOKUPS: Lookups = Lookups::new(system);

/// Finds the addresses of a place; one that is an address is its own. Names are looked up afresh each time.
pub(super) async fn addresses(at: &HostPort, most: usize) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = at.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, at.port)]);
    }
    let found = LOOKUPS.find(&at.host).await?;
    Ok(found.iter().take(most).map(|address| SocketAddr::new(*address, at.port)).collect())
}

/// Starts the first of the threads, so that a system that gives no more of them later still finds names.
///
/// # Errors
/// When not even one can be started.
pub(super) fn start() -> io::Result<()> {
    LOOKUPS.start()
}

fn system(name: &str) -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in (name, 0).to_socket_addrs()? {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    Ok(addresses)
}

struct Lookups {
    resolve: Resolve,
    state: Mutex<Option<LookupQueue>>,
    /// Told when a name waits for a thread.
    wanted: Condvar,
}

#[derive(Default)]
struct LookupQueue {
    /// Those who wait for each name that is looked up, or waits for a thread.
    waiting: HashMap<Arc<str>, Vec<oneshot::Sender<LookupResult>>>,
    /// The names that wait for a thread.
    queue: VecDeque<Arc<str>>,
    threads: usize,
    /// How many threads have nothing to do.
    resting: usize,
}

impl Lookups {
    const fn new(resolve: Resolve) -> Self {
        Self { resolve, state: Mutex::new(None), wanted: Condvar::new() }
    }

    async fn find(&'static self, name: &str) -> io::Result<Arc<[IpAddr]>> {
        let found = self.ask(name)?.await.map_err(|_| io::Error::other("the look-up broke off"))?;
        found.map_err(|error| io::Error::new(error.kind(), error))
    }

    /// Lines up for a name: with those who wait for it already, or as the first.
    fn ask(&'static self, name: &str) -> io::Result<oneshot::Receiver<LookupResult>> {
        let (answer, answered) = oneshot::channel();
        let mut locked = self.lock();
        let state = locked.get_or_insert_default();
        if let Some(waiting) = state.waiting.get_mut(name) {
            if waiting.len() >= MAX_WAITING {
                waiting.retain(|waiting| !waiting.is_closed());
            }
            if waiting.len() >= MAX_WAITING {
                return Err(io::Error::other("too many wait for this name"));
            }
            waiting.push(answer);
            return Ok(answered);
        }
        if state.queue.len() >= MAX_NAMES {
            state.pass_over_abandoned();
        }
        if state.queue.len() >= MAX_NAMES {
            return Err(io::Error::other("too many names are looked up"));
        }
        if state.resting <= state.queue.len() && state.threads < THREADS {
            match self.spawn() {
                Ok(()) => state.threads += 1,
                Err(error) if state.threads == 0 => return Err(error),
                // Those that are there do it.
                Err(_) => {}
            }
        }
        let name: Arc<str> = name.into();
        state.waiting.insert(Arc::clone(&name), vec![answer]);
        state.queue.push_back(name);
        self.wanted.notify_one();
        Ok(answered)
    }

    fn start(&'static self) -> io::Result<()> {
        let mut locked = self.lock();
        let state = locked.get_or_insert_default();
        if state.threads == 0 {
            self.spawn()?;
            state.threads = 1;
        }
        Ok(())
    }

    fn spawn(&'static self) -> io::Result<()> {
        let thread = thread::Builder::new().name("callgate-names".to_owned());
        // Not waited for at the end: it may hang in the resolver, and holds nothing.
        thread.spawn(move || self.work()).map(drop).map_err(|error| {
            io::Error::new(error.kind(), format!("no thread can be started that looks up names: {error}"))
        })
    }

    fn work(&self) {
        loop {
            let name = self.next();
            let found = (self.resolve)(&name).map(Arc::from).map_err(Arc::new);
            let waiting = self.lock().as_mut().and_then(|state| state.waiting.remove(&name)).unwrap_or_default();
            for waiting in waiting {
                // Whoever waited may have left.
                let _ = waiting.send(found.clone());
            }
        }
    }

    /// Waits for a name that somebody still waits for.
    fn next(&self) -> Arc<str> {
        let mut locked = self.lock();
        loop {
            let state = locked.get_or_insert_default();
            match state.queue.pop_front() {
                Some(name) if state.is_wanted(&name) => return name,
                Some(name) => drop(state.waiting.remove(&name)),
                None => {
                    state.resting += 1;
                    locked = self.wanted.wait(locked).unwrap_or_else(PoisonError::into_inner);
                    locked.get_or_insert_default().resting -= 1;
                }
            }
        }
    }

    /// Locks even after a panic elsewhere: names are moved in and out whole.
    fn lock(&self) -> MutexGuard<'_, Option<LookupQueue>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LookupQueue {
    /// Takes names out of the queue for which all who asked have given up.
    fn pass_over_abandoned(&mut self) {
        let queue = std::mem::take(&mut self.queue);
        let (wanted, abandoned): (VecDeque<_>, VecDeque<_>) = queue.into_iter().partition(|name| self.is_wanted(name));
        for name in abandoned {
            self.waiting.remove(&name);
        }
        self.queue = wanted;
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.waiting.get(name).is_some_and(|waiting| waiting.iter().any(|waiting| !waiting.is_closed()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::time::{Instant, timeout};

    use super::*;

    fn at(host: &str) -> HostPort {
        HostPort { host: host.to_owned(), port: 80 }
    }

    #[tokio::test]
    async fn names_and_addresses_have_addresses() {
        let addresses = |host| async move { addresses(&at(host), 8).await };
        for address in ["127.0.0.1", "::1"] {
            let expected = SocketAddr::new(address.parse().unwrap(), 80);
            assert_eq!(addresses(address).await.unwrap(), [expected]);
        }
        assert!(addresses("localhost").await.unwrap().iter().all(|address| address.ip().is_loopback()));
        assert!(addresses("no-such-name.invalid").await.is_err());
    }

    #[tokio::test]
    async fn all_who_ask_for_a_name_at_once_share_one_lookup() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        static SLOW: Lookups = Lookups::new(|_| {
            ASKED.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(200));
            Ok(vec![Ipv4Addr::LOCALHOST.into()])
        });
        let found = join_all((0..1000).map(|_| SLOW.find("slow.test"))).await;
        assert!(found.iter().all(|found| found.as_deref().is_ok_and(|found| found == [Ipv4Addr::LOCALHOST])));
        assert_eq!((ASKED.load(Ordering::Relaxed), SLOW.lock().as_ref().unwrap().threads), (1, 1));
        SLOW.find("slow.test").await.unwrap();
        assert_eq!(ASKED.load(Ordering::Relaxed), 2, "an answer is not kept");
    }

    /// A resolver that hangs has a few threads, and whoever asks gives up in time.
    #[tokio::test]
    async fn names_that_hang_take_few_threads_and_little_room() {
        static HUNG: Lookups = Lookups::new(|name| {
            if name.starts_with("hangs") {
                thread::sleep(Duration::from_secs(2));
            }
            Err(io::ErrorKind::NotFound.into())
        });
        let begun = Instant::now();
        let names: Vec<_> = (0..200).map(|nth| format!("hangs-{nth}.test")).collect();
        let asked = names.iter().map(|name| timeout(Duration::from_millis(100), HUNG.find(name)));
        let refused = join_all(asked).await.into_iter().filter(Result::is_ok).count();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert!((200 - THREADS - MAX_NAMES..200).contains(&refused), "{refused}");
        assert_eq!(HUNG.lock().as_ref().unwrap().threads, THREADS);
        // Names that nobody waits for any more are passed over.
        let error = timeout(Duration::from_secs(10), HUNG.find("quick.test")).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
}
