//! Names for which a client has asked and that have no certificate yet: the handshakes that wait for it, and the quota of
//! orders. All of it is bounded.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, Semaphore, watch};

use crate::model::rate::Rate;

/// The most names that wait at once: to be looked up, or for their order.
const MAX_NAMES: usize = 64;
/// The most handshakes that wait at once.
const MAX_WAITING: usize = 256;

/// The names that clients wait for.
pub(super) struct Demand {
    names: Mutex<BTreeMap<String, WantedName>>,
    turns: Semaphore,
    /// Wakes the task that looks names up.
    asked: Notify,
    /// Wakes the task that orders.
    pub(super) ordered: Notify,
}

struct WantedName {
    /// Whether the PBX is still to be asked.
    is_new: bool,
    /// Dropped once there is a certificate, or it is known that there is none now.
    end: watch::Sender<()>,
}

/// As many handshakes or names wait as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany;

impl Default for Demand {
    fn default() -> Self {
        Self {
            names: Mutex::default(),
            turns: Semaphore::new(MAX_WAITING),
            asked: Notify::new(),
            ordered: Notify::new(),
        }
    }
}

impl Demand {
    /// Waits until the name has a certificate, or it is known that it gets none now. The caller has a deadline.
    pub(super) async fn wait(&self, name: &str) -> Result<(), TooMany> {
        let _turn = self.turns.try_acquire().map_err(|_| TooMany)?;
        let mut end = self.join(name).ok_or(TooMany)?;
        while end.changed().await.is_ok() {}
        Ok(())
    }

    fn join(&self, name: &str) -> Option<watch::Receiver<()>> {
        let mut names = self.names();
        if let Some(wanted) = names.get(name) {
            return Some(wanted.end.subscribe());
        }
        if names.len() >= MAX_NAMES {
            return None;
        }
        let (end, ended) = watch::channel(());
        names.insert(name.to_owned(), WantedName { is_new: true, end });
        self.asked.notify_one();
        Some(ended)
    }

    /// Waits for a name that is to be looked up. It stays so until it is [`Demand::accept`]ed or [`Demand::settle`]d.
    pub(super) async fn next(&self) -> String {
        loop {
            let next = self.names().iter().find(|(_, wanted)| wanted.is_new).map(|(name, _)| name.clone());
            match next {
                Some(name) => return name,
                None => self.asked.notified().await,
            }
        }
    }

    /// Leaves a name to the task that orders.
    pub(super) fn accept(&self, name: &str) {
        if let Some(wanted) = self.names().get_mut(name) {
            wanted.is_new = false;
        }
        self.ordered.notify_one();
    }

    /// Lets those go on who wait for a name.
    pub(super) fn settle(&self, name: &str) {
        self.names().remove(name);
    }

    /// Returns the names that were accepted.
    pub(super) fn accepted(&self) -> Vec<String> {
        let names = self.names();
        names.iter().filter(|(_, wanted)| !wanted.is_new).map(|(name, _)| name.clone()).collect()
    }

    /// Locks even after a panic elsewhere: entries are moved in and out whole.
    fn names(&self) -> MutexGuard<'_, BTreeMap<String, WantedName>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts an order against a quota, by the generic cell rate algorithm. `before`: what it returned last. Returns `None` if the
/// quota is used up. A clock that was set back delays orders by no more than the quota itself would.
pub(super) fn admit(before: Option<Timestamp>, quota: Rate, now: Timestamp) -> Option<Timestamp> {
    let interval = SignedDuration::try_from(quota.period).ok()? / i32::try_from(quota.count.get()).ok()?;
    let room = interval * i32::try_from(quota.burst.get()).ok()?;
    let latest = now.saturating_add(room).ok()?;
    let next = before.unwrap_or(now).clamp(now, latest).saturating_add(interval).ok()?;
    (next <= latest).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_looked_up_once_for_all_who_wait() {
        let demand = Demand::default();
        let (one, two) = (demand.wait("a.test"), demand.wait("a.test"));
        let answer = async {
            assert_eq!(demand.next().await, "a.test");
            demand.accept("a.test");
            assert_eq!(demand.accepted(), ["a.test"]);
            demand.settle("a.test");
        };
        let (one, two, ()) = tokio::join!(one, two, answer);
        assert_eq!((one, two), (Ok(()), Ok(())));
        assert!(demand.names().is_empty());
    }

    #[tokio::test]
    async fn names_and_handshakes_that_wait_are_bounded() {
        let demand = Demand::default();
        for number in 0..MAX_NAMES {
            assert!(demand.join(&format!("{number}.test")).is_some());
        }
        assert!(demand.join("one-more.test").is_none() && demand.join("0.test").is_some());
        assert_eq!(demand.wait("one-more.test").await, Err(TooMany));
        let turns = demand.turns.try_acquire_many(u32::try_from(MAX_WAITING).unwrap()).unwrap();
        assert_eq!(demand.wait("0.test").await, Err(TooMany));
        drop(turns);
        demand.settle("0.test");
        assert!(demand.join("one-more.test").is_some());
    }

    #[test]
    fn a_quota_admits_a_burst_and_then_one_after_the_other() {
        let quota: Rate = "4/h burst 2".parse().unwrap();
        let start = Timestamp::UNIX_EPOCH;
        let after = |minutes: i64| start + SignedDuration::from_mins(minutes);
        let first = admit(None, quota, start).unwrap();
        let second = admit(Some(first), quota, start).unwrap();
        assert_eq!(admit(Some(second), quota, start), None);
        assert_eq!(admit(Some(second), quota, after(14)), None);
        let third = admit(Some(second), quota, after(15)).unwrap();
        assert_eq!(admit(Some(third), quota, after(15)), None);
        // A clock that was set back by a day.
        let late = after(24 * 60);
        assert_eq!(admit(Some(late), quota, start), None);
        assert!(admit(admit(None, quota, late), quota, late).is_some());
    }
}
