//! Files that are written as drafts, and then get their names: at any moment a name leads to a whole file.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

/// Gives a new file the owner, the group and the mode of the one that it is to replace.
///
/// # Errors
/// When only root may give it to that owner.
pub fn keep_rights(file: &File, before: &Metadata) -> io::Result<()> {
    let now = file.metadata()?;
    if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
        fchown(file, Some(before.uid()), Some(before.gid()))?;
    }
    file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))
}
