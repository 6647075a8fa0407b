//! Finds lines in bytes that arrive piece by piece.

use std::ops::Range;

use crate::message::newline;

/// A position in bytes that arrive piece by piece. No byte is searched twice.
#[derive(Debug, Default)]
pub(super) struct LineFinder {
    /// Where the line begins that has not ended.
    begin: usize,
    searched: usize,
}

impl LineFinder {
    /// Returns where the next line is, without the LF at its end. Returns `None` until it has ended.
    pub(super) fn next(&mut self, arrived: &[u8]) -> Option<Range<usize>> {
        let Some(within) = newline::end(&arrived[self.searched..]) else {
            self.searched = arrived.len();
            return None;
        };
        let line = self.begin..self.searched + within;
        (self.begin, self.searched) = (line.end + 1, line.end + 1);
        Some(line)
    }

    /// Returns how many bytes have been searched.
    pub(super) const fn searched(&self) -> usize {
        self.searched
    }
}
