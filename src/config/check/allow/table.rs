//! `table` of a rule: a CSV or TOML file that adds attributes to a caller's claims. The first column is the key.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use csv::{ByteRecord, ReaderBuilder};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::document::TomlNode;
use crate::config::source::Surroundings;
use crate::model::grant::Lookup;
use crate::model::table::LookupTable;

/// The largest table, in bytes.
const MAX_BYTES: usize = 16 << 20;
/// The most rows of a table.
const MAX_ROWS: usize = 100_000;
/// The most columns of a table.
const MAX_COLUMNS: usize = 32;
/// The most faults of one file that are reported.
const MAX_TOLD: usize = 10;

/// Reads `{ file, key }` and the file. With `several`, a key may have several rows.
pub(super) fn lookup(node: &TomlNode<'_, '_>, several: bool, around: &Surroundings<'_>) -> Option<Lookup> {
    node.table(|table| {
        let file = table.require("file");
        let key = table.require("key").and_then(|node| node.parsed());
        let table = file.and_then(|node| read_file(&node, several, around));
        Some(Lookup { table: Arc::new(table?), key: key? })
    })
}

fn read_file(node: &TomlNode<'_, '_>, several: bool, around: &Surroundings<'_>) -> Option<LookupTable> {
    let name = node.word()?;
    let read = match name.rsplit_once('.').map(|(_, end)| end) {
        Some("csv") => read_csv,
        Some("toml") => read_toml,
        _ => {
            return node.refuse(
                "is neither a .csv nor a .toml file",
                "name one of these; spreadsheets are saved as CSV in UTF-8",
            );
        }
    };
    let bytes = around.public_file(node)?;
    if bytes.len() > MAX_BYTES {
        let message = format!("{name} is larger than {} MiB", MAX_BYTES >> 20);
        return node.refuse(message, "leave out rows that no rule uses");
    }
    let lines = read(&bytes).and_then(|lines| lines.into_table(several));
    lines.map_err(|faults| report(node, name, &faults)).ok()
}

fn report(node: &TomlNode<'_, '_>, name: &str, faults: &[TableFault]) {
    for TableFault { line, message, hint } in faults.iter().take(MAX_TOLD) {
        node.refuse::<()>(format_args!("{name}:{line}: {message}"), hint);
    }
    if faults.len() > MAX_TOLD {
        node.refuse::<()>(format_args!("{name}: {} faults more", faults.len() - MAX_TOLD), "correct these first");
    }
}

/// A fault in a line of the file.
struct TableFault {
    line: u64,
    message: String,
    hint: &'static str,
}

impl TableFault {
    fn new(line: u64, message: impl fmt::Display, hint: &'static str) -> Self {
        Self { line, message: message.to_string(), hint }
    }
}

/// A file, split into cells.
struct RawTable {
    columns: Vec<String>,
    rows: Vec<RawRow>,
}

struct RawRow {
    number: u64,
    key: String,
    cells: Vec<String>,
}

impl RawTable {
    fn into_table(self, several: bool) -> Result<LookupTable, Vec<TableFault>> {
        let mut faults = self.faults(several);
        if self.rows.is_empty() {
            faults.push(TableFault::new(1, "there are no rows", "write one for each person"));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut table = LookupTable::new(self.columns);
        for RawRow { key, cells, .. } in self.rows {
            table.add(key, cells);
        }
        Ok(table)
    }

    fn faults(&self, several: bool) -> Vec<TableFault> {
        let mut faults = Vec::new();
        let mut seen: HashMap<&str, u64> = HashMap::with_capacity(self.rows.len());
        for RawRow { number, key, cells } in &self.rows {
            let number = *number;
            if key.is_empty() {
                faults.push(TableFault::new(
                    number,
                    "the key is empty",
                    "write the key of the row into the first column",
                ));
            }
            for cell in cells.iter().chain([key]).filter(|cell| !is_plain(cell)) {
                let message = format!("{cell:?} has a control character in it or spaces around it");
                faults.push(TableFault::new(number, message, "write the value without such characters"));
            }
            if let Some(first) = seen.insert(key, number)
                && !several
            {
                let message = format!("the key {key:?} stands in line {first} already");
                faults.push(TableFault::new(
                    number,
                    message,
                    "remove one of the rows, or write `choose` into the rule",
                ));
            }
        }
        faults
    }
}

fn is_plain(text: &str) -> bool {
    text.trim() == text && !text.chars().any(char::is_control)
}

/// Checks the name of a column, which templates use.
fn is_column(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    name.bytes().all(known) && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
}

// === CSV ===

/// Reads CSV (RFC 4180). The first line has the names of the columns.
fn read_csv(bytes: &[u8]) -> Result<RawTable, Vec<TableFault>> {
    // Rows of other lengths are reported together with other faults.
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    let mut columns: Option<Vec<String>> = None;
    for record in reader.byte_records() {
        let record = record.map_err(|error| vec![TableFault::new(1, error, "correct the file")])?;
        let number = record.position().map_or(1, csv::Position::line);
        let Some(cells) = cells_of(&record) else {
            faults.push(TableFault::new(number, "is not text in UTF-8", "save the file as UTF-8"));
            continue;
        };
        let Some(columns) = &columns else {
            columns = Some(header(cells, number).map_err(|fault| vec![fault])?);
            continue;
        };
        if rows.len() == MAX_ROWS {
            return Err(vec![TableFault::new(
                number,
                format!("more than {MAX_ROWS} rows"),
                "leave out rows that no rule uses",
            )]);
        }
        match split_key(cells, columns.len(), number) {
            Ok(row) => rows.push(row),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(RawTable { columns: columns.unwrap_or_default(), rows }) } else { Err(faults) }
}

fn cells_of(record: &ByteRecord) -> Option<Vec<String>> {
    record.iter().map(|cell| std::str::from_utf8(cell).ok().map(str::to_owned)).collect()
}

/// Reads the names of the columns. The name of the key column is ignored.
fn header(mut cells: Vec<String>, number: u64) -> Result<Vec<String>, TableFault> {
    check_columns(cells.len(), number)?;
    if let Some(name) = cells.iter().find(|name| !is_column(name)) {
        let message = format!("{name:?} is not a column name");
        let hint = if name.contains([';', '\t']) {
            "the cells are parted by another sign: save the file with commas between them"
        } else if name.trim() != name {
            "write the names without spaces around them"
        } else {
            "the first line names the columns, with commas between: letters, digits, _ and -"
        };
        return Err(TableFault::new(number, message, hint));
    }
    if let Some((at, name)) = cells.iter().enumerate().find(|(at, name)| cells[..*at].contains(name)) {
        return Err(TableFault::new(
            number,
            format!("column {} is called {name:?} too", at + 1),
            "give it another name",
        ));
    }
    cells.remove(0);
    Ok(cells)
}

fn check_columns(count: usize, number: u64) -> Result<(), TableFault> {
    if count <= MAX_COLUMNS {
        return Ok(());
    }
    Err(TableFault::new(number, format!("more than {MAX_COLUMNS} columns"), "leave out what no rule uses"))
}

fn split_key(mut cells: Vec<String>, columns: usize, number: u64) -> Result<RawRow, TableFault> {
    if cells.len() != columns + 1 {
        let message = format!("{} cells, and the first line has {}", cells.len(), columns + 1);
        return Err(TableFault::new(
            number,
            message,
            "write a cell for each column; a comma inside of one needs quotes",
        ));
    }
    let key = cells.remove(0);
    Ok(RawRow { number, key, cells })
}

// === TOML ===

/// Reads a table for each key, or a list of tables: `["ann@acme.example.com"]`, then `ext = "40"`.
fn read_toml(bytes: &[u8]) -> Result<RawTable, Vec<TableFault>> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| vec![TableFault::new(1, "is not text in UTF-8", "save the file as UTF-8")])?;
    let ends: Vec<_> = text.match_indices('\n').map(|(at, _)| at).collect();
    let line = |byte: usize| ends.partition_point(|end| *end < byte) as u64 + 1;
    let root = DeTable::parse(text).map_err(|error| {
        vec![TableFault::new(line(error.span().map_or(0, |span| span.start)), error.message(), "correct the file")]
    })?;
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    let mut columns: Option<Vec<String>> = None;
    for (key, value) in root.get_ref() {
        let number = line(key.span().start);
        for row in tables_of(value) {
            let read = row
                .ok_or_else(|| TableFault::new(number, "is not a table", "write [\"key\"] and below it ext = \"40\""));
            match read.and_then(|row| toml_row(row, key.get_ref(), number, &mut columns)) {
                Ok(row) if rows.len() < MAX_ROWS => rows.push(row),
                Ok(_) => {
                    let message = format!("more than {MAX_ROWS} rows");
                    return Err(vec![TableFault::new(number, message, "leave out rows that no rule uses")]);
                }
                Err(fault) => faults.push(fault),
            }
        }
    }
    if faults.is_empty() { Ok(RawTable { columns: columns.unwrap_or_default(), rows }) } else { Err(faults) }
}

/// Returns the rows of a key: one table, or a list of them.
fn tables_of<'v, 'i>(value: &'v Spanned<DeValue<'i>>) -> Vec<Option<&'v DeTable<'i>>> {
    match value.get_ref() {
        DeValue::Array(items) => items.iter().map(|item| item.get_ref().as_table()).collect(),
        value => vec![value.as_table()],
    }
}

/// Reads one row. The first row sets the columns.
fn toml_row(
    row: &DeTable<'_>,
    key: &str,
    number: u64,
    columns: &mut Option<Vec<String>>,
) -> Result<RawRow, TableFault> {
    let names = || row.keys().map(|name| name.get_ref().to_string());
    if let Some(name) = names().find(|name| !is_column(name)) {
        let message = format!("{name:?} is not a column name");
        return Err(TableFault::new(number, message, "letters, digits, _ and -"));
    }
    check_columns(row.len(), number)?;
    let columns = columns.get_or_insert_with(|| names().collect());
    if names().count() != columns.len() || names().any(|name| !columns.contains(&name)) {
        let message = format!("the row of {key:?} has other columns than others: {}", columns.join(", "));
        return Err(TableFault::new(number, message, "write the same in each row"));
    }
    let cell = |name: &String| match row.get(name.as_str()).map(Spanned::get_ref) {
        Some(DeValue::String(text)) => Ok(text.to_string()),
        Some(DeValue::Integer(digits)) if digits.radix() == 10 => Ok(digits.as_str().to_owned()),
        _ => Err(TableFault::new(number, format!("{name} of {key:?} is not text"), "write it in quotes")),
    };
    let cells = columns.iter().map(cell).collect::<Result<_, _>>()?;
    Ok(RawRow { number, key: key.to_owned(), cells })
}
