//! The name of a member: one of several machines that run callgate.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The most characters of a name.
pub const LONGEST: usize = 63;

/// The name of a member: 1 to 63 letters, digits and `.` `_` `-`. A clone is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberName(Arc<str>);

/// The text is not the name of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 1 to {LONGEST} letters, digits and . _ -")]
pub struct MemberNameError;

impl MemberName {
    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MemberName {
    type Err = MemberNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if is_plain && (1..=LONGEST).contains(&text.len()) { Ok(Self(text.into())) } else { Err(MemberNameError) }
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_short() {
        for name in ["edge-1", "a", "A.b_c", &"x".repeat(63)] {
            assert_eq!(name.parse::<MemberName>().unwrap().as_str(), name);
        }
        for text in ["", "a b", "é", "a/b", "a=b", "a\"", &"x".repeat(64)] {
            assert_eq!(text.parse::<MemberName>(), Err(MemberNameError), "{text}");
        }
    }
}
