//! The problems of a configuration, each with its position and a remedy.

use std::fmt;

/// A line and a column of `proxy.toml`, both counted from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Position {
    /// Returns the position of a byte of a text.
    #[must_use]
    pub fn of(text: &str, byte: usize) -> Self {
        let before = text.char_indices().take_while(|(at, c)| at + c.len_utf8() <= byte);
        before.fold(Self { line: 1, column: 1 }, |position, (_, c)| match c {
            '\n' => Self { line: position.line + 1, column: 1 },
            _ => Self { column: position.column + 1, ..position },
        })
    }
}

/// An error or a warning about a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as the operator named it.
    pub file: String,
    /// The position in the file; `None` for a problem of the file itself.
    pub position: Option<Position>,
    /// The error, after the path of keys in back quotes. Never holds a secret.
    pub message: String,
    /// The remedy.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    /// Writes `file:line:column: message`, and the hint on an indented line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n    {hint}"),
            None => Ok(()),
        }
    }
}

/// A secret of a unit or a container, which a command that is started elsewhere does not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnseenSecret {
    /// The keys that lead to the secret, such as `pbx.admin.password`.
    pub path: String,
    /// The reason, with the remedy.
    pub problem: Problem,
}

/// All problems of a refused configuration, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Sorts problems into the order of the file.
    #[must_use]
    pub fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.position);
        Self(problems)
    }

    /// Returns the problems, in the order of the file.
    #[must_use]
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }

    /// Returns the problems by value, in the order of the file.
    #[must_use]
    pub fn into_vec(self) -> Vec<Problem> {
        self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        let noun = if self.0.len() == 1 { "problem" } else { "problems" };
        write!(f, "{} {noun}; nothing was started", self.0.len())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, byte: usize, line: usize, column: usize) {
        assert_eq!(Position::of(text, byte), Position { line, column });
    }

    #[test]
    fn places_count_characters_from_one() {
        check("", 0, 1, 1);
        check("ab\ncd", 1, 1, 2);
        check("ab\ncd", 3, 2, 1);
        check("äö = 1", 4, 1, 3);
        check("ä", 1, 1, 1);
        check("ab", 99, 1, 3);
    }

    #[test]
    fn reads_like_a_compiler() {
        let problem = |line, message: &str, hint: Option<&str>| Problem {
            file: "proxy.toml".to_owned(),
            position: Some(Position { line, column: 1 }),
            message: message.to_owned(),
            hint: hint.map(str::to_owned),
        };
        let problems =
            Problems::new(vec![problem(12, "second", Some("did you mean `hosts`?")), problem(3, "first", None)]);
        let expected = "proxy.toml:3:1: first\nproxy.toml:12:1: second\n    did you mean `hosts`?\n2 problems; nothing was started";
        assert_eq!(problems.to_string(), expected);
        assert!(
            Problems::new(vec![problem(1, "only", None)]).to_string().ends_with("\n1 problem; nothing was started")
        );
    }
}
