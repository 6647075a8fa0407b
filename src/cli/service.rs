//! What systemd is told, where it asked to be (sd_notify(3)).

use sd_notify::NotifyState;

/// Tells that connections are accepted, or that a reload is over.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells that a reload has begun.
pub(super) fn reloading() {
    // The time is how systemd tells one reload from the next; without a clock there is nothing to tell it.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// Tells that the end has begun.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells that another process is the service from now on.
pub(super) fn handed_over(id: u32) {
    tell(&[NotifyState::MainPid(id), NotifyState::Ready]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
