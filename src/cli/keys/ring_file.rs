//! The file of a key ring: made once, and replaced whole. At any moment the file at its path is whole or missing.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::config;

/// The mode of a new file.
const MODE: u32 = 0o600;
/// The longest file, in bytes: eight keys and many comments.
const LONGEST: u64 = 64 << 10;

/// The file of a ring, which no other command changes meanwhile.
pub(super) struct RingFile {
    path: PathBuf,
    /// The folder, locked until this is dropped.
    folder: File,
    found: Option<FoundFile>,
}

/// The file that was found at the path.
struct FoundFile {
    text: Zeroizing<String>,
    metadata: Metadata,
}

impl RingFile {
    /// Locks the folder and reads the file, if there is one.
    ///
    /// # Errors
    /// When the folder is missing, or the file is none that a gate would read.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let explained = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other(format!("the folder {} does not exist", folder.display())),
            _ => error,
        };
        let folder = config::lock_folder(folder).map_err(explained)?;
        Ok(Self { path: path.to_owned(), folder, found: find(path)? })
    }

    /// Returns the text of the file, if there is one.
    pub(super) fn text(&self) -> Option<&str> {
        self.found.as_ref().map(|found| found.text.as_str())
    }

    /// Makes the file, or replaces it under the same owner and mode.
    ///
    /// # Errors
    /// When it cannot be written; then it is as it was.
    pub(super) fn write(self, text: &str) -> io::Result<()> {
        let mut name = std::ffi::OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(".callgate");
        let draft = self.path.with_file_name(name);
        // A draft that a crash has left behind.
        fs::remove_file(&draft)
            .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        let written = self.write_draft(&draft, text);
        let _ = fs::remove_file(&draft);
        written.and_then(|()| self.folder.sync_all())
    }

    fn write_draft(&self, draft: &Path, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(draft)?;
        if let Some(found) = &self.found {
            config::keep_rights(&file, &found.metadata)?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match self.found {
            Some(_) => fs::rename(draft, &self.path),
            None => config::put_new(draft, &self.path),
        }
    }
}

/// Reads the file at a path; nothing where there is none.
fn find(path: &Path) -> io::Result<Option<FoundFile>> {
    // A pipe is not waited for, and a link is not followed.
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(io::Error::other("it is a symbolic link: name the file that it leads to"));
        }
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if metadata.len() > LONGEST {
        return Err(io::Error::other("it is too long for a key ring"));
    }
    if let Some(exposed) = config::exposed_secret(&file, path)? {
        return Err(io::Error::other(exposed));
    }
    let mut text = Zeroizing::new(String::with_capacity(LONGEST as usize));
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok(Some(FoundFile { text, metadata }))
}
