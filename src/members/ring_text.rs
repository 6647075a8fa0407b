//! A text at the engine by which members notice that one of them has other keys. Each member that uses the engine writes it
//! anew, sealed under the key that writes; a member that cannot open it has other keys.

use std::time::Duration;

use redis::Cmd;

use super::names::EngineKey;
use super::value_seal::ValueSeal;

/// How often a member that uses the engine writes the text.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// How long after a text of other keys was seen no first text is written: the members that have them come first.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long the engine keeps the text.
const LIFE: Duration = Duration::from_secs(60);
/// What the operator reads when the keys are not the same.
pub(crate) const OTHER_KEYS: &str = "other members have other `keys`: give all of them the same file";

const KIND: &str = "ring";
const TEXT: &[u8] = b"callgate";

/// Whose keys a text is sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RingFound {
    /// There is no text: no other member uses the engine.
    Missing,
    /// One of this member's.
    Same,
    /// None of them.
    Other,
}

/// Returns the question for the text.
pub(super) fn read(key: &EngineKey) -> Cmd {
    let mut get = redis::cmd("GET");
    get.arg(key.as_str());
    get
}

/// Returns the command that writes the text.
pub(super) fn write(key: &EngineKey, seal: &ValueSeal) -> Cmd {
    let mut set = redis::cmd("SET");
    set.arg(key.as_str()).arg(seal.seal(KIND, TEXT)).arg("PX").arg(LIFE.as_millis() as u64);
    set
}

/// Returns whose text the engine has.
pub(super) fn found(text: Option<&[u8]>, seal: &ValueSeal) -> RingFound {
    match text.map(|text| seal.open(KIND, text)) {
        None => RingFound::Missing,
        Some(Some(_)) => RingFound::Same,
        Some(None) => RingFound::Other,
    }
}
