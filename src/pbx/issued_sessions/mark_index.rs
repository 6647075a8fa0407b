//! Which marks of credentials identify a caller, among those of all sessions.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;

use super::entry::SessionLogin;
use super::logout_times::LogoutTimes;
use crate::model::account::Role;
use crate::model::credential_mark::{CredentialMark, MarkDigest};

/// How many marks of a caller's credential are remembered.
pub(crate) const MARKS: usize = 16;

/// The marks of all sessions that are not over.
#[derive(Debug, Default)]
pub(super) struct MarkIndex {
    uses: HashMap<MarkDigest, MarkUse>,
    /// When callers logged out.
    logouts: LogoutTimes,
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

    /// Returns whether more than one caller has shown a mark, so that it identifies none.
    pub(super) fn is_of_many(&self, mark: &CredentialMark) -> bool {
        !mark.is_certain() && self.uses.get(&mark.digest).is_some_and(|known| known.is_shared)
    }

    // === Hand-over ===

    /// Returns marks that more than one caller has shown, at most so many.
    pub(super) fn shared(&self, most: usize) -> Vec<MarkDigest> {
        self.uses.iter().filter(|(_, known)| known.is_shared).map(|(digest, _)| *digest).take(most).collect()
    }

    /// Returns when a caller logged out last.
    pub(super) const fn last_logout(&self) -> Option<Timestamp> {
        self.logouts.last()
    }

    /// Adds what a process before knew, after the marks of its sessions.
    pub(super) fn restore(&mut self, shared: &[MarkDigest], last_logout: Option<Timestamp>) {
        for digest in shared {
            if let Some(known) = self.uses.get_mut(digest) {
                known.is_shared = true;
            }
        }
        self.logouts = LogoutTimes::after(last_logout);
    }

    // === Logouts ===

    /// Remembers that the caller with these marks logged out. A login may be under way.
    pub(super) fn log_out(&mut self, marks: &[CredentialMark], now: Timestamp) {
        for mark in marks.iter().filter(|mark| mark.is_certain()).take(MARKS) {
            self.logouts.note(&mark.digest, now);
        }
    }

    /// Returns whether the caller of a login has logged out since the login began.
    pub(super) fn has_logged_out(&self, login: &SessionLogin) -> bool {
        let mut certain = login.marks.iter().filter(|mark| mark.is_certain());
        certain.any(|mark| self.logouts.has_since(&mark.digest, login.began))
    }
}
