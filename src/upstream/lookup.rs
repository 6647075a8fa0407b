//! Looks up the addresses of names on a few threads that the whole process shares.
//!
//! The system's resolver (`getaddrinfo`) blocks its thread, perhaps for many seconds. So a name is looked up once for
//! all requests that need it at that moment, on at most [`THREADS`] threads, and each request has a deadline of its
//! own.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use crate::config::HostPort;

/// The most threads. If the look-ups of this many names hang, the next name waits.
const THREADS: usize = 4;
/// The most names that wait for a thread.
const MAX_NAMES: usize = 64;
/// The most requests that wait for one name.
const MAX_WAITING: usize = 4096;

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupError {
    /// The system's resolver gave an error.
    #[error(transparent)]
    Resolver(Arc<io::Error>),
    /// Too many requests wait for this name.
    #[error("too many requests wait for this name")]
    TooManyRequests,
    /// Too many names wait for a thread.
    #[error("too many names wait to be looked up")]
    TooManyNames,
    /// There is no thread that looks up names.
    #[error(transparent)]
    Thread(io::Error),
    /// The look-up panicked.
    #[error("the look-up broke off")]
    Aborted,
}

/// The result of a look-up, shared by all requests that wait for the name.
type LookupResult = Result<Arc<[IpAddr]>, Arc<io::Error>>;

/// Looks up a name.
type Resolve = fn(&str) -> io::Result<Vec<IpAddr>>;

/// The look-ups of the process.
static LOOKUPS: Lookups = Lookups::new(system);

/// Returns at most `limit` addresses of a host. A name is looked up afresh each time; an address needs no look-up.
pub(super) async fn addresses(at: &HostPort, limit: usize) -> Result<Vec<SocketAddr>, LookupError> {
    if let Ok(address) = at.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, at.port)]);
    }
    let found = LOOKUPS.find(&at.host).await?;
    Ok(found.iter().take(limit).map(|address| SocketAddr::new(*address, at.port)).collect())
}

/// Starts a thread that looks up names, so that upstreams are found even if the system has no further threads later.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn start() -> io::Result<()> {
    LOOKUPS.start()
}

/// Asks the system's resolver.
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
    queue: Mutex<Option<LookupQueue>>,
    /// Notified when a name waits for a thread.
    has_names: Condvar,
}

#[derive(Default)]
struct LookupQueue {
    /// The requests for each name that is being looked up or waits for a thread.
    requests: HashMap<Arc<str>, Vec<oneshot::Sender<LookupResult>>>,
    /// The names that wait for a thread.
    names: VecDeque<Arc<str>>,
    threads: usize,
    /// The threads that wait for a name.
    idle_threads: usize,
}

impl Lookups {
    const fn new(resolve: Resolve) -> Self {
        Self { resolve, queue: Mutex::new(None), has_names: Condvar::new() }
    }

    async fn find(&'static self, name: &str) -> Result<Arc<[IpAddr]>, LookupError> {
        let found = self.request(name)?.await.map_err(|_| LookupError::Aborted)?;
        found.map_err(LookupError::Resolver)
    }

    /// Adds a request to those for the same name, or puts the name into the queue.
    fn request(&'static self, name: &str) -> Result<oneshot::Receiver<LookupResult>, LookupError> {
        let (answer, answered) = oneshot::channel();
        let mut locked = self.lock();
        let queue = locked.get_or_insert_default();
        if let Some(requests) = queue.requests.get_mut(name) {
            if requests.len() >= MAX_WAITING {
                requests.retain(|request| !request.is_closed());
            }
            if requests.len() >= MAX_WAITING {
                return Err(LookupError::TooManyRequests);
            }
            requests.push(answer);
            return Ok(answered);
        }
        if queue.names.len() >= MAX_NAMES {
            queue.remove_abandoned();
        }
        if queue.names.len() >= MAX_NAMES {
            return Err(LookupError::TooManyNames);
        }
        self.provide_thread(queue)?;
        let name: Arc<str> = name.into();
        queue.requests.insert(Arc::clone(&name), vec![answer]);
        queue.names.push_back(name);
        self.has_names.notify_one();
        Ok(answered)
    }

    /// Starts another thread if none is free for one more name, and there may be one.
    fn provide_thread(&'static self, queue: &mut LookupQueue) -> Result<(), LookupError> {
        if queue.idle_threads <= queue.names.len() && queue.threads < THREADS {
            match self.spawn() {
                Ok(()) => queue.threads += 1,
                Err(error) if queue.threads == 0 => return Err(LookupError::Thread(error)),
                // The threads that exist do the work.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn start(&'static self) -> io::Result<()> {
        let mut locked = self.lock();
        let queue = locked.get_or_insert_default();
        if queue.threads == 0 {
            self.spawn()?;
            queue.threads = 1;
        }
        Ok(())
    }

    fn spawn(&'static self) -> io::Result<()> {
        let thread = thread::Builder::new().name("callgate-names".to_owned());
        // Not joined at the end: the thread may hang in the resolver, and it holds nothing.
        thread.spawn(move || self.work()).map(drop).map_err(|error| {
            io::Error::new(error.kind(), format!("no thread can be started that looks up names: {error}"))
        })
    }

    fn work(&self) {
        loop {
            let name = self.next();
            let found = (self.resolve)(&name).map(Arc::from).map_err(Arc::new);
            let requests = self.lock().as_mut().and_then(|queue| queue.requests.remove(&name)).unwrap_or_default();
            for request in requests {
                // The request may have given up by now.
                let _ = request.send(found.clone());
            }
        }
    }

    /// Waits for a name that a request still waits for.
    fn next(&self) -> Arc<str> {
        let mut locked = self.lock();
        loop {
            let queue = locked.get_or_insert_default();
            match queue.names.pop_front() {
                Some(name) if queue.is_wanted(&name) => return name,
                Some(name) => drop(queue.requests.remove(&name)),
                None => {
                    queue.idle_threads += 1;
                    locked = self.has_names.wait(locked).unwrap_or_else(PoisonError::into_inner);
                    locked.get_or_insert_default().idle_threads -= 1;
                }
            }
        }
    }

    /// Locks the queue even after a panic elsewhere: it is consistent between any two changes.
    fn lock(&self) -> MutexGuard<'_, Option<LookupQueue>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LookupQueue {
    /// Removes the waiting names whose requests have all given up.
    fn remove_abandoned(&mut self) {
        let names = std::mem::take(&mut self.names);
        let (wanted, abandoned): (VecDeque<_>, VecDeque<_>) = names.into_iter().partition(|name| self.is_wanted(name));
        for name in abandoned {
            self.requests.remove(&name);
        }
        self.names = wanted;
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.requests.get(name).is_some_and(|requests| requests.iter().any(|request| !request.is_closed()))
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
    async fn names_and_addresses_resolve_to_addresses() {
        let addresses = |host| async move { addresses(&at(host), 8).await };
        for address in ["127.0.0.1", "::1"] {
            let expected = SocketAddr::new(address.parse().unwrap(), 80);
            assert_eq!(addresses(address).await.unwrap(), [expected]);
        }
        assert!(addresses("localhost").await.unwrap().iter().all(|address| address.ip().is_loopback()));
        assert!(addresses("no-such-name.invalid").await.is_err());
    }

    #[tokio::test]
    async fn concurrent_requests_for_a_name_share_one_lookup() {
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

    /// A resolver that hangs occupies a few threads, and requests give up in time.
    #[tokio::test]
    async fn names_that_hang_occupy_few_threads_and_little_memory() {
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
        // Names whose requests have all given up are skipped.
        let error = timeout(Duration::from_secs(10), HUNG.find("quick.test")).await.unwrap().unwrap_err();
        assert!(matches!(&error, LookupError::Resolver(error) if error.kind() == io::ErrorKind::NotFound), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
}
