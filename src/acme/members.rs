//! Certificates as members tell each other of them. The engine has those in use, whose turn it is to order one, the answers to
//! the challenges of an order under way, and the quota of orders on demand.
//!
//! Of all members one orders a certificate: the one that has the turn. A turn is a lease with the token of a process, and lasts
//! longer than an order may, so a member that dies holds others up for no longer. After a failure it stays for as long as that
//! member pauses, with the number of failures: members together try no more often than one that is alone.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use super::challenge_looks::ChallengeLooks;
use super::kept_certificate::KeptCertificate;
use crate::members::{EngineDown, EngineKey, EngineScript, SharedEngine};
use crate::model::rate::Rate;
use crate::random;
use crate::tls::issued::IssuedCertificate;

/// The kind of the certificates in use.
const CERTIFICATE: &str = "certificate";
/// The kind of the turns.
const TURN: &str = "order";
/// The kind of the answers to challenges.
const CHALLENGE: &str = "challenge";
/// The kind of the quota.
const QUOTA: &str = "order_quota";

/// How long a turn lasts, and the answers to challenges: longer than an order.
pub(super) const TURN_LIFE: Duration = Duration::from_secs(5 * 60);
/// The longest value that is read, in bytes. A certificate in the state file is no longer.
const LONGEST: usize = 96 << 10;
/// The longest pause that is kept to after a failure of another member.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a client waits for an answer to a challenge.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);
/// How long a start waits for the engine before it counts as away.
const FIRST_REACH: Duration = Duration::from_secs(5);

static FIND: LazyLock<EngineScript> = LazyLock::new(|| EngineScript::new(include_str!("members/find.lua")));
static TAKE_TURN: LazyLock<EngineScript> = LazyLock::new(|| EngineScript::new(include_str!("members/take_turn.lua")));
static END_TURN: LazyLock<EngineScript> = LazyLock::new(|| EngineScript::new(include_str!("members/end_turn.lua")));
static COUNT_ORDER: LazyLock<EngineScript> = LazyLock::new(|| EngineScript::new(include_str!("members/quota.lua")));

/// The members with which this one shares certificates.
pub(super) struct AcmeMembers {
    engine: Arc<SharedEngine>,
    /// By it the engine knows the turns of this process.
    token: String,
    looks: ChallengeLooks,
}

/// A certificate that a member has put into the engine.
pub(super) struct SharedCertificate {
    pub(super) kept: KeptCertificate,
    pub(super) certificate: IssuedCertificate,
    /// Whether it is under the key of the ring that writes. Others will be dropped.
    pub(super) is_under_first_key: bool,
}

/// Whose turn it is to order a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OrderTurn {
    /// It is this process's, or free.
    Own,
    /// Another member orders now.
    Other,
    /// The last order of another member failed. No member orders for a while.
    Failed {
        /// How many orders have failed.
        failures: u32,
        /// How long members wait.
        pause: Duration,
    },
}

/// The answer to a challenge, as members tell it.
#[derive(Debug, Serialize, Deserialize)]
struct SharedChallenge {
    name: String,
    token: String,
    key_authorization: String,
}

impl AcmeMembers {
    pub(super) fn new(engine: Arc<SharedEngine>) -> Arc<Self> {
        Arc::new(Self { engine, token: random::text::<16>(), looks: ChallengeLooks::new() })
    }

    /// Tells whether they share this engine.
    pub(super) fn is_at(&self, engine: &Arc<SharedEngine>) -> bool {
        Arc::ptr_eq(&self.engine, engine)
    }

    /// Returns how often the engine was reached anew, and each change of that.
    pub(super) fn reached(&self) -> watch::Receiver<u64> {
        self.engine.reached()
    }

    /// Waits for the first connection to the engine, but not for long.
    pub(super) async fn wait_for_engine(&self) {
        let mut reached = self.reached();
        drop(timeout(FIRST_REACH, reached.wait_for(|times| *times > 0)).await);
    }

    /// Returns the names of an item under all keys of the ring.
    fn keys(&self, kind: &str, item: &[&str]) -> Vec<EngineKey> {
        let item: Vec<_> = item.iter().map(|part| part.as_bytes()).collect();
        self.engine.names().all_of(kind, &item)
    }

    async fn find(&self, keys: &[EngineKey]) -> Result<Vec<Vec<u8>>, EngineDown> {
        self.engine.run_script(&FIND, keys, &[LONGEST.to_string().into_bytes()]).await
    }

    // === Certificates ===

    /// Returns the latest certificate of a name that members have put into the engine.
    pub(super) async fn certificate(
        &self,
        directory: &str,
        name: &str,
    ) -> Result<Option<SharedCertificate>, EngineDown> {
        let found = self.find(&self.keys(CERTIFICATE, &[directory, name])).await?;
        let opened = found.iter().enumerate().filter_map(|(index, sealed)| {
            let kept = self.engine.open::<KeptCertificate>(CERTIFICATE, sealed)?;
            let certificate = kept.read(name).ok().filter(|_| kept.directory == directory)?;
            Some(SharedCertificate { kept, certificate, is_under_first_key: index == 0 })
        });
        // Of two that are the same, the first.
        Ok(opened.reduce(|one, other| match one.certificate.not_before < other.certificate.not_before {
            true => other,
            false => one,
        }))
    }

    /// Puts a certificate into the engine, where it ends with its validity.
    pub(super) async fn put_certificate(
        &self,
        name: &str,
        kept: &KeptCertificate,
        not_after: Timestamp,
    ) -> Result<(), EngineDown> {
        let Ok(life) = Duration::try_from(not_after.duration_since(Timestamp::now())) else { return Ok(()) };
        self.put(&self.keys(CERTIFICATE, &[&kept.directory, name])[0], CERTIFICATE, kept, life).await
    }

    async fn put(&self, key: &EngineKey, kind: &str, value: &impl Serialize, life: Duration) -> Result<(), EngineDown> {
        let mut set = redis::cmd("SET");
        let life = u64::try_from(life.as_millis()).unwrap_or(u64::MAX).max(1);
        set.arg(key.as_str()).arg(&self.engine.seal(kind, value)[..]).arg("PX").arg(life);
        self.engine.ask(&set).await
    }

    // === Turns ===

    /// Takes the turn to order a certificate, if no other process has it.
    pub(super) async fn take_turn(&self, directory: &str, name: &str) -> Result<OrderTurn, EngineDown> {
        self.turn(directory, name, TURN_LIFE).await
    }

    /// Tells whose turn it is to order a certificate.
    pub(super) async fn look_at_turn(&self, directory: &str, name: &str) -> Result<OrderTurn, EngineDown> {
        self.turn(directory, name, Duration::ZERO).await
    }

    async fn turn(&self, directory: &str, name: &str, life: Duration) -> Result<OrderTurn, EngineDown> {
        let arguments = [self.token.clone(), life.as_millis().to_string()].map(String::into_bytes);
        let held: Vec<Vec<u8>> =
            self.engine.run_script(&TAKE_TURN, &self.keys(TURN, &[directory, name]), &arguments).await?;
        let held: Vec<_> = held.iter().map(|text| String::from_utf8_lossy(text)).collect();
        let [held, rest] = &held[..] else { return Ok(OrderTurn::Own) };
        let failures = held.split_once(' ').and_then(|(_, failures)| failures.parse().ok());
        Ok(failures.map_or(OrderTurn::Other, |failures| {
            let pause = rest.parse().map_or(TURN_LIFE, Duration::from_millis).min(LONGEST_PAUSE);
            OrderTurn::Failed { failures, pause }
        }))
    }

    /// Ends the turn after an order. Without an answer it ends by itself.
    pub(super) async fn end_turn(&self, directory: &str, name: &str) {
        self.leave_turn(directory, name, 0, Duration::ZERO).await;
    }

    /// Keeps all members from further orders for a while, after one that failed.
    pub(super) async fn pause_turn(&self, directory: &str, name: &str, failures: u32, pause: Duration) {
        self.leave_turn(directory, name, failures, pause).await;
    }

    async fn leave_turn(&self, directory: &str, name: &str, failures: u32, pause: Duration) {
        let arguments = [self.token.clone(), failures.to_string(), pause.as_millis().max(1).to_string()];
        let arguments = arguments.map(String::into_bytes);
        let left = self.engine.run_script::<u64>(&END_TURN, &self.keys(TURN, &[directory, name]), &arguments).await;
        if left.is_err() {
            tracing::debug!(name, "the turn to order a certificate ends by itself");
        }
    }

    // === Challenges ===

    /// Puts the answer to a challenge into the engine, for the member that the server asks.
    pub(super) async fn offer(&self, name: &str, token: &str, key_authorization: &str) -> Result<(), EngineDown> {
        let [name, token, key_authorization] = [name, token, key_authorization].map(str::to_owned);
        let challenge = SharedChallenge { name, token, key_authorization };
        for form in forms(&challenge.name, &challenge.token) {
            self.put(&self.keys(CHALLENGE, &form)[0], CHALLENGE, &challenge, TURN_LIFE).await?;
        }
        Ok(())
    }

    /// Removes the answer to a challenge. Without an answer of the engine it ends by itself.
    pub(super) async fn withdraw(&self, name: &str, token: &str) {
        for form in forms(name, token) {
            let removed = self.engine.ask::<u64>(redis::cmd("DEL").arg(self.keys(CHALLENGE, &form)[0].as_str())).await;
            if removed.is_err() {
                return;
            }
        }
    }

    /// Returns the key authorization of a challenge over HTTP that another member has to answer. `client`: as limits count it.
    pub(super) async fn of_token(&self, client: IpAddr, name: &str, token: &str) -> Option<String> {
        if !is_token(token) {
            return None;
        }
        let [form, _] = forms(name, token);
        let found = self.challenge(client, &form).await.filter(|found| found.token == token && found.name == name)?;
        Some(found.key_authorization)
    }

    /// Returns the key authorization of a challenge over TLS that another member has to answer. `client`: as limits count it.
    pub(super) async fn of_name(&self, client: IpAddr, name: &str) -> Option<String> {
        let [_, form] = forms(name, "");
        let found = self.challenge(client, &form).await.filter(|found| found.name == name)?;
        Some(found.key_authorization)
    }

    async fn challenge(&self, client: IpAddr, form: &[&str]) -> Option<SharedChallenge> {
        let look = async {
            let _permit = self.looks.permit(client).await?;
            let found = self.find(&self.keys(CHALLENGE, form)).await.ok()?;
            found.iter().find_map(|sealed| self.engine.open(CHALLENGE, sealed))
        };
        timeout(LOOK_DEADLINE, look).await.ok().flatten()
    }

    // === The quota ===

    /// Counts an order on demand of any member. Returns whether the quota had room for it.
    pub(super) async fn count_order(&self, directory: &str, quota: Rate) -> Result<bool, EngineDown> {
        let interval = quota.period.as_micros() / u128::from(quota.count.get());
        let arguments = [interval.to_string(), quota.burst.to_string()].map(String::into_bytes);
        let key = self.keys(QUOTA, &[directory]).swap_remove(0);
        Ok(self.engine.run_script::<u64>(&COUNT_ORDER, &[key], &arguments).await? == 1)
    }
}

/// Tells whether a text may be the token of a challenge: base64url of at least 128 bits (RFC 8555 §8.3).
fn is_token(text: &str) -> bool {
    (22..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Returns the items under which a challenge is found: by its token over HTTP, by its name over TLS.
fn forms<'t>(name: &'t str, token: &'t str) -> [[&'t str; 2]; 2] {
    [["http", token], ["tls", name]]
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;
    use crate::config::SharedConfig;
    use crate::members::TestEngine;
    use crate::model::key_ring::KeyRing;
    use crate::tls::dev;

    /// The address of an ACME server.
    const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));
    const TOKEN: &str = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0";

    #[test]
    fn a_path_that_is_no_token_is_not_looked_up() {
        assert!(is_token(TOKEN));
        let long = "a".repeat(129);
        for other in ["", "x", "wp-login.php", "LoqXcYV8q5ONbJQxbmR7SC/TNo3tiAXDfowyjxAjEuX0", &long] {
            assert!(!is_token(other), "{other}");
        }
    }

    const DIRECTORY: &str = "https://acme.test/dir";

    async fn member(engine: &TestEngine) -> Arc<AcmeMembers> {
        AcmeMembers::new(engine.reach().await)
    }

    #[tokio::test]
    async fn one_member_has_the_turn_and_a_failure_pauses_all() {
        let Some(engine) = TestEngine::start() else { return };
        let (one, other) = (member(&engine).await, member(&engine).await);
        assert_eq!(other.look_at_turn(DIRECTORY, "a.test").await, Ok(OrderTurn::Own));
        assert_eq!(one.take_turn(DIRECTORY, "a.test").await, Ok(OrderTurn::Own));
        assert_eq!(other.take_turn(DIRECTORY, "a.test").await, Ok(OrderTurn::Other));
        assert_eq!(other.look_at_turn(DIRECTORY, "a.test").await, Ok(OrderTurn::Other));
        // After a reload the process goes on with its turn; other names and servers have their own.
        assert_eq!(one.take_turn(DIRECTORY, "a.test").await, Ok(OrderTurn::Own));
        assert_eq!(other.take_turn(DIRECTORY, "b.test").await, Ok(OrderTurn::Own));
        assert_eq!(other.take_turn("https://other.test/dir", "a.test").await, Ok(OrderTurn::Own));
        // A member ends no turn of another one.
        other.end_turn(DIRECTORY, "a.test").await;
        assert_eq!(other.take_turn(DIRECTORY, "a.test").await, Ok(OrderTurn::Other));

        one.pause_turn(DIRECTORY, "a.test", 3, Duration::from_secs(600)).await;
        let Ok(OrderTurn::Failed { failures: 3, pause }) = other.take_turn(DIRECTORY, "a.test").await else {
            panic!("{:?}", other.take_turn(DIRECTORY, "a.test").await);
        };
        assert!(pause > Duration::from_secs(500) && pause <= Duration::from_secs(600), "{pause:?}");
        assert_eq!(one.take_turn(DIRECTORY, "a.test").await, Ok(OrderTurn::Own), "the one that failed tries again");
        one.end_turn(DIRECTORY, "a.test").await;
        assert_eq!(other.take_turn(DIRECTORY, "a.test").await, Ok(OrderTurn::Own));
        let key = other.keys(TURN, &[DIRECTORY, "a.test"]).swap_remove(0);
        let life: u64 = other.engine.ask(redis::cmd("PTTL").arg(key.as_str())).await.unwrap();
        assert!((200_000..=300_000).contains(&life), "{life}");
    }

    #[tokio::test]
    async fn an_answer_is_found_by_its_token_and_its_name_until_it_is_withdrawn() {
        let Some(engine) = TestEngine::start() else { return };
        let (one, other) = (member(&engine).await, member(&engine).await);
        one.offer("a.test", TOKEN, "token.thumb").await.unwrap();
        assert_eq!(other.of_token(SERVER, "a.test", TOKEN).await.as_deref(), Some("token.thumb"));
        assert_eq!(other.of_name(SERVER, "a.test").await.as_deref(), Some("token.thumb"));
        assert_eq!(
            (other.of_token(SERVER, "a.test", "other").await, other.of_name(SERVER, "b.test").await),
            (None, None)
        );
        assert_eq!(other.of_token(SERVER, "b.test", TOKEN).await, None, "it is for another name");
        let keys: Vec<String> = other.engine.ask(redis::cmd("KEYS").arg("*challenge*")).await.unwrap();
        assert_eq!(keys.len(), 2);
        for key in keys {
            let life: u64 = other.engine.ask(redis::cmd("PTTL").arg(&key)).await.unwrap();
            assert!((200_000..=300_000).contains(&life), "{life}");
        }
        one.withdraw("a.test", TOKEN).await;
        assert_eq!(
            (other.of_token(SERVER, "a.test", TOKEN).await, other.of_name(SERVER, "a.test").await),
            (None, None)
        );
    }

    #[tokio::test]
    async fn a_client_that_asks_for_many_answers_keeps_no_server_from_its_own() {
        let Some(engine) = TestEngine::start() else { return };
        let (one, other) = (member(&engine).await, member(&engine).await);
        one.offer("a.test", TOKEN, "token.thumb").await.unwrap();
        // As many as one client has at once, of an engine that takes its time.
        let flood = IpAddr::from([192, 0, 2, 1]);
        let slow = [(); 4].map(|()| other.looks.permit(flood));
        let slow = join_all(slow).await;
        let mut waiting = Box::pin(join_all((0..100).map(|_| other.of_token(flood, "a.test", TOKEN))));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(other.of_token(SERVER, "a.test", TOKEN).await.as_deref(), Some("token.thumb"));
        drop(slow);
        assert!(waiting.await.iter().all(Option::is_some), "they only waited");
    }

    #[tokio::test]
    async fn a_certificate_is_found_for_its_name_and_server_and_ends_with_its_validity() {
        let Some(engine) = TestEngine::start() else { return };
        let (one, other) = (member(&engine).await, member(&engine).await);
        let made = dev::certificate(&["a.test"]).unwrap();
        let kept = KeptCertificate { directory: DIRECTORY.to_owned(), chain: made.chain, key: made.key };
        let read = kept.read("a.test").unwrap();
        one.put_certificate("a.test", &kept, read.not_after).await.unwrap();
        let found = other.certificate(DIRECTORY, "a.test").await.unwrap().unwrap();
        assert_eq!((&found.kept.chain, &found.kept.key), (&kept.chain, &kept.key));
        assert!(found.is_under_first_key);
        assert!(other.certificate("https://other.test/dir", "a.test").await.unwrap().is_none());
        let key = other.keys(CERTIFICATE, &[DIRECTORY, "a.test"]).swap_remove(0);
        let life: u64 = other.engine.ask(redis::cmd("PTTL").arg(key.as_str())).await.unwrap();
        let left = read.not_after.duration_since(Timestamp::now()).as_secs();
        assert!(life / 1000 <= u64::try_from(left).unwrap() + 1, "{life}");
        // What is sealed for one name is of no use under another.
        let mut copy = redis::cmd("COPY");
        copy.arg(key.as_str()).arg(other.keys(CERTIFICATE, &[DIRECTORY, "b.test"])[0].as_str());
        other.engine.ask::<u64>(&copy).await.unwrap();
        assert!(other.certificate(DIRECTORY, "b.test").await.unwrap().is_none());
        // A value that no member wrote is not read.
        let mut planted = redis::cmd("SETRANGE");
        planted.arg(key.as_str()).arg(LONGEST).arg("x");
        other.engine.ask::<u64>(&planted).await.unwrap();
        assert!(other.certificate(DIRECTORY, "a.test").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_certificate_under_an_older_key_is_found_and_known_as_such() {
        let Some(engine) = TestEngine::start() else { return };
        let ring = |keys: &[u8]| {
            let lines: Vec<_> = keys.iter().map(|byte| BASE64_STANDARD.encode([*byte; 32])).collect();
            KeyRing::parse(&lines.join("\n")).unwrap()
        };
        let member = async |keys: &[u8]| {
            AcmeMembers::new(engine.reach_with(SharedConfig { keys: ring(keys), ..engine.config() }).await)
        };
        let (before, after) = (member(&[1, 2]).await, member(&[2, 1]).await);
        let made = dev::certificate(&["a.test"]).unwrap();
        let kept = KeptCertificate { directory: DIRECTORY.to_owned(), chain: made.chain, key: made.key };
        let end = kept.read("a.test").unwrap().not_after;
        before.put_certificate("a.test", &kept, end).await.unwrap();
        assert!(!after.certificate(DIRECTORY, "a.test").await.unwrap().unwrap().is_under_first_key);
        after.put_certificate("a.test", &kept, end).await.unwrap();
        assert!(after.certificate(DIRECTORY, "a.test").await.unwrap().unwrap().is_under_first_key);
        // A turn under either key is one.
        assert_eq!(before.take_turn(DIRECTORY, "a.test").await, Ok(OrderTurn::Own));
        assert_eq!(after.take_turn(DIRECTORY, "a.test").await, Ok(OrderTurn::Other));
    }

    #[tokio::test]
    async fn members_have_one_quota_of_orders() {
        let Some(engine) = TestEngine::start() else { return };
        let (one, other) = (member(&engine).await, member(&engine).await);
        let quota: Rate = "3/h burst 2".parse().unwrap();
        assert_eq!(quota.burst, NonZeroU32::new(2).unwrap());
        assert_eq!(one.count_order(DIRECTORY, quota).await, Ok(true));
        assert_eq!(other.count_order(DIRECTORY, quota).await, Ok(true));
        assert_eq!(one.count_order(DIRECTORY, quota).await, Ok(false));
        assert_eq!(other.count_order(DIRECTORY, quota).await, Ok(false));
        let key = other.keys(QUOTA, &[DIRECTORY]).swap_remove(0);
        let life: u64 = other.engine.ask(redis::cmd("PTTL").arg(key.as_str())).await.unwrap();
        assert!(life <= 2 * 20 * 60 * 1000, "{life}");
        // A clock that was set back: an order waits for no longer than a full quota.
        other.engine.ask::<()>(redis::cmd("SET").arg(key.as_str()).arg("9000000000000000")).await.unwrap();
        assert_eq!(one.count_order(DIRECTORY, quota).await, Ok(false));
        other.engine.ask::<u64>(redis::cmd("DEL").arg(key.as_str())).await.unwrap();
        assert_eq!(one.count_order(DIRECTORY, quota).await, Ok(true));
    }
}
