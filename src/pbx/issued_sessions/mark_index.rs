//! Which marks of credentials identify a caller, among those of all sessions.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use jiff::{SignedDuration, Timestamp};

use super::entry::SessionLogin;
use crate::model::account::Role;
use crate::model::credential_mark::{CredentialMark, MarkDigest};

/// How long a logout holds for logins that began before it: longer than a login takes, with its tickets.
const RECENT: SignedDuration = SignedDuration::from_secs(120);
/// How many recent logouts are remembered; beyond it, the oldest is dropped.
const LOGOUTS: usize = 10_000;

/// The marks of all sessions that are not over.
#[derive(Debug, Default)]
pub(super) struct MarkIndex {
    uses: HashMap<MarkDigest, MarkUse>,
    /// The marks of callers that logged out lately.
    logouts: VecDeque<(Timestamp, MarkDigest)>,
    hashes: RandomState,
}

/// The use of one mark.
#[derive(Debug)]
struct MarkUse {
    /// How many sessions have it.
    sessions: u32,
    /// Hashes of the caller and of the account of its first session.
    first: [u64; 2],
    /// Whether a second caller with another account has shown it.
    is_shared: bool,
}

impl MarkIndex {
    /// Adds the marks of a session.
    pub(super) fn add(&mut self, marks: &[CredentialMark], login: &SessionLogin, role: &Role) {
        let caller = self.hashes.hash_one((&login.method, &login.subject));
        let shown_by = [caller, self.hashes.hash_one(role)];
        for mark in marks {
            let known =
                self.uses.entry(mark.digest).or_insert(MarkUse { sessions: 0, first: shown_by, is_shared: false });
            known.sessions += 1;
            // One person may log in by two methods, or as two accounts. Two people differ in both.
            known.is_shared |= known.first.iter().zip(shown_by).all(|(first, now)| *first != now);
        }
    }

    /// Removes the marks of a session.
    pub(super) fn remove(&mut self, marks: &[CredentialMark]) {
        for mark in marks {
            if let Some(known) = self.uses.get_mut(&mark.digest) {
                known.sessions -= 1;
                if known.sessions == 0 {
                    self.uses.remove(&mark.digest);
                }
            }
        }
    }

    /// Returns whether a mark identifies a caller that has a session.
    pub(super) fn identifies(&self, mark: &CredentialMark) -> bool {
        self.uses.get(&mark.digest).is_some_and(|known| mark.is_certain() || !known.is_shared)
    }

    // === Logouts ===

    /// Remembers that the caller with these marks logged out. A login may be under way.
    pub(super) fn log_out(&mut self, marks: &[CredentialMark], now: Timestamp) {
        while self.logouts.front().is_some_and(|(at, _)| now.duration_since(*at) > RECENT) {
            self.logouts.pop_front();
        }
        for mark in marks.iter().filter(|mark| mark.is_certain()) {
            if self.logouts.len() >= LOGOUTS {
                self.logouts.pop_front();
            }
            self.logouts.push_back((now, mark.digest));
        }
    }

    /// Returns whether the caller of a login has logged out since the login began.
    pub(super) fn has_logged_out(&self, login: &SessionLogin) -> bool {
        let later = self.logouts.iter().filter(|(at, _)| *at >= login.began);
        let mut later = later.map(|(_, digest)| digest);
        later.any(|digest| login.marks.iter().any(|mark| mark.is_certain() && mark.digest == *digest))
    }
}
