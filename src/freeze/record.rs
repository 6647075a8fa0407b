//! A freeze or a thaw in the table that members share.

use serde::{Deserialize, Serialize};

use crate::members::{EngineKey, SharedEngine};
use crate::state::Freeze;

/// The kind of its sealed values, and of the messages about it.
pub(super) const KIND: &str = "freeze";
/// Higher than each version, and exact as a number of Lua: the microseconds until the year 2255.
pub(super) const ANY_VERSION: u64 = (1 << 53) - 1;

/// A freeze or a thaw, as the engine holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FreezeRecord {
    /// Of two records about one target, the one with the higher version holds.
    pub(super) version: u64,
    /// The target, as in the state.
    pub(super) whom: String,
    /// The freeze; nothing: the target was thawed.
    pub(super) freeze: Option<Freeze>,
}

impl FreezeRecord {
    /// Writes the value of a field: the version, by which the engine compares, and the sealed record.
    pub(super) fn to_value(&self, engine: &SharedEngine) -> Vec<u8> {
        let mut value = format!("{} ", self.version).into_bytes();
        value.extend(engine.seal(KIND, self));
        value
    }

    /// Reads the value of a field; nothing if no member wrote it, or none could give a later version.
    pub(super) fn of_value(engine: &SharedEngine, value: &[u8]) -> Option<Self> {
        let end = value.iter().position(|byte| *byte == b' ')?;
        let record: Self = engine.open(KIND, &value[end + 1..])?;
        // The sealed one counts: a program that can write to the engine can change the other.
        let is_sealed = record.version.to_string().as_bytes() == &value[..end];
        (is_sealed && record.version < ANY_VERSION).then_some(record)
    }
}

/// Returns the names of a target's field under all keys of the ring, the one that is written first.
pub(super) fn fields(engine: &SharedEngine, whom: &str) -> Vec<EngineKey> {
    engine.names().all_of(KIND, &[whom.as_bytes()])
}
