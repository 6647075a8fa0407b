//! The files of a first configuration: made in a folder of their own, read as `run` would, then moved into place.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf, absolute};

use super::questions::{AdminPassword, Answers, CertificateAnswer, PbxAdmin};
use crate::cli::environment;
use crate::config::{self, Problem, Problems};
use crate::model::secret::Secret;
use crate::observe::RequestId;
use crate::tls::dev;

/// The folder of the package, whose unit runs callgate as a user of its own.
const SYSTEM: &str = "/etc/callgate";
/// The configuration that the package brings.
const EXAMPLE: &str = "/usr/share/callgate/proxy.toml";
/// The folder of the package's state, which belongs to the user of its unit.
const STATE: &str = "/var/lib/callgate";
/// The mode of a secret.
const SECRET: u32 = 0o600;

/// The files that are to be written.
pub(super) struct Draft {
    folder: PathBuf,
    files: Vec<DraftFile>,
}

/// A file that is to be written.
struct DraftFile {
    /// The path below the folder.
    name: PathBuf,
    mode: u32,
    content: Secret,
}

/// Why the files are not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum DraftError {
    /// The answers do not make a configuration.
    #[error("the configuration is wrong")]
    Wrong(Problems),
    /// A file is there.
    #[error("{} exists: --force replaces it", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("cannot write")]
    Io(#[from] io::Error),
}

impl Draft {
    /// Makes the contents of the files. `config`: the file of the configuration.
    ///
    /// # Errors
    /// When a path has no absolute form, or no certificate can be made for the names.
    pub(super) fn new(config: &Path, answers: &Answers) -> io::Result<Self> {
        let config = absolute(config)?;
        let folder = config.parent().unwrap_or(&config).to_owned();
        let name = config.file_name().ok_or_else(|| io::Error::other("the configuration has no name"))?;
        let mut draft = Self { files: Vec::new(), folder };
        draft.add(name, 0o644, configuration(answers, &draft.folder)?);
        if let CertificateAnswer::Development = answers.certificate {
            let hosts: Vec<_> = answers.hosts().collect();
            let certificate = dev::certificate(&hosts).map_err(io::Error::other)?;
            for (name, mode, text) in certificate.files() {
                draft.add(Path::new("certs").join(name), mode, text.to_owned());
            }
        }
        if let Some(PbxAdmin { password: AdminPassword::Given(password), .. }) = answers.pbx_admin() {
            draft.add("pbx-admin", SECRET, format!("{}\n", password.expose()));
        }
        Ok(draft)
    }

    fn add(&mut self, name: impl AsRef<Path>, mode: u32, content: String) {
        self.files.push(DraftFile { name: name.as_ref().to_owned(), mode, content: Secret::new(content) });
    }

    /// Returns the paths of the files.
    pub(super) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.files.iter().map(|file| self.folder.join(&file.name))
    }

    /// Whether the files are those of the package's unit.
    pub(super) fn is_system(&self) -> bool {
        is_system(&self.folder)
    }

    /// Returns the folders that the files go into.
    pub(super) fn folders(&self) -> BTreeSet<PathBuf> {
        self.paths().filter_map(|path| path.parent().map(Path::to_owned)).collect()
    }

    /// Writes all files, or none, and returns the warnings about the configuration. A file that is replaced keeps its owner and
    /// its mode, unless the folder is another user's or others may write to it.
    ///
    /// # Errors
    /// When the configuration is wrong, a file exists and is not to be replaced, or cannot be written.
    pub(super) fn write(&self, replaces: bool) -> Result<Vec<Problem>, DraftError> {
        fs::create_dir_all(&self.folder)?;
        // Of two at the same time, the second finds the files of the first.
        let _lock = config::lock_folder(&self.folder)?;
        if let Some(path) = self.paths().find(|path| !replaces && is_kept(path)) {
            return Err(DraftError::Exists(path));
        }
        let place = self.folder.join(format!(".callgate-init-{}", RequestId::next()));
        DirBuilder::new().mode(0o700).create(&place)?;
        let written = self.write_by_way_of(&place, replaces);
        fs::remove_dir_all(&place)?;
        written
    }

    /// Writes all files into a folder, reads the configuration there, and moves them into their places.
    fn write_by_way_of(&self, place: &Path, replaces: bool) -> Result<Vec<Problem>, DraftError> {
        let user = self.is_system().then(unit_user).flatten();
        for file in &self.files {
            let path = place.join(&file.name);
            fs::create_dir_all(path.parent().unwrap_or(place))?;
            let mut written = OpenOptions::new().write(true).create_new(true).mode(file.mode).open(path)?;
            if let Some(before) = config::rights_to_keep(&self.folder.join(&file.name)).filter(|_| replaces) {
                config::keep_rights(&written, &before)?;
            } else if let Some(user) = user.filter(|_| file.mode == SECRET) {
                fchown(&written, Some(user), None)?;
            }
            written.write_all(file.content.expose().as_bytes())?;
        }
        let text = self.files.first().map_or("", |config| config.content.expose());
        let config = config::parse(text, place, &environment).map_err(DraftError::Wrong)?;
        let mut made = Vec::new();
        // The configuration comes last, so that it is not there without what it names.
        for file in self.files.iter().rev() {
            let target = self.folder.join(&file.name);
            fs::create_dir_all(target.parent().unwrap_or(&self.folder))?;
            let put = put(&place.join(&file.name), &target, replaces || target.exists() && !is_kept(&target));
            if put.is_err() && !replaces {
                made.iter().for_each(|path| drop(fs::remove_file(path)));
            }
            put?;
            made.push(target);
        }
        Ok(config.warnings)
    }
}

/// Puts a file into its place.
fn put(draft: &Path, target: &Path, replaces: bool) -> Result<(), DraftError> {
    if replaces {
        return Ok(fs::rename(draft, target)?);
    }
    config::put_new(draft, target).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => DraftError::Exists(target.to_owned()),
        _ => error.into(),
    })
}

/// Whether a folder is that of the package.
fn is_system(folder: &Path) -> bool {
    folder == Path::new(SYSTEM)
}

/// Whether a file is there that only `--force` replaces: any but the configuration of the package, which names no real host.
pub(super) fn is_kept(path: &Path) -> bool {
    let is_in_system = || absolute(path).is_ok_and(|path| path.parent().is_some_and(is_system));
    let is_example = || fs::read(path).is_ok_and(|text| fs::read(EXAMPLE).is_ok_and(|example| text == example));
    path.symlink_metadata().is_ok() && !(is_in_system() && is_example())
}

/// Returns the user of the package's unit, if root runs this: only root can give it a file.
fn unit_user() -> Option<u32> {
    let is_root = rustix::process::geteuid().is_root();
    fs::metadata(STATE).ok().map(|found| found.uid()).filter(|_| is_root)
}

/// Returns the text of the configuration. `folder`: its folder.
fn configuration(answers: &Answers, folder: &Path) -> io::Result<String> {
    let mut text = "# Made by `callgate init`. docs/configure.md explains every key.\n".to_owned();
    let mut line = |written: &str| {
        text.push_str(written);
        text.push('\n');
    };
    line(&format!("listen = {}", quoted(&answers.listen)));
    line(&format!("tls = {}", certificate(answers)?));
    if let Some(url) = &answers.app_url {
        line(&format!("\n[app]\nurl = {}{}", quoted(url), hosts(answers.app_host.as_ref())));
        if let Some(whoami) = &answers.whoami {
            line(&format!("whoami = {}", quoted(whoami)));
        }
    }
    if let Some(pbx) = &answers.pbx {
        line(&format!("\n[pbx]\nurl = {}{}", quoted(&pbx.url), hosts(answers.pbx_host.as_ref())));
        if let Some(PbxAdmin { user, password, .. }) = &pbx.admin {
            let file = match password {
                AdminPassword::File(file) => path(file)?,
                AdminPassword::Given(_) => quoted("pbx-admin"),
            };
            line(&format!("admin = {{ user = {}, password = {{ file = {file} }} }}", quoted(user)));
        }
    }
    if let Some(users) = &answers.voximplant_users {
        line(&format!("\n[voximplant]\nusers = {{ file = {} }}", path(users)?));
    }
    line(&rule(answers));
    line(&operation(folder));
    Ok(text)
}

fn certificate(answers: &Answers) -> io::Result<String> {
    let (chain, key) = match &answers.certificate {
        CertificateAnswer::Files(chain, key) => (path(chain)?, path(key)?),
        CertificateAnswer::Development => (quoted("certs/fullchain.pem"), quoted("certs/privkey.pem")),
        CertificateAnswer::Acme => {
            let names: Vec<_> = answers.hosts().map(quoted).collect();
            return Ok(format!("{{ acme = {{ names = [{}] }} }}", names.join(", ")));
        }
    };
    Ok(format!("{{ cert = {chain}, key = {key} }}"))
}

/// Returns the rule for the callers that the app names; nothing if it names none.
fn rule(answers: &Answers) -> String {
    let admin = answers.pbx_admin();
    if answers.whoami.is_none() || admin.is_none() && answers.voximplant_users.is_none() {
        return "\n# No caller can log in yet: that takes an [[auth]] method and an [[allow]] rule (docs/rules.md)."
            .to_owned();
    }
    let mut rule =
        "\n# Without a rule no login: these names are claims, which the app's whoami answers with.\n[[allow]]"
            .to_owned();
    if let Some(admin) = admin {
        let _ = write!(rule, "\npbx = {{ domain = {}, account = \"{{ext}}\" }}", quoted(&admin.domain));
    }
    if answers.voximplant_users.is_some() {
        let _ = write!(rule, "\nvoximplant = \"{{vox}}\"");
    }
    rule
}

/// Returns the tables for the operator, with the files that callgate makes. `folder`: that of the configuration.
fn operation(folder: &Path) -> String {
    let [run, log, state] = match is_system(folder) {
        true => ["/run/callgate/", "/var/log/callgate/", "/var/lib/callgate/"],
        false => [""; 3],
    };
    format!(
        r#"
# For callgate status, reload, sessions and freeze.
[admin]
listen = "unix:{run}admin.sock"

# Who logged in as which account: callgate audit report.
[audit]
file = "{log}audit.log"
chain = true

# Used links, freezes and certificates from an ACME server outlive a restart.
[state]
file = "{state}callgate.state""#
    )
}

fn hosts(host: Option<&String>) -> String {
    host.map(|host| format!("\nhosts = [{}]", quoted(host))).unwrap_or_default()
}

/// Returns a path that does not depend on the current folder, as a TOML string.
fn path(path: &Path) -> io::Result<String> {
    Ok(quoted(&absolute(path)?.display().to_string()))
}

/// Writes a TOML string. The escapes of JSON are those of TOML (toml.io, v1.0.0, "String").
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(folder: &Path) -> Draft {
        let mut draft = Draft { folder: folder.to_owned(), files: Vec::new() };
        let config = "listen = \"127.0.0.1:0\"\ntls = { cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\" }\n\
                      [app]\nurl = \"http://127.0.0.1:1\"\n";
        draft.add("proxy.toml", 0o644, config.to_owned());
        for (name, mode, text) in dev::certificate(&["app.test"]).unwrap().files() {
            draft.add(Path::new("certs").join(name), mode, text.to_owned());
        }
        draft
    }

    /// Writes a draft into a folder, as after the look for files that exist.
    fn write(draft: &Draft, replaces: bool) -> Result<Vec<Problem>, DraftError> {
        let place = draft.folder.join("place");
        fs::create_dir(&place).unwrap();
        let written = draft.write_by_way_of(&place, replaces);
        fs::remove_dir_all(&place).unwrap();
        written
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_overwritten_and_no_other_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("proxy.toml");
        fs::write(&config, "the operator's").unwrap();
        let draft = draft(folder.path());
        assert!(matches!(write(&draft, false), Err(DraftError::Exists(path)) if path == config));
        assert_eq!(fs::read_to_string(&config).unwrap(), "the operator's");
        assert_eq!(fs::read_dir(folder.path().join("certs")).unwrap().count(), 0);
        write(&draft, true).unwrap();
        assert!(fs::read_to_string(&config).unwrap().starts_with("listen"));
        assert_eq!(fs::read_dir(folder.path().join("certs")).unwrap().count(), 3);
    }
}
