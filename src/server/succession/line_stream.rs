//! JSON messages on a stream, one on each line.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// The most bytes of a message: an order to freeze has a name and a reason.
const MAX_LINE: usize = 64 << 10;

/// JSON messages on a stream, one on each line.
#[derive(Debug)]
pub(super) struct LineStream {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl LineStream {
    /// Wraps a stream.
    ///
    /// # Errors
    /// When the stream cannot be used by this thread's runtime.
    pub(super) fn new(stream: StdUnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream: UnixStream::from_std(stream)?, buffer: Vec::new() })
    }

    /// Returns the id of the process that made the stream, as one of a pair; 0 if the system does not tell.
    pub(super) fn peer(&self) -> i32 {
        self.stream.peer_cred().ok().and_then(|peer| peer.pid()).unwrap_or_default()
    }

    /// Reads the next message, and passes over lines that are none. Returns `None` when the other end is gone, or sends a line
    /// without an end. A call that is dropped loses nothing.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.buffer.drain(..=end).collect();
                if let Ok(message) = serde_json::from_slice(&line) {
                    return Some(message);
                }
            }
            if self.buffer.len() > MAX_LINE || !matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// Writes a message.
    ///
    /// # Errors
    /// When the other end is gone.
    pub(super) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        // Another process may have left half a line before this one.
        let line = format!("\n{}\n", serde_json::to_string(message)?);
        self.stream.write_all(line.as_bytes()).await
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Writes bytes, and returns the numbers that are read until the end.
    async fn read(bytes: &[u8]) -> Vec<u64> {
        let (mut there, here) = StdUnixStream::pair().unwrap();
        let bytes = bytes.to_vec();
        let writing = std::thread::spawn(move || drop(there.write_all(&bytes)));
        let mut lines = LineStream::new(here).unwrap();
        let mut numbers = Vec::new();
        while let Some(number) = lines.next().await {
            numbers.push(number);
        }
        drop(lines);
        writing.join().unwrap();
        numbers
    }

    #[tokio::test]
    async fn half_a_line_of_another_process_spoils_no_message() {
        assert_eq!(read(b"\n1\n\n2\n{\"hal\n3\n4").await, [1, 2, 3]);
        assert_eq!(read(b"").await, Vec::<u64>::new());
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_not_held() {
        let mut bytes = b"1\n".to_vec();
        bytes.resize(MAX_LINE * 4, b'x');
        assert_eq!(read(&bytes).await, [1]);
    }

    #[tokio::test]
    async fn a_message_is_read_as_it_was_sent() {
        let (there, here) = StdUnixStream::pair().unwrap();
        let (mut there, mut here) = (LineStream::new(there).unwrap(), LineStream::new(here).unwrap());
        there.send(&"a\nb").await.unwrap();
        there.send(&7).await.unwrap();
        assert_eq!(here.next::<String>().await.unwrap(), "a\nb");
        assert_eq!(here.next::<u64>().await, Some(7));
    }
}
