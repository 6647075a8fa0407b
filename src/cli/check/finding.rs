//! What a check found: one part of what the configuration names, with a verdict.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

use super::diagnosis::{Diagnosis, Fault};
use crate::config::Problem;

/// What a check found at one part.
#[derive(Debug)]
pub(super) struct Finding {
    /// The part: a table of the configuration, with the name of the PBX node or the auth method.
    pub(super) part: String,
    /// What was asked, or the place in a file.
    pub(super) asked: String,
    /// What the part answered, or the problem.
    pub(super) answer: String,
    /// How long the answer took; `None`: nothing was waited for.
    pub(super) took: Option<Duration>,
    pub(super) verdict: PartVerdict,
    /// What the operator can do.
    pub(super) advice: Option<String>,
}

/// How good a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartVerdict {
    /// It works.
    Ok,
    /// It is right only where it is intended, or could not be tried.
    Note,
    /// It works, and will not for long, or not for all.
    Warning,
    /// It does not work.
    Fail(Fault),
}

impl PartVerdict {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Fail(_) => "FAIL",
        }
    }

    /// Returns who can mend the part, if it does not work.
    pub(super) const fn fault(self) -> Option<Fault> {
        match self {
            Self::Fail(fault) => Some(fault),
            Self::Ok | Self::Note | Self::Warning => None,
        }
    }
}

impl Finding {
    /// Makes a finding in a file.
    pub(super) fn of_file(part: &str, place: &dyn Display, problem: String, verdict: PartVerdict) -> Self {
        Self { part: part.to_owned(), asked: place.to_string(), answer: problem, took: None, verdict, advice: None }
    }

    /// Makes a finding of a problem of the configuration.
    pub(super) fn of_problem(part: &str, problem: &Problem, verdict: PartVerdict) -> Self {
        let place = problem.position.map(|at| format!(":{}:{}", at.line, at.column)).unwrap_or_default();
        let place = format!("{}{place}", problem.file);
        Self { advice: problem.hint.clone(), ..Self::of_file(part, &place, problem.message.clone(), verdict) }
    }
}

/// A question to a part. Each answer is a finding, with the time since the question.
#[derive(Debug)]
pub(super) struct PartQuestion {
    part: String,
    asked: String,
    begun: Instant,
}

impl PartQuestion {
    pub(super) fn new(part: &str, asked: impl Into<String>) -> Self {
        Self { part: part.to_owned(), asked: asked.into(), begun: Instant::now() }
    }

    pub(super) fn ok(&self, answer: impl Into<String>) -> Finding {
        self.answered(PartVerdict::Ok, answer.into(), None)
    }

    pub(super) fn warning(&self, answer: impl Into<String>, advice: impl Into<String>) -> Finding {
        self.answered(PartVerdict::Warning, answer.into(), Some(advice.into()))
    }

    pub(super) fn fail(&self, fault: Fault, answer: impl Into<String>, advice: impl Into<String>) -> Finding {
        self.answered(PartVerdict::Fail(fault), answer.into(), Some(advice.into()))
    }

    /// Tells that the part was not tried.
    pub(super) fn untried(&self, reason: impl Into<String>) -> Finding {
        Finding { took: None, ..self.answered(PartVerdict::Note, reason.into(), None) }
    }

    /// Tells why there is no answer. `advice` is for errors that have none of their own.
    pub(super) fn failed(&self, diagnosis: Diagnosis, advice: &str) -> Finding {
        let Diagnosis { fault, answer, advice: own } = diagnosis;
        self.answered(PartVerdict::Fail(fault), answer, Some(own.unwrap_or_else(|| advice.to_owned())))
    }

    fn answered(&self, verdict: PartVerdict, answer: String, advice: Option<String>) -> Finding {
        let (part, asked) = (self.part.clone(), self.asked.clone());
        Finding { part, asked, answer, took: Some(self.begun.elapsed()), verdict, advice }
    }
}
