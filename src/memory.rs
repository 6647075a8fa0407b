//! Floor 1: what a process remembers, written for the process that takes over from it.
//!
//! A memory is one JSON object: its format, the time at which it was written, and parts by their names. Each table writes
//! and reads its own part. Another version of callgate may know other parts, or other forms of one: a part that is unknown
//! is passed over, and one that cannot be read is missing, alone. Times in a part are spans, up to or from the time of
//! writing.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

/// The version of the format. Another one is not read.
const FORMAT: u32 = 1;
/// The bytes of a memory.
pub(crate) const LONGEST: u64 = 128 << 20;

/// Why a memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// It cannot be read, or is damaged.
    #[error("it is damaged")]
    Damaged(#[from] serde_json::Error),
    /// It was written by a version with another format.
    #[error("its format is {0}, not {FORMAT}")]
    OtherFormat(u32),
}

/// What another process remembered. By default nothing.
#[derive(Default)]
pub(crate) struct ProcessMemory {
    parts: HashMap<String, Box<RawValue>>,
    /// When it was written, by the clock of this process.
    written: Option<Instant>,
}

#[derive(Deserialize)]
struct WrittenMemory {
    format: u32,
    at: u64,
    #[serde(default)]
    parts: HashMap<String, Box<RawValue>>,
}

impl ProcessMemory {
    /// Reads a memory.
    ///
    /// # Errors
    /// When it is damaged, or in another format.
    pub(crate) fn read(bytes: impl Read) -> Result<Self, MemoryError> {
        let WrittenMemory { format, at, parts } = serde_json::from_reader(bytes)?;
        if format != FORMAT {
            return Err(MemoryError::OtherFormat(format));
        }
        let age = Duration::from_nanos(monotonic().saturating_sub(at));
        Ok(Self { parts, written: Instant::now().checked_sub(age) })
    }

    /// Takes a part out. It is missing in the memory of a version that does not know it, and if it is damaged.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, part: &str) -> Option<T> {
        let text = self.parts.remove(part)?;
        serde_json::from_str(text.get())
            .inspect_err(|error| {
                // The error of serde_json could show a value.
                tracing::warn!(
                    part,
                    line = error.line(),
                    column = error.column(),
                    "a part of the old process's memory is damaged"
                );
            })
            .ok()
    }

    /// Returns how long ago it was written.
    pub(crate) fn age(&self) -> Duration {
        self.written.map(|written| written.elapsed()).unwrap_or_default()
    }
}

/// Writes a memory, part by part.
pub(crate) struct MemoryWriter<'w> {
    out: BoundedWriter<'w>,
    has_part: bool,
    now: Instant,
}

impl<'w> MemoryWriter<'w> {
    /// Begins a memory of this moment. A buffered `out` is faster.
    ///
    /// # Errors
    /// As `out`.
    pub(crate) fn begin(out: &'w mut dyn Write) -> io::Result<Self> {
        let mut out = BoundedWriter { out, left: LONGEST };
        let (at, now) = (monotonic(), Instant::now());
        write!(out, "{{\"format\":{FORMAT},\"at\":{at},\"parts\":{{")?;
        Ok(Self { out, has_part: false, now })
    }

    /// Returns the time of writing, to which the times in all parts relate.
    pub(crate) const fn now(&self) -> Instant {
        self.now
    }

    /// Adds a part, under a name that no other one has.
    ///
    /// # Errors
    /// As the writer below, and when the memory is longer than [`LONGEST`].
    pub(crate) fn add<T: Serialize>(&mut self, part: &str, value: &T) -> io::Result<()> {
        if std::mem::replace(&mut self.has_part, true) {
            self.out.write_all(b",")?;
        }
        serde_json::to_writer(&mut self.out, part)?;
        self.out.write_all(b":")?;
        Ok(serde_json::to_writer(&mut self.out, value)?)
    }

    /// Ends the memory.
    ///
    /// # Errors
    /// As [`MemoryWriter::add`].
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.out.write_all(b"}}")?;
        self.out.flush()
    }
}

/// A writer that fails when more is written than is left.
struct BoundedWriter<'w> {
    out: &'w mut dyn Write,
    left: u64,
}

impl Write for BoundedWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, "there is too much to remember"))?;
        self.out.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Returns the nanoseconds of a span; the longest ones are cut off at 584 years.
pub(crate) fn nanos(span: Duration) -> u64 {
    span.as_nanos().try_into().unwrap_or(u64::MAX)
}

/// Returns the time of the clock that all processes of this machine share until it is started again, in nanoseconds.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::try_from(now).map(nanos).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(parts: impl FnOnce(&mut MemoryWriter<'_>) -> io::Result<()>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = MemoryWriter::begin(&mut bytes).unwrap();
        parts(&mut writer).unwrap();
        writer.end().unwrap();
        bytes
    }

    #[test]
    fn each_part_is_read_as_it_was_written() {
        let bytes = written(|writer| {
            writer.add("one", &[1, 2])?;
            writer.add("\"two\"", &"text")
        });
        let mut memory = ProcessMemory::read(&*bytes).unwrap();
        assert_eq!(memory.take::<String>("\"two\"").as_deref(), Some("text"));
        assert_eq!(memory.take::<Vec<u8>>("one"), Some(vec![1, 2]));
        assert_eq!(memory.take::<Vec<u8>>("three"), None);
        assert!(ProcessMemory::read(&*written(|_| Ok(()))).unwrap().parts.is_empty());
    }

    #[test]
    fn a_part_that_cannot_be_read_is_missing_alone() {
        let bytes = written(|writer| {
            writer.add("one", &"text")?;
            writer.add("two", &2)
        });
        let mut memory = ProcessMemory::read(&*bytes).unwrap();
        assert_eq!((memory.take::<u8>("one"), memory.take::<u8>("two")), (None, Some(2)));
    }

    #[test]
    fn garbage_half_a_memory_and_another_format_are_refused() {
        let whole = written(|writer| writer.add("one", &1));
        for bad in [&b""[..], b"x", b"[]", b"{}", &whole[..whole.len() - 1], br#"{"format":"1","at":0,"parts":{}}"#] {
            let refused = ProcessMemory::read(bad).err().unwrap();
            assert!(matches!(refused, MemoryError::Damaged(_)), "{:?}", String::from_utf8_lossy(bad));
        }
        let other = ProcessMemory::read(&br#"{"format":2,"at":0,"parts":{}}"#[..]).err().unwrap();
        assert_eq!(other.to_string(), "its format is 2, not 1");
        ProcessMemory::read(&br#"{"format":1,"at":0,"more":[{}]}"#[..]).unwrap();
    }

    #[test]
    fn a_memory_is_as_old_as_the_clock_says_and_never_younger_than_now() {
        let read = |at: u64| ProcessMemory::read(format!(r#"{{"format":1,"at":{at}}}"#).as_bytes()).unwrap();
        let half = monotonic() / 2;
        assert!(read(half).age() >= Duration::from_nanos(half));
        assert!(read(u64::MAX).age() < Duration::from_nanos(half));
        assert_eq!(ProcessMemory::default().age(), Duration::ZERO);
    }

    #[test]
    fn no_more_than_the_bound_is_written() {
        let mut bytes = Vec::new();
        let mut writer = BoundedWriter { out: &mut bytes, left: 3 };
        writer.write_all(b"abc").unwrap();
        assert_eq!(writer.write_all(b"d").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(bytes, b"abc");
    }
}
