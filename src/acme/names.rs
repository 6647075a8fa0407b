//! When the certificate of a name is ordered, and when the server is asked about its renewal. Pure: time is an argument.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::backoff;
use crate::tls::issued::IssuedCertificate;

/// The pause after the first order that the server refused. Let's Encrypt permits five failures an hour for a name.
const FIRST_PAUSE: Duration = Duration::from_secs(10 * 60);
const LONGEST_PAUSE: Duration = Duration::from_secs(12 * 60 * 60);
/// The pause after an order that a reload dropped.
const DROPPED: Duration = Duration::from_secs(60);
/// The pause after the first try that did not reach the server.
const FIRST_UNREACHED: Duration = Duration::from_secs(10);
const LONGEST_UNREACHED: Duration = Duration::from_secs(30 * 60);
/// The longest pause that a server may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a server is asked when it wants a renewal, whatever it says (RFC 9773 §4.3.2).
const LEAST_QUESTION: Duration = Duration::from_secs(60);
const LONGEST_QUESTION: Duration = Duration::from_secs(24 * 60 * 60);
const DEFAULT_QUESTION: Duration = Duration::from_secs(6 * 60 * 60);

/// What is known of one name.
#[derive(Debug, Default)]
pub(super) struct NameState {
    failures: u32,
    /// Nothing is done before.
    not_before: Option<Instant>,
    problem: Option<String>,
    /// When the certificate is renewed.
    renewal: Option<Timestamp>,
    /// When the server is asked next; `None`: at once.
    question: Option<Instant>,
    /// Whether another member orders the certificate.
    is_elsewhere: bool,
    demand: NameDemand,
}

/// Why there is a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum NameDemand {
    /// The configuration has it.
    #[default]
    Configured,
    /// A client asked for it, and waits.
    Wanted,
    /// A client asked for it at some time.
    Idle,
}

/// What a name needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextStep {
    /// A certificate.
    Order,
    /// The server's advice on when to renew.
    AskForRenewal,
}

/// When a server wants a certificate to be renewed.
#[derive(Debug, Clone, Copy)]
pub(super) struct RenewalWindow {
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
    /// When to ask again.
    pub(super) again: Duration,
}

impl NameState {
    /// Returns why the last order failed; nothing if it did not.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Makes the state of a name that the configuration does not have.
    pub(super) fn on_demand() -> Self {
        Self { demand: NameDemand::Idle, ..Self::default() }
    }

    /// Tells whether the name is one of a tenant, which the configuration does not have.
    pub(super) fn is_on_demand(&self) -> bool {
        self.demand != NameDemand::Configured
    }

    /// Notes that a client waits for the name, or that none waits any more.
    pub(super) fn want(&mut self, is_wanted: bool) {
        if self.is_on_demand() {
            self.demand = if is_wanted { NameDemand::Wanted } else { NameDemand::Idle };
        }
    }

    /// Tells whether the last order failed, and the next one has to wait.
    pub(super) fn is_paused(&self, instant: Instant) -> bool {
        self.problem.is_some() && self.not_before.is_some_and(|at| at > instant)
    }

    /// Tells whether no client waits for the name, and the configuration does not have it.
    pub(super) fn is_unwanted(&self) -> bool {
        self.demand == NameDemand::Idle
    }

    /// Notes why the name gets no order for a while.
    pub(super) fn hold(&mut self, problem: &str, pause: Duration, instant: Instant) {
        self.problem = Some(problem.to_owned());
        self.postpone(pause, instant);
    }

    /// Looks again after a pause: another member orders the certificate. Returns whether that is new.
    pub(super) fn wait_for_member(&mut self, pause: Duration, instant: Instant) -> bool {
        self.postpone(pause, instant);
        !std::mem::replace(&mut self.is_elsewhere, true)
    }

    /// Waits as long as another member whose order failed.
    pub(super) fn follow_failure(&mut self, failures: u32, pause: Duration, instant: Instant) {
        self.failures = self.failures.max(failures);
        self.is_elsewhere = false;
        self.hold("the order of another member failed, whose log says why", pause, instant);
    }

    /// Returns how many orders have failed.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    /// Does nothing for a while.
    pub(super) fn postpone(&mut self, pause: Duration, instant: Instant) {
        self.not_before = Some(instant + pause);
    }

    /// Returns how long until the name needs something.
    pub(super) fn due(&self, certificate: Option<&IssuedCertificate>, now: Timestamp, instant: Instant) -> Duration {
        let paused = self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(instant));
        if self.step(certificate, now) == NextStep::Order {
            return paused;
        }
        let question = self.question.map_or(Duration::ZERO, |at| at.saturating_duration_since(instant));
        let until = self.renewal.map(|at| at.duration_since(now));
        let renewal = until.map_or(Duration::MAX, |until| Duration::try_from(until).unwrap_or_default());
        paused.max(question.min(renewal))
    }

    /// Returns what the name needs next.
    pub(super) fn step(&self, certificate: Option<&IssuedCertificate>, now: Timestamp) -> NextStep {
        let is_due = || self.renewal.is_some_and(|at| at <= now);
        if certificate.is_none_or(|one| one.not_after <= now) || is_due() {
            NextStep::Order
        } else {
            NextStep::AskForRenewal
        }
    }

    /// Begins an order, and returns how many have failed before. If it is dropped, the next one waits.
    pub(super) fn begin(&mut self, instant: Instant) -> u32 {
        let pause = match self.failures {
            0 => DROPPED,
            failures => backoff::after(failures, FIRST_PAUSE, LONGEST_PAUSE),
        };
        self.not_before = Some(instant + pause);
        self.is_elsewhere = false;
        self.failures
    }

    /// Notes a failure, and returns the pause after it. `asked`: the pause that the server asks for.
    pub(super) fn failed(
        &mut self,
        problem: &str,
        is_unreached: bool,
        asked: Option<Duration>,
        instant: Instant,
    ) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.problem = Some(problem.to_owned());
        let (first, longest) =
            if is_unreached { (FIRST_UNREACHED, LONGEST_UNREACHED) } else { (FIRST_PAUSE, LONGEST_PAUSE) };
        let pause = backoff::jittered(backoff::after(self.failures, first, longest));
        let pause = asked.map_or(pause, |asked| pause.max(asked.min(LONGEST_ASKED)));
        self.not_before = Some(instant + pause);
        pause
    }

    /// Takes a new certificate into account.
    pub(super) fn succeeded(&mut self, certificate: &IssuedCertificate) {
        let demand = if self.is_on_demand() { NameDemand::Idle } else { NameDemand::Configured };
        *self = Self { demand, ..Self::default() };
        self.loaded(certificate, true);
    }

    /// Tells whether a certificate was taken into account.
    pub(super) const fn is_loaded(&self) -> bool {
        self.renewal.is_some()
    }

    /// Takes a certificate into account. One of another server is replaced at once.
    pub(super) fn loaded(&mut self, certificate: &IssuedCertificate, is_of_this_server: bool) {
        self.renewal = Some(match is_of_this_server {
            true => two_thirds(certificate),
            false => certificate.not_before,
        });
    }

    /// Renews the certificate at a moment that the server chose, within its window. The server knows why: it may be about
    /// to revoke the certificate.
    pub(super) fn renew_within(&mut self, window: &RenewalWindow, instant: Instant) {
        let is_chosen = self.renewal.is_some_and(|at| window.start <= at && at <= window.end);
        if !is_chosen {
            let length = Duration::try_from(window.end.duration_since(window.start)).unwrap_or_default();
            // Between the half and the whole of the window.
            let moment = SignedDuration::try_from(backoff::jittered(length)).unwrap_or_default();
            self.renewal = Some(window.start.saturating_add(moment).unwrap_or(window.end));
        }
        self.postpone_question(Some(window.again), instant);
    }

    /// Asks the server again after a pause.
    pub(super) fn postpone_question(&mut self, pause: Option<Duration>, instant: Instant) {
        let pause = pause.map_or(DEFAULT_QUESTION, |pause| pause.clamp(LEAST_QUESTION, LONGEST_QUESTION));
        self.question = Some(instant + pause);
    }
}

/// Returns a moment about two thirds through the lifetime of a certificate.
fn two_thirds(certificate: &IssuedCertificate) -> Timestamp {
    let lifetime = certificate.not_after.duration_since(certificate.not_before);
    let spread = Duration::try_from(lifetime / 20).unwrap_or_default();
    let early = SignedDuration::try_from(backoff::jittered(spread)).unwrap_or_default();
    let at = certificate.not_before.saturating_add(lifetime / 3 * 2);
    at.and_then(|at| at.saturating_sub(early)).unwrap_or(certificate.not_before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::dev;

    fn certificate() -> IssuedCertificate {
        let made = dev::certificate(&["a.test"]).unwrap();
        IssuedCertificate::read("a.test", &made.chain, &made.key).unwrap()
    }

    #[tokio::test]
    async fn a_name_without_a_certificate_is_ordered_and_failures_pause() {
        let (mut state, start, now) = (NameState::default(), Instant::now(), Timestamp::now());
        assert_eq!((state.step(None, now), state.due(None, now, start)), (NextStep::Order, Duration::ZERO));
        assert_eq!(state.begin(start), 0);
        assert!(state.due(None, now, start) >= DROPPED, "an order that is dropped is not repeated at once");
        let mut last = Duration::ZERO;
        for failure in 1..=12 {
            last = state.failed("no", false, None, start);
            assert!(last >= FIRST_PAUSE / 2 && last <= LONGEST_PAUSE, "{failure}: {last:?}");
        }
        assert!(last >= LONGEST_PAUSE / 2);
        let mut state = NameState::default();
        assert!(state.failed("away", true, None, start) <= FIRST_UNREACHED);
        assert_eq!(state.problem(), Some("away"));
        let asked = Duration::from_secs(5 * 60 * 60);
        assert!(state.failed("rate limited", false, Some(asked), start) >= asked);
        assert_eq!(state.failed("odd", true, Some(Duration::MAX), start), LONGEST_ASKED);
    }

    #[tokio::test]
    async fn a_certificate_is_renewed_after_two_thirds_of_its_life_or_when_the_server_wants() {
        let (certificate, start) = (certificate(), Instant::now());
        let mut state = NameState::default();
        state.succeeded(&certificate);
        let lifetime = certificate.not_after.duration_since(certificate.not_before);
        let at = |share: i32| certificate.not_before.saturating_add(lifetime / 100 * share).unwrap();
        assert_eq!(state.step(Some(&certificate), at(60)), NextStep::AskForRenewal);
        assert_eq!(state.step(Some(&certificate), at(67)), NextStep::Order);
        assert_eq!(state.due(Some(&certificate), at(1), start), Duration::ZERO, "the server is asked at once");

        let window = RenewalWindow { start: at(10), end: at(20), again: Duration::ZERO };
        state.renew_within(&window, start);
        assert!(state.due(Some(&certificate), at(1), start) >= LEAST_QUESTION, "but not again and again");
        assert_eq!(state.step(Some(&certificate), at(9)), NextStep::AskForRenewal);
        assert_eq!(state.step(Some(&certificate), at(21)), NextStep::Order);
        let chosen = state.renewal;
        state.renew_within(&window, start);
        assert_eq!(state.renewal, chosen, "one choice for one window");
    }

    #[tokio::test]
    async fn a_certificate_of_another_server_is_replaced_and_an_expired_one_too() {
        let certificate = certificate();
        let mut state = NameState::default();
        state.loaded(&certificate, false);
        assert_eq!(state.step(Some(&certificate), Timestamp::now()), NextStep::Order);
        state.loaded(&certificate, true);
        assert_eq!(state.step(Some(&certificate), Timestamp::now()), NextStep::AskForRenewal);
        assert_eq!(state.step(Some(&certificate), certificate.not_after), NextStep::Order);
    }
}
