//! Readiness: each part of the gate reports whether it works.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Checks one part; returns what is known of it, or why it is not ready.
type ReadinessCheck = Box<dyn Fn() -> Result<Option<String>, String> + Send>;

/// The parts to check, each with a name. Names come from the configuration, never from a request: they are labels of a metric.
#[derive(Default)]
pub struct ReadinessParts(Vec<ReadinessPart>);

struct ReadinessPart {
    name: Cow<'static, str>,
    is_needed: bool,
    check: ReadinessCheck,
}

impl ReadinessParts {
    /// Adds a part. Each look at the readiness runs the check, so it must not wait.
    pub fn add(&mut self, name: impl Into<Cow<'static, str>>, check: impl Fn() -> Result<(), String> + Send + 'static) {
        let check = Box::new(move || check().map(|()| None));
        self.0.push(ReadinessPart { name: name.into(), is_needed: true, check });
    }

    /// Adds a part that is reported but does not make the gate unready.
    pub fn add_unneeded(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        check: impl Fn() -> Result<(), String> + Send + 'static,
    ) {
        let check = Box::new(move || check().map(|()| None));
        self.0.push(ReadinessPart { name: name.into(), is_needed: false, check });
    }

    /// Adds such a part whose check also describes a part that is ready.
    pub fn add_described(&mut self, name: String, check: impl Fn() -> Result<String, String> + Send + 'static) {
        let check = Box::new(move || check().map(Some));
        self.0.push(ReadinessPart { name: name.into(), is_needed: false, check });
    }
}

/// The readiness of the gate.
#[derive(Default)]
pub struct Readiness(Mutex<ReadinessParts>);

/// What the check of one part found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartReport {
    /// The name of the part.
    pub part: Cow<'static, str>,
    /// Whether the gate is not ready without it.
    pub is_needed: bool,
    /// Why the part is not ready; nothing if it is.
    pub problem: Option<String>,
    /// What is known of a part that is ready, beyond that.
    pub detail: Option<String>,
}

impl PartReport {
    /// Returns whether the part makes the gate unready.
    #[must_use]
    pub const fn makes_unready(&self) -> bool {
        self.is_needed && self.problem.is_some()
    }
}

impl Readiness {
    /// Replaces the parts to check.
    pub fn watch(&self, parts: ReadinessParts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = parts;
    }

    /// Checks all parts.
    #[must_use]
    pub fn check(&self) -> Vec<PartReport> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let finding = |part: &ReadinessPart| {
            let (detail, problem) = match (part.check)() {
                Ok(detail) => (detail, None),
                Err(problem) => (None, Some(problem)),
            };
            PartReport { part: part.name.clone(), is_needed: part.is_needed, problem, detail }
        };
        parts.0.iter().map(finding).collect()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_speaks_for_itself() {
        let health = Readiness::default();
        assert_eq!(health.check(), []);
        let mut parts = ReadinessParts::default();
        parts.add("log", || Ok(()));
        parts.add("breaker", || Err("open".to_owned()));
        parts.add_unneeded("syslog", || Err("deaf".to_owned()));
        parts.add_described("provider/sso".to_owned(), || Ok("asked 5 s ago".to_owned()));
        health.watch(parts);
        let told: Vec<_> =
            health.check().into_iter().map(|found| (found.part.to_string(), found.makes_unready())).collect();
        assert_eq!(
            told,
            [("log", false), ("breaker", true), ("syslog", false), ("provider/sso", false)]
                .map(|(part, is)| (part.to_owned(), is))
        );
        assert_eq!(health.check()[2].problem.as_deref(), Some("deaf"));
        assert_eq!(health.check()[3].detail.as_deref(), Some("asked 5 s ago"));
        health.watch(ReadinessParts::default());
        assert_eq!(health.check(), []);
    }
}
