//! The byte stream of a connection to an upstream: TCP, TLS or a unix socket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::ProtocolVersion;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::permits::ConnectionPermit;
use crate::descriptors::DescriptorPermit;

/// A byte stream that can still be read after a write has failed.
///
/// An upstream that answers early and closes resets the connection while callgate writes. Its answer has arrived all
/// the same. So a write that fails does not end the stream; the next read that finds no bytes does, with the error of
/// the write.
#[derive(Debug)]
pub(super) struct UpstreamIo {
    transport: Transport,
    /// The error of the first write that failed. Further bytes are discarded.
    write_error: Option<io::Error>,
    /// Held as long as the connection exists; `None` where connections of clients are counted instead.
    _permit: Option<ConnectionPermit>,
    _descriptor: DescriptorPermit,
}

/// The kinds of byte stream.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Transport {
    /// Returns the version of TLS; `None` without TLS.
    pub(super) fn tls_version(&self) -> Option<ProtocolVersion> {
        match self {
            Self::Tls(stream) => stream.get_ref().1.protocol_version(),
            Self::Plain(_) | Self::Unix(_) => None,
        }
    }
}

impl UpstreamIo {
    pub(super) const fn new(
        transport: Transport,
        permit: Option<ConnectionPermit>,
        descriptor: DescriptorPermit,
    ) -> Self {
        Self { transport, write_error: None, _permit: permit, _descriptor: descriptor }
    }

    /// Returns the TCP connection below, if there is one.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match &self.transport {
            Transport::Plain(stream) => Some(stream),
            Transport::Tls(stream) => Some(stream.get_ref().0),
            Transport::Unix(_) => None,
        }
    }

    /// Writes, or discards `length` bytes after a write has failed.
    fn write(
        &mut self,
        length: usize,
        write: impl FnOnce(&mut Transport) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.write_error.is_none() {
            match ready!(write(&mut self.transport)) {
                Ok(written) => return Poll::Ready(Ok(written)),
                Err(error) => self.write_error = Some(error),
            }
        }
        Poll::Ready(Ok(length))
    }

    /// Flushes or shuts down, unless a write has failed.
    fn finish(&mut self, finish: impl FnOnce(&mut Transport) -> Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        if self.write_error.is_none()
            && let Err(error) = ready!(finish(&mut self.transport))
        {
            self.write_error = Some(error);
        }
        Poll::Ready(Ok(()))
    }
}

/// Calls a method on the stream of any kind.
macro_rules! each {
    ($self:expr, $io:ident => $call:expr) => {
        match $self {
            Transport::Plain($io) => {
                let $io = Pin::new($io);
                $call
            }
            Transport::Tls($io) => {
                let $io = Pin::new($io);
                $call
            }
            Transport::Unix($io) => {
                let $io = Pin::new($io);
                $call
            }
        }
    };
}

impl AsyncRead for UpstreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (this, before) = (self.get_mut(), buf.filled().len());
        ready!(each!(&mut this.transport, io => io.poll_read(cx, buf)))?;
        if buf.filled().len() > before {
            return Poll::Ready(Ok(()));
        }
        // After a failed write, the end of the stream is not a clean end, even where it would look like one.
        Poll::Ready(this.write_error.take().map_or(Ok(()), Err))
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().write(buf.len(), |io| each!(io, io => io.poll_write(cx, buf)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A plain write is cheaper for a single buffer.
        if let [buf] = bufs {
            return self.poll_write(cx, buf);
        }
        let length = bufs.iter().map(|buf| buf.len()).sum();
        self.get_mut().write(length, |io| each!(io, io => io.poll_write_vectored(cx, bufs)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().finish(|io| each!(io, io => io.poll_flush(cx)))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().finish(|io| each!(io, io => io.poll_shutdown(cx)))
    }
}
