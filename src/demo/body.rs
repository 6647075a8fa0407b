//! A response body that follows a script: bytes, pauses and a broken end.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

/// The size of one frame of filler.
const FILLER: &[u8] = &[b'.'; 16 * 1024];

/// A body that plays its steps in order.
#[derive(Debug)]
pub(super) struct Body {
    steps: VecDeque<Step>,
    pause: Option<Pin<Box<Sleep>>>,
    framing: Framing,
}

/// What happens next in a body.
#[derive(Debug)]
pub(super) enum Step {
    /// These bytes are sent.
    Send(Bytes),
    /// So many filler bytes are sent.
    Fill(u64),
    /// Nothing is sent for a while.
    Wait(Duration),
    /// So many announced bytes are never sent: the connection ends.
    Break(u64),
}

/// Whether the length is announced.
#[derive(Debug)]
enum Framing {
    Length,
    Chunked,
}

impl Body {
    /// Makes a body of known length.
    pub(super) fn scripted(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), pause: None, framing: Framing::Length }
    }

    /// Makes a body whose length nobody knows beforehand.
    pub(super) fn chunked(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { framing: Framing::Chunked, ..Self::scripted(steps) }
    }

    /// Returns the bytes it would send.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.steps.iter().flat_map(Step::bytes).collect()
    }

    fn frame(&mut self, step: Step, context: &Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match step {
            Step::Send(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Step::Fill(length) => {
                let size = length.min(FILLER.len() as u64);
                if length > size {
                    self.steps.push_front(Step::Fill(length - size));
                }
                let size = usize::try_from(size).expect("no more than a frame of filler");
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&FILLER[..size])))))
            }
            // hyper writes out what it holds only when a body makes it wait: the pause comes before the break.
            Step::Break(0) => Poll::Ready(Some(Err(io::ErrorKind::BrokenPipe.into()))),
            Step::Break(_) => {
                self.steps.push_front(Step::Break(0));
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Step::Wait(time) => {
                self.pause = Some(Box::pin(tokio::time::sleep(time)));
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl Step {
    fn length(&self) -> u64 {
        match self {
            Self::Send(bytes) => bytes.len() as u64,
            Self::Fill(length) | Self::Break(length) => *length,
            Self::Wait(_) => 0,
        }
    }

    fn bytes(&self) -> Bytes {
        match self {
            Self::Send(bytes) => bytes.clone(),
            Self::Fill(length) => FILLER.iter().copied().cycle().take(usize::try_from(*length).unwrap_or(0)).collect(),
            Self::Wait(_) | Self::Break(_) => Bytes::new(),
        }
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(text: T) -> Self {
        let bytes = text.into();
        if bytes.is_empty() { Self::scripted([]) } else { Self::scripted([Step::Send(bytes)]) }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let Some(step) = self.steps.pop_front() else { return Poll::Ready(None) };
        self.frame(step, context)
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty() && self.pause.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Length => SizeHint::with_exact(self.steps.iter().map(Step::length).sum()),
            Framing::Chunked => SizeHint::default(),
        }
    }
}
