//! Plain text tables.

use std::fmt;

/// Writes rows in aligned columns below the titles; writes nothing without rows.
pub(super) fn write_table(f: &mut dyn fmt::Write, titles: &[&str], rows: Vec<Vec<String>>) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let titles = titles.iter().map(|&title| title.to_owned()).collect();
    let rows: Vec<Vec<String>> = [vec![titles], rows].concat();
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0);
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
