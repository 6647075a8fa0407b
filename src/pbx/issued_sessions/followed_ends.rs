//! Ends of sessions that this member has followed, so that it follows each once: somebody who can write to the engine may
//! send a sealed message again.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

/// How far the clock of the member that sends a message may be from this one's, and how old a message may be.
const AROUND: SignedDuration = SignedDuration::from_hours(1);
/// The most senders that are known. Each process of a member is another one.
const MOST_SENDERS: usize = 4096;
/// How many numbers below the highest one may still come: in a cluster messages overtake each other.
const LATE: u64 = u64::BITS as u64;

/// The numbers of the messages that were followed, of each sender.
#[derive(Debug, Default)]
pub(super) struct FollowedEnds(HashMap<u64, SenderNumbers>);

#[derive(Debug)]
struct SenderNumbers {
    highest: u64,
    /// Which of the numbers up to the highest one have come: bit 0 is the highest one.
    seen: u64,
    sent: Timestamp,
}

/// Why a message is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotFollowed {
    /// It was sent at another time.
    Untimely,
    /// It has come before.
    Again,
}

impl FollowedEnds {
    /// Notes a message of a sender.
    ///
    /// # Errors
    /// When it must not be followed.
    pub(super) fn note(&mut self, from: u64, number: u64, sent: Timestamp, now: Timestamp) -> Result<(), NotFollowed> {
        if sent.duration_since(now).abs() > AROUND {
            return Err(NotFollowed::Untimely);
        }
        if let Some(known) = self.0.get_mut(&from) {
            known.sent = known.sent.max(sent);
            return if known.add(number) { Ok(()) } else { Err(NotFollowed::Again) };
        }
        if self.0.len() >= MOST_SENDERS {
            self.forget_senders(now);
        }
        self.0.insert(from, SenderNumbers { highest: number, seen: 1, sent });
        Ok(())
    }

    /// Forgets senders whose messages are too old to be followed again, or the one that was silent for longest.
    fn forget_senders(&mut self, now: Timestamp) {
        self.0.retain(|_, known| now.duration_since(known.sent) <= AROUND);
        if self.0.len() >= MOST_SENDERS {
            let oldest = self.0.iter().min_by_key(|(_, known)| known.sent).map(|(from, _)| *from);
            oldest.map(|from| self.0.remove(&from));
        }
    }
}

impl SenderNumbers {
    /// Adds a number. Returns whether it is new.
    fn add(&mut self, number: u64) -> bool {
        if let Some(ahead) = number.checked_sub(self.highest).filter(|ahead| *ahead > 0) {
            self.seen = if ahead < LATE { self.seen << ahead } else { 0 } | 1;
            self.highest = number;
            return true;
        }
        let behind = self.highest - number;
        let is_new = behind < LATE && self.seen & (1 << behind) == 0;
        if is_new {
            self.seen |= 1 << behind;
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_900_000_000 + 60 * minute).unwrap()
    }

    #[test]
    fn a_message_is_followed_once_also_when_another_one_overtakes_it() {
        let mut followed = FollowedEnds::default();
        let mut is_new = |from, number| followed.note(from, number, at(0), at(0)).is_ok();
        for (from, number, expected) in [
            (1, 5, true),
            (1, 5, false),
            (1, 7, true),
            (1, 6, true),
            (1, 6, false),
            (1, 7, false),
            (2, 5, true),
            (1, 70, true),
            (1, 6, false),
            (1, 8, true),
            (1, 8, false),
            (1, 1000, true),
            (1, 936, false),
            (1, 937, true),
            (1, 0, false),
            (1, u64::MAX, true),
            (1, u64::MAX, false),
        ] {
            assert_eq!(is_new(from, number), expected, "{number} of {from}");
        }
    }

    #[test]
    fn a_message_of_another_time_is_not_followed() {
        let mut followed = FollowedEnds::default();
        for (number, minute, expected) in [
            (1, -61, Err(NotFollowed::Untimely)),
            (1, 61, Err(NotFollowed::Untimely)),
            (1, -60, Ok(())),
            (1, -60, Err(NotFollowed::Again)),
            (2, 60, Ok(())),
        ] {
            assert_eq!(followed.note(1, number, at(minute), at(0)), expected, "{number} of minute {minute}");
        }
    }

    #[test]
    fn senders_are_forgotten_when_there_are_too_many() {
        let mut followed = FollowedEnds::default();
        for from in 0..=MOST_SENDERS as u64 {
            followed.note(from, 1, at(i64::from(from > 0)), at(1)).unwrap();
        }
        assert_eq!(followed.0.len(), MOST_SENDERS);
        assert!(!followed.0.contains_key(&0));
        followed.note(u64::MAX, 1, at(90), at(90)).unwrap();
        assert_eq!(followed.0.len(), 1);
    }
}
