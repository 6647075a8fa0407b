//! A circuit breaker for a PBX that refused the administrator: the PBX bans addresses, and all users share callgate's.

mod member_breaker;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

pub(crate) use self::member_breaker::follow_breaker;
use self::member_breaker::{MemberBreaker, MemberNews, MemberState};
use super::Error;
use crate::members::SharedEngine;
use crate::model::session::SessionId;

/// How long the breaker stays open.
pub(super) const OPEN: Duration = Duration::from_secs(60);

/// Closed at first; a refusal of the credentials opens it for a minute; then one probe decides. With an engine, all members
/// have one state; while it is away, each goes on with what it knows.
#[derive(Default)]
pub(crate) struct Breaker {
    state: Mutex<BreakerState>,
    refusals: Mutex<RefusalCount>,
    members: Option<MemberBreaker>,
}

/// The refusals since the PBX last accepted the administrator.
#[derive(Debug, Default, Clone, Copy)]
struct RefusalCount {
    /// How many this process met.
    count: u64,
    /// When this process learned of the first, its own or another member's.
    since: Option<Timestamp>,
}

/// What an operator sees of the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BreakerReport {
    /// `closed`: the PBX is asked; `open`: it is not; `half_open`: the next login decides; `probing`: the PBX has been asked, and
    /// its answer decides.
    pub(crate) state: &'static str,
    /// How many refusals this process met since the PBX last accepted the administrator.
    pub(crate) refusals: u64,
    /// When the first of these was.
    pub(crate) since: Option<Timestamp>,
    /// How long no login asks the PBX.
    pub(crate) wait: Option<Duration>,
}

#[derive(Debug, Default, Clone, Copy)]
enum BreakerState {
    #[default]
    Closed,
    Open(Instant),
    /// A probe is in flight; other requests wait for its outcome until then.
    Probing(Instant),
}

/// The permission for one request. Its report, or its loss, changes the state.
#[derive(Debug)]
pub(super) struct BreakerPass {
    breaker: Arc<Breaker>,
    /// Whether all members wait for its outcome.
    is_probe_of_all: bool,
}

impl Breaker {
    /// Makes the breaker that members share. `of`: the PBX and the administrator.
    pub(crate) fn shared(engine: Arc<SharedEngine>, of: &[&[u8]]) -> Self {
        Self { members: Some(MemberBreaker::new(engine, of)), ..Self::default() }
    }

    /// Permits a request, or returns how long to wait.
    pub(super) async fn admit(self: &Arc<Self>, now: Instant) -> Result<BreakerPass, Duration> {
        let Some(members) = &self.members else { return self.admit_alone(now) };
        let Ok(state) = members.tell(MemberNews::Ask).await else { return self.admit_alone(now) };
        match state {
            MemberState::Closed => {
                if let Some(wait) = self.open_for(now) {
                    // The engine was restarted empty.
                    let _ = members.tell(MemberNews::Refused).await;
                    return Err(wait);
                }
            }
            MemberState::Open(wait) | MemberState::Probed(wait) => {
                self.follow(state, now);
                return Err(wait);
            }
            MemberState::Probe => {}
        }
        let is_probe_of_all = state == MemberState::Probe;
        *self.state() = if is_probe_of_all { BreakerState::Probing(now + OPEN) } else { BreakerState::Closed };
        Ok(BreakerPass { breaker: Arc::clone(self), is_probe_of_all })
    }

    fn admit_alone(self: &Arc<Self>, now: Instant) -> Result<BreakerPass, Duration> {
        let mut state = self.state();
        match *state {
            BreakerState::Closed => {}
            BreakerState::Open(until) | BreakerState::Probing(until) if now < until => return Err(until - now),
            BreakerState::Open(_) | BreakerState::Probing(_) => *state = BreakerState::Probing(now + OPEN),
        }
        Ok(BreakerPass { breaker: Arc::clone(self), is_probe_of_all: false })
    }

    /// Takes over the state of all members.
    fn follow(&self, state: MemberState, now: Instant) {
        let mut own = self.state();
        match (state, *own) {
            (MemberState::Closed, _) => *own = BreakerState::Closed,
            (MemberState::Open(wait), _) => *own = BreakerState::Open(now + wait),
            (MemberState::Probed(_), BreakerState::Closed) => *own = BreakerState::Open(now),
            (MemberState::Probed(_) | MemberState::Probe, _) => {}
        }
        match *own {
            BreakerState::Closed => *self.refusals() = RefusalCount::default(),
            BreakerState::Open(_) | BreakerState::Probing(_) => self.count_refusals(0),
        }
    }

    fn count_refusals(&self, more: u64) {
        let mut refusals = self.refusals();
        refusals.count += more;
        refusals.since.get_or_insert_with(Timestamp::now);
    }

    /// Describes its state, for the operator.
    pub(crate) fn report(&self, now: Instant) -> BreakerReport {
        let (state, wait) = match *self.state() {
            BreakerState::Closed => ("closed", None),
            BreakerState::Open(until) if now < until => ("open", Some(until - now)),
            BreakerState::Probing(until) if now < until => ("probing", None),
            BreakerState::Open(_) | BreakerState::Probing(_) => ("half_open", None),
        };
        let RefusalCount { count, since } = *self.refusals();
        BreakerReport { state, refusals: count, since, wait }
    }

    /// Returns how long it is open; nothing if it is not.
    pub(super) fn open_for(&self, now: Instant) -> Option<Duration> {
        match *self.state() {
            BreakerState::Open(until) if now < until => Some(until - now),
            BreakerState::Closed | BreakerState::Open(_) | BreakerState::Probing(_) => None,
        }
    }

    /// Checks whether requests are permitted, without sending one.
    ///
    /// # Errors
    /// Says why not, in words for the operator.
    pub(crate) fn check(&self, now: Instant) -> Result<(), String> {
        match *self.state() {
            BreakerState::Open(until) if now < until => {
                let left = (until - now).as_secs() + 1;
                Err(format!("the PBX refused the administrator's credentials: no login for {left} s"))
            }
            BreakerState::Probing(until) if now < until => {
                Err("the PBX refused the administrator's credentials, and is asked again".to_owned())
            }
            BreakerState::Closed | BreakerState::Open(_) | BreakerState::Probing(_) => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, BreakerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusals(&self) -> MutexGuard<'_, RefusalCount> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the minute be over.
    #[cfg(test)]
    fn pass_time(&self) {
        let mut state = self.state();
        if let BreakerState::Open(until) | BreakerState::Probing(until) = &mut *state {
            *until = Instant::now();
        }
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker").field("state", &*self.state()).finish_non_exhaustive()
    }
}

impl BreakerPass {
    /// Reports the outcome of a request; returns whether the breaker opened. Only an answer says something about the
    /// credentials.
    pub(super) async fn report(self, minted: &Result<SessionId, Error>, now: Instant) -> bool {
        let has_opened = self.report_here(minted, now);
        let news = match minted {
            Err(Error::Refused { .. }) => Some(MemberNews::Refused),
            Ok(_) | Err(Error::NotPermitted | Error::Unknown) => self.is_probe_of_all.then_some(MemberNews::Accepted),
            Err(_) => self.is_probe_of_all.then_some(MemberNews::Unknown),
        };
        if let Some((members, news)) = self.breaker.members.as_ref().zip(news) {
            // Without an answer the engine's own times let the next request decide.
            let _ = members.tell(news).await;
        }
        has_opened
    }

    fn report_here(&self, minted: &Result<SessionId, Error>, now: Instant) -> bool {
        match minted {
            Err(Error::Refused { .. }) => self.breaker.count_refusals(1),
            Ok(_) | Err(Error::NotPermitted | Error::Unknown) => *self.breaker.refusals() = RefusalCount::default(),
            Err(_) => {}
        }
        let mut state = self.breaker.state();
        match (minted, *state) {
            (Err(Error::Refused { .. }), BreakerState::Closed | BreakerState::Probing(_)) => {
                *state = BreakerState::Open(now + OPEN);
                return true;
            }
            (Ok(_) | Err(Error::NotPermitted | Error::Unknown), _) => *state = BreakerState::Closed,
            // The outcome says nothing about the credentials: the next request is a probe.
            (Err(_), BreakerState::Probing(_)) => *state = BreakerState::Open(now),
            (Err(_), _) => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Result<SessionId, Error> = Err(Error::Refused { retry_after: OPEN });

    #[tokio::test]
    async fn one_refusal_opens_and_one_probe_decides() {
        let (breaker, start) = (Arc::new(Breaker::default()), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(breaker.check(start), Ok(()));
        assert!(breaker.admit(start).await.unwrap().report(&REFUSED, start).await);
        assert!(breaker.check(after(1)).unwrap_err().ends_with("for 60 s"));
        let report = breaker.report(after(1));
        assert_eq!((report.state, report.refusals, report.wait), ("open", 1, Some(Duration::from_secs(59))));
        assert!(report.since.is_some_and(|since| since <= Timestamp::now()));
        assert_eq!(breaker.admit(after(1)).await.unwrap_err().as_secs(), 59);
        assert_eq!(breaker.report(after(60)).state, "half_open");
        let probe = breaker.admit(after(60)).await.unwrap();
        assert_eq!((breaker.report(after(60)).state, breaker.report(after(60)).wait), ("probing", None));
        assert!(breaker.admit(after(60)).await.is_err(), "a second probe");
        assert!(breaker.check(after(60)).is_err());
        assert!(probe.report(&REFUSED, after(61)).await);
        assert_eq!((breaker.report(after(61)).refusals, breaker.report(after(61)).since), (2, report.since));
        assert!(breaker.admit(after(120)).await.is_err());
        breaker.admit(after(121)).await.unwrap().report(&Ok("g7lsrphhrkim1jkvbt88".parse().unwrap()), after(121)).await;
        assert_eq!(breaker.check(after(121)), Ok(()));
        let closed = BreakerReport { state: "closed", refusals: 0, since: None, wait: None };
        assert_eq!(breaker.report(after(121)), closed);
        assert!(breaker.admit(after(121)).await.is_ok() && breaker.admit(after(121)).await.is_ok());
    }

    #[tokio::test]
    async fn other_failures_do_not_open() {
        let (breaker, now) = (Arc::new(Breaker::default()), Instant::now());
        breaker.admit(now).await.unwrap().report(&Err(Error::Timeout), now).await;
        breaker.admit(now).await.unwrap().report(&Err(Error::BadResponse), now).await;
        assert!(breaker.admit(now).await.is_ok());
    }

    #[tokio::test]
    async fn a_probe_without_an_answer_lets_the_next_try() {
        let (breaker, now) = (Arc::new(Breaker::default()), Instant::now());
        breaker.admit(now).await.unwrap().report(&REFUSED, now).await;
        let later = now + OPEN;
        breaker.admit(later).await.unwrap().report(&Err(Error::Timeout), later).await;
        assert!(breaker.admit(later).await.is_ok());
    }
}
