//! Which parts of the gate can do their work: each says so itself when asked.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Asks one part; it says why it is not ready.
type ReadinessCheck = Box<dyn Fn() -> Result<(), String> + Send>;

/// Parts with a name each. Names come from the code, never from a request: they are labels of a metric.
#[derive(Default)]
pub struct ReadinessParts(Vec<ReadinessPart>);

struct ReadinessPart {
    name: &'static str,
    is_needed: bool,
    ask: ReadinessCheck,
}

impl ReadinessParts {
    /// Adds a part. It is asked at every look, so it must not wait.
    pub fn add(&mut self, name: &'static str, ask: impl Fn() -> Result<(), String> + Send + 'static) {
        self.0.push(ReadinessPart { name, is_needed: true, ask: Box::new(ask) });
    }

    /// Adds a part that is told of, and without which requests may come all the same.
    pub fn add_unneeded(&mut self, name: &'static str, ask: impl Fn() -> Result<(), String> + Send + 'static) {
        self.0.push(ReadinessPart { name, is_needed: false, ask: Box::new(ask) });
    }
}

/// The parts that must be ready before requests should come here.
#[derive(Default)]
pub struct Readiness(Mutex<ReadinessParts>);

/// What one part says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartReport {
    /// The name of the part.
    pub part: &'static str,
    /// Whether requests should not come without it.
    pub is_needed: bool,
    /// Why it is not ready, if it is not.
    pub problem: Option<String>,
}

impl PartReport {
    /// Tells whether the part keeps requests away.
    #[must_use]
    pub const fn is_in_the_way(&self) -> bool {
        self.is_needed && self.problem.is_some()
    }
}

impl Readiness {
    /// Watches these parts from now on, and no others.
    pub fn watch(&self, parts: ReadinessParts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = parts;
    }

    /// Asks all parts.
    #[must_use]
    pub fn ask(&self) -> Vec<PartReport> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let finding = |part: &ReadinessPart| PartReport {
            part: part.name,
            is_needed: part.is_needed,
            problem: (part.ask)().err(),
        };
        parts.0.iter().map(finding).collect()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_speaks_for_itself() {
        let health = Readiness::default();
        assert_eq!(health.ask(), []);
        let mut parts = ReadinessParts::default();
        parts.add("log", || Ok(()));
        parts.add("breaker", || Err("open".to_owned()));
        parts.add_unneeded("syslog", || Err("deaf".to_owned()));
        health.watch(parts);
        let told: Vec<_> = health.ask().into_iter().map(|found| (found.part, found.is_in_the_way())).collect();
        assert_eq!(told, [("log", false), ("breaker", true), ("syslog", false)]);
        assert_eq!(health.ask()[2].problem.as_deref(), Some("deaf"));
        health.watch(ReadinessParts::default());
        assert_eq!(health.ask(), []);
    }
}
