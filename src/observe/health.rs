//! Which parts of the gate can do their work: each says so itself when asked.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Asks one part; it says why it is not ready.
type Ask = Box<dyn Fn() -> Result<(), String> + Send>;

/// The parts that must be ready before requests should come here.
#[derive(Default)]
pub struct Health(Mutex<Vec<(String, Ask)>>);

/// What one part says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The name of the part.
    pub part: String,
    /// Why it is not ready, if it is not.
    pub problem: Option<String>,
}

impl Health {
    /// Adds a part, or puts it in the place of the one that had its name. It is asked at every look, so it must not wait.
    ///
    /// Names come from the configuration or from the code, never from a request: they are labels of a metric.
    pub fn watch(&self, part: impl Into<String>, ask: impl Fn() -> Result<(), String> + Send + 'static) {
        let part = part.into();
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match parts.iter_mut().find(|(name, _)| *name == part) {
            Some(known) => known.1 = Box::new(ask),
            None => parts.push((part, Box::new(ask))),
        }
    }

    /// Asks all parts.
    #[must_use]
    pub fn ask(&self) -> Vec<Finding> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().map(|(part, ask)| Finding { part: part.clone(), problem: ask().err() }).collect()
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
    fn a_part_speaks_for_itself_and_the_last_of_a_name_counts() {
        let health = Health::default();
        health.watch("log", || Err("full".to_owned()));
        health.watch("breaker", || Err("open".to_owned()));
        health.watch("log", || Ok(()));
        let finding =
            |part: &str, problem: Option<&str>| Finding { part: part.to_owned(), problem: problem.map(str::to_owned) };
        assert_eq!(health.ask(), [finding("log", None), finding("breaker", Some("open"))]);
    }
}
