//! Which parts of the gate can do their work: each says so itself when asked.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Asks one part; it says why it is not ready.
type Ask = Box<dyn Fn() -> Result<(), String> + Send>;

/// Parts with a name each. Names come from the code, never from a request: they are labels of a metric.
#[derive(Default)]
pub struct Parts(Vec<(&'static str, Ask)>);

impl Parts {
    /// Adds a part. It is asked at every look, so it must not wait.
    pub fn add(&mut self, name: &'static str, ask: impl Fn() -> Result<(), String> + Send + 'static) {
        self.0.push((name, Box::new(ask)));
    }
}

/// The parts that must be ready before requests should come here.
#[derive(Default)]
pub struct Health(Mutex<Parts>);

/// What one part says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The name of the part.
    pub part: &'static str,
    /// Why it is not ready, if it is not.
    pub problem: Option<String>,
}

impl Health {
    /// Watches these parts from now on, and no others.
    pub fn watch(&self, parts: Parts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = parts;
    }

    /// Asks all parts.
    #[must_use]
    pub fn ask(&self) -> Vec<Finding> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.0.iter().map(|(part, ask)| Finding { part, problem: ask().err() }).collect()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_speaks_for_itself() {
        let health = Health::default();
        assert_eq!(health.ask(), []);
        let mut parts = Parts::default();
        parts.add("log", || Ok(()));
        parts.add("breaker", || Err("open".to_owned()));
        health.watch(parts);
        let finding = |part, problem: Option<&str>| Finding { part, problem: problem.map(str::to_owned) };
        assert_eq!(health.ask(), [finding("log", None), finding("breaker", Some("open"))]);
        health.watch(Parts::default());
        assert_eq!(health.ask(), []);
    }
}
