//! The sandbox of the running process, by Landlock (Linux 5.13 and later): which folders it may still read and write, and
//! from where it may start programs.
//!
//! The kernel takes rights away for good, and a process started by a hand-over inherits what is left. So the folders are
//! those that the configuration of the first process names, and a configuration that names others needs a restart.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
    path_beneath_rules,
};

use crate::config::{AccessLogTarget, Config, FileSnapshot, Listen};

/// The folders that this process may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sandbox {
    /// It may read what is below these. They have no symbolic links.
    readable: BTreeSet<PathBuf>,
    /// It may read and write what is below these.
    writable: BTreeSet<PathBuf>,
}

/// A file of a configuration is outside the sandbox.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sandbox of this process does not let it {verb} {}: restart callgate", path.display())]
pub(super) struct OutsideSandbox {
    verb: &'static str,
    path: PathBuf,
}

impl Sandbox {
    /// Takes from this process, and from those that it starts, all rights to files that the configuration does not need.
    /// To be called before any thread is started. Returns `None` where the configuration or the kernel has no sandbox.
    ///
    /// # Errors
    /// When the kernel has Landlock and refuses to apply it.
    pub(super) fn enter(config: &Config, files: &FileSnapshot) -> Result<Option<Self>, RulesetError> {
        // No process leaves the sandbox that it was started in.
        if let Some(inherited) = Self::inherited().filter(Self::is_in_force) {
            return Ok(Some(inherited));
        }
        if config.server.insecure_no_sandbox {
            return Ok(None);
        }
        let sandbox = Self::of(config, files);
        for folder in sandbox.wide() {
            tracing::warn!(
                folder = %folder.display(),
                "the sandbox permits far more than the files of the configuration: name none in this folder"
            );
        }
        match sandbox.restrict()? {
            LandlockStatus::Available { effective_abi, .. } => {
                tracing::info!(version = effective_abi as i32, "sandbox: Landlock is applied");
                Ok(Some(sandbox))
            }
            LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => {
                tracing::info!("no sandbox: this kernel does not offer Landlock");
                Ok(None)
            }
        }
    }

    /// Returns the sandbox that a configuration needs.
    fn of(config: &Config, files: &FileSnapshot) -> Self {
        let system = SYSTEM.iter().map(|folder| real(Path::new(folder)));
        let readable = system.chain(files.paths().flat_map(folders_of)).chain(webroot(config).map(real));
        let of_systemd = SYSTEMD.iter().filter_map(env::var_os).flat_map(|list| absolute(&list).collect::<Vec<_>>());
        let writable = written(config).into_iter().flat_map(folders_of).chain(of_systemd.map(|folder| real(&folder)));
        Self { readable: readable.collect(), writable: writable.collect() }
    }

    /// Returns the folders that are permitted whole and have files of everyone below them.
    fn wide(&self) -> Vec<&Path> {
        let permitted: BTreeSet<_> = self.readable.iter().chain(&self.writable).map(PathBuf::as_path).collect();
        permitted.into_iter().filter(|folder| WIDE.iter().any(|wide| Path::new(wide) == *folder)).collect()
    }

    /// Returns the sandbox that the process before this one was in when it started this one.
    fn inherited() -> Option<Self> {
        // An empty list reads as one path, of no letters, which every folder is below.
        let folders = |name| env::var_os(name).map(|list| absolute(&list).collect());
        Some(Self { readable: folders(READABLE)?, writable: folders(WRITABLE)? })
    }

    /// Tells whether this process is in the sandbox. Variables that were copied from the environment of another process take no
    /// rights away. Where all folders are permitted, that cannot be told.
    fn is_in_force(&self) -> bool {
        let root = Path::new("/");
        is_below(root, &self.readable) || is_below(root, &self.writable) || fs::read_dir(root).is_err()
    }

    /// Lets a process that this one starts know its sandbox.
    pub(super) fn hand_on(&self, command: &mut Command) {
        // A folder whose name has a colon cannot be listed. The new process then enters a sandbox inside this one.
        if let (Ok(readable), Ok(writable)) = (env::join_paths(&self.readable), env::join_paths(&self.writable)) {
            command.env(READABLE, readable).env(WRITABLE, writable);
        }
    }

    /// Tells whether this process may write all files that a configuration names, and read the folder of another ACME client.
    ///
    /// # Errors
    /// For the first one that it may not write or read.
    pub(super) fn permit(&self, config: &Config) -> Result<(), OutsideSandbox> {
        let outside = |file: &Path| !folders_of(file).iter().all(|folder| is_below(folder, &self.writable));
        match written(config).into_iter().find(|file| outside(file)) {
            Some(path) => Err(OutsideSandbox { verb: "write", path: path.to_owned() }),
            None => self.permit_webroot(config),
        }
    }

    /// Tells whether this process may read the folder of another ACME client that a configuration names.
    ///
    /// # Errors
    /// When it may not.
    fn permit_webroot(&self, config: &Config) -> Result<(), OutsideSandbox> {
        match webroot(config).filter(|folder| !self.may_read(&real(folder))) {
            Some(folder) => Err(OutsideSandbox { verb: "read", path: folder.to_owned() }),
            None => Ok(()),
        }
    }

    fn may_read(&self, folder: &Path) -> bool {
        is_below(folder, &self.readable) || is_below(folder, &self.writable)
    }

    /// Returns the files of a configuration that this process may not read.
    pub(super) fn hidden(&self, files: &FileSnapshot) -> Vec<OutsideSandbox> {
        let is_visible = |folder: &PathBuf| self.may_read(folder);
        let hidden = files.paths().filter(|file| !folders_of(file).iter().all(is_visible));
        hidden.map(|path| OutsideSandbox { verb: "read", path: path.to_owned() }).collect()
    }

    fn restrict(&self) -> Result<LandlockStatus, RulesetError> {
        let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = read | AccessFs::WriteFile | AccessFs::Truncate;
        let make = write | AccessFs::MakeReg | AccessFs::MakeSock | AccessFs::RemoveFile;
        let programs = PROGRAMS.iter().map(PathBuf::from).chain(own_folder());
        let restricted = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .scope(scopes(env::var_os(NOTIFY_SOCKET).as_deref()))?
            .create()?
            .add_rules(path_beneath_rules(&self.readable, read))?
            .add_rules(path_beneath_rules(DEVICES, write))?
            .add_rules(path_beneath_rules(&self.writable, make))?
            .add_rules(path_beneath_rules(programs, read | AccessFs::Execute))?
            .restrict_self()?;
        Ok(restricted.landlock)
    }
}

/// Returns how this process may no longer reach processes outside of the sandbox (Linux 6.12): by signals, and by sockets with
/// names that are no files. A process that it starts is in the same sandbox. The service manager may listen at such a socket.
fn scopes(notify_socket: Option<&OsStr>) -> BitFlags<Scope> {
    let is_abstract = notify_socket.is_some_and(|name| name.as_encoded_bytes().starts_with(b"@"));
    if is_abstract { Scope::Signal.into() } else { Scope::Signal | Scope::AbstractUnixSocket }
}

/// Returns the files and sockets that a process with this configuration makes or writes.
fn written(config: &Config) -> Vec<&Path> {
    let sockets = config.listen.iter().chain(&config.admin).filter_map(|listen| match listen {
        Listen::Unix(path) => Some(path.as_path()),
        Listen::Tcp(_) => None,
    });
    let access = match &config.log.access {
        AccessLogTarget::File(path) => Some(path.as_path()),
        AccessLogTarget::Stdout | AccessLogTarget::Off => None,
    };
    let adding = config.voximplant.iter().filter(|voximplant| voximplant.adds_users);
    let users =
        adding.flat_map(|voximplant| voximplant.applications().filter_map(|application| application.users_file));
    sockets.chain(access).chain(config.audit.file.as_deref()).chain(config.state.as_deref()).chain(users).collect()
}

/// Returns the folder in which another ACME client writes answers.
fn webroot(config: &Config) -> Option<&Path> {
    config.redirect_http.as_ref()?.acme_webroot.as_deref()
}

/// Returns the absolute paths of a list that has colons between them.
fn absolute(list: &OsStr) -> impl Iterator<Item = PathBuf> {
    env::split_paths(list).filter(|path| path.is_absolute())
}

/// Returns the folder that a file is in, and the folder of the file that it leads to by symbolic links.
fn folders_of(file: &Path) -> BTreeSet<PathBuf> {
    let folder = |path: &Path| match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Some(real(Path::new("."))),
        Some(folder) => Some(real(folder)),
        None => None,
    };
    let target = fs::canonicalize(file).ok();
    folder(file).into_iter().chain(target.as_deref().and_then(folder)).collect()
}

/// Follows symbolic links. A path that leads nowhere stays as it is: the kernel gets no rule for it.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn is_below(folder: &Path, folders: &BTreeSet<PathBuf>) -> bool {
    folders.iter().any(|permitted| folder.starts_with(permitted))
}

/// Returns the folder of this program, from which a hand-over starts the next version.
fn own_folder() -> Option<PathBuf> {
    Some(env::current_exe().ok()?.parent()?.to_owned())
}

/// The version of Landlock whose rights are taken away where the kernel knows them (Linux 6.10).
const KNOWN: ABI = ABI::V5;
/// The folders that the C library, the name look-up, trust roots, time zones, credentials of systemd and secrets of
/// containers need, and devices without content. Not all of `/dev`: root reads every file of a disk there.
const SYSTEM: [&str; 13] = [
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
    "/etc",
    "/gnu/store",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/proc",
    "/run",
    "/sys",
    "/usr",
];
/// Folders that no configuration should have a file in. Where it has one, all that is below them is permitted.
const WIDE: [&str; 2] = ["/", "/dev"];
/// The variable that names the socket for notifications (sd_notify(3)).
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// The input and output of a process that this one starts.
const DEVICES: [&str; 1] = ["/dev/null"];
/// The folders of the dynamic loader, which starts the next version of this program.
const PROGRAMS: [&str; 6] = ["/gnu/store", "/lib", "/lib32", "/lib64", "/nix/store", "/usr/lib"];
/// The variables that name the folders of the unit: `LogsDirectory=`, `RuntimeDirectory=`, `StateDirectory=`
/// (systemd.exec(5)).
const SYSTEMD: [&str; 3] = ["LOGS_DIRECTORY", "RUNTIME_DIRECTORY", "STATE_DIRECTORY"];
/// The variables that tell a new process the sandbox that it is in.
const READABLE: &str = "CALLGATE_SANDBOX_READABLE";
const WRITABLE: &str = "CALLGATE_SANDBOX_WRITABLE";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_permits_what_is_below_it_and_not_its_neighbours() {
        let folders = BTreeSet::from([PathBuf::from("/etc")]);
        let is_permitted = |path: &str| is_below(Path::new(path), &folders);
        assert!(is_permitted("/etc") && is_permitted("/etc/callgate/keys"));
        assert!(!is_permitted("/etcetera") && !is_permitted("/") && !is_permitted("etc"));
    }

    #[test]
    fn a_file_at_the_root_or_in_dev_opens_the_sandbox_widely() {
        let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect::<BTreeSet<_>>();
        let wide = |readable: &[&str], writable: &[&str]| {
            let sandbox = Sandbox { readable: paths(readable), writable: paths(writable) };
            sandbox.wide().into_iter().map(Path::to_owned).collect::<Vec<_>>()
        };
        assert!(wide(&["/etc", "/dev/null"], &["/var/log/callgate"]).is_empty());
        assert_eq!(wide(&["/", "/etc"], &["/dev", "/"]), [Path::new("/"), Path::new("/dev")]);
    }

    #[test]
    fn an_abstract_socket_of_the_service_manager_stays_in_reach() {
        let of = |name: &str| scopes(Some(OsStr::new(name)));
        assert_eq!(of("@/org/freedesktop/systemd1/notify"), Scope::Signal);
        assert!(
            [scopes(None), of("/run/systemd/notify")].iter().all(|scopes| scopes.contains(Scope::AbstractUnixSocket))
        );
    }

    #[test]
    fn an_empty_list_permits_nothing() {
        assert_eq!(absolute(OsStr::new("")).count(), 0);
        assert_eq!(absolute(OsStr::new("/a::b:/c")).collect::<Vec<_>>(), [Path::new("/a"), Path::new("/c")]);
    }

    #[test]
    fn a_link_needs_its_own_folder_and_that_of_its_target() {
        let [here, there] = [tempfile::TempDir::new().unwrap(), tempfile::TempDir::new().unwrap()];
        fs::write(there.path().join("file"), "text").unwrap();
        std::os::unix::fs::symlink(there.path().join("file"), here.path().join("link")).unwrap();
        let folders = [here.path(), there.path()].map(real);
        assert_eq!(folders_of(&here.path().join("link")), BTreeSet::from(folders.clone()));
        assert_eq!(folders_of(&here.path().join("none")), BTreeSet::from([folders[0].clone()]));
    }
}
