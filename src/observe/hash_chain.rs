//! A chain of lines: each line names the digest of the line before it, so that a changed, removed or moved line breaks
//! the chain. A program that can write the file can write a whole new chain: keep the head somewhere else.
//!
//! A line is a JSON object with three members at its end: `seq` counts the lines, `prev` is the `hash` of the line
//! before, and `hash` is the SHA-256 of all bytes of the line before `,"hash"`.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};

/// The head of a chain: its last line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainHead {
    /// The number of the line.
    pub seq: u64,
    /// Its digest, in hex.
    pub hash: String,
}

/// The `prev` of the first line.
const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The text before the digest at the end of a line.
const HASH: &str = ",\"hash\":\"";
const PREV: &str = ",\"prev\":\"";
const SEQ: &str = ",\"seq\":";
const DIGITS: usize = NO_HASH.len();
/// The kind of the line that accounts for unfinished bytes before it: the disk was full, or the machine crashed.
pub const TORN: &str = "audit torn";

impl ChainHead {
    /// Begins a chain.
    #[must_use]
    pub fn empty() -> Self {
        Self { seq: 0, hash: NO_HASH.to_owned() }
    }

    /// Appends a line, a JSON object without its newline, and returns it as a part of the chain.
    #[must_use]
    pub fn link(&mut self, line: &str) -> String {
        self.seq += 1;
        let members = line.strip_suffix('}').unwrap_or(line);
        let body = format!("{members}{SEQ}{}{PREV}{}\"", self.seq, self.hash);
        self.hash = hash(body.as_bytes());
        format!("{body}{HASH}{}\"}}", self.hash)
    }

    /// Reads a line as a head; nothing if it is not part of a chain.
    #[must_use]
    pub fn of(line: &[u8]) -> Option<Self> {
        ChainLine::read(line).map(|link| link.head)
    }

    /// Returns the head that a line says it follows; nothing if the line is not part of a chain.
    #[must_use]
    pub fn before(line: &[u8]) -> Option<Self> {
        let link = ChainLine::read(line)?;
        Some(Self { seq: link.head.seq.checked_sub(1)?, hash: link.prev })
    }
}

impl fmt::Display for ChainHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl FromStr for ChainHead {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = "a head looks like 1207:3f2c…, a number and 64 hex digits";
        let (seq, hash) = text.split_once(':').ok_or(form)?;
        let seq = seq.parse().map_err(|_| form)?;
        if is_digest(hash.as_bytes()) { Ok(Self { seq, hash: hash.to_owned() }) } else { Err(form) }
    }
}

/// One line of a chain, as its members claim.
struct ChainLine {
    head: ChainHead,
    prev: String,
    is_sound: bool,
}

impl ChainLine {
    /// Reads a line from its end: within a JSON string every quote is escaped, so no value can imitate the members.
    fn read(line: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?;
        let (body, digest) = member(text.strip_suffix('}')?, HASH)?;
        let (members, prev) = member(body, PREV)?;
        let (_, seq) = members.rsplit_once(SEQ)?;
        let head = ChainHead { seq: seq.parse().ok()?, hash: digest.to_owned() };
        Some(Self { is_sound: hash(body.as_bytes()) == digest, head, prev: prev.to_owned() })
    }
}

/// Splits a digest off the end of a text.
fn member<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let text = text.strip_suffix('"')?;
    let (rest, digest) = text.split_at_checked(text.len().checked_sub(DIGITS)?)?;
    is_digest(digest.as_bytes()).then_some((rest.strip_suffix(name)?, digest))
}

fn is_digest(text: &[u8]) -> bool {
    text.len() == DIGITS && text.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
}

fn hash(body: &[u8]) -> String {
    hex::encode(digest(&SHA256, body))
}

// === Verifying ===

/// Verifies a chain line by line.
#[derive(Debug, Default)]
pub struct ChainReader {
    /// The last sound line.
    head: Option<ChainHead>,
    /// How many lines precede the chain.
    pub before: u64,
    /// How many lines of the chain were read.
    pub followed: u64,
    /// A fragment that the next line must account for.
    unfinished: bool,
}

/// Where a chain breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainBreak {
    /// The digest does not match the line.
    #[error("the line was changed: its hash does not match its content")]
    Changed,
    /// A line within the chain is not part of it.
    #[error("the line is not part of the chain: it was inserted or cut short")]
    Foreign,
    /// Lines are missing.
    #[error("{0} lines before this one are missing")]
    Missing(u64),
    /// The line does not follow the line before it.
    #[error("the line does not follow the one before it: lines were moved, doubled or replaced")]
    Moved,
    /// A new chain begins after another.
    #[error("another chain begins here: its writer did not find the one before it, or that was removed")]
    Anew,
}

impl ChainReader {
    /// Reads the next line, without its newline.
    ///
    /// # Errors
    /// When the chain breaks at this line.
    pub fn follow(&mut self, line: &[u8]) -> Result<(), ChainBreak> {
        let Some(link) = ChainLine::read(line) else { return self.pass(line) };
        if !link.is_sound {
            return Err(ChainBreak::Changed);
        }
        if std::mem::take(&mut self.unfinished) && !says_torn(line) {
            return Err(ChainBreak::Foreign);
        }
        if let Some(head) = &self.head
            && (link.head.seq, &link.prev) != (head.seq + 1, &head.hash)
        {
            return Err(match link.head.seq {
                1 if link.prev == NO_HASH => ChainBreak::Anew,
                seq if seq > head.seq + 1 => ChainBreak::Missing(seq - head.seq - 1),
                _ => ChainBreak::Moved,
            });
        }
        self.head = Some(link.head);
        self.followed += 1;
        Ok(())
    }

    /// Ends, and returns the head; nothing if no line was part of a chain.
    ///
    /// # Errors
    /// When the last line is not part of the chain.
    pub fn end(self) -> Result<Option<ChainHead>, ChainBreak> {
        if self.unfinished { Err(ChainBreak::Foreign) } else { Ok(self.head) }
    }

    /// Returns the last line that was read.
    #[must_use]
    pub const fn head(&self) -> Option<&ChainHead> {
        self.head.as_ref()
    }

    /// Skips a line that is not part of the chain: any line before its begin, or one fragment that the next line
    /// accounts for.
    fn pass(&mut self, line: &[u8]) -> Result<(), ChainBreak> {
        if self.head.is_none() {
            self.before += 1;
            return Ok(());
        }
        // A whole JSON object is not a fragment: it was inserted.
        let is_whole = serde_json::from_slice::<serde_json::Value>(line).is_ok();
        if is_whole || std::mem::replace(&mut self.unfinished, true) { Err(ChainBreak::Foreign) } else { Ok(()) }
    }
}

fn says_torn(line: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(line).is_ok_and(|line| line["kind"] == TORN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(texts: &[&str]) -> Vec<String> {
        let mut head = ChainHead::empty();
        texts.iter().map(|text| head.link(&format!("{{\"kind\":\"{text}\"}}"))).collect()
    }

    /// Reads lines; returns the number of the first line that breaks the chain, and how.
    fn follow(lines: &[String]) -> Result<Option<ChainHead>, (usize, ChainBreak)> {
        let mut follower = ChainReader::default();
        for (at, line) in lines.iter().enumerate() {
            follower.follow(line.as_bytes()).map_err(|broken| (at + 1, broken))?;
        }
        follower.end().map_err(|broken| (lines.len(), broken))
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Vec<String>), expected: Result<u64, (usize, ChainBreak)>) {
        let mut lines = chain(&["a", "b", "c", "d", "e"]);
        change(&mut lines);
        assert_eq!(follow(&lines).map(|head| head.map_or(0, |head| head.seq)), expected, "{lines:#?}");
    }

    #[test]
    fn a_line_is_what_the_documents_say() {
        let lines = chain(&["a", "b"]);
        // printf '{"kind":"a","seq":1,"prev":"000…0"' | sha256sum
        let body = format!(r#"{{"kind":"a","seq":1,"prev":"{NO_HASH}""#);
        let digest = hex::encode(digest(&SHA256, body.as_bytes()));
        assert_eq!(lines[0], format!(r#"{body},"hash":"{digest}"}}"#));
        let second: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
        assert_eq!((second["seq"].as_u64(), second["prev"].as_str()), (Some(2), Some(digest.as_str())));
        assert_eq!(ChainHead::before(lines[1].as_bytes()), ChainHead::of(lines[0].as_bytes()));
        assert_eq!(ChainHead::before(lines[0].as_bytes()), Some(ChainHead::empty()));
        assert_eq!(
            ChainHead::of(lines[0].as_bytes()).unwrap().to_string().parse(),
            Ok(ChainHead { seq: 1, hash: digest })
        );
    }

    #[test]
    fn whole_chains_and_their_ends_are_followed() {
        check(|_| (), Ok(5));
        check(|lines| drop(lines.drain(..2)), Ok(5));
        check(|lines| lines.insert(0, "{\"kind\":\"of before\"}".into()), Ok(5));
        check(Vec::clear, Ok(0));
        // Only a head that is kept elsewhere shows this.
        check(|lines| lines.truncate(3), Ok(3));
    }

    #[test]
    fn whatever_is_done_to_a_line_shows() {
        check(|lines| lines[2] = lines[2].replace("\"c\"", "\"x\""), Err((3, ChainBreak::Changed)));
        check(|lines| lines[4] = lines[4].replace("\"e\"", "\"x\""), Err((5, ChainBreak::Changed)));
        check(|lines| lines[2] = lines[2].replace("\"seq\":3", "\"seq\":4"), Err((3, ChainBreak::Changed)));
        check(|lines| drop(lines.remove(2)), Err((3, ChainBreak::Missing(1))));
        check(|lines| drop(lines.drain(1..4)), Err((2, ChainBreak::Missing(3))));
        check(|lines| lines.swap(1, 2), Err((2, ChainBreak::Missing(1))));
        check(|lines| lines.insert(3, lines[2].clone()), Err((4, ChainBreak::Moved)));
        check(|lines| lines.push(lines[0].clone()), Err((6, ChainBreak::Anew)));
        check(|lines| lines.insert(2, "{\"kind\":\"forged\"}".into()), Err((3, ChainBreak::Foreign)));
        check(|lines| lines[2].truncate(9), Err((4, ChainBreak::Foreign)));
        check(|lines| lines[4].truncate(9), Err((5, ChainBreak::Foreign)));
        check(|lines| lines[2] = lines[2].replace(",\"hash\"", ", \"hash\""), Err((3, ChainBreak::Foreign)));
        check(
            |lines| {
                let mut forged = ChainHead { seq: 2, ..ChainHead::of(lines[0].as_bytes()).unwrap() };
                lines[2] = forged.link("{\"kind\":\"c\"}");
            },
            Err((3, ChainBreak::Moved)),
        );
    }

    #[test]
    fn a_line_that_was_never_finished_is_accounted_for_by_the_next() {
        let mut head = ChainHead::empty();
        let first = head.link("{\"kind\":\"a\"}");
        let torn = head.link(&format!("{{\"kind\":\"{TORN}\"}}"));
        assert!(follow(&[first.clone(), "{\"kind\":\"b".into(), torn.clone()]).is_ok());
        assert!(follow(&[first.clone(), torn.clone()]).is_ok());
        let two = [first.clone(), "{\"kind\":\"b".into(), "{\"x".into(), torn.clone()];
        assert_eq!(follow(&two), Err((3, ChainBreak::Foreign)));
        assert_eq!(follow(&[first, "{\"kind\":\"b\"}".into(), torn]), Err((2, ChainBreak::Foreign)));
    }

    #[test]
    fn a_value_that_looks_like_the_end_of_a_line_is_none() {
        let value = format!("x\\\",\\\"seq\\\":9,\\\"prev\\\":\\\"{NO_HASH}\\\",\\\"hash\\\":\\\"{NO_HASH}\\\"}}");
        let line = chain(&[&value]).remove(0);
        assert_eq!(ChainHead::of(line.as_bytes()).unwrap().seq, 1);
        assert_eq!(ChainHead::of(format!("{{\"kind\":\"{value}\"}}").as_bytes()), None);
    }
}
