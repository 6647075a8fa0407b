//! A circuit breaker for a PBX that refused the administrator: the PBX bans addresses, and all users share callgate's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Error;
use crate::model::session::SessionId;

/// How long the breaker stays open.
pub(super) const OPEN: Duration = Duration::from_secs(60);

/// Closed at first; a refusal of the credentials opens it for a minute; then one probe decides.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<BreakerState>);

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
}

impl Breaker {
    /// Permits a request, or returns how long to wait.
    pub(super) fn admit(self: &Arc<Self>, now: Instant) -> Result<BreakerPass, Duration> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *state {
            BreakerState::Closed => {}
            BreakerState::Open(until) | BreakerState::Probing(until) if now < until => return Err(until - now),
            BreakerState::Open(_) | BreakerState::Probing(_) => *state = BreakerState::Probing(now + OPEN),
        }
        Ok(BreakerPass { breaker: Arc::clone(self) })
    }

    /// Checks whether requests are permitted, without sending one.
    ///
    /// # Errors
    /// Says why not, in words for the operator.
    pub(crate) fn check(&self, now: Instant) -> Result<(), String> {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
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
}

impl BreakerPass {
    /// Reports the outcome of a request; returns whether the breaker opened. Only an answer says something about the
    /// credentials.
    pub(super) fn report(self, minted: &Result<SessionId, Error>, now: Instant) -> bool {
        let mut state = self.breaker.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (minted, *state) {
            (Err(Error::Refused { .. }), BreakerState::Closed | BreakerState::Probing(_)) => {
                tracing::error!(
                    "the PBX refused the administrator's credentials: no login for {} s; check [pbx] admin",
                    OPEN.as_secs()
                );
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
        assert!(breaker.admit(start).unwrap().report(&REFUSED, start));
        assert!(breaker.check(after(1)).unwrap_err().ends_with("for 60 s"));
        assert_eq!(breaker.admit(after(1)).unwrap_err().as_secs(), 59);
        let probe = breaker.admit(after(60)).unwrap();
        assert!(breaker.admit(after(60)).is_err(), "a second probe");
        assert!(breaker.check(after(60)).is_err());
        assert!(probe.report(&REFUSED, after(61)));
        assert!(breaker.admit(after(120)).is_err());
        breaker.admit(after(121)).unwrap().report(&Ok("g7lsrphhrkim1jkvbt88".parse().unwrap()), after(121));
        assert_eq!(breaker.check(after(121)), Ok(()));
        assert!(breaker.admit(after(121)).is_ok() && breaker.admit(after(121)).is_ok());
    }

    #[tokio::test]
    async fn other_failures_do_not_open() {
        let (breaker, now) = (Arc::new(Breaker::default()), Instant::now());
        breaker.admit(now).unwrap().report(&Err(Error::Timeout), now);
        breaker.admit(now).unwrap().report(&Err(Error::BadResponse), now);
        assert!(breaker.admit(now).is_ok());
    }

    #[tokio::test]
    async fn a_probe_without_an_answer_lets_the_next_try() {
        let (breaker, now) = (Arc::new(Breaker::default()), Instant::now());
        breaker.admit(now).unwrap().report(&REFUSED, now);
        let later = now + OPEN;
        breaker.admit(later).unwrap().report(&Err(Error::Timeout), later);
        assert!(breaker.admit(later).is_ok());
    }
}
