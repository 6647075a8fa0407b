//! The tables of the store and the rules of their changes. No file, no clock.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Digest;
use crate::model::freeze_target::FreezeMeans;

/// How many marks are kept.
const MARKS: usize = 100_000;
/// How many tickets may be in transit.
const TICKETS: usize = 10_000;
/// How many accounts may be frozen.
const FREEZES: usize = 10_000;
/// How many ended logins are remembered.
const ENDED: usize = 100_000;
/// How many phones may be stopped.
const SUSPENSIONS: usize = 20_000;
/// How many records there may be.
const RECORDS: usize = 10_000;
/// The longest record, in bytes.
const MAX_RECORD: usize = 64 << 10;
/// How long a mark is kept beyond its time: a clock that is set back by less makes no credential usable again.
const LONGER: SignedDuration = SignedDuration::from_mins(10);

/// How long a freeze is kept beyond its end: if a believed clock turns out to be wrong, the freeze is in force again.
pub(super) const KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A frozen account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// When it began.
    pub since: Timestamp,
    /// When it ends; nothing: only a thaw ends it.
    pub until: Option<Timestamp>,
    /// The user of this machine who froze it.
    pub by: String,
    /// The reason.
    pub why: String,
    /// What other members know about it; nothing: they do not know it yet, or there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedFreeze>,
}

/// A freeze that other members know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFreeze {
    /// The version of the order. Of two orders about one target, the one with the higher version holds.
    pub version: u64,
    /// Whether only other members were given the order.
    pub is_foreign: bool,
}

/// The order to stop the phone of a frozen Voximplant user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// How the phone is stopped.
    pub means: FreezeMeans,
    /// Whether Voximplant has confirmed it.
    pub is_done: bool,
}

/// All state, in memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) marks: HashMap<Digest, Timestamp>,
    pub(super) tickets: HashMap<Digest, SealedTicket>,
    pub(super) freezes: BTreeMap<String, Freeze>,
    pub(super) ended: HashMap<Digest, EndedLogins>,
    /// By user and application: `ann@myapp.myaccount`.
    pub(super) suspensions: BTreeMap<String, Suspension>,
    /// By a name.
    pub(super) records: BTreeMap<String, StateRecord>,
}

/// A text that is kept under a name, such as a key. It does not print.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct StateRecord(pub(super) Zeroizing<Vec<u8>>);

impl fmt::Debug for StateRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Logins that have ended before their time: those that began at `at` or before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EndedLogins {
    pub(crate) at: Timestamp,
    /// When all of them are over anyway.
    pub(crate) until: Timestamp,
}

/// The sealed value of a ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SealedTicket {
    pub(super) sealed: Vec<u8>,
    pub(super) until: Timestamp,
}

/// A change of the state.
#[derive(Debug)]
pub(super) enum Change {
    Mark { key: Digest, until: Timestamp },
    KeepTicket { ticket: Digest, sealed: Vec<u8>, until: Timestamp },
    TakeTicket { ticket: Digest },
    Freeze { account: String, freeze: Freeze },
    Thaw { account: String },
    EndLogins { key: Digest, ended: EndedLogins },
    Suspend { user: String, suspension: Suspension },
    EndSuspension { user: String },
    KeepRecord { name: String, record: StateRecord },
    RemoveRecord { name: String },
    Sweep,
}

/// The result of a change: the sealed value of a taken ticket.
pub(super) type TakenTicket = Option<Vec<u8>>;

/// Why a change was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChangeError {
    Used,
    Full,
    Unknown,
    Unavailable,
}

/// A row to write to the file; nothing as its value: a row to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileRow {
    Mark(Digest, Option<Timestamp>),
    Ticket(Digest, Option<SealedTicket>),
    Freeze(String, Option<Freeze>),
    Ended(Digest, Option<EndedLogins>),
    Suspension(String, Option<Suspension>),
    Record(String, Option<StateRecord>),
    /// The last believed time.
    Time(Timestamp),
}

impl Tables {
    /// Applies a change and returns the rows that it changes. Only expired rows make room.
    pub(super) fn apply(&mut self, change: Change, now: Timestamp) -> Result<(TakenTicket, Vec<FileRow>), ChangeError> {
        match change {
            Change::Mark { key, until } => {
                if self.marks.contains_key(&key) {
                    return Err(ChangeError::Used);
                }
                let mut rows = if self.marks.len() >= MARKS { self.sweep_marks(now) } else { Vec::new() };
                if self.marks.len() >= MARKS {
                    return Err(ChangeError::Full);
                }
                self.marks.insert(key, until);
                rows.push(FileRow::Mark(key, Some(until)));
                Ok((None, rows))
            }
            Change::KeepTicket { ticket, sealed, until } => {
                let mut rows = self.sweep_tickets(now);
                if self.tickets.len() >= TICKETS {
                    return Err(ChangeError::Full);
                }
                let held = SealedTicket { sealed, until };
                self.tickets.insert(ticket, held.clone());
                rows.push(FileRow::Ticket(ticket, Some(held)));
                Ok((None, rows))
            }
            Change::TakeTicket { ticket } => {
                let held = self.tickets.remove(&ticket).ok_or(ChangeError::Unknown)?;
                let given = (now < held.until).then_some(held.sealed);
                Ok((given, vec![FileRow::Ticket(ticket, None)]))
            }
            Change::Freeze { account, freeze } => {
                let mut rows = if self.freezes.len() >= FREEZES {
                    self.sweep_freezes(|freeze| !freeze.lasts(now))
                } else {
                    Vec::new()
                };
                if self.freezes.len() >= FREEZES && !self.freezes.contains_key(&account) {
                    return Err(ChangeError::Full);
                }
                self.freezes.insert(account.clone(), freeze.clone());
                rows.push(FileRow::Freeze(account, Some(freeze)));
                Ok((None, rows))
            }
            Change::Thaw { account } => {
                self.freezes.remove(&account).ok_or(ChangeError::Unknown)?;
                Ok((None, vec![FileRow::Freeze(account, None)]))
            }
            Change::EndLogins { key, ended } => {
                let mut rows = if self.ended.len() >= ENDED { self.sweep_ended(now) } else { Vec::new() };
                let before = self.ended.get(&key).copied();
                if before.is_none() && self.ended.len() >= ENDED {
                    return Err(ChangeError::Full);
                }
                let ended = ended.with(before);
                self.ended.insert(key, ended);
                rows.push(FileRow::Ended(key, Some(ended)));
                Ok((None, rows))
            }
            Change::Suspend { user, suspension } => {
                if self.suspensions.len() >= SUSPENSIONS && !self.suspensions.contains_key(&user) {
                    return Err(ChangeError::Full);
                }
                self.suspensions.insert(user.clone(), suspension);
                Ok((None, vec![FileRow::Suspension(user, Some(suspension))]))
            }
            Change::EndSuspension { user } => {
                self.suspensions.remove(&user).ok_or(ChangeError::Unknown)?;
                Ok((None, vec![FileRow::Suspension(user, None)]))
            }
            Change::KeepRecord { name, record } => {
                let is_full = self.records.len() >= RECORDS && !self.records.contains_key(&name);
                if is_full || record.0.len() > MAX_RECORD {
                    return Err(ChangeError::Full);
                }
                self.records.insert(name.clone(), record.clone());
                Ok((None, vec![FileRow::Record(name, Some(record))]))
            }
            Change::RemoveRecord { name } => {
                self.records.remove(&name).ok_or(ChangeError::Unknown)?;
                Ok((None, vec![FileRow::Record(name, None)]))
            }
            Change::Sweep => {
                let freezes = self.sweep_freezes(|freeze| freeze.is_forgotten(now));
                let rows = [self.sweep_marks(now), self.sweep_tickets(now), freezes, self.sweep_ended(now)];
                Ok((None, rows.concat()))
            }
        }
    }

    /// Returns whether all tables are empty.
    pub(super) fn is_empty(&self) -> bool {
        let (marks, tickets, freezes) = (self.marks.is_empty(), self.tickets.is_empty(), self.freezes.is_empty());
        let others = self.ended.is_empty() && self.suspensions.is_empty() && self.records.is_empty();
        marks && tickets && freezes && others
    }

    /// Adds the rows of a file that are missing here, and returns the rows that the file lacks. A ticket that only the
    /// file has is removed there: it may have been taken.
    pub(super) fn merge(&mut self, found: Self) -> Vec<FileRow> {
        let marks = self.marks.iter().filter(|(key, _)| !found.marks.contains_key(*key));
        let mut rows: Vec<_> = marks.map(|(key, until)| FileRow::Mark(*key, Some(*until))).collect();
        let tickets = self.tickets.iter().filter(|(ticket, _)| !found.tickets.contains_key(*ticket));
        rows.extend(tickets.map(|(ticket, held)| FileRow::Ticket(*ticket, Some(held.clone()))));
        let taken = found.tickets.keys().filter(|ticket| !self.tickets.contains_key(*ticket));
        rows.extend(taken.map(|ticket| FileRow::Ticket(*ticket, None)));
        let freezes = self.freezes.iter().filter(|(account, freeze)| found.freezes.get(*account) != Some(freeze));
        rows.extend(freezes.map(|(account, freeze)| FileRow::Freeze(account.clone(), Some(freeze.clone()))));
        for (key, ended) in &found.ended {
            self.ended.entry(*key).and_modify(|known| *known = known.with(Some(*ended))).or_insert(*ended);
        }
        let ended = self.ended.iter().filter(|(key, ended)| found.ended.get(*key) != Some(ended));
        rows.extend(ended.map(|(key, ended)| FileRow::Ended(*key, Some(*ended))));
        let suspended = self.suspensions.iter().filter(|(user, ours)| found.suspensions.get(*user) != Some(ours));
        rows.extend(suspended.map(|(user, suspension)| FileRow::Suspension(user.clone(), Some(*suspension))));
        let records = self.records.iter().filter(|(name, ours)| found.records.get(*name) != Some(ours));
        rows.extend(records.map(|(name, record)| FileRow::Record(name.clone(), Some(record.clone()))));
        for (name, record) in found.records {
            self.records.entry(name).or_insert(record);
        }
        for (key, until) in found.marks {
            self.marks.entry(key).or_insert(until);
        }
        for (account, freeze) in found.freezes {
            self.freezes.entry(account).or_insert(freeze);
        }
        for (user, suspension) in found.suspensions {
            self.suspensions.entry(user).or_insert(suspension);
        }
        rows
    }

    pub(super) fn is_marked(&self, key: &Digest) -> bool {
        self.marks.contains_key(key)
    }

    /// Returns whether a login that began at `began` has ended.
    pub(super) fn is_ended(&self, key: &Digest, began: Timestamp) -> bool {
        self.ended.get(key).is_some_and(|ended| began <= ended.at)
    }

    pub(super) fn frozen(&self, account: &str, now: Timestamp) -> Option<&Freeze> {
        self.freezes.get(account).filter(|freeze| freeze.lasts(now))
    }

    pub(super) fn freezes(&self, now: Timestamp) -> Vec<(String, Freeze)> {
        let lasting = self.freezes.iter().filter(|(_, freeze)| freeze.lasts(now));
        lasting.map(|(account, freeze)| (account.clone(), freeze.clone())).collect()
    }

    /// Returns the name of a table that is full, if there is one.
    pub(super) fn full(&self, now: Timestamp) -> Option<&'static str> {
        // Expired rows make room by themselves.
        let live = |count: usize, most: usize, dead: &dyn Fn() -> usize| count >= most && count - dead() >= most;
        if live(self.marks.len(), MARKS, &|| self.marks.values().filter(|until| is_over(**until, now)).count()) {
            return Some("marks");
        }
        if live(self.tickets.len(), TICKETS, &|| self.tickets.values().filter(|held| held.until <= now).count()) {
            return Some("tickets");
        }
        if live(self.ended.len(), ENDED, &|| self.ended.values().filter(|ended| is_over(ended.until, now)).count()) {
            return Some("ended logins");
        }
        live(self.freezes.len(), FREEZES, &|| self.freezes.values().filter(|freeze| !freeze.lasts(now)).count())
            .then_some("freezes")
    }

    fn sweep_marks(&mut self, now: Timestamp) -> Vec<FileRow> {
        let gone = self.marks.extract_if(|_, until| is_over(*until, now));
        gone.map(|(key, _)| FileRow::Mark(key, None)).collect()
    }

    fn sweep_tickets(&mut self, now: Timestamp) -> Vec<FileRow> {
        let gone = self.tickets.extract_if(|_, held| held.until <= now);
        gone.map(|(ticket, _)| FileRow::Ticket(ticket, None)).collect()
    }

    fn sweep_ended(&mut self, now: Timestamp) -> Vec<FileRow> {
        let gone = self.ended.extract_if(|_, ended| is_over(ended.until, now));
        gone.map(|(key, _)| FileRow::Ended(key, None)).collect()
    }

    fn sweep_freezes(&mut self, is_gone: impl Fn(&Freeze) -> bool) -> Vec<FileRow> {
        let gone = self.freezes.iter().filter(|(_, freeze)| is_gone(freeze)).map(|(account, _)| account);
        let gone: Vec<String> = gone.cloned().collect();
        gone.into_iter()
            .map(|account| {
                self.freezes.remove(&account);
                FileRow::Freeze(account, None)
            })
            .collect()
    }
}

impl Freeze {
    /// Returns whether it is over for so long that it cannot be in force again by any clock.
    #[must_use]
    pub fn is_forgotten(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| is_over_by(until, KEPT, now))
    }

    fn lasts(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl EndedLogins {
    /// Adds what was known before. A later logout never makes an earlier one forgotten.
    fn with(self, before: Option<Self>) -> Self {
        let Some(before) = before else { return self };
        Self { at: self.at.max(before.at), until: self.until.max(before.until) }
    }
}

/// Returns how much longer a row is kept that is of use until `until`.
pub(super) fn life(until: Timestamp, now: Timestamp) -> Duration {
    let end = until.saturating_add(LONGER).unwrap_or(Timestamp::MAX);
    Duration::try_from(end.duration_since(now)).unwrap_or_default()
}

fn is_over(until: Timestamp, now: Timestamp) -> bool {
    is_over_by(until, LONGER, now)
}

fn is_over_by(until: Timestamp, by: SignedDuration, now: Timestamp) -> bool {
    until.checked_add(by).is_ok_and(|end| end < now)
}
