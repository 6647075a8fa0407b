//! A connection to an upstream: TCP, with or without TLS, or a socket of this machine.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::head_scanner::ResponseHeadScanner;
use super::permits::ConnectionPermit;
use crate::descriptors::DescriptorPermit;

/// A connection that still listens when nobody takes what it says.
///
/// An upstream that answers early and closes resets the connection under our writes. Its answer is there all the same,
/// so a write that fails is not the end: reading is, and tells why.
#[derive(Debug)]
pub(super) struct UpstreamIo {
    io: Transport,
    /// Why nothing more is written; the rest goes nowhere.
    broken: Option<io::Error>,
    ear: Rc<ResponseHeadScanner>,
    /// How much may be read at once: what nobody takes shall not be read, and hyper makes its buffer as large as what it
    /// is given.
    most: Rc<Cell<usize>>,
    /// Held for as long as the connection is.
    _slot: ConnectionPermit,
    _descriptor: DescriptorPermit,
}

/// The kinds of connection.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl UpstreamIo {
    pub(super) fn new(io: Transport, slot: ConnectionPermit, descriptor: DescriptorPermit) -> Self {
        let most = Rc::new(Cell::new(usize::MAX));
        Self { io, broken: None, ear: Rc::default(), most, _slot: slot, _descriptor: descriptor }
    }

    /// Returns what listens to all that arrives.
    pub(super) fn ear(&self) -> Rc<ResponseHeadScanner> {
        Rc::clone(&self.ear)
    }

    /// Returns how much may be read at once.
    pub(super) fn most(&self) -> Rc<Cell<usize>> {
        Rc::clone(&self.most)
    }

    /// Returns the TCP connection beneath, if it is one.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match &self.io {
            Transport::Plain(stream) => Some(stream),
            Transport::Tls(stream) => Some(stream.get_ref().0),
            Transport::Unix(_) => None,
        }
    }

    /// Writes, or lets `length` bytes go nowhere.
    fn write(
        &mut self,
        length: usize,
        write: impl FnOnce(&mut Transport) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.broken.is_none() {
            match ready!(write(&mut self.io)) {
                Ok(written) => return Poll::Ready(Ok(written)),
                Err(error) => self.broken = Some(error),
            }
        }
        Poll::Ready(Ok(length))
    }

    fn finish(&mut self, finish: impl FnOnce(&mut Transport) -> Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        if self.broken.is_none()
            && let Err(error) = ready!(finish(&mut self.io))
        {
            self.broken = Some(error);
        }
        Poll::Ready(Ok(()))
    }
}

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
        let this = self.get_mut();
        let (before, most) = (buf.filled().len(), this.most.get());
        if most < buf.remaining() {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
            ready!(each!(&mut this.io, io => io.poll_read(cx, &mut part)))?;
            let read = part.filled().len();
            buf.advance(read);
        } else {
            ready!(each!(&mut this.io, io => io.poll_read(cx, buf)))?;
        }
        if let Some(arrived) = buf.filled().get(before..).filter(|arrived| !arrived.is_empty()) {
            return Poll::Ready(this.ear.hear(arrived));
        }
        // What ends after a failure has not come to its end, even where that would not show.
        Poll::Ready(this.broken.take().map_or(Ok(()), Err))
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
        // One buffer is cheaper to write as such.
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
