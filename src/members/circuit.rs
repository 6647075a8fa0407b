//! The circuit before the shared engine: closed while the engine answers, open while it does not. It has no clock.

/// How many questions in a row may fail before the circuit opens.
const FAILURES: u32 = 3;

/// Open until the engine was reached; then closed until questions fail.
#[derive(Debug)]
pub(super) enum Circuit {
    /// Questions go to the engine.
    Closed {
        /// How many failed in a row.
        failures: u32,
    },
    /// Questions fail at once.
    Open {
        /// Why, in words for the operator.
        problem: String,
        /// Whether the operator knows that the engine cannot be used.
        is_told: bool,
    },
}

/// What came of a question.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome<'p> {
    /// The engine answered.
    Answered,
    /// It did not, and this may pass.
    Failed(&'p str),
    /// The connection is of no use any more.
    Lost(&'p str),
}

impl Default for Circuit {
    fn default() -> Self {
        Self::Open { problem: "it was not reached yet".to_owned(), is_told: false }
    }
}

impl Circuit {
    /// Returns why questions fail at once; nothing if they go to the engine.
    pub(super) fn problem(&self) -> Option<&str> {
        match self {
            Self::Closed { .. } => None,
            Self::Open { problem, .. } => Some(problem),
        }
    }

    /// Closes the circuit.
    pub(super) fn close(&mut self) {
        *self = Self::Closed { failures: 0 };
    }

    /// Notes an outcome. Returns the problem if the operator must be told of it: once while the circuit is open.
    pub(super) fn note(&mut self, outcome: Outcome<'_>) -> Option<String> {
        let problem = match (outcome, &mut *self) {
            (Outcome::Answered, Self::Closed { failures }) => {
                *failures = 0;
                return None;
            }
            (Outcome::Failed(problem), Self::Closed { failures }) => {
                *failures += 1;
                if *failures < FAILURES {
                    return None;
                }
                problem
            }
            (Outcome::Lost(problem), Self::Closed { .. }) => problem,
            (Outcome::Failed(now) | Outcome::Lost(now), Self::Open { problem, is_told }) => {
                // The latest reason is what the operator can act on.
                now.clone_into(problem);
                return (!std::mem::replace(is_told, true)).then(|| now.to_owned());
            }
            (Outcome::Answered, Self::Open { .. }) => return None,
        };
        *self = Self::Open { problem: problem.to_owned(), is_told: true };
        Some(problem.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_three_failures_in_a_row() {
        let mut circuit = Circuit::default();
        circuit.close();
        for _ in 0..5 {
            assert_eq!(circuit.note(Outcome::Failed("slow")), None);
            assert_eq!(circuit.note(Outcome::Failed("slow")), None);
            assert_eq!(circuit.note(Outcome::Answered), None);
        }
        assert_eq!(circuit.note(Outcome::Failed("slow")), None);
        assert_eq!(circuit.note(Outcome::Failed("slow")), None);
        assert_eq!(circuit.note(Outcome::Failed("slow")).as_deref(), Some("slow"));
        assert_eq!(circuit.note(Outcome::Failed("slow")), None, "told once");
        assert_eq!(circuit.problem(), Some("slow"));
    }

    #[test]
    fn opens_at_once_when_the_connection_is_lost() {
        let mut circuit = Circuit::default();
        circuit.close();
        assert_eq!(circuit.note(Outcome::Lost("reset")).as_deref(), Some("reset"));
        assert_eq!(circuit.note(Outcome::Lost("refused")), None);
        assert_eq!(circuit.problem(), Some("refused"), "the latest reason");
        assert_eq!(circuit.note(Outcome::Answered), None);
        assert!(circuit.problem().is_some(), "a late answer does not close it");
        circuit.close();
        assert_eq!(circuit.problem(), None);
    }

    #[test]
    fn is_open_until_the_engine_was_reached() {
        let mut circuit = Circuit::default();
        assert!(circuit.problem().is_some());
        assert_eq!(circuit.note(Outcome::Lost("refused")).as_deref(), Some("refused"));
        assert_eq!(circuit.note(Outcome::Lost("refused")), None, "told once");
        circuit.close();
        assert_eq!(circuit.problem(), None);
    }
}
