//! Walks a TOML document value by value, so that one wrong value does not hide the next.
//!
//! Every reader returns `None` after it has reported the reason. A table also reports the keys that no reader asked
//! for.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::advice::{self, LIST, NUMBER, SWITCH, TABLE, TEXT, did_you_mean};
use super::problem::{Position, Problem};

/// The text of a configuration, with the problems found so far.
pub(super) struct TomlDocument<'d> {
    file: &'d str,
    text: &'d str,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl<'d> TomlDocument<'d> {
    /// Takes a text and the name of its file.
    pub(super) fn new(file: &'d str, text: &'d str) -> Self {
        Self { file, text, problems: RefCell::default(), warnings: RefCell::default() }
    }

    /// Reads the root table. A text that is not TOML gives one problem.
    pub(super) fn read<T>(&self, read: impl FnOnce(&TomlTable<'_, '_>) -> Option<T>) -> Option<T> {
        match DeTable::parse(self.text) {
            Ok(root) => TomlTable::new(self, String::new(), 0, root.get_ref()).read(read),
            Err(error) => {
                let byte = error.span().map_or(0, |span| span.start);
                let hint = advice::syntax(self.text, byte, error.message());
                self.report(byte, error.message().to_owned(), Some(hint));
                None
            }
        }
    }

    /// Returns the problems and the warnings.
    pub(super) fn close(self) -> (Vec<Problem>, Vec<Problem>) {
        (self.problems.into_inner(), self.warnings.into_inner())
    }

    /// Reports a problem of the file itself, not of its contents.
    pub(super) fn report_file(&self, is_refused: bool, message: String, hint: String) {
        let list = if is_refused { &self.problems } else { &self.warnings };
        let problem = Problem { file: self.file.to_owned(), position: None, message, hint: Some(hint) };
        list.borrow_mut().push(problem);
    }

    fn report(&self, byte: usize, message: String, hint: Option<String>) {
        self.problems.borrow_mut().push(self.problem(byte, message, hint));
    }

    fn problem(&self, byte: usize, message: String, hint: Option<String>) -> Problem {
        Problem { file: self.file.to_owned(), position: Some(Position::of(self.text, byte)), message, hint }
    }
}

// === Table ===

/// A table that is being read.
pub(super) struct TomlTable<'d, 'i> {
    document: &'d TomlDocument<'d>,
    path: String,
    byte: usize,
    entries: &'d DeTable<'i>,
    known: RefCell<Vec<&'static str>>,
    unread: Cell<bool>,
}

impl<'d, 'i> TomlTable<'d, 'i> {
    fn new(document: &'d TomlDocument<'d>, path: String, byte: usize, entries: &'d DeTable<'i>) -> Self {
        Self { document, path, byte, entries, known: RefCell::default(), unread: Cell::default() }
    }

    fn read<T>(&self, read: impl FnOnce(&Self) -> Option<T>) -> Option<T> {
        let value = read(self);
        if !self.unread.get() {
            self.report_unknown();
        }
        value
    }

    /// Returns the value of a key; `None` if the key is missing. The key then counts as known.
    pub(super) fn get(&self, key: &'static str) -> Option<TomlNode<'d, 'i>> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        drop(known);
        let value = self.entries.get(key)?;
        Some(TomlNode { document: self.document, path: self.path_of(key), value })
    }

    /// Returns the value of a required key, and reports a missing one.
    pub(super) fn require(&self, key: &'static str) -> Option<TomlNode<'d, 'i>> {
        let node = self.get(key);
        if node.is_none() {
            self.document.report(
                self.byte,
                format!("`{}` is missing", self.path_of(key)),
                Some(format!("add `{key} = …`")),
            );
        }
        node
    }

    /// Returns all keys and values of a table whose keys the operator chooses.
    pub(super) fn all(&self) -> Vec<(&'d str, TomlNode<'d, 'i>)> {
        self.unread.set(true);
        let node = |key: &str, value| TomlNode { document: self.document, path: self.path_of(key), value };
        self.entries.iter().map(|(key, value)| (key.get_ref().as_ref(), node(key.get_ref(), value))).collect()
    }

    /// Reads the table under a key; `None` if the key is missing.
    pub(super) fn section<T>(&self, key: &'static str, read: impl FnOnce(&Self) -> Option<T>) -> Option<T> {
        self.get(key)?.table(read)
    }

    /// Reports a problem of the table as a whole.
    pub(super) fn refuse<T>(&self, message: impl Display, hint: impl Display) -> Option<T> {
        let message = if self.path.is_empty() { message.to_string() } else { format!("`{}`: {message}", self.path) };
        self.document.report(self.byte, message, Some(hint.to_string()));
        None
    }

    /// Reports problems that [`TomlNode::apart`] returned.
    pub(super) fn report<T>(&self, problems: Vec<Problem>) -> Option<T> {
        self.document.problems.borrow_mut().extend(problems);
        None
    }

    /// Skips the check for unknown keys, because a wrong value leaves open which keys are right.
    pub(super) fn leave_unread<T>(&self) -> Option<T> {
        self.unread.set(true);
        None
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn report_unknown(&self) {
        let known = self.known.borrow();
        for key in self.entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let path = self.path_of(&key.get_ref().escape_debug().to_string());
            let message = format!("unknown key `{path}`");
            self.document.report(key.span().start, message, Some(hint_for(&self.path, key.get_ref(), &known)));
        }
    }
}

/// Returns the hint for an unknown key: where it belongs, or a known key that looks like it.
fn hint_for(table: &str, key: &str, known: &[&str]) -> String {
    if let Some(name) = advice::own_name(table, key) {
        return format!("did you mean `{name}`?");
    }
    match advice::home(key) {
        Some(home) if !advice::has_similar(key, known) => format!("`{key}` belongs {home}"),
        Some(_) | None => did_you_mean(key, known),
    }
}

// === Node ===

/// One value, with the path of keys that leads to it.
#[derive(Clone)]
pub(super) struct TomlNode<'d, 'i> {
    document: &'d TomlDocument<'d>,
    path: String,
    value: &'d Spanned<DeValue<'i>>,
}

impl<'d, 'i> TomlNode<'d, 'i> {
    /// Reports a problem of the value, with a remedy.
    pub(super) fn refuse<T>(&self, message: impl Display, hint: impl Display) -> Option<T> {
        self.document.report(self.byte(), self.message(message), Some(hint.to_string()));
        None
    }

    /// Reports a warning: the value is allowed but probably not meant.
    pub(super) fn warn(&self, message: impl Display, hint: impl Display) {
        let problem = self.problem(message, hint);
        self.document.warnings.borrow_mut().push(problem);
    }

    /// Returns the path of keys that leads to the value.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Makes a problem of the value that is not reported here.
    pub(super) fn problem(&self, message: impl Display, hint: impl Display) -> Problem {
        self.document.problem(self.byte(), self.message(message), Some(hint.to_string()))
    }

    /// Reads a value, and returns what is wrong with it in the place of reporting that.
    pub(super) fn apart<T>(&self, read: impl FnOnce() -> Option<T>) -> Result<T, Vec<Problem>> {
        let before = self.document.problems.borrow().len();
        let value = read();
        let problems = self.document.problems.borrow_mut().split_off(before);
        value.filter(|_| problems.is_empty()).ok_or(problems)
    }

    /// Reports what [`TomlNode::apart`] returned.
    pub(super) fn report<T>(&self, problems: Vec<Problem>) -> Option<T> {
        self.document.problems.borrow_mut().extend(problems);
        None
    }

    /// Reads a table.
    pub(super) fn table<T>(&self, read: impl FnOnce(&TomlTable<'d, 'i>) -> Option<T>) -> Option<T> {
        match self.value.get_ref() {
            DeValue::Table(entries) => {
                TomlTable::new(self.document, self.path.clone(), self.byte(), entries).read(read)
            }
            other => self.wrong_type(TABLE, other),
        }
    }

    /// Reads a text without control characters.
    pub(super) fn string(&self) -> Option<&'d str> {
        match self.value.get_ref() {
            DeValue::String(text) if text.chars().any(char::is_control) => self
                .refuse("has a control character in it", "write it on one line, without tabs or escapes such as \\n"),
            DeValue::String(text) => Some(text),
            other => self.wrong_type(TEXT, other),
        }
    }

    /// Reads a text that is not empty.
    pub(super) fn word(&self) -> Option<&'d str> {
        match self.string()? {
            "" => self.refuse("is empty", "write a value between the quotes, or leave the key out"),
            text => Some(text),
        }
    }

    /// Reads a text by the `FromStr` of a type.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self) -> Option<T> {
        let text = self.string()?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.document.report(self.byte(), self.message(error), None);
                None
            }
        }
    }

    /// Reads one of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let word = self.string()?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == word) {
            return Some(*value);
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        self.refuse_word(format_args!("unknown word `{word}`"), word, &names)
    }

    /// Reports an unknown word, and suggests the closest known ones.
    pub(super) fn refuse_word<T>(&self, message: impl Display, word: &str, known: &[&str]) -> Option<T> {
        self.refuse(message, did_you_mean(word, known))
    }

    /// Reads `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            other => self.wrong_type(SWITCH, other),
        }
    }

    /// Reads a whole number within bounds.
    pub(super) fn integer(&self, bounds: RangeInclusive<usize>) -> Option<usize> {
        let DeValue::Integer(integer) = self.value.get_ref() else {
            return self.wrong_type(NUMBER, self.value.get_ref());
        };
        match usize::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if bounds.contains(&number) => Some(number),
            _ => self
                .refuse("is out of bounds", format_args!("write a number from {} to {}", bounds.start(), bounds.end())),
        }
    }

    /// Reads a list that is not empty.
    pub(super) fn list(&self) -> Option<Vec<Self>> {
        let items = self.list_or_empty()?;
        if items.is_empty() {
            self.refuse("is an empty list", "write at least one value, or leave the key out")
        } else {
            Some(items)
        }
    }

    /// Reads a list.
    pub(super) fn list_or_empty(&self) -> Option<Vec<Self>> {
        let DeValue::Array(items) = self.value.get_ref() else {
            return self.wrong_type(LIST, self.value.get_ref());
        };
        let item = |value| Self { document: self.document, path: self.path.clone(), value };
        Some(items.iter().map(item).collect())
    }

    /// Reads one text or a list of them.
    pub(super) fn one_or_many(self) -> Option<Vec<Self>> {
        match self.value.get_ref() {
            DeValue::Array(_) => self.list(),
            _ => Some(vec![self]),
        }
    }

    /// Reads the tables of `[[name]]`.
    pub(super) fn tables(&self) -> Option<Vec<Self>> {
        match self.value.get_ref() {
            DeValue::Table(_) => {
                self.refuse("is a list of tables", format_args!("write [[{0}]] instead of [{0}]", self.path))
            }
            _ => self.list_or_empty(),
        }
    }

    /// Returns an entry of a table, without marking its key as known.
    pub(super) fn entry(&self, key: &str) -> Option<Self> {
        let value = self.value.get_ref().as_table()?.get(key)?;
        Some(Self { document: self.document, path: format!("{}.{key}", self.path), value })
    }

    /// Returns the value as parsed.
    pub(super) fn value(&self) -> &'d DeValue<'i> {
        self.value.get_ref()
    }

    fn wrong_type<T>(&self, wanted: &str, found: &DeValue<'_>) -> Option<T> {
        self.document.report(
            self.byte(),
            self.message(format_args!("must be {wanted}")),
            Some(advice::rewrite(&self.path, wanted, found)),
        );
        None
    }

    fn message(&self, message: impl Display) -> String {
        format!("`{}`: {message}", self.path)
    }

    fn byte(&self) -> usize {
        self.value.span().start
    }
}
