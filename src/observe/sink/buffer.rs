//! The lines of one worker that wait for a log, some of them awaited by a login.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// By how many bytes a buffer grows, so that it is never much larger than its lines.
const GROWTH: usize = 64 << 10;
/// How much free room a line finds before it is written, so that the buffer seldom grows within a line.
const ROOM: usize = 8 << 10;

/// Lines that the writer's thread has not taken yet. One thread adds lines; the lock is held while bytes are copied.
#[derive(Default)]
pub(super) struct LineBuffer(Mutex<BufferState>);

#[derive(Default)]
struct BufferState {
    lines: QueuedLines,
    /// The number of the next awaited line.
    next: u64,
}

/// Whole lines, each with its newline.
#[derive(Default)]
pub(super) struct QueuedLines {
    pub(super) bytes: Vec<u8>,
    awaited: Vec<AwaitedLine>,
}

/// A line whose writing a caller awaits.
struct AwaitedLine {
    number: u64,
    start: usize,
    end: usize,
    written: oneshot::Sender<bool>,
}

/// The caller's end of an awaited line.
pub(super) struct LineReceipt {
    /// Receives whether the line was written.
    pub(super) written: oneshot::Receiver<bool>,
    number: u64,
}

impl LineBuffer {
    /// Adds a line, which `write` appends without its newline, if `admit` has room for its bytes. Returns how many
    /// bytes then wait here.
    pub(super) fn push(&self, write: impl FnOnce(&mut Vec<u8>), admit: impl FnOnce(usize) -> bool) -> Option<usize> {
        self.inner().lines.push(write, admit)
    }

    /// Adds a line as [`LineBuffer::push`] does, and returns a receipt.
    pub(super) fn push_awaited(&self, line: &str, admit: impl FnOnce(usize) -> bool) -> Option<LineReceipt> {
        let mut inner = self.inner();
        let start = inner.lines.bytes.len();
        let end = inner.lines.push(|bytes| bytes.extend_from_slice(line.as_bytes()), admit)?;
        let (sender, written) = oneshot::channel();
        let number = inner.next;
        inner.next += 1;
        inner.lines.awaited.push(AwaitedLine { number, start, end, written: sender });
        Some(LineReceipt { written, number })
    }

    /// Withdraws a line. Returns how many bytes it had; nothing if the writer's thread has taken it already.
    pub(super) fn withdraw(&self, receipt: &LineReceipt) -> Option<usize> {
        self.inner().lines.withdraw(receipt.number)
    }

    /// Takes all lines and leaves an empty buffer.
    pub(super) fn take(&self, empty: QueuedLines) -> QueuedLines {
        mem::replace(&mut self.inner().lines, empty)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inner().lines.bytes.is_empty()
    }

    /// Locks even after a panic elsewhere: a half line is better than none.
    fn inner(&self) -> MutexGuard<'_, BufferState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueuedLines {
    fn push(&mut self, write: impl FnOnce(&mut Vec<u8>), admit: impl FnOnce(usize) -> bool) -> Option<usize> {
        let start = self.bytes.len();
        if self.bytes.capacity() - start < ROOM {
            self.bytes.reserve_exact(GROWTH);
        }
        write(&mut self.bytes);
        self.bytes.push(b'\n');
        if admit(self.bytes.len() - start) {
            return Some(self.bytes.len());
        }
        self.bytes.truncate(start);
        None
    }

    fn withdraw(&mut self, number: u64) -> Option<usize> {
        let index = self.awaited.iter().position(|awaited| awaited.number == number)?;
        let AwaitedLine { start, end, .. } = self.awaited.remove(index);
        self.bytes.drain(start..end);
        for later in self.awaited.iter_mut().filter(|later| later.start > start) {
            (later.start, later.end) = (later.start - (end - start), later.end - (end - start));
        }
        Some(end - start)
    }

    /// Tells the callers that await a line before `end` whether it was written.
    pub(super) fn answer(&mut self, end: usize, is_written: bool) {
        let before = self.awaited.iter().take_while(|awaited| awaited.end <= end).count();
        for awaited in self.awaited.drain(..before) {
            // The caller may have left.
            let _ = awaited.written.send(is_written);
        }
    }

    /// Returns the end of the next piece to write, which begins at `start`: whole lines, at most `most` bytes if there
    /// is more than one line.
    pub(super) fn piece(&self, start: usize, most: usize) -> usize {
        let rest = &self.bytes[start..];
        let newline = |byte: &u8| *byte == b'\n';
        let within = rest.get(..most).map(|most| most.iter().rposition(newline));
        let last = match within {
            None => return self.bytes.len(),
            Some(last) => last.or_else(|| rest.iter().position(newline)),
        };
        last.map_or(self.bytes.len(), |last| start + last + 1)
    }

    /// Empties it for the next lines.
    pub(super) fn emptied(mut self) -> Self {
        self.bytes.clear();
        self.bytes.shrink_to(GROWTH);
        self.awaited.clear();
        self
    }
}

/// Counts the lines in these bytes.
pub(super) fn count(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(buffer: &LineBuffer, line: &str) {
        buffer.push(|bytes| bytes.extend_from_slice(line.as_bytes()), |_| true).unwrap();
    }

    fn taken(buffer: &LineBuffer) -> QueuedLines {
        buffer.take(QueuedLines::default())
    }

    #[test]
    fn a_line_that_finds_no_room_leaves_nothing_behind() {
        let buffer = LineBuffer::default();
        push(&buffer, "one");
        assert!(buffer.push(|bytes| bytes.extend_from_slice(b"two"), |bytes| bytes != 4).is_none());
        assert!(buffer.push_awaited("three", |_| false).is_none());
        assert_eq!(taken(&buffer).bytes, b"one\n");
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_line_is_withdrawn_from_between_others_until_it_is_taken() {
        let buffer = LineBuffer::default();
        push(&buffer, "one");
        let two = buffer.push_awaited("two", |_| true).unwrap();
        let mut three = buffer.push_awaited("three", |_| true).unwrap();
        assert_eq!((buffer.withdraw(&two), buffer.withdraw(&two)), (Some(4), None));
        let mut lines = taken(&buffer);
        assert_eq!(lines.bytes, b"one\nthree\n");
        assert_eq!(buffer.withdraw(&three), None);
        lines.answer(4, true);
        assert!(three.written.try_recv().is_err(), "the line is not written yet");
        lines.answer(10, false);
        assert!(!three.written.try_recv().unwrap());
    }

    #[test]
    fn pieces_are_whole_lines() {
        #[track_caller]
        fn check(text: &str, most: usize, expected: &[&str]) {
            let lines = QueuedLines { bytes: text.into(), awaited: Vec::new() };
            let (mut start, mut pieces) = (0, Vec::new());
            while start < text.len() {
                let end = lines.piece(start, most);
                pieces.push(&text[start..end]);
                start = end;
            }
            assert_eq!(pieces, expected);
        }
        check("a\nb\n", 64, &["a\nb\n"]);
        check("a\nb\ncc\n", 4, &["a\nb\n", "cc\n"]);
        check("a\nb\n", 1, &["a\n", "b\n"]);
        check("long\nb\n", 2, &["long\n", "b\n"]);
    }

    #[test]
    fn a_buffer_is_not_much_larger_than_its_lines() {
        let buffer = LineBuffer::default();
        for _ in 0..1000 {
            push(&buffer, &"x".repeat(1000));
        }
        let lines = taken(&buffer);
        assert!(lines.bytes.capacity() <= lines.bytes.len() + GROWTH + ROOM, "{}", lines.bytes.capacity());
        assert!(lines.emptied().bytes.capacity() <= GROWTH);
    }
}
