//! Replaces one line of a users file atomically, and leaves every other byte as it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::config;

/// A locked users file and the draft that will replace it.
pub(crate) struct UsersFileDraft {
    path: PathBuf,
    draft: PathBuf,
    file: File,
    /// The folder of the file, locked until this is dropped.
    folder: File,
}

impl UsersFileDraft {
    /// Locks the folder and creates the draft beside the file, with the file's mode and owner.
    ///
    /// # Errors
    /// When rights or disk space are missing, before anything is changed.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // A symbolic link stays one: its target is replaced.
        let path = fs::canonicalize(path)?;
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let draft = path.with_file_name(draft_name(&path));
        let folder = config::lock_folder(folder)?;
        let before = fs::metadata(&path)?;
        // A draft that a crash has left behind holds nothing of value.
        fs::remove_file(&draft)
            .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        let this = Self { path, draft, file, folder };
        config::keep_rights(&this.file, &before)?;
        Ok(this)
    }

    /// Writes the file's text with the line of a user replaced, or appended if there is none, and replaces the file.
    pub(crate) fn write(self, user: &str, line: &str) -> io::Result<()> {
        let text = self.read()?;
        self.finish(&with_line(&text, user, line))
    }

    /// Does the same, but only if the file has a line of the user.
    pub(crate) fn replace(self, user: &str, line: &str) -> io::Result<()> {
        let text = self.read()?;
        if text.lines().any(|old| is_line_of(old, user)) { self.finish(&with_line(&text, user, line)) } else { Ok(()) }
    }

    fn read(&self) -> io::Result<String> {
        let mut text = String::new();
        File::open(&self.path)?.read_to_string(&mut text)?;
        Ok(text)
    }

    fn finish(mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        self.file.sync_all()?;
        fs::rename(&self.draft, &self.path)?;
        self.folder.sync_all()
    }
}

impl Drop for UsersFileDraft {
    /// Removes the draft, unless it has become the file.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.draft);
    }
}

fn draft_name(path: &Path) -> String {
    format!(".{}.callgate", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Returns the text with the line of a user replaced or appended; every other byte stays.
fn with_line(text: &str, user: &str, line: &str) -> String {
    let mut found = false;
    let mut lines: String = text
        .split_inclusive('\n')
        .map(|old| {
            if !is_line_of(old, user) {
                return old.to_owned();
            }
            found = true;
            let mark = if old.starts_with('\u{feff}') { "\u{feff}" } else { "" };
            let end = &old[old.trim_end_matches(['\r', '\n']).len()..];
            format!("{mark}{line}{end}")
        })
        .collect();
    if !found {
        let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
        if !lines.is_empty() && !lines.ends_with('\n') {
            lines.push_str(end);
        }
        lines.push_str(line);
        lines.push_str(end);
    }
    lines
}

fn is_line_of(line: &str, user: &str) -> bool {
    line.trim_start_matches('\u{feff}').split_once(':').is_some_and(|(name, _)| name == user)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(with_line(text, "ann", "ann:r:NEW"), expected, "{text:?}");
    }

    #[test]
    fn a_line_is_put_in_the_place_of_the_old_one() {
        check("# c\nann:r:old\n\nbob:r:x\n", "# c\nann:r:NEW\n\nbob:r:x\n");
        check("bob:r:x\r\nann:r:old\r\n", "bob:r:x\r\nann:r:NEW\r\n");
        check("ann:r:old", "ann:r:NEW");
        check("\u{feff}ann:r:old\nbob:r:x", "\u{feff}ann:r:NEW\nbob:r:x");
    }

    #[test]
    fn a_new_user_comes_last() {
        check("bob:r:x\n", "bob:r:x\nann:r:NEW\n");
        check("bob:r:x", "bob:r:x\nann:r:NEW\n");
        check("bob:r:x\r\n", "bob:r:x\r\nann:r:NEW\r\n");
        check("anna:r:x\n#ann:r:x\n", "anna:r:x\n#ann:r:x\nann:r:NEW\n");
        check("", "ann:r:NEW\n");
    }

    #[test]
    fn a_line_is_replaced_only_where_there_is_one() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("users");
        fs::write(&path, "bob:r:x\n").unwrap();
        UsersFileDraft::open(&path).unwrap().replace("ann", "ann:r:NEW").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "bob:r:x\n");
        UsersFileDraft::open(&path).unwrap().replace("bob", "bob:r:NEW").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "bob:r:NEW\n");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no draft stays behind");
    }

    #[test]
    fn the_file_keeps_its_mode_and_a_link_stays_one() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, link) = (dir.path().join("users"), dir.path().join("link"));
        fs::write(&path, "bob:r:x\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        UsersFileDraft::open(&link).unwrap().write("ann", "ann:r:NEW").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "bob:r:x\nann:r:NEW\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o400);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "no draft stays behind");
    }

    #[test]
    fn an_unwritten_draft_is_removed() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("users");
        fs::write(&path, "bob:r:x\n").unwrap();
        drop(UsersFileDraft::open(&path).unwrap());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), "bob:r:x\n");
    }
}
