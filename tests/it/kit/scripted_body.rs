//! A response body that follows a script: bytes, pauses and a broken end.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use callgate::demo::server::DemoBody;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::Sleep;

/// The size of one frame of filler.
const FILLER: &[u8] = &[b'.'; 16 * 1024];

#[derive(Debug)]
struct ScriptedBody {
    steps: VecDeque<Step>,
    pause: Option<Pin<Box<Sleep>>>,
    framing: Framing,
}

/// One step of a body.
#[derive(Debug)]
pub enum Step {
    /// Sends these bytes.
    Send(Bytes),
    /// Sends this many filler bytes.
    Fill(u64),
    /// Sends nothing for a while.
    Wait(Duration),
    /// Ends the connection with this many announced bytes unsent.
    Break(u64),
}

/// Tells whether the length is announced.
#[derive(Debug)]
enum Framing {
    Length,
    Chunked,
}

/// Makes a body of known length.
pub fn scripted(steps: impl IntoIterator<Item = Step>) -> DemoBody {
    body(steps, Framing::Length)
}

/// Makes a body whose length is not announced.
pub fn chunked(steps: impl IntoIterator<Item = Step>) -> DemoBody {
    body(steps, Framing::Chunked)
}

fn body(steps: impl IntoIterator<Item = Step>, framing: Framing) -> DemoBody {
    ScriptedBody { steps: steps.into_iter().collect(), pause: None, framing }.boxed_unsync()
}

impl ScriptedBody {
    fn next_frame(&mut self, step: Step, context: &Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
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
}

impl http_body::Body for ScriptedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let Some(step) = self.steps.pop_front() else { return Poll::Ready(None) };
        self.next_frame(step, context)
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
