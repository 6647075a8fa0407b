//! Which file the configuration is: the one that is named, else the first of those where it usually is.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::print_remark;

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
            None => search(std::env::var_os(VARIABLE), &PLACES.map(Path::new), exists),
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
    /// There is a file at none of the places.
    Nowhere,
}

impl ConfigFile {
    const fn is_remarkable(&self) -> bool {
        matches!(self.reason, Reason::Variable | Reason::Later | Reason::Nowhere)
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
            Reason::Nowhere => {
                write!(f, "there is neither {} in this folder nor {}, and {VARIABLE} is not set", PLACES[0], PLACES[1])
            }
        }
    }
}

/// Returns the file that the variable names, else the first place with a file, else the first place.
fn search(variable: Option<OsString>, places: &[&Path], exists: impl Fn(&Path) -> bool) -> ConfigFile {
    if let Some(named) = variable.filter(|named| !named.is_empty()) {
        return ConfigFile { path: named.into(), reason: Reason::Variable };
    }
    let found = places.iter().position(|place| exists(place));
    let reason = match found {
        Some(0) => Reason::Usual,
        Some(_) => Reason::Later,
        None => Reason::Nowhere,
    };
    ConfigFile { path: places[found.unwrap_or_default()].to_owned(), reason }
}

/// Tells whether a file is there. One that may not be looked at is: the reader says why it cannot be read.
fn exists(path: &Path) -> bool {
    !matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(variable: Option<&str>, there: &[&str], path: &str, reason: Reason) {
        let found = search(variable.map(OsString::from), &PLACES.map(Path::new), |place| {
            there.iter().any(|known| Path::new(known) == place)
        });
        assert_eq!(found, ConfigFile { path: path.into(), reason });
    }

    #[test]
    fn the_first_place_with_a_file_counts_unless_a_variable_names_one() {
        check(None, &PLACES, "proxy.toml", Reason::Usual);
        check(None, &PLACES[1..], "/etc/callgate/proxy.toml", Reason::Later);
        check(None, &[], "proxy.toml", Reason::Nowhere);
        check(Some("/srv/other.toml"), &PLACES, "/srv/other.toml", Reason::Variable);
        check(Some(""), &PLACES, "proxy.toml", Reason::Usual);
    }
}
