//! The steps by which the keys of a ring are replaced, as changes of the text of its file.
//!
//! A new key first reads only, because a member that does not know it yet could not read what it writes. A note above a key
//! says where it stands; all other comments stay as they are.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::key_ring::{KEY_LENGTH, KeyRing, KeyRingError, MOST_KEYS};

/// The note above a key that reads and does not write yet.
const WAITS: &str = "# new: reads, and writes after callgate keys rotate --promote";
/// The note above the key that writes, before the time since when it does.
const SINCE: &str = "# writes since ";

/// The text of a ring's file, to be changed by one step.
pub struct RingText(Vec<RingLine>);

enum RingLine {
    /// A comment or an empty line.
    Other(String),
    Key {
        /// The note in the line above.
        note: Option<String>,
        key: Zeroizing<String>,
    },
}

/// A step that cannot be done now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotationStepError {
    /// A key was added before, and does not write yet.
    #[error("a new key waits to write already; when all members have the file, run it with --promote")]
    Waits,
    /// No key was added.
    #[error("no new key waits to write; add one first, without --promote")]
    NoneWaits,
    /// There is no room for a key.
    #[error("has {MOST_KEYS} keys, the most of a ring; remove the oldest with --drop")]
    Full,
    /// There is one key only.
    #[error("has one key only, which writes")]
    Last,
    /// A key was added, so the last key is not the oldest.
    #[error("a new key waits to write; run it with --promote before --drop")]
    WaitsBeforeDrop,
}

impl RingText {
    /// Starts a ring with its first key.
    #[must_use]
    pub fn new(key: &Zeroizing<[u8; KEY_LENGTH]>) -> Self {
        Self(vec![RingLine::Key { note: None, key: encode(key) }])
    }

    /// Reads the text of a ring's file.
    ///
    /// # Errors
    /// When it is not a ring.
    pub fn parse(text: &str) -> Result<Self, KeyRingError> {
        KeyRing::parse(text)?;
        let mut lines: Vec<RingLine> = Vec::new();
        for line in text.lines() {
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                lines.push(RingLine::Other(line.to_owned()));
                continue;
            }
            let is_note = |line: &mut RingLine| matches!(line, RingLine::Other(text) if is_note(text));
            let note = lines.pop_if(is_note).and_then(|line| match line {
                RingLine::Other(text) => Some(text),
                RingLine::Key { .. } => None,
            });
            lines.push(RingLine::Key { note, key: Zeroizing::new(line.to_owned()) });
        }
        Ok(Self(lines))
    }

    /// Adds a key that reads only.
    ///
    /// # Errors
    /// When one waits already, or there is no room.
    pub fn add(&mut self, key: &Zeroizing<[u8; KEY_LENGTH]>) -> Result<(), RotationStepError> {
        match () {
            () if self.waiting().is_some() => Err(RotationStepError::Waits),
            () if self.count() >= MOST_KEYS => Err(RotationStepError::Full),
            () => {
                self.0.push(RingLine::Key { note: Some(WAITS.to_owned()), key: encode(key) });
                Ok(())
            }
        }
    }

    /// Lets the key that was added write from now on.
    ///
    /// # Errors
    /// When none was added.
    pub fn promote(&mut self, now: Timestamp) -> Result<(), RotationStepError> {
        let at = self.waiting().ok_or(RotationStepError::NoneWaits)?;
        let mut added = self.0.remove(at);
        for line in &mut self.0 {
            if let RingLine::Key { note, .. } = line {
                *note = None;
            }
        }
        if let RingLine::Key { note, .. } = &mut added {
            *note = Some(format!("{SINCE}{now:.0}"));
        }
        let first = self.0.iter().position(|line| matches!(line, RingLine::Key { .. })).unwrap_or(self.0.len());
        self.0.insert(first, added);
        Ok(())
    }

    /// Removes the oldest key, the last one.
    ///
    /// # Errors
    /// When it is the only one, or the last one is new.
    pub fn drop_oldest(&mut self) -> Result<(), RotationStepError> {
        self.keep(self.count().saturating_sub(1))
    }

    /// Removes all keys but the first.
    ///
    /// # Errors
    /// As [`RingText::drop_oldest`].
    pub fn drop_all_older(&mut self) -> Result<(), RotationStepError> {
        self.keep(1)
    }

    /// Keeps the first keys, so many.
    fn keep(&mut self, most: usize) -> Result<(), RotationStepError> {
        match () {
            () if self.waiting().is_some() => Err(RotationStepError::WaitsBeforeDrop),
            () if self.count() < 2 => Err(RotationStepError::Last),
            () => {
                let mut keys = 0;
                self.0.retain(|line| {
                    keys += usize::from(matches!(line, RingLine::Key { .. }));
                    keys <= most || matches!(line, RingLine::Other(_))
                });
                Ok(())
            }
        }
    }

    /// Returns since when the first key writes; nothing where no note says it.
    #[must_use]
    pub fn writes_since(&self) -> Option<Timestamp> {
        let first = self.0.iter().find_map(|line| match line {
            RingLine::Key { note, .. } => Some(note.as_deref()),
            RingLine::Other(_) => None,
        });
        first.flatten()?.strip_prefix(SINCE)?.trim_end().parse().ok()
    }

    /// Returns how many keys there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().filter(|line| matches!(line, RingLine::Key { .. })).count()
    }

    /// Returns the text for the file.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let longest = |line: &RingLine| match line {
            RingLine::Other(text) => text.len() + 1,
            RingLine::Key { note, key } => note.as_ref().map_or(0, |note| note.len() + 1) + key.len() + 1,
        };
        // Whole from the start: a text that grows would leave copies of keys behind.
        let mut text = Zeroizing::new(String::with_capacity(self.0.iter().map(longest).sum()));
        for line in &self.0 {
            let (above, line) = match line {
                RingLine::Other(text) => (None, text.as_str()),
                RingLine::Key { note, key } => (note.as_deref(), key.as_str()),
            };
            for part in above.into_iter().chain([line]) {
                text.push_str(part);
                text.push('\n');
            }
        }
        text
    }

    fn waiting(&self) -> Option<usize> {
        let waits = |line: &RingLine| matches!(line, RingLine::Key { note: Some(note), .. } if note.trim() == WAITS);
        self.0.iter().position(waits)
    }
}

fn is_note(line: &str) -> bool {
    line.trim() == WAITS || line.starts_with(SINCE)
}

fn encode(key: &Zeroizing<[u8; KEY_LENGTH]>) -> Zeroizing<String> {
    Zeroizing::new(BASE64_STANDARD.encode(&key[..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Zeroizing<[u8; KEY_LENGTH]> {
        Zeroizing::new([byte; KEY_LENGTH])
    }

    fn at(hour: u8) -> Timestamp {
        format!("2026-11-29T{hour:02}:00:00.5Z").parse().unwrap()
    }

    /// Returns the first bytes of the keys that a text has.
    fn order(ring: &RingText) -> Vec<u8> {
        let text = ring.text();
        KeyRing::parse(&text).unwrap();
        let keys = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        keys.map(|line| BASE64_STANDARD.decode(line).unwrap()[0]).collect()
    }

    fn again(ring: &RingText) -> RingText {
        RingText::parse(&ring.text()).unwrap()
    }

    #[test]
    fn a_new_key_reads_before_it_writes() {
        let mut ring = again(&RingText::new(&key(1)));
        ring.add(&key(2)).unwrap();
        assert_eq!(order(&ring), [1, 2]);
        let mut ring = again(&ring);
        assert_eq!(ring.add(&key(3)), Err(RotationStepError::Waits));
        assert_eq!(ring.drop_oldest(), Err(RotationStepError::WaitsBeforeDrop));
        assert_eq!(ring.drop_all_older(), Err(RotationStepError::WaitsBeforeDrop));
        ring.promote(at(10)).unwrap();
        assert_eq!(order(&ring), [2, 1]);
        let mut ring = again(&ring);
        assert_eq!(ring.promote(at(11)), Err(RotationStepError::NoneWaits));
        assert_eq!(ring.writes_since(), Some("2026-11-29T10:00:00Z".parse().unwrap()));
        ring.add(&key(3)).unwrap();
        let mut ring = again(&ring);
        ring.promote(at(12)).unwrap();
        assert_eq!(order(&ring), [3, 2, 1]);
        let mut ring = again(&ring);
        let mut known = again(&ring);
        known.drop_all_older().unwrap();
        assert_eq!((order(&known), known.drop_all_older()), (vec![3], Err(RotationStepError::Last)));
        ring.drop_oldest().unwrap();
        assert_eq!(order(&ring), [3, 2]);
        ring.drop_oldest().unwrap();
        assert_eq!((ring.drop_oldest(), order(&ring)), (Err(RotationStepError::Last), vec![3]));
        assert_eq!(ring.text().matches('#').count(), 1, "{}", &*ring.text());
    }

    #[test]
    fn a_full_ring_takes_no_key() {
        let lines: String = (1..=8).map(|byte| format!("{}\n", &*encode(&key(byte)))).collect();
        assert_eq!(RingText::parse(&lines).unwrap().add(&key(9)), Err(RotationStepError::Full));
    }

    #[test]
    fn other_comments_stay_where_they_are() {
        let (one, two) = (encode(&key(1)), encode(&key(2)));
        let text = format!("# of the portal\n\n{}\n  # the end\n", &*one);
        let mut ring = RingText::parse(&text).unwrap();
        assert_eq!(*ring.text(), text);
        ring.add(&key(2)).unwrap();
        ring.promote(at(10)).unwrap();
        let expected =
            format!("# of the portal\n\n# writes since 2026-11-29T10:00:00Z\n{}\n{}\n  # the end\n", &*two, &*one);
        assert_eq!(*ring.text(), expected);
    }
}
