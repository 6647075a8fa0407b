//! Tables of the operator, which add attributes to a caller's claims. A table is read once and never changed.

use std::collections::HashMap;

/// Rows of text, found by their key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupTable {
    columns: Vec<String>,
    rows: HashMap<String, Vec<Vec<String>>>,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct TableRow<'t> {
    columns: &'t [String],
    cells: &'t [String],
}

impl LookupTable {
    /// Makes a table without rows.
    #[must_use]
    pub fn new(columns: Vec<String>) -> Self {
        Self { columns, rows: HashMap::new() }
    }

    /// Adds a row, with one cell for each column, in order.
    pub fn add(&mut self, key: String, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows.entry(key).or_default().push(cells);
    }

    /// Returns the names of the columns, without that of the key.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Returns the rows of a key, in the order of the file.
    pub fn rows(&self, key: &str) -> impl Iterator<Item = TableRow<'_>> {
        self.rows.get(key).into_iter().flatten().map(|cells| TableRow { columns: &self.columns, cells })
    }
}

impl<'t> TableRow<'t> {
    /// Returns the cell in a column.
    #[must_use]
    pub fn cell(&self, column: &str) -> Option<&'t str> {
        let at = self.columns.iter().position(|name| name == column)?;
        self.cells.get(at).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_their_exact_key() {
        let mut table = LookupTable::new(vec!["ext".to_owned(), "tenant".to_owned()]);
        for (key, ext) in [("ann", "40"), ("bob", "41"), ("ann", "42")] {
            table.add(key.to_owned(), vec![ext.to_owned(), "acme".to_owned()]);
        }
        let found = |key: &str| table.rows(key).filter_map(|row| row.cell("ext")).collect::<Vec<_>>();
        assert_eq!(found("ann"), ["40", "42"]);
        assert_eq!(found("bob"), ["41"]);
        assert_eq!(found("Ann"), [""; 0]);
        assert_eq!(table.rows("bob").next().unwrap().cell("tenant"), Some("acme"));
        assert_eq!(table.rows("bob").next().unwrap().cell("vox"), None);
    }
}
