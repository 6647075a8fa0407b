//! Turns: how much a task moves before the other tasks of its worker go on.

use std::pin::pin;
use std::task::Context;

use tokio::task::yield_now;

/// The most bytes that a connection moves in one turn. A worker with several downloads answers a small request after one turn of
/// each; a turn lasts about 0.1 ms.
pub(crate) const TURN: usize = 128 << 10;

/// Ends the turn of a task, which is polled again once the worker has looked at all its sockets. The caller returns
/// `Poll::Pending`.
pub(crate) fn end_turn(cx: &mut Context<'_>) {
    let is_over = pin!(yield_now()).poll(cx).is_ready();
    debug_assert!(!is_over, "the first poll waits");
}
