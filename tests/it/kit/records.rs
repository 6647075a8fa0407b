//! What the stand-ins remember of the requests they got.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, Method, Request};

/// How many records are kept.
const CAPACITY: usize = 1_000;

/// The head of a request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    /// The request target, as it was spelled.
    pub target: String,
    /// Every header, duplicates included, with names in lower case.
    pub headers: HeaderMap,
}

impl Seen {
    pub fn of<B>(request: &Request<B>) -> Self {
        let (method, headers) = (request.method().clone(), request.headers().clone());
        Self { method, target: request.uri().to_string(), headers }
    }

    /// Returns the first value of a header, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The latest thousand of something.
#[derive(Debug)]
pub struct Recent<T>(Mutex<VecDeque<T>>);

impl<T: Clone> Recent<T> {
    pub const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    pub fn push(&self, item: T) {
        let mut items = lock(&self.0);
        if items.len() == CAPACITY {
            items.pop_front();
        }
        items.push_back(item);
    }

    pub fn all(&self) -> Vec<T> {
        lock(&self.0).iter().cloned().collect()
    }
}

/// Locks a mutex, poisoned or not: a failed test leaves nothing half done under these locks.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
