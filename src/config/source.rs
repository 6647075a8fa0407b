//! What a configuration takes from outside its own text: files, secrets, the time of day.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::document::{Node, Table};
use super::files::{self, Files};
use crate::model::secret::Secret;

/// The world around a configuration while it is read.
pub(super) struct Surroundings<'a> {
    /// The folder that relative paths start from.
    pub(super) base: &'a Path,
    /// Looks up an environment variable.
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// The time that expiry is measured against.
    pub(super) now: Timestamp,
    /// The files that were read so far.
    pub(super) files: &'a RefCell<Files>,
}

/// The largest file that is read, in bytes.
pub(super) const MAX_FILE: u64 = 64 << 20;

/// The permission bits that let group or world read.
const READABLE_BY_OTHERS: u32 = 0o044;

/// Reads the text of the configuration itself.
pub(super) fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    match files::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)? {
        read if read as u64 > MAX_FILE => Err(io::ErrorKind::FileTooLarge.into()),
        _ => Ok(text),
    }
}

impl Surroundings<'_> {
    /// Reads a file that everybody may see.
    pub(super) fn public_file(&self, node: &Node<'_, '_>) -> Option<Vec<u8>> {
        let name = node.word()?;
        let (_, mut file) = self.open(node, name)?;
        self.content(node, name, &mut file).map(|mut bytes| std::mem::take(&mut *bytes))
    }

    /// Reads a file that only its owner may see.
    pub(super) fn private_file(&self, node: &Node<'_, '_>) -> Option<Zeroizing<Vec<u8>>> {
        self.owned_file(node, |message, hint| node.refuse(message, hint))
    }

    /// Reads the key of a certificate. It is the operator's to share with other programs, as some systems do by a
    /// group, so a mode that is too wide is a warning.
    pub(super) fn key_file(&self, node: &Node<'_, '_>) -> Option<Zeroizing<Vec<u8>>> {
        self.owned_file(node, |message, hint| {
            node.warn(message, hint);
            Some(())
        })
    }

    /// Reads a file; `exposed` decides what to do when others than its owner may see it.
    fn owned_file(
        &self,
        node: &Node<'_, '_>,
        exposed: impl FnOnce(String, String) -> Option<()>,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let name = node.word()?;
        let (path, mut file) = self.open(node, name)?;
        // The mode of what was opened: the name may lead elsewhere a moment later.
        let mode = match file.metadata() {
            Ok(metadata) => metadata.mode(),
            Err(error) => return self.unreadable(node, name, &error),
        };
        if mode & READABLE_BY_OTHERS != 0 {
            let message = format!("{name} is readable by group or world (mode {:04o})", mode & 0o7777);
            exposed(message, format!("run: chmod 600 {}", shell_word(&path)))?;
        }
        self.content(node, name, &mut file)
    }

    /// Finds the file to append lines to; its folder must be there.
    pub(super) fn log_file(&self, node: &Node<'_, '_>) -> Option<PathBuf> {
        let path = self.base.join(node.word()?);
        match path.parent() {
            Some(folder) if folder.is_dir() && !path.is_dir() => Some(path),
            _ => node.refuse(
                "the folder of this file does not exist, or the name is a folder's",
                "name a file in a folder that exists",
            ),
        }
    }

    /// Reads `{ file = }`, `{ env = }` or `{ credential = }`.
    pub(super) fn secret(&self, node: &Node<'_, '_>) -> Option<Secret> {
        if node.value().is_str() {
            let hint = "put it into a file only its owner can read, and write { file = \"…\" }, { env = \"…\" } or { credential = \"…\" }";
            return node.refuse("a secret is never written here", hint);
        }
        let bytes = node.table(|table| self.secret_bytes(table))?;
        match std::str::from_utf8(&bytes) {
            Ok("") => node.refuse("the secret is empty", "put the secret there, on one line"),
            Ok(text) if text.contains(['\0', '\n', '\r']) => node
                .refuse("the secret has a line break or a NUL inside", "put nothing but the secret there, on one line"),
            Ok(text) => Some(Secret::new(text.to_owned())),
            Err(_) => node.refuse("the secret is not text in UTF-8", "put nothing but the secret there, on one line"),
        }
    }

    /// Reads a secret of several lines, such as a key in PEM or JSON.
    pub(super) fn long_secret(&self, node: &Node<'_, '_>) -> Option<Secret> {
        if node.value().is_str() {
            return node.refuse("a secret is never written here", "write { file = \"…\" }");
        }
        let bytes = node.table(|table| self.secret_bytes(table))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Some(Secret::new(text.to_owned())),
            Err(_) => node.refuse("the secret is not text in UTF-8", "name the right file"),
        }
    }

    fn secret_bytes(&self, table: &Table<'_, '_>) -> Option<Zeroizing<Vec<u8>>> {
        match (table.get("file"), table.get("env"), table.get("credential")) {
            (Some(file), None, None) => self.private_file(&file).map(without_last_newline),
            (None, Some(name), None) => self.variable(&name),
            (None, None, Some(name)) => self.credential(&name).map(without_last_newline),
            _ => table.refuse(
                "a secret has exactly one source",
                "write one of { file = \"…\" }, { env = \"…\" }, { credential = \"…\" }",
            ),
        }
    }

    fn variable(&self, node: &Node<'_, '_>) -> Option<Zeroizing<Vec<u8>>> {
        let name = node.word()?;
        match (self.env)(name) {
            Some(value) => Some(Zeroizing::new(value.into_bytes())),
            None => node
                .refuse(format_args!("the environment variable {name} is not set"), "set it, or use { file = \"…\" }"),
        }
    }

    /// Reads a systemd credential (systemd.exec(5)). Its mode is systemd's business.
    fn credential(&self, node: &Node<'_, '_>) -> Option<Zeroizing<Vec<u8>>> {
        let name = node.word()?;
        if name.contains('/') || name == "." || name == ".." {
            return node.refuse("is a path", "write the name of a systemd credential, or use { file = \"…\" }");
        }
        let Some(folder) = (self.env)("CREDENTIALS_DIRECTORY") else {
            let hint = format!("start callgate as a systemd unit with LoadCredential={name}:/path/to/the/secret");
            return node.refuse("there are no credentials: CREDENTIALS_DIRECTORY is not set", hint);
        };
        let (_, mut file) = self.open(node, &format!("{folder}/{name}"))?;
        self.content(node, name, &mut file)
    }

    fn open(&self, node: &Node<'_, '_>, name: &str) -> Option<(PathBuf, File)> {
        let path = self.base.join(name);
        self.files.borrow_mut().note(&path);
        match files::open(&path) {
            Ok(file) => Some((path, file)),
            Err(error) => self.unreadable(node, name, &error),
        }
    }

    fn content(&self, node: &Node<'_, '_>, name: &str, file: &mut File) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(Vec::new());
        match file.take(MAX_FILE + 1).read_to_end(&mut bytes) {
            Ok(0) => node.refuse(format_args!("{name} is empty"), "put there what belongs there, or name another file"),
            Ok(read) if read as u64 > MAX_FILE => {
                node.refuse(format_args!("{name} is larger than {} MiB", MAX_FILE >> 20), "name the right file")
            }
            Ok(_) => Some(bytes),
            Err(error) => self.unreadable(node, name, &error),
        }
    }

    fn unreadable<T>(&self, node: &Node<'_, '_>, name: &str, error: &io::Error) -> Option<T> {
        let reason = error.to_string();
        let reason = reason.split(" (os error").next().unwrap_or_default();
        let hint = match error.kind() {
            io::ErrorKind::NotFound => format!("relative paths start at {}", self.base.display()),
            io::ErrorKind::PermissionDenied => "let the user callgate runs as read it".to_owned(),
            _ => "name a file that can be read".to_owned(),
        };
        node.refuse(format_args!("cannot read {name}: {reason}"), hint)
    }
}

/// Cuts the one newline that editors put at the end of a file.
fn without_last_newline(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    bytes
}

/// Spells a path so that a shell reads it as one word.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@,:=".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_exactly_one_newline() {
        for (written, kept) in [("a\n", "a"), ("a\r\n", "a"), ("a", "a"), ("a\n\n", "a\n"), ("a\r", "a\r"), ("\n", "")]
        {
            assert_eq!(*without_last_newline(Zeroizing::new(written.into())), kept.as_bytes(), "{written:?}");
        }
    }

    #[test]
    fn a_command_can_be_pasted() {
        for (path, word) in [("/etc/a-b.key", "/etc/a-b.key"), ("/a b", "'/a b'"), ("/it's", r"'/it'\''s'")] {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }
}
