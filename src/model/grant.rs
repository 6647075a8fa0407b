//! Who may become whom.

/// One `[[allow]]` table.
#[derive(Debug, Clone)]
pub struct Rule {}
