//! Which file the configuration is: the one that is named, else the first of those where it usually is.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::print_remark;
use crate::config;

/// The variable that names the configuration for all commands.
const VARIABLE: &str = "CALLGATE_CONFIG";
/// Where the configuration is looked for, in this order.
const PLACES: [&str; 2] = ["proxy.toml", "/etc/callgate/proxy.toml"];

/// `--config`.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgument {
    /// The configuration [default: CALLGATE_CONFIG, else proxy.toml in this folder, else /etc/callgate/proxy.toml]
    #[arg(id = "config", short = 'c', long = "config", value_name = "FILE")]
    named: Option<PathBuf>,
}

/// The arguments of a command that prints text, or JSON.
#[derive(Debug, clap::Args)]
pub(super) struct JsonArguments {
    #[command(flatten)]
    pub(super) config: ConfigArgument,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl ConfigArgument {
    /// Returns the path of the configuration, which may not exist.
    pub(super) fn path(&self) -> &Path {
        &self.find().path
    }

    /// Prints which file is used, unless the command line names it or it is the usual one.
    pub(super) fn tell(&self) {
        self.find();
        tell_used();
    }

    fn find(&self) -> &'static ConfigFile {
        FOUND.get_or_init(|| match &self.named {
            Some(path) => ConfigFile { path: path.clone(), reason: Reason::Argument },
            None => search(std::env::var_os(VARIABLE), &PLACES.map(Path::new), look),
        })
    }
}

/// The file of this process: a command has one configuration.
static FOUND: OnceLock<ConfigFile> = OnceLock::new();
/// Whether the command has said which file it uses.
static IS_TOLD: AtomicBool = AtomicBool::new(false);

/// Prints once which file the command has used, unless the command line names it or it is the usual one.
pub(super) fn tell_used() {
    if let Some(found) = FOUND.get().filter(|found| found.is_remarkable())
        && !IS_TOLD.swap(true, Ordering::Relaxed)
    {
        print_remark(&format_args!("note: {found}"));
    }
}

/// The configuration, and why it is this one.
#[derive(Debug, PartialEq, Eq)]
struct ConfigFile {
    path: PathBuf,
    reason: Reason,
}

/// Why a file is the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// `--config` names it.
    Argument,
    /// The variable names it.
    Variable,
    /// It is the first place that is looked at.
    Usual,
    /// It is the first of the places with a file.
    Later,
    /// It is the second place, because another user may have left the file of the first one there.
    Foreign,
    /// There is a file at none of the places.
    Nowhere,
}

impl ConfigFile {
    const fn is_remarkable(&self) -> bool {
        matches!(self.reason, Reason::Variable | Reason::Later | Reason::Foreign | Reason::Nowhere)
    }
}

impl fmt::Display for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.reason {
            Reason::Argument => write!(f, "the configuration is {path}, because --config names it"),
            Reason::Variable => write!(f, "the configuration is {path}, because {VARIABLE} names it"),
            Reason::Usual => write!(f, "the configuration is {path} in this folder"),
            Reason::Later => write!(f, "the configuration is {path}, because there is no {} in this folder", PLACES[0]),
            Reason::Foreign => {
                let own = PLACES[0];
                write!(
                    f,
                    "the configuration is {path}, because {own} in this folder belongs to another user: if you trust it, add --config {own}"
                )
            }
            Reason::Nowhere => {
                write!(f, "there is neither {} in this folder nor {}, and {VARIABLE} is not set", PLACES[0], PLACES[1])
            }
        }
    }
}

/// What is at one of the places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Find {
    /// No file.
    Nothing,
    /// A file that counts.
    File,
    /// A file in this folder that belongs to another user, who is not root. It does not count: it could name secrets that this user
    /// may read, and servers to send them to.
    Foreign,
}

/// Returns the file that the variable names, else the first place with a file that counts, else a place without one.
fn search(variable: Option<OsString>, places: &[&Path; 2], look: impl Fn(&Path) -> Find) -> ConfigFile {
    if let Some(named) = variable.filter(|named| !named.is_empty()) {
        return ConfigFile { path: named.into(), reason: Reason::Variable };
    }
    let (place, reason) = match places.map(look) {
        [Find::File, _] => (places[0], Reason::Usual),
        [Find::Foreign, _] => (places[1], Reason::Foreign),
        [Find::Nothing, Find::Nothing] => (places[0], Reason::Nowhere),
        [Find::Nothing, _] => (places[1], Reason::Later),
    };
    ConfigFile { path: place.to_owned(), reason }
}

/// Looks at a place. In `/etc` a file that may not be looked at is there: the reader says why it cannot be read. The folder of the
/// command may be one that its user may not enter, as `/root` after `runuser`: nothing in it counts. A system folder is the
/// administrator's, also when another user owns the files in it.
fn look(path: &Path) -> Find {
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Find::Nothing,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && path.is_relative() => return Find::Nothing,
        Err(_) => return Find::File,
    };
    let target = path.metadata().ok();
    let mut owners = std::iter::once(found).chain(target).map(|found| found.uid());
    if path.is_relative() && owners.any(config::is_strangers) { Find::Foreign } else { Find::File }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(variable: Option<&str>, there: [Find; 2], path: &str, reason: Reason) {
        let places = PLACES.map(Path::new);
        let found = search(variable.map(OsString::from), &places, |place| there[usize::from(place == places[1])]);
        assert_eq!(found, ConfigFile { path: path.into(), reason });
    }

    #[test]
    fn the_first_place_with_a_file_counts_unless_a_variable_names_one() {
        use Find::{File, Nothing};
        check(None, [File, File], "proxy.toml", Reason::Usual);
        check(None, [Nothing, File], "/etc/callgate/proxy.toml", Reason::Later);
        check(None, [Nothing, Nothing], "proxy.toml", Reason::Nowhere);
        check(Some("/srv/other.toml"), [File, File], "/srv/other.toml", Reason::Variable);
        check(Some(""), [File, File], "proxy.toml", Reason::Usual);
    }

    #[test]
    fn a_file_of_another_user_in_this_folder_does_not_count() {
        use Find::{File, Foreign, Nothing};
        check(None, [Foreign, File], "/etc/callgate/proxy.toml", Reason::Foreign);
        check(None, [Foreign, Nothing], "/etc/callgate/proxy.toml", Reason::Foreign);
        check(Some("proxy.toml"), [Foreign, File], "proxy.toml", Reason::Variable);
    }
}
