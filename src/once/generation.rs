//! The generation of the engine's memory: a random name that the engine keeps. An engine with another name, or without one,
//! has lost what it knew.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::members::{EngineDown, EngineScript, SharedEngine};
use crate::random;

/// How long after the engine has lost everything its marks are not relied on, so that all members can write theirs back.
pub(super) const YOUNG: Duration = Duration::from_secs(5);

static SCRIPT: LazyLock<EngineScript> = LazyLock::new(|| EngineScript::new(include_str!("generation.lua")));

/// By how much the engine's clock may be ahead of what a member expects.
const AHEAD: Duration = Duration::from_secs(10);

/// A generation, as a member knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Generation {
    /// Its name, as the engine keeps it.
    pub(super) name: String,
    /// Until when members write back what the engine has lost.
    pub(super) young_until: Instant,
    /// The engine's time in Unix time, and when it was asked.
    pub(super) clock: (Duration, Instant),
}

impl Generation {
    /// Reads the generation, or begins one where there is none.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) async fn read(engine: &SharedEngine) -> Result<Self, EngineDown> {
        let arguments = [random::text::<18>().into_bytes(), YOUNG.as_millis().to_string().into_bytes()];
        let asked = Instant::now();
        let key = engine.names().plain("generation");
        let (name, left, time): (String, u64, u64) = engine.run_script(&SCRIPT, &[key], &arguments).await?;
        let young_until = asked + Duration::from_millis(left).min(YOUNG);
        Ok(Self { name, young_until, clock: (Duration::from_millis(time), Instant::now()) })
    }

    /// Takes a later reading of the same generation. Returns whether the engine's clock has jumped ahead, so that what it
    /// keeps may have expired early: then the engine is young again.
    pub(super) fn follow(&mut self, later: &Self) -> bool {
        let ((before, then), (time, now)) = (self.clock, later.clock);
        let has_jumped = time > before + now.duration_since(then) + AHEAD;
        self.clock = later.clock;
        if has_jumped {
            self.young_until = now + YOUNG;
        }
        has_jumped
    }

    /// Tells whether members may still write back what the engine has lost.
    pub(super) fn is_young(&self) -> bool {
        Instant::now() < self.young_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_ahead_makes_the_engine_young() {
        let start = Instant::now();
        let at = |time: u64, seconds: u64| Generation {
            name: "kept".to_owned(),
            young_until: start,
            clock: (Duration::from_secs(time), start + Duration::from_secs(seconds)),
        };
        let mut known = at(1_000, 0);
        for (time, seconds, jumps) in [
            (1_001, 1, false),
            // A slow answer, and a clock that is corrected.
            (1_011, 2, false),
            (1_012, 3, false),
            (4_612, 4, true),
            (4_613, 5, false),
            // Set back.
            (1_014, 6, false),
            (1_015, 7, false),
        ] {
            known.young_until = start;
            assert_eq!(known.follow(&at(time, seconds)), jumps, "{time} after {seconds} s");
            assert_eq!(known.is_young(), jumps);
        }
    }
}
