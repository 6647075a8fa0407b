//! The breaker that all members share: when the PBX refuses the administrator at one of them, none asks it for a minute, and
//! then one alone.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::{Breaker, OPEN};
use crate::members::{EngineDown, EngineKey, EngineScript, SharedEngine, content};

/// The kind of the key, and of the messages that tell of a change.
const KIND: &str = "breaker";
/// How long a refusal is remembered without a login. Later the breaker is closed.
const LIFE: Duration = Duration::from_secs(3600);

static SCRIPT: LazyLock<EngineScript> = LazyLock::new(|| EngineScript::new(include_str!("breaker.lua")));

/// The breaker of one PBX and administrator, at the engine.
pub(super) struct MemberBreaker {
    engine: Arc<SharedEngine>,
    key: EngineKey,
}

/// The state of the breaker at the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberState {
    Closed,
    /// No request is sent for so long.
    Open(Duration),
    /// Another member has sent one, and its outcome is awaited for so long.
    Probed(Duration),
    /// The next request decides; after a question for a request, it is the one that asks.
    Probe,
}

/// What a member tells the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberNews {
    /// May a request be sent?
    Ask,
    /// What is the state? Nothing is sent.
    Look,
    /// The PBX refused the administrator.
    Refused,
    /// The PBX accepted the administrator, when one request decided.
    Accepted,
    /// The request that was to decide had no answer.
    Unknown,
}

impl MemberBreaker {
    pub(super) fn new(engine: Arc<SharedEngine>, of: &[&[u8]]) -> Self {
        Self { key: engine.names().of(KIND, of), engine }
    }

    /// Tells the engine some news, and returns the state after them.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) async fn tell(&self, news: MemberNews) -> Result<MemberState, EngineDown> {
        let word = match news {
            MemberNews::Ask => "ask",
            MemberNews::Look => "look",
            MemberNews::Refused => "refused",
            MemberNews::Accepted => "accepted",
            MemberNews::Unknown => "unknown",
        };
        let arguments = [
            word.to_owned(),
            OPEN.as_millis().to_string(),
            LIFE.as_millis().to_string(),
            self.engine.channel().as_str().to_owned(),
            format!("{KIND} changed"),
        ];
        let arguments = arguments.map(String::into_bytes);
        let (state, wait): (String, u64) =
            self.engine.run_script(&SCRIPT, std::slice::from_ref(&self.key), &arguments).await?;
        let wait = Duration::from_millis(wait);
        match &*state {
            "closed" => Ok(MemberState::Closed),
            "open" => Ok(MemberState::Open(wait)),
            "probed" => Ok(MemberState::Probed(wait)),
            "probe" => Ok(MemberState::Probe),
            _ => Err(EngineDown),
        }
    }
}

/// Lets a breaker follow that of the other members, for as long as the configuration is in use, so that health checks know
/// it before the next login.
pub(crate) async fn follow_breaker(breaker: Arc<Breaker>) -> Infallible {
    let Some(members) = &breaker.members else { return pending().await };
    let (mut reached, mut messages) = (members.engine.reached(), members.engine.messages());
    loop {
        let is_new = tokio::select! {
            Ok(()) = reached.changed() => true,
            message = messages.recv() => match message {
                Ok(message) if content(&message, KIND).is_some() => false,
                Ok(_) => continue,
                Err(RecvError::Lagged(_)) => false,
                Err(RecvError::Closed) => return pending().await,
            },
        };
        let Ok(state) = members.tell(MemberNews::Look).await else { continue };
        // An engine that was restarted empty has forgotten the refusal.
        if is_new && state == MemberState::Closed && breaker.check(Instant::now()).is_err() {
            // Without an answer the next login tells it.
            let _ = members.tell(MemberNews::Refused).await;
        } else {
            breaker.follow(state, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::members::TestEngine;
    use crate::model::session::SessionId;
    use crate::pbx::Error;

    const REFUSED: Result<SessionId, Error> = Err(Error::Refused { retry_after: OPEN });

    async fn member(engine: &TestEngine, pbx: &str) -> Arc<Breaker> {
        let breaker = Arc::new(Breaker::shared(engine.reach().await, &[pbx.as_bytes()]));
        tokio::spawn(follow_breaker(Arc::clone(&breaker)));
        breaker
    }

    async fn until(breaker: &Breaker, is_open: bool) {
        for _ in 0..2000 {
            if breaker.check(Instant::now()).is_err() == is_open {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("{breaker:?}");
    }

    /// Lets the minute pass at the engine and at these members.
    async fn a_minute_passes(members: &[&Arc<Breaker>]) {
        let shared = members[0].members.as_ref().unwrap();
        let key = shared.key.as_str();
        for field in ["open", "probe"] {
            let exists: bool = shared.engine.ask(redis::cmd("HEXISTS").arg(key).arg(field)).await.unwrap();
            if exists {
                shared.engine.ask::<u64>(redis::cmd("HSET").arg(key).arg(field).arg(1)).await.unwrap();
            }
        }
        for member in members {
            member.pass_time();
        }
    }

    #[tokio::test]
    async fn all_members_know_a_refusal_and_one_of_them_probes() {
        let Some(engine) = TestEngine::start() else { return };
        let (one, other) = (member(&engine, "a").await, member(&engine, "a").await);
        let another = member(&engine, "b").await;
        assert!(one.admit(Instant::now()).await.unwrap().report(&REFUSED, Instant::now()).await);
        until(&other, true).await;
        let wait = other.admit(Instant::now()).await.unwrap_err();
        assert!(wait > Duration::from_secs(50) && wait <= OPEN, "{wait:?}");
        assert!(another.admit(Instant::now()).await.is_ok(), "that of another PBX");

        a_minute_passes(&[&one, &other]).await;
        let probe = other.admit(Instant::now()).await.unwrap();
        for member in [&one, &other] {
            assert!(member.admit(Instant::now()).await.is_err(), "a second probe");
        }
        // Without an answer the next one tries, and its refusal counts for all.
        probe.report(&Err(Error::Timeout), Instant::now()).await;
        let probe = one.admit(Instant::now()).await.unwrap();
        assert!(other.admit(Instant::now()).await.is_err());
        assert!(probe.report(&REFUSED, Instant::now()).await);
        assert!(other.admit(Instant::now()).await.is_err());

        a_minute_passes(&[&one, &other]).await;
        let probe = one.admit(Instant::now()).await.unwrap();
        probe.report(&Ok("g7lsrphhrkim1jkvbt88".parse().unwrap()), Instant::now()).await;
        until(&other, false).await;
        for member in [&one, &other, &other] {
            assert!(member.admit(Instant::now()).await.is_ok());
        }
    }

    #[tokio::test]
    async fn an_engine_that_forgot_a_refusal_is_told_by_the_members() {
        let Some(engine) = TestEngine::start() else { return };
        let (one, other) = (member(&engine, "a").await, member(&engine, "a").await);
        one.admit(Instant::now()).await.unwrap().report(&REFUSED, Instant::now()).await;
        until(&other, true).await;
        let ask =
            async |command: &str| other.members.as_ref().unwrap().engine.ask::<String>(&redis::cmd(command)).await;
        ask("FLUSHALL").await.unwrap();
        assert!(other.admit(Instant::now()).await.is_err());
        let late = member(&engine, "a").await;
        assert!(late.admit(Instant::now()).await.is_err(), "the first that asked has told it");
    }

    #[tokio::test]
    async fn a_clock_of_the_engine_that_was_set_back_closes_no_breaker_for_longer() {
        let Some(engine) = TestEngine::start() else { return };
        let one = member(&engine, "a").await;
        one.admit(Instant::now()).await.unwrap().report(&REFUSED, Instant::now()).await;
        let shared = one.members.as_ref().unwrap();
        let mut set = redis::cmd("HSET");
        set.arg(shared.key.as_str()).arg("open").arg(99_999_999_999_999_u64);
        shared.engine.ask::<u64>(&set).await.unwrap();
        assert_eq!(shared.tell(MemberNews::Look).await, Ok(MemberState::Open(OPEN)));
        let life: i64 = shared.engine.ask(redis::cmd("PTTL").arg(shared.key.as_str())).await.unwrap();
        assert!(life > 0, "{life}");
    }
}
