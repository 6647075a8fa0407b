//! The keys of an identity provider. A task fetches them, so that requests rarely wait.
//!
//! The keys are fetched at the start and again when they are old. While a fetch fails, the last good keys stay in use. A
//! token that names an unknown key requests an early fetch, at most one in [`OUT_OF_TURN`].

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, StatusCode, Uri};
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::backoff;
use crate::config::{JwksConfig, Trust};
use crate::model::jwt::{JwtKeyError, VerificationKeys};
use crate::observe::causes;
use crate::observe::metrics::Freshness;
use crate::upstream::{FetchError, Fetcher};

/// The deadline of one fetch.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long keys are used where their server does not say.
const AGE: Duration = Duration::from_secs(10 * 60);
/// The shortest and the longest time that a server can set.
const AGES: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60 * 60));
/// The shortest time from the start of a fetch to an early fetch.
const OUT_OF_TURN: Duration = Duration::from_secs(30);
/// How long a request waits for an early fetch.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause after the first failure. It doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures in a row.
const MAX_PAUSE: Duration = Duration::from_secs(5 * 60);

/// One set of keys with its source.
#[derive(Debug)]
pub(super) struct Jwks {
    at: JwksConfig,
    fetcher: Fetcher,
    /// The keys of the last good fetch. Each fetch sends, also one that fails: requests wait for its end.
    keys: watch::Sender<Option<Arc<VerificationKeys>>>,
    schedule: Mutex<FetchSchedule>,
    wanted: Notify,
    freshness: Arc<Freshness>,
}

/// The schedule of the fetches.
#[derive(Debug)]
struct FetchSchedule {
    /// The shortest time from the start of a fetch to an early fetch.
    out_of_turn: Duration,
    due: Instant,
    began: Option<Instant>,
    is_under_way: bool,
    failures: u32,
}

/// A set of keys that was fetched.
#[derive(Debug)]
pub(crate) struct FetchedKeys {
    /// The usable keys.
    pub keys: VerificationKeys,
    /// The number of keys that cannot be used.
    pub skipped: usize,
    /// The fields of the answer.
    pub headers: HeaderMap,
}

/// An error of one fetch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JwksError {
    /// The server gave no answer.
    #[error("no answer from the server of the keys")]
    Fetch(#[from] FetchError),
    /// The status of the answer is not 200.
    #[error("the server of the keys answers {0}")]
    Status(StatusCode),
    /// The answer contains no usable keys.
    #[error("the answer {0}")]
    Keys(#[from] JwtKeyError),
}

impl Jwks {
    /// Prepares to fetch a set of keys. [`Jwks::keep_fresh`] fetches it.
    ///
    /// # Errors
    /// When a certificate of `ca` cannot be a trust root.
    pub(super) fn new(at: &JwksConfig) -> Result<Self, rustls::Error> {
        Self::with(at, OUT_OF_TURN)
    }

    fn with(at: &JwksConfig, out_of_turn: Duration) -> Result<Self, rustls::Error> {
        let schedule = FetchSchedule { out_of_turn, due: Instant::now(), began: None, is_under_way: true, failures: 0 };
        Ok(Self {
            at: at.clone(),
            fetcher: fetcher(at)?,
            keys: watch::Sender::default(),
            schedule: Mutex::new(schedule),
            wanted: Notify::new(),
            freshness: Arc::default(),
        })
    }

    /// Tells whether a configuration names these keys.
    #[must_use]
    pub(super) fn is_at(&self, at: &JwksConfig) -> bool {
        self.at == *at
    }

    /// Returns what is known of its fetches.
    #[must_use]
    pub(super) fn freshness(&self) -> Arc<Freshness> {
        Arc::clone(&self.freshness)
    }

    /// Returns a view of the keys for one request.
    pub(super) fn view(&self) -> KeyView<'_> {
        KeyView { jwks: self, keys: self.keys.subscribe() }
    }

    /// Fetches the keys whenever they are due. Never returns.
    pub(super) async fn keep_fresh(self: Arc<Self>) {
        loop {
            let due = self.schedule().due;
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.wanted.notified() => {}
            }
            // An early fetch is due because the request for it changed the schedule.
            if self.schedule().due <= Instant::now() {
                self.fetch().await;
            }
        }
    }

    async fn fetch(&self) {
        self.schedule().begin(Instant::now());
        let fetched = fetch(&self.fetcher, &self.at.url).await;
        self.freshness.note(fetched.as_ref().err().map(|error| causes(error)), Timestamp::now());
        self.schedule().end(fetched.as_ref().ok().map(|fetched| age(&fetched.headers)), Instant::now());
        match fetched {
            Ok(fetched) => {
                tracing::debug!(url = %self.at.url, keys = fetched.keys.count(), "fetched keys");
                self.keys.send_replace(Some(Arc::new(fetched.keys)));
            }
            Err(error) => {
                let problem = causes(&error);
                if self.keys.borrow().is_some() {
                    tracing::warn!(url = %self.at.url, error = problem, "cannot fetch keys: the last ones stay in use");
                } else {
                    tracing::warn!(url = %self.at.url, error = problem, "cannot fetch keys: tokens get 503 until it works");
                }
                self.keys.send_modify(|_| ());
            }
        }
    }

    fn schedule(&self) -> MutexGuard<'_, FetchSchedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys as one request sees them.
pub(super) struct KeyView<'j> {
    jwks: &'j Jwks,
    keys: watch::Receiver<Option<Arc<VerificationKeys>>>,
}

impl KeyView<'_> {
    /// Returns the current keys. `None`: they have never been fetched.
    pub(super) fn keys(&mut self) -> Option<Arc<VerificationKeys>> {
        self.keys.borrow_and_update().clone()
    }

    /// Requests an early fetch and waits for it, at most [`PATIENCE`]. `None`: it is too early to fetch again, or the fetch
    /// brought no keys.
    pub(super) async fn newer(&mut self) -> Option<Arc<VerificationKeys>> {
        if self.jwks.schedule().request_early(Instant::now()) {
            self.jwks.wanted.notify_one();
        } else if !self.jwks.schedule().is_under_way {
            return None;
        }
        timeout(PATIENCE, self.keys.changed()).await.ok()?.ok()?;
        self.keys()
    }
}

impl FetchSchedule {
    /// Schedules an early fetch for now. Returns `false` if one is under way, or it is too early.
    fn request_early(&mut self, now: Instant) -> bool {
        let is_early = self.began.is_some_and(|began| now < began + self.out_of_turn);
        if self.is_under_way || is_early {
            return false;
        }
        // Set here, so that the next request waits for the same fetch.
        self.is_under_way = true;
        self.due = now;
        true
    }

    /// Notes that a fetch begins. If the fetch is abandoned, it is still due.
    fn begin(&mut self, now: Instant) {
        (self.due, self.began, self.is_under_way) = (now, Some(now), true);
    }

    /// Notes how a fetch ended. `age`: how long the keys are used; `None`: it failed.
    fn end(&mut self, age: Option<Duration>, now: Instant) {
        self.is_under_way = false;
        self.failures = if age.is_some() { 0 } else { self.failures.saturating_add(1) };
        self.due =
            now + age.unwrap_or_else(|| backoff::jittered(backoff::after(self.failures, FIRST_PAUSE, MAX_PAUSE)));
    }
}

// === One fetch ===

/// Fetches a set of keys once, for `callgate check`.
///
/// # Errors
/// Returns the problem where no keys can be used.
pub(crate) async fn fetch_once(at: &JwksConfig) -> Result<FetchedKeys, Box<dyn Error>> {
    Ok(fetch(&fetcher(at)?, &at.url).await?)
}

fn fetcher(at: &JwksConfig) -> Result<Fetcher, rustls::Error> {
    Fetcher::new(&Trust::roots(at.ca.clone()), DEADLINE, at.outbound_proxy.clone())
}

async fn fetch(fetcher: &Fetcher, url: &Uri) -> Result<FetchedKeys, JwksError> {
    let mut request = Request::new(Bytes::new());
    request.uri_mut().clone_from(url);
    for (name, value) in [
        (header::ACCEPT, "application/jwk-set+json, application/json"),
        (header::USER_AGENT, concat!("callgate/", env!("CARGO_PKG_VERSION"))),
    ] {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let answer = fetcher.fetch(request).await?;
    if answer.status() != StatusCode::OK {
        return Err(JwksError::Status(answer.status()));
    }
    let (keys, skipped) = VerificationKeys::of_set(answer.body())?;
    Ok(FetchedKeys { keys, skipped, headers: answer.into_parts().0.headers })
}

/// Reads how long the keys of an answer are used (RFC 9111 §5.2.2), within [`AGES`].
fn age(headers: &HeaderMap) -> Duration {
    let lines = headers.get_all(header::CACHE_CONTROL).into_iter().filter_map(|line| line.to_str().ok());
    let mut age = AGE;
    for word in lines.flat_map(|line| line.split(',')).map(|word| word.trim().to_ascii_lowercase()) {
        if word == "no-store" || word == "no-cache" {
            return AGES.0;
        }
        if let Some(Ok(seconds)) = word.strip_prefix("max-age=").map(|seconds| seconds.trim_matches('"').parse()) {
            age = Duration::from_secs(seconds);
        }
    }
    age.clamp(AGES.0, AGES.1)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn servers_say_how_long_keys_are_good_within_bounds() {
        #[track_caller]
        fn check(lines: &[&'static str], seconds: u64) {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::CACHE_CONTROL, HeaderValue::from_static(line));
            }
            assert_eq!(age(&headers).as_secs(), seconds, "{lines:?}");
        }
        check(&[], 600);
        check(&["public, max-age=900, must-revalidate"], 900);
        check(&["public", "Max-Age=900"], 900);
        check(&["max-age=\"900\""], 900);
        check(&["max-age=0"], 60);
        check(&["max-age=31536000"], 3600);
        check(&["max-age=900, no-store"], 60);
        check(&["no-cache"], 60);
        check(&["max-age=soon"], 600);
        check(&["s-maxage=900"], 600);
    }

    #[tokio::test(start_paused = true)]
    async fn out_of_turn_is_once_in_a_while() {
        let start = Instant::now();
        let mut schedule =
            FetchSchedule { out_of_turn: OUT_OF_TURN, due: start, began: None, is_under_way: false, failures: 0 };
        schedule.begin(start);
        assert!(!schedule.request_early(start + OUT_OF_TURN), "one is under way");
        schedule.end(Some(AGE), start);
        assert!(!schedule.request_early(start + OUT_OF_TURN - Duration::from_millis(1)));
        assert!(schedule.request_early(start + OUT_OF_TURN));
        assert!(!schedule.request_early(start + OUT_OF_TURN), "the same fetch is for all who ask");
        assert_eq!(schedule.due, start + OUT_OF_TURN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_that_is_given_up_is_still_due() {
        let start = Instant::now();
        let mut schedule =
            FetchSchedule { out_of_turn: OUT_OF_TURN, due: start + AGE, began: None, is_under_way: false, failures: 3 };
        schedule.begin(start);
        assert_eq!((schedule.due, schedule.failures), (start, 3));
        schedule.end(None, start);
        assert_eq!(schedule.failures, 4);
        assert!(schedule.due > start && schedule.due <= start + Duration::from_secs(8));
        schedule.end(Some(AGE), start);
        assert_eq!((schedule.due, schedule.failures), (start + AGE, 0));
    }

    /// A server that says what is said here, and counts how often.
    struct Server {
        at: JwksConfig,
        says: Arc<Mutex<(String, usize)>>,
    }

    impl Server {
        async fn start(says: String) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
            let says = Arc::new(Mutex::new((says, 0)));
            let server = Self { at: JwksConfig { url, ca: None, outbound_proxy: None }, says: Arc::clone(&says) };
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut head = [0; 1024];
                    let _ = stream.read(&mut head).await.unwrap();
                    let body = {
                        let mut says = says.lock().unwrap();
                        says.1 += 1;
                        says.0.clone()
                    };
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    stream.write_all((head + &body).as_bytes()).await.unwrap();
                }
            });
            server
        }

        fn say(&self, text: String) {
            self.says.lock().unwrap().0 = text;
        }

        fn asked(&self) -> usize {
            self.says.lock().unwrap().1
        }
    }

    fn set(kid: &str) -> String {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let x = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, pair.public_key_raw());
        serde_json::json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x }] }).to_string()
    }

    #[tokio::test]
    async fn who_asks_for_a_new_key_waits_for_it_with_all_others() {
        let server = Server::start(set("old")).await;
        let jwks = Arc::new(Jwks::with(&server.at, Duration::ZERO).unwrap());
        let chore = tokio::spawn(Arc::clone(&jwks).keep_fresh());
        let first = jwks.view().newer().await.expect("the first fetch is under way");
        server.say(set("new"));
        let mut views: Vec<_> = (0..20).map(|_| jwks.view()).collect();
        let newer = futures_util::future::join_all(views.iter_mut().map(KeyView::newer)).await;
        for keys in &newer {
            assert!(!Arc::ptr_eq(keys.as_ref().unwrap(), &first));
        }
        assert_eq!(server.asked(), 2);
        chore.abort();
    }

    #[tokio::test]
    async fn the_last_good_keys_stay_in_use() {
        let server = Server::start(set("old")).await;
        let jwks = Arc::new(Jwks::with(&server.at, Duration::ZERO).unwrap());
        let chore = tokio::spawn(Arc::clone(&jwks).keep_fresh());
        let first = jwks.view().newer().await.unwrap();
        for nonsense in ["", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#] {
            server.say(nonsense.to_owned());
            let mut view = jwks.view();
            assert!(Arc::ptr_eq(&view.newer().await.unwrap(), &first), "{nonsense}");
            assert!(jwks.freshness().is_loaded());
        }
        assert_eq!(server.asked(), 5);
        chore.abort();
    }

    #[tokio::test]
    async fn too_early_nobody_waits() {
        let server = Server::start(set("old")).await;
        let jwks = Arc::new(Jwks::new(&server.at).unwrap());
        let chore = tokio::spawn(Arc::clone(&jwks).keep_fresh());
        jwks.view().newer().await.unwrap();
        let began = Instant::now();
        assert!(jwks.view().newer().await.is_none());
        assert!(began.elapsed() < PATIENCE);
        assert_eq!(server.asked(), 1);
        chore.abort();
    }
}
