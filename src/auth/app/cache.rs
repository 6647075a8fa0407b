//! Answers of the app that are used again for a while, and questions that several requests ask at once.
//!
//! Only an answer that names the caller is kept. Its time counts from the question and ends when the operator's `cache` or
//! the app's cache headers say: this bounds how long a caller is still admitted after a logout.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared, WeakShared};
use http::HeaderMap;
use http::header::{self, HeaderName};
use tokio::time::Instant;

use super::AppError;
use crate::message::forwarded::X_REQUEST_ID;
use crate::model::digest::{Digest, sha256_of};
use crate::model::principal::Claims;

/// The most answers and questions that one worker keeps for one method.
const MAX_KNOWN: usize = 1024;
const PRAGMA: HeaderName = header::PRAGMA;

/// The answer of the app about a caller.
#[derive(Debug, Clone)]
pub(super) enum AppAnswer {
    /// The app knows the caller by these claims. The answer may be kept for so long.
    Claims(Rc<Claims>, KeptFor),
    /// The app does not know the caller.
    Stranger,
}

/// How long the app permits to keep its answer. `None`: not at all.
pub(super) type KeptFor = Option<Duration>;
/// The result of a question.
pub(super) type AppResult = Result<AppAnswer, AppError>;
type Asking = LocalBoxFuture<'static, AppResult>;

/// The identity of a question: two with the same key get the same answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct QuestionKey(Digest);

impl QuestionKey {
    /// Returns the key of a question: a digest of all its fields except the request id.
    pub(super) fn of(fields: &HeaderMap) -> Self {
        let fields = fields.iter().filter(|(name, _)| **name != X_REQUEST_ID);
        Self(sha256_of(fields.flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()])))
    }
}

/// The answers of one app that one worker keeps.
#[derive(Debug)]
pub(super) struct Cache {
    life: Duration,
    known: RefCell<HashMap<QuestionKey, CacheEntry>>,
}

#[derive(Debug)]
enum CacheEntry {
    /// The question was sent then and is not answered. The requests that wait own it; when all have left, it ends.
    Asked(Instant, WeakShared<Asking>),
    /// The answer is used until then.
    AppAnswer(Instant, Rc<Claims>),
}

impl Cache {
    pub(super) fn new(life: Duration) -> Self {
        Self { life, known: RefCell::default() }
    }

    /// Returns the kept answer to the same question, or joins the same question under way, or asks.
    pub(super) async fn ask(&self, key: QuestionKey, question: impl FnOnce() -> Asking) -> AppResult {
        let now = Instant::now();
        if let Some(claims) = self.said(key, now) {
            return Ok(AppAnswer::Claims(claims, None));
        }
        let (since, asking) = self.asked(key, now).unwrap_or_else(|| self.begin(key, now, question()));
        let outcome = asking.await;
        self.keep(key, since, &outcome);
        outcome
    }

    fn said(&self, key: QuestionKey, now: Instant) -> Option<Rc<Claims>> {
        match self.known.borrow().get(&key)? {
            CacheEntry::AppAnswer(until, claims) if now < *until => Some(Rc::clone(claims)),
            CacheEntry::AppAnswer(..) | CacheEntry::Asked(..) => None,
        }
    }

    /// Finds the same question under way. One that is older than `life` is not joined: it may be from before a logout.
    fn asked(&self, key: QuestionKey, now: Instant) -> Option<(Instant, Shared<Asking>)> {
        match self.known.borrow().get(&key)? {
            CacheEntry::Asked(since, asking) if now < *since + self.life => Some((*since, asking.upgrade()?)),
            CacheEntry::AppAnswer(..) | CacheEntry::Asked(..) => None,
        }
    }

    /// Begins a question. Without room in the table it is asked, and cannot be joined.
    fn begin(&self, key: QuestionKey, now: Instant, question: Asking) -> (Instant, Shared<Asking>) {
        let asking = question.shared();
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_KNOWN {
            known.retain(|_, known| known.is_of_use(now));
        }
        if known.len() < MAX_KNOWN
            && let Some(weak) = asking.downgrade()
        {
            known.insert(key, CacheEntry::Asked(now, weak));
        }
        (now, asking)
    }

    /// Replaces a question by its answer. The first of the requests that waited does this.
    fn keep(&self, key: QuestionKey, asked: Instant, outcome: &AppResult) {
        let mut known = self.known.borrow_mut();
        if !matches!(known.get(&key), Some(CacheEntry::Asked(since, _)) if *since == asked) {
            return;
        }
        match outcome {
            Ok(AppAnswer::Claims(claims, Some(keep))) => {
                known.insert(key, CacheEntry::AppAnswer(asked + self.life.min(*keep), Rc::clone(claims)));
            }
            Ok(AppAnswer::Claims(_, None) | AppAnswer::Stranger) | Err(_) => {
                known.remove(&key);
            }
        }
    }
}

impl CacheEntry {
    fn is_of_use(&self, now: Instant) -> bool {
        match self {
            Self::Asked(_, asking) => asking.upgrade().is_some(),
            Self::AppAnswer(until, _) => now < *until,
        }
    }
}

/// Reads how long an answer may be kept (RFC 9111 §4.2, §5.2.2). A `private` answer may be kept too: no other user asks the
/// same question.
pub(super) fn permitted(headers: &HeaderMap) -> KeptFor {
    let mut longest = None;
    for directive in tokens(headers, &header::CACHE_CONTROL) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        let name = name.trim_end();
        if ["no-store", "no-cache"].iter().any(|never| name.eq_ignore_ascii_case(never)) {
            return None;
        }
        if ["max-age", "s-maxage"].iter().any(|limit| name.eq_ignore_ascii_case(limit)) {
            // A value that is not a number counts as 0 (§4.2.1).
            let seconds = value.trim().trim_matches('"').parse().unwrap_or(0);
            longest = Some(longest.map_or(seconds, |before: u64| before.min(seconds)));
        }
    }
    let is_never = tokens(headers, &PRAGMA).any(|token| token.eq_ignore_ascii_case("no-cache"))
        || tokens(headers, &header::VARY).any(|name| name == "*")
        // `Expires` is mostly a date in the past. An app that permits caching says `max-age`.
        || (longest.is_none() && headers.contains_key(header::EXPIRES));
    let age = headers.get(header::AGE).map_or(Some(0), |age| age.to_str().ok()?.parse().ok());
    match (longest, age) {
        _ if is_never => None,
        (None, _) => Some(Duration::MAX),
        (Some(longest), Some(age)) if longest > age => Some(Duration::from_secs(longest - age)),
        (Some(_), _) => None,
    }
}

/// Returns the members of all lines of a list field. A line that is not text forbids caching.
fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).into_iter().map(|line| line.to_str().unwrap_or("no-store, *"));
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_app_says_how_long_its_answer_is_kept() {
        #[track_caller]
        fn check(lines: &[(&'static str, &'static str)], expected: Option<u64>) {
            let seconds = permitted(&headers(lines)).map(|keep| keep.as_secs());
            assert_eq!(seconds, expected, "{lines:?}");
        }
        const AT_WILL: Option<u64> = Some(u64::MAX);
        check(&[], AT_WILL);
        check(&[("cache-control", "private, must-revalidate")], AT_WILL);
        check(&[("cache-control", "max-age=5")], Some(5));
        check(&[("cache-control", "Max-Age = \"5\"")], Some(5));
        check(&[("cache-control", "max-age=9"), ("cache-control", "s-maxage=4")], Some(4));
        check(&[("cache-control", "max-age=9"), ("age", "4")], Some(5));
        check(&[("cache-control", "max-age=9"), ("age", "9")], None);
        check(&[("cache-control", "max-age=9"), ("age", "old")], None);
        check(&[("cache-control", "max-age=9"), ("expires", "0")], Some(9));
        for never in [
            ("cache-control", "max-age=0"),
            ("cache-control", "max-age=soon"),
            ("cache-control", "max-age=-1"),
            ("cache-control", "private, NO-STORE"),
            ("cache-control", "max-age=5, no-cache=\"set-cookie\""),
            ("pragma", "no-cache"),
            ("vary", "cookie, *"),
            ("expires", "Thu, 19 Nov 1981 08:52:00 GMT"),
        ] {
            check(&[never], None);
        }
        check(&[("cache-control", "max-age=5"), ("cache-control", "no-store")], None);
    }

    #[test]
    fn a_question_is_all_that_is_shown_but_its_id() {
        let key = |lines: &[(&'static str, &'static str)]| QuestionKey::of(&headers(lines));
        let one = key(&[("host", "a"), ("cookie", "b"), ("x-request-id", "1")]);
        assert_eq!(one, key(&[("host", "a"), ("cookie", "b"), ("x-request-id", "2")]));
        for other in [
            &[("host", "b"), ("cookie", "b")][..],
            &[("host", "a"), ("cookie", "c")],
            &[("host", "a"), ("cookie", "b"), ("x-forwarded-for", "192.0.2.1")],
            &[("host", "acookie"), ("b", "")],
            &[("host", "a")],
        ] {
            assert_ne!(one, key(other), "{other:?}");
        }
    }

    // === The table ===

    fn key(number: u64) -> QuestionKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        QuestionKey(key)
    }

    fn knows(name: &str) -> AppResult {
        let claims = Claims::from([("user".to_owned(), name.into())]);
        Ok(AppAnswer::Claims(Rc::new(claims), Some(Duration::MAX)))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_from_its_question_on() {
        let cache = Cache::new(Duration::from_secs(10));
        let slow = || {
            async {
                tokio::time::sleep(Duration::from_secs(4)).await;
                knows("ann")
            }
            .boxed_local()
        };
        cache.ask(key(1), slow).await.unwrap();
        tokio::time::advance(Duration::from_millis(5_900)).await;
        cache.ask(key(1), || unreachable!("it is known")).await.unwrap();
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(cache.ask(key(1), || async { Err(AppError::Timeout) }.boxed_local()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_table_keeps_what_it_has_and_others_are_asked_about_each_time() {
        let cache = Cache::new(Duration::from_secs(10));
        let asked = std::cell::Cell::new(0);
        let question = || {
            asked.set(asked.get() + 1);
            async { knows("ann") }.boxed_local()
        };
        for number in 0..MAX_KNOWN as u64 + 10 {
            cache.ask(key(number), question).await.unwrap();
        }
        assert_eq!((asked.get(), cache.known.borrow().len()), (MAX_KNOWN + 10, MAX_KNOWN));
        cache.ask(key(0), question).await.unwrap();
        assert_eq!(asked.get(), MAX_KNOWN + 10);
        cache.ask(key(MAX_KNOWN as u64), question).await.unwrap();
        assert_eq!(asked.get(), MAX_KNOWN + 11);
        tokio::time::advance(Duration::from_secs(10)).await;
        cache.ask(key(MAX_KNOWN as u64), question).await.unwrap();
        assert_eq!(cache.known.borrow().len(), 1, "what is over makes room");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_takes_nothing_from_the_others_and_the_last_ends_the_question() {
        let cache = Cache::new(Duration::from_secs(10));
        let alive = Rc::new(());
        let asked = std::cell::Cell::new(0);
        let question = || {
            asked.set(asked.get() + 1);
            let alive = Rc::clone(&alive);
            async move {
                let _alive = alive;
                tokio::time::sleep(Duration::from_secs(1)).await;
                knows("ann")
            }
            .boxed_local()
        };
        let leaves = async {
            let _ = tokio::time::timeout(Duration::from_millis(500), cache.ask(key(1), question)).await;
        };
        let stays = async { cache.ask(key(1), question).await.unwrap() };
        tokio::join!(leaves, stays);
        assert_eq!(asked.get(), 1);
        let _ = tokio::time::timeout(Duration::from_millis(500), cache.ask(key(2), question)).await;
        assert_eq!(Rc::strong_count(&alive), 1, "a question goes on without a request that waits");
        cache.ask(key(2), question).await.unwrap();
        assert_eq!(asked.get(), 3);
    }
}
