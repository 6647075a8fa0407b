//! Stops asking a PBX that refused the administrator: it bans addresses, and all users share ours.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Error;
use crate::model::session::SessionId;

/// How long nobody is asked for after a refusal.
pub(super) const OPEN: Duration = Duration::from_secs(60);

/// Closed at first; opens at a refusal of the credentials for a minute; then one question decides.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<BreakerState>);

#[derive(Debug, Default, Clone, Copy)]
enum BreakerState {
    #[default]
    Closed,
    Open(Instant),
    /// One question is under way, and others wait for its outcome until then.
    Probing(Instant),
}

/// The permission to ask once. Its report, or its loss, moves the breaker.
#[derive(Debug)]
pub(super) struct BreakerPass {
    breaker: Arc<Breaker>,
}

impl Breaker {
    /// Permits a question, or says how long to wait.
    pub(super) fn admit(self: &Arc<Self>, now: Instant) -> Result<BreakerPass, Duration> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *state {
            BreakerState::Closed => {}
            BreakerState::Open(until) | BreakerState::Probing(until) if now < until => return Err(until - now),
            BreakerState::Open(_) | BreakerState::Probing(_) => *state = BreakerState::Probing(now + OPEN),
        }
        Ok(BreakerPass { breaker: Arc::clone(self) })
    }

    /// Tells whether questions are permitted, without asking one.
    ///
    /// # Errors
    /// Why not, in words for the operator.
    pub fn check(&self, now: Instant) -> Result<(), String> {
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
    /// Tells how the question went, and returns whether the breaker opened. Only an answer says something about the credentials.
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
            // No word on the credentials: the next question may try.
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
        breaker.admit(now).unwrap().report(&Err(Error::Nonsense), now);
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
