//! Floor 2: the engine (Redis or Valkey) that several members share. A member is one machine that runs callgate.
//!
//! The control thread keeps one connection, over which all workers ask. No question takes longer than
//! `[shared] deadline`. When the engine does not answer, the circuit opens: questions then fail at once, and their
//! callers decide by what this member knows, until the control thread has reached the engine again.

mod circuit;
mod link;
mod names;
mod probe;
mod ring_text;
#[cfg(test)]
mod test_engine;
mod value_seal;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Cmd, FromRedisValue, PushInfo, PushKind, RedisError, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::circuit::{Circuit, Outcome};
use self::link::EngineLink;
pub(crate) use self::names::{EngineKey, KeyNames};
pub(crate) use self::probe::probe;
pub(crate) use self::ring_text::OTHER_KEYS;
use self::ring_text::RingFound;
#[cfg(test)]
pub(crate) use self::test_engine::{Numbers, TestEngine, script_with_test_clock};
use self::value_seal::ValueSeal;
use crate::backoff;
use crate::config::SharedConfig;
use crate::handshake_advice::{self, ServerWords};

/// How long a connection may take, with TLS and the login.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The interval at which the control thread asks an engine whether it is there, so that a connection that died in
/// silence is found.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// What the operator writes about the engine.
const WORDS: ServerWords = ServerWords { plain: "`url` begin with redis://", name: "write that in `url`" };
/// The pause after the first failure to reach the engine; it doubles with each one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between tries to reach the engine.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a complaint about an engine that answers is shown. What lasts is found again earlier.
const COMPLAINT: Duration = Duration::from_secs(15);
/// How many messages of other members may wait. A member that falls further behind reads everything again.
const MESSAGES: usize = 256;

/// The engine that members share, as one of them sees it. All workers use it.
pub(crate) struct SharedEngine {
    config: SharedConfig,
    names: KeyNames,
    seal: ValueSeal,
    link: Mutex<Option<EngineLink>>,
    circuit: Mutex<Circuit>,
    /// What is wrong with an engine that answers, and when that was found last.
    complaint: Mutex<Option<(String, Instant)>>,
    /// Wakes the control thread when the circuit opens.
    opened: Notify,
    /// How often the engine was reached anew. A part that keeps a copy of its data reads that again then.
    reached: watch::Sender<u64>,
    messages: broadcast::Sender<PushInfo>,
}

/// The engine does not answer, or not as it should. The caller decides by what this member knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shared engine cannot be used now")]
pub(crate) struct EngineDown;

/// Why the engine is not used.
#[derive(Debug, thiserror::Error)]
enum Unreached {
    /// Its members have other keys.
    #[error("{OTHER_KEYS}")]
    OthersFound,
    /// They are not there now, and come first.
    #[error("{OTHER_KEYS}")]
    OthersAway,
    /// It cannot be used, in its own words.
    #[error("{0}")]
    Problem(String),
}

impl From<RedisError> for Unreached {
    fn from(error: RedisError) -> Self {
        Self::Problem(problem_of(&error))
    }
}

/// A script that the engine runs in one step.
pub(crate) struct EngineScript {
    text: &'static str,
    sha1: String,
}

impl EngineScript {
    /// Prepares a script in Lua.
    pub(crate) fn new(text: &'static str) -> Self {
        Self { text, sha1: redis::Script::new(text).get_hash().to_owned() }
    }
}

/// Returns the content of a message of a kind; nothing if it is another one.
#[must_use]
pub(crate) fn content<'m>(message: &'m PushInfo, kind: &str) -> Option<&'m [u8]> {
    match (&message.kind, &message.data[..]) {
        (PushKind::Message, [_, Value::BulkString(text)]) => text.strip_prefix(kind.as_bytes())?.strip_prefix(b" "),
        _ => None,
    }
}

/// Calls a script by its text or its SHA-1.
fn call(command: &str, script: &str, keys: &[EngineKey], arguments: &[Vec<u8>]) -> Cmd {
    let mut call = redis::cmd(command);
    call.arg(script).arg(keys.len());
    for key in keys {
        call.arg(key.as_str());
    }
    for argument in arguments {
        call.arg(&argument[..]);
    }
    call
}

impl SharedEngine {
    /// Prepares the engine of a configuration. It is reached by [`SharedEngine::run`].
    #[must_use]
    pub(crate) fn new(config: SharedConfig) -> Arc<Self> {
        Arc::new(Self {
            names: KeyNames::new(&config.prefix, &config.keys),
            seal: ValueSeal::new(&config.prefix, &config.keys),
            link: Mutex::default(),
            circuit: Mutex::default(),
            complaint: Mutex::default(),
            opened: Notify::new(),
            reached: watch::Sender::default(),
            messages: broadcast::Sender::new(MESSAGES),
            config,
        })
    }

    /// Returns the settings.
    #[must_use]
    pub(crate) const fn config(&self) -> &SharedConfig {
        &self.config
    }

    /// Returns the names of this installation's keys in the engine.
    #[must_use]
    pub(crate) const fn names(&self) -> &KeyNames {
        &self.names
    }

    /// Returns why the engine cannot be used; nothing if it can.
    #[must_use]
    pub(crate) fn problem(&self) -> Option<String> {
        self.circuit().problem().map(str::to_owned)
    }

    /// Returns what is wrong with an engine that answers: it refuses some questions, or members have other keys; nothing if
    /// all is well.
    #[must_use]
    pub(crate) fn complaint(&self) -> Option<String> {
        let fresh = |(_, found): &(_, Instant)| found.elapsed() < COMPLAINT;
        self.complaint_now().clone().filter(fresh).map(|(text, _)| text)
    }

    /// Returns how often the engine was reached anew, and each change of that.
    #[must_use]
    pub(crate) fn reached(&self) -> watch::Receiver<u64> {
        self.reached.subscribe()
    }

    /// Returns the messages of other members from now on.
    #[must_use]
    pub(crate) fn messages(&self) -> broadcast::Receiver<PushInfo> {
        self.messages.subscribe()
    }

    /// Returns the channel of the members' messages. Each message begins with its kind and a space.
    #[must_use]
    pub(crate) fn channel(&self) -> EngineKey {
        self.names.plain("messages")
    }

    /// Seals a value of a kind, which the engine then cannot read.
    #[must_use]
    pub(crate) fn seal(&self, kind: &str, value: &impl Serialize) -> Vec<u8> {
        self.seal.seal(kind, &serde_json::to_vec(value).expect("values of the engine are JSON"))
    }

    /// Opens a value of a kind; nothing if no member sealed it.
    #[must_use]
    pub(crate) fn open<T: DeserializeOwned>(&self, kind: &str, sealed: &[u8]) -> Option<T> {
        serde_json::from_slice(&self.seal.open(kind, sealed)?).ok()
    }

    // === Questions ===

    /// Sends a command, and waits for its answer for `deadline` at most.
    ///
    /// # Errors
    /// When the engine does not answer in time, or not as it should. It may have carried the command out.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, EngineDown> {
        let answer = self.send(command).await?.map_err(|error| self.failed(&error))?;
        self.read(answer)
    }

    /// Runs a script, and waits for its answer for `deadline` at most. All keys must have the same hash tag.
    ///
    /// # Errors
    /// As [`SharedEngine::ask`].
    pub(crate) async fn run_script<T: FromRedisValue>(
        &self,
        script: &EngineScript,
        keys: &[EngineKey],
        arguments: &[Vec<u8>],
    ) -> Result<T, EngineDown> {
        let known = self.send(&call("EVALSHA", &script.sha1, keys, arguments)).await?;
        let answer = match known {
            // The engine has not seen this script since it started.
            Err(error) if is_unknown_script(&error) => self.send(&call("EVAL", script.text, keys, arguments)).await?,
            answer => answer,
        };
        self.read(answer.map_err(|error| self.failed(&error))?)
    }

    async fn send(&self, command: &Cmd) -> Result<Result<Value, RedisError>, EngineDown> {
        let Some(mut link) = self.link().clone().filter(|_| self.circuit().problem().is_none()) else {
            return Err(EngineDown);
        };
        match timeout(self.config.deadline, link.send(command)).await {
            Ok(answer) => Ok(answer),
            Err(_) => {
                let problem = format!("it did not answer within {:?}", self.config.deadline);
                self.note(Outcome::Failed(&problem));
                Err(EngineDown)
            }
        }
    }

    fn read<T: FromRedisValue>(&self, answer: Value) -> Result<T, EngineDown> {
        match redis::from_redis_value(answer) {
            Ok(value) => {
                self.note(Outcome::Answered);
                Ok(value)
            }
            Err(_) => {
                let problem = "its answer has another form than expected";
                self.complain(problem);
                self.note(Outcome::Failed(problem));
                Err(EngineDown)
            }
        }
    }

    fn failed(&self, error: &RedisError) -> EngineDown {
        let problem = problem_of(error);
        if error.code().is_some() {
            self.complain(&problem);
        }
        self.note(if error.is_unrecoverable_error() { Outcome::Lost(&problem) } else { Outcome::Failed(&problem) });
        EngineDown
    }

    /// Notes what came of a question. Tells the operator once when the circuit opens.
    fn note(&self, outcome: Outcome<'_>) {
        let opened = self.circuit().note(outcome);
        if let Some(problem) = opened {
            *self.link() = None;
            self.opened.notify_one();
            tracing::warn!(
                engine = %self.config.nodes[0],
                "the shared engine cannot be used: {problem}; until it can, this member decides by what it knows itself"
            );
        }
    }

    /// Notes what is wrong with an engine that answers. Tells the operator once while it lasts.
    fn complain(&self, problem: &str) {
        let is_told = self.complaint().is_some();
        *self.complaint_now() = Some((problem.to_owned(), Instant::now()));
        if !is_told {
            tracing::warn!(engine = %self.config.nodes[0], "the shared engine is used, with a problem: {problem}");
        }
    }

    // === The control thread ===

    /// Reaches the engine, again and again, for as long as the configuration is in use.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut failures = 0;
        let mut others_seen: Option<Instant> = None;
        loop {
            let may_begin = others_seen.is_none_or(|seen| seen.elapsed() >= ring_text::PATIENCE);
            match self.reach(may_begin).await {
                Ok(()) => {
                    failures = 0;
                    self.keep().await;
                }
                Err(unreached) => {
                    failures += 1;
                    if matches!(unreached, Unreached::OthersFound) {
                        others_seen = Some(Instant::now());
                    }
                    self.note(Outcome::Lost(&unreached.to_string()));
                }
            }
            sleep(backoff::jittered(backoff::after(failures.max(1), FIRST_PAUSE, LONGEST_PAUSE))).await;
        }
    }

    /// Connects, and checks that the engine writes and that its members have the same keys. Then questions go to it.
    ///
    /// `may_begin`: no members with other keys were seen a short time ago.
    async fn reach(&self, may_begin: bool) -> Result<(), Unreached> {
        let connect = EngineLink::connect(&self.config, self.messages.clone());
        let mut link = match timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(Unreached::Problem(format!("no connection within {CONNECT_TIMEOUT:?}"))),
        };
        match timeout(CONNECT_TIMEOUT, self.prepare(&mut link, may_begin)).await {
            Ok(prepared) => prepared?,
            Err(_) => return Err(Unreached::Problem(format!("it did not answer within {CONNECT_TIMEOUT:?}"))),
        }
        *self.link() = Some(link);
        self.circuit().close();
        let again = if *self.reached.borrow() > 0 { " again" } else { "" };
        tracing::info!(engine = %self.config.nodes[0], "the shared engine is used{again}");
        self.reached.send_modify(|times| *times += 1);
        Ok(())
    }

    async fn prepare(&self, link: &mut EngineLink, may_begin: bool) -> Result<(), Unreached> {
        let key = self.ring_key();
        let text: Option<Vec<u8>> =
            redis::from_redis_value(link.send(&ring_text::read(&key)).await?).unwrap_or_default();
        match ring_text::found(text.as_deref(), &self.seal) {
            RingFound::Other => return Err(Unreached::OthersFound),
            RingFound::Missing if !may_begin => return Err(Unreached::OthersAway),
            RingFound::Missing | RingFound::Same => {}
        }
        // A replica, or an engine without memory, does not take it.
        link.send(&ring_text::write(&key, &self.seal)).await?;
        link.subscribe(self.channel().as_str()).await?;
        Ok(())
    }

    /// Asks the engine whether it is there, and whether members have the same keys, until the circuit opens.
    async fn keep(&self) {
        let ping = redis::cmd("PING");
        let mut due = Instant::now() + ring_text::INTERVAL;
        // A circuit that opened before the engine was reached has left a notice.
        while self.problem().is_none() {
            tokio::select! {
                () = self.opened.notified() => {}
                () = sleep(HEARTBEAT) => drop(self.ask::<String>(&ping).await),
                () = sleep_until(due) => {
                    self.compare_rings().await;
                    due = Instant::now() + ring_text::INTERVAL;
                }
            }
        }
    }

    /// Checks that the members have the same keys. They all go on: it is not known which of them are wrong.
    async fn compare_rings(&self) {
        let key = self.ring_key();
        let Ok(text) = self.ask::<Option<Vec<u8>>>(&ring_text::read(&key)).await else { return };
        if ring_text::found(text.as_deref(), &self.seal) == RingFound::Other {
            self.complain(OTHER_KEYS);
        }
        // Without an answer it is written the next time.
        let _ = self.ask::<String>(&ring_text::write(&key, &self.seal)).await;
    }

    fn ring_key(&self) -> EngineKey {
        self.names.plain("ring")
    }

    fn complaint_now(&self) -> MutexGuard<'_, Option<(String, Instant)>> {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> MutexGuard<'_, Option<EngineLink>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::NoScript)
}

/// Puts what the operator can do in front of a failed TLS handshake.
fn advice(error: &RedisError) -> Option<String> {
    // The crate keeps the cause in an `Arc`, which hides it from a direct look.
    let cause = std::error::Error::source(error)?;
    let cause = cause.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>()?;
    handshake_advice::of((**cause).downcast_ref()?, WORDS)
}

/// Says what is wrong, in the engine's words, and never what was asked: an engine that does not know `HELLO` repeats its
/// arguments, and the password is one of them.
fn problem_of(error: &RedisError) -> String {
    let text = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code}: {detail}"),
        _ => advice(error).map_or_else(|| error.to_string(), |advice| format!("{advice}: {error}")),
    };
    text.split_once(", with args").map_or(text.as_str(), |(told, _)| told).to_owned()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;
    use crate::model::key_ring::KeyRing;

    #[tokio::test]
    async fn an_engine_that_comes_later_is_reached_once() {
        let Some(server) = TestEngine::start() else { return };
        let engine = SharedEngine::new(server.config());
        engine.note(Outcome::Lost("refused"));
        while engine.reach(true).await.is_err() {}
        let mut keeps = pin!(engine.keep());
        let ends = poll_fn(|cx| Poll::Ready(keeps.as_mut().poll(cx).is_ready())).await;
        assert!(!ends);
    }

    pub(super) fn ring(keys: &[u8]) -> KeyRing {
        let lines: Vec<_> = keys.iter().map(|byte| BASE64_STANDARD.encode([*byte; 32])).collect();
        KeyRing::parse(&lines.join("\n")).unwrap()
    }

    /// Returns a member with these keys, which does not use the engine yet.
    fn member(server: &TestEngine, keys: &[u8]) -> Arc<SharedEngine> {
        SharedEngine::new(SharedConfig { keys: ring(keys), ..server.config() })
    }

    #[tokio::test]
    async fn a_member_with_other_keys_decides_alone() {
        let Some(server) = TestEngine::start() else { return };
        let (one, wrong) = (member(&server, &[1]), member(&server, &[2]));
        while one.reach(true).await.is_err() {}
        let unreached = wrong.reach(true).await.unwrap_err();
        assert!(matches!(unreached, Unreached::OthersFound), "{unreached}");
        assert_eq!(unreached.to_string(), "other members have other `keys`: give all of them the same file");
        assert!(wrong.problem().is_some());
        // In an engine that was emptied, the members that it met come first.
        one.ask::<String>(&redis::cmd("FLUSHALL")).await.unwrap();
        assert!(matches!(wrong.reach(false).await, Err(Unreached::OthersAway)));
        one.compare_rings().await;
        assert!(matches!(wrong.reach(true).await, Err(Unreached::OthersFound)));
        assert_eq!(one.complaint(), None);
        // Without them it begins, and those that come back are told.
        one.ask::<String>(&redis::cmd("FLUSHALL")).await.unwrap();
        wrong.reach(true).await.unwrap();
        one.compare_rings().await;
        assert_eq!((one.complaint().as_deref(), one.problem()), (Some(OTHER_KEYS), None));
        wrong.compare_rings().await;
        assert_eq!(wrong.complaint().as_deref(), Some(OTHER_KEYS));
    }

    #[tokio::test]
    async fn members_in_the_middle_of_a_rotation_have_the_same_keys() {
        let Some(server) = TestEngine::start() else { return };
        let steps: [&[u8]; 4] = [&[1], &[1, 2], &[2, 1], &[2]];
        for pair in steps.windows(2) {
            let [before, after] = [member(&server, pair[0]), member(&server, pair[1])];
            for one in [&before, &after, &before, &after] {
                while let Err(unreached) = one.reach(true).await {
                    assert!(matches!(unreached, Unreached::Problem(_)), "{pair:?}: {unreached}");
                }
                for one in [&before, &after] {
                    one.compare_rings().await;
                    assert_eq!(one.complaint(), None, "{pair:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn an_engine_that_refuses_a_question_is_complained_of_and_used() {
        let Some(server) = TestEngine::start() else { return };
        let engine = server.reach().await;
        let ask = async |words: &[&str]| {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]);
            engine.ask::<u64>(&command).await
        };
        assert_eq!(ask(&["HSET", "test:generation", "a", "1"]).await, Ok(1));
        assert_eq!((engine.complaint(), ask(&["INCR", "test:generation"]).await), (None, Err(EngineDown)));
        assert!(engine.complaint().unwrap().starts_with("WRONGTYPE: "));
        assert_eq!(engine.problem(), None);
        *engine.complaint_now() = Some(("over".to_owned(), Instant::now().checked_sub(COMPLAINT).unwrap()));
        assert_eq!(engine.complaint(), None);
        assert_eq!(engine.ask::<u64>(&redis::cmd("PING")).await, Err(EngineDown));
        assert_eq!(engine.complaint().as_deref(), Some("its answer has another form than expected"));
    }

    #[test]
    fn a_problem_tells_nothing_that_was_asked() {
        let arguments = "'3' 'AUTH' 'default' 'canary' ";
        for told in ["unknown command 'HELLO'", "unknown command `HELLO`", "wrong number of arguments"] {
            let detail = format!("{told}, with args beginning with: {arguments}");
            let error = redis::make_extension_error("ERR".to_owned(), Some(detail));
            assert_eq!(problem_of(&error), format!("ERR: {told}"));
        }
    }
}
