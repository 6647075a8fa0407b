//! The inputs of a configuration outside its own text: files, secrets, the current time.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::LastGood;
use super::document::{TomlNode, TomlTable};
use super::encoding::{UTF_16, UTF_16_HINT, is_utf_16, without_last_newline, without_mark};
use super::files::{self, FileSnapshot, MAX_FILE};
use super::outbound_proxy::{OutboundProxy, UnusableProxy};
use super::permissions::{Exposure, FileRole, Permissions};
use super::problem::{Problem, UnseenSecret};
use crate::model::secret::Secret;
use crate::random;

/// The surroundings of a configuration while it is read.
pub(super) struct Surroundings<'a> {
    /// The folder that relative paths start from.
    pub(super) base: &'a Path,
    /// Looks up an environment variable, with U+FFFD for what is not UTF-8.
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// The current time, which expiry dates are compared with.
    pub(super) now: Timestamp,
    /// The files that were read so far.
    pub(super) files: &'a RefCell<FileSnapshot>,
    /// The secrets that this process cannot see; `None`: such a secret is a problem.
    pub(super) unseen: Option<RefCell<Vec<UnseenSecret>>>,
    /// The proxy of the environment, once a part of the configuration needs it.
    pub(super) outbound: OnceCell<OutboundReading>,
    /// What was read before of certificates, and what cannot be read now.
    pub(super) certificates: CertificateFallback<'a>,
}

/// What takes the place of a certificate or a `client_ca` that cannot be read, so that everything else goes on.
pub(super) struct CertificateFallback<'a> {
    /// What was read before.
    pub(super) last_good: &'a LastGood,
    /// Why certificates cannot be read now.
    pub(super) problems: RefCell<Vec<Problem>>,
    /// The authorities of client certificates that are in use, by file.
    pub(super) authorities: RefCell<BTreeMap<PathBuf, Vec<CertificateDer<'static>>>>,
}

impl<'a> CertificateFallback<'a> {
    pub(super) const fn new(last_good: &'a LastGood) -> Self {
        Self { last_good, problems: RefCell::new(Vec::new()), authorities: RefCell::new(BTreeMap::new()) }
    }

    /// Notes why a file cannot be read, and what that leads to.
    pub(super) fn note(&self, problems: Vec<Problem>, outcome: &str) {
        for problem in problems {
            let message = format!("{}; {outcome}", problem.message);
            let problem = Problem { message, ..problem };
            let mut noted = self.problems.borrow_mut();
            if !noted.contains(&problem) {
                noted.push(problem);
            }
        }
    }
}

/// The proxy that the environment names, or why it cannot be used.
pub(super) type OutboundReading = Result<Option<Arc<OutboundProxy>>, UnusableProxy>;

/// The text of the configuration, and the excessive rights of other users on its file.
pub(super) struct ConfigText {
    pub(super) text: String,
    pub(super) exposure: Option<Exposure>,
}

/// The reason why the configuration file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum TextError {
    #[error("cannot read it: {}", reason(.0))]
    Io(#[from] io::Error),
    #[error("{UTF_16}")]
    Utf16,
    #[error("line {0} is not text in UTF-8")]
    NotUtf8(usize),
}

impl TextError {
    /// Returns the remedy. `path`: the file.
    pub(super) fn hint(&self, path: &Path) -> String {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::NotFound => "name the file with --config".to_owned(),
            Self::Io(error) => hint(error, path),
            Self::Utf16 => UTF_16_HINT.to_owned(),
            Self::NotUtf8(_) => "save the file as UTF-8".to_owned(),
        }
    }
}

/// Reads the configuration file.
pub(super) fn text(path: &Path) -> Result<ConfigText, TextError> {
    let file = files::open(path)?;
    let exposure = Permissions::of(&file)?.exposure(FileRole::Public, user(), path);
    let mut bytes = Vec::new();
    if file.take(MAX_FILE + 1).read_to_end(&mut bytes)? as u64 > MAX_FILE {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge).into());
    }
    if is_utf_16(&bytes) {
        return Err(TextError::Utf16);
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(ConfigText { text, exposure }),
        Err(error) => {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            Err(TextError::NotUtf8(before.iter().filter(|byte| **byte == b'\n').count() + 1))
        }
    }
}

/// The bytes of a file, a variable or a credential, with its name for the operator.
pub(super) struct Content {
    pub(super) name: String,
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Whether this process cannot see it; `bytes` is then a text that no one can guess.
    pub(super) is_unseen: bool,
}

impl Surroundings<'_> {
    /// Returns the proxy between callgate and the internet. If it cannot be used, that is reported once, at the end.
    pub(super) fn outbound_proxy(&self) -> Option<Arc<OutboundProxy>> {
        let read = || Ok(OutboundProxy::read(self.env)?.map(Arc::new));
        self.outbound.get_or_init(read).clone().ok().flatten()
    }

    /// Returns the path of a file that the configuration names.
    pub(super) fn path(&self, node: &TomlNode<'_, '_>) -> Option<PathBuf> {
        Some(self.base.join(node.word()?))
    }

    /// Reads a file that any user may read.
    pub(super) fn public_file(&self, node: &TomlNode<'_, '_>) -> Option<Vec<u8>> {
        let mut bytes = self.file(node, node.word()?, FileRole::Public)?;
        Some(std::mem::take(&mut *bytes))
    }

    /// Reads the private key of a certificate. On some systems the operator shares it with other programs through a
    /// group, so a mode that is too open is only a warning.
    pub(super) fn key_file(&self, node: &TomlNode<'_, '_>) -> Option<Zeroizing<Vec<u8>>> {
        self.file(node, node.word()?, FileRole::CertificateKey)
    }

    /// Reads a file of secrets that a key names without a table. Only its owner may read it.
    pub(super) fn secret_file(&self, node: &TomlNode<'_, '_>) -> Option<Secret> {
        let bytes = self.file(node, node.word()?, FileRole::Secret)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Some(Secret::new(text.to_owned())),
            Err(_) => node.refuse("the file is not text in UTF-8", "save it as UTF-8"),
        }
    }

    /// Reads a file, unless other users have too many rights on it.
    fn file(&self, node: &TomlNode<'_, '_>, name: &str, role: FileRole) -> Option<Zeroizing<Vec<u8>>> {
        let path = self.base.join(name);
        self.files.borrow_mut().note(&path);
        let opened = files::open(&path).and_then(|file| Ok((Permissions::of(&file)?, file)));
        let (permissions, mut file) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.unreadable(node, name, &error),
        };
        if let Some(exposure) = permissions.exposure(role, user(), &path) {
            let message = format!("{name} {}", exposure.message);
            if exposure.is_refused {
                return node.refuse(message, exposure.hint);
            }
            node.warn(message, exposure.hint);
        }
        self.content(node, name, &mut file)
    }

    /// Returns the path of a file to append lines to; its folder must exist.
    pub(super) fn log_file(&self, node: &TomlNode<'_, '_>) -> Option<PathBuf> {
        let name = node.word()?;
        if ["stdout", "stderr", "stdin", "syslog", "off", "-"].contains(&name) {
            return node.refuse("must be the name of a file", "write the name of a file, or leave the key out");
        }
        let path = self.base.join(name);
        if path.is_dir() || name.ends_with('/') {
            return node.refuse(format_args!("{name} is a folder"), "name a file in it");
        }
        match path.parent() {
            Some(folder) if folder.is_dir() => Some(path),
            Some(folder) => {
                let hint = format!("make it, for user {}: mkdir -p {}", user(), folder.display());
                let written = Path::new(name).parent().unwrap_or(folder).display();
                node.refuse(format_args!("the folder {written} does not exist"), hint)
            }
            None => node.refuse("not the name of a file", "name a file in a folder that exists"),
        }
    }

    /// Reads a secret of one line from `{ file = }`, `{ env = }` or `{ credential = }`.
    pub(super) fn secret(&self, node: &TomlNode<'_, '_>) -> Option<Secret> {
        let text = self.long_secret(node)?;
        let one_line = "put nothing but the secret there, on one line";
        match text.expose() {
            "" => node.refuse("the secret is empty", "put the secret there, on one line"),
            text if text.contains(['\0', '\n', '\r']) => {
                node.refuse("the secret has a line break or a NUL inside", one_line)
            }
            trimmed => {
                if trimmed.trim() != trimmed {
                    node.warn("the secret has spaces around it, which count as part of it", one_line);
                }
                Some(text)
            }
        }
    }

    /// Reads a secret of several lines, such as a key in PEM or JSON.
    pub(super) fn long_secret(&self, node: &TomlNode<'_, '_>) -> Option<Secret> {
        let content = self.secret_content(node)?;
        let make = if content.is_unseen { Secret::unseen } else { Secret::new };
        match std::str::from_utf8(&content.bytes) {
            Ok(text) => Some(make(text.to_owned())),
            Err(_) => {
                node.refuse("the secret is not text in UTF-8", "put nothing but the secret there, saved as UTF-8")
            }
        }
    }

    /// Reads a secret from any source, without its byte order mark and its last line end.
    pub(super) fn secret_content(&self, node: &TomlNode<'_, '_>) -> Option<Content> {
        if node.value().is_str() {
            let hint = "put it into a file only its owner can read, and write { file = \"…\" }, { env = \"…\" } or { credential = \"…\" }";
            return node.refuse("a secret must not be written in this file", hint);
        }
        let content = node.table(|table| self.sole_source(table, node))?;
        Some(Content { bytes: without_last_newline(without_mark(content.bytes)), ..content })
    }

    fn sole_source(&self, table: &TomlTable<'_, '_>, secret: &TomlNode<'_, '_>) -> Option<Content> {
        let (node, read): (_, fn(&Self, &TomlNode<'_, '_>, &str) -> _) =
            match (table.get("file"), table.get("env"), table.get("credential")) {
                (Some(node), None, None) => (node, |around, node, name| around.file(node, name, FileRole::Secret)),
                (None, Some(node), None) => (node, Self::variable),
                (None, None, Some(node)) => (node, Self::credential),
                _ => {
                    return table.refuse(
                        "a secret has exactly one source",
                        "write one of { file = \"…\" }, { env = \"…\" }, { credential = \"…\" }",
                    );
                }
            };
        let name = node.word()?;
        match (self.absence(table, name), &self.unseen) {
            (Some(Absence { message, hint }), Some(unseen)) => {
                let problem = node.problem(format_args!("cannot be seen here: {message}"), hint);
                unseen.borrow_mut().push(UnseenSecret { path: secret.path().to_owned(), problem });
                let bytes = Zeroizing::new(random::text::<PLACEHOLDER>().into_bytes());
                Some(Content { name: name.to_owned(), bytes, is_unseen: true })
            }
            (Some(Absence { message, hint }), None) => node.refuse(message, hint),
            (None, _) => Some(Content { name: name.to_owned(), bytes: read(self, &node, name)?, is_unseen: false }),
        }
    }

    /// Returns why a process that is started outside of the unit or the container has no secret of this name. A name that is
    /// none is left to the reader.
    fn absence(&self, table: &TomlTable<'_, '_>, name: &str) -> Option<Absence> {
        if table.get("env").is_some() && is_variable(name) && self.value_of(name).is_none() {
            return Some(Absence {
                message: format!("the environment variable {name} is not set, or not in UTF-8"),
                hint: "set it for callgate, or use { file = \"…\" }".to_owned(),
            });
        }
        if table.get("credential").is_some() && is_credential(name) && (self.env)(CREDENTIALS).is_none() {
            return Some(Absence {
                message: format!("there are no credentials: {CREDENTIALS} is not set"),
                hint: format!("start callgate as a systemd unit with LoadCredential={name}:/path/to/the/secret"),
            });
        }
        None
    }

    /// Returns the value of a variable in UTF-8.
    fn value_of(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.contains(char::REPLACEMENT_CHARACTER))
    }

    fn variable(&self, node: &TomlNode<'_, '_>, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        match self.value_of(name) {
            Some(value) => Some(Zeroizing::new(value.into_bytes())),
            None => {
                node.refuse("not the name of a variable", "write the name alone, such as { env = \"PBX_PASSWORD\" }")
            }
        }
    }

    /// Reads a systemd credential (systemd.exec(5)).
    fn credential(&self, node: &TomlNode<'_, '_>, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        if !is_credential(name) {
            return node.refuse("is a path", "write the name of a systemd credential, or use { file = \"…\" }");
        }
        let folder = (self.env)(CREDENTIALS)?;
        self.file(node, &format!("{folder}/{name}"), FileRole::Credential)
    }

    fn content(&self, node: &TomlNode<'_, '_>, name: &str, file: &mut File) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(Vec::new());
        match file.take(MAX_FILE + 1).read_to_end(&mut bytes) {
            Ok(0) => node.refuse(format_args!("{name} is empty"), "fill the file, or name another one"),
            Ok(read) if read as u64 > MAX_FILE => {
                node.refuse(format_args!("{name} is larger than {} MiB", MAX_FILE >> 20), "name the right file")
            }
            Ok(_) if is_utf_16(&bytes) => node.refuse(format_args!("{name} {UTF_16}"), UTF_16_HINT),
            Ok(_) => Some(without_mark(bytes)),
            Err(error) => self.unreadable(node, name, &error),
        }
    }

    fn unreadable<T>(&self, node: &TomlNode<'_, '_>, name: &str, error: &io::Error) -> Option<T> {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => format!("relative paths start at {}", self.base.display()),
            _ => hint(error, &self.base.join(name)),
        };
        node.refuse(format_args!("cannot read {name}: {}", reason(error)), hint)
    }
}

/// The variable with the folder of systemd's credentials.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// How many random bytes stand for a secret that cannot be seen: enough for each kind of key.
const PLACEHOLDER: usize = 64;

/// Why a secret is not there.
struct Absence {
    message: String,
    hint: String,
}

fn is_variable(name: &str) -> bool {
    !name.contains(['$', '=', '{', ' '])
}

fn is_credential(name: &str) -> bool {
    !name.contains('/') && name != "." && name != ".."
}

/// Returns the user id of callgate.
fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Returns the text of an error without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Returns the remedy for a file that cannot be read.
fn hint(error: &io::Error, path: &Path) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "let user {} read it, the one callgate runs as, and enter each folder on the way: namei -l {}",
            user(),
            path.display()
        ),
        io::ErrorKind::IsADirectory => "name a file in this folder".to_owned(),
        _ => "name a file that can be read".to_owned(),
    }
}
