//! Text that must not be shown.

use std::fmt;

use aws_lc_rs::constant_time;
use zeroize::Zeroizing;

/// A secret text: `Debug` does not print it, and dropping it wipes the memory.
#[derive(Clone)]
pub struct Secret {
    text: Zeroizing<String>,
    is_unseen: bool,
}

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self { text: Zeroizing::new(text), is_unseen: false }
    }

    /// Stands for a secret that this process cannot see. `placeholder`: what no one can guess.
    #[must_use]
    pub fn unseen(placeholder: String) -> Self {
        Self { is_unseen: true, ..Self::new(placeholder) }
    }

    /// Tells whether this stands for a secret that this process cannot see.
    #[must_use]
    pub const fn is_unseen(&self) -> bool {
        self.is_unseen
    }

    /// Returns the text, for the code that sends or hashes it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(self.text.as_bytes(), other.text.as_bytes()).is_ok()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
