//! Challenges of other ACME clients at `redirect_http` (RFC 8555 §8.3): answered from the folder of a client on this machine,
//! or by the PBX that the host belongs to.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use rustix::fs::{CWD, Mode, OFlags, openat};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::config::{Config, HostPort};
use crate::observe::causes;
use crate::observe::notice::Notice;
use crate::upstream::{FetchError, fetch_plain};

/// Where ACME servers look for answers.
const CHALLENGES: &str = "/.well-known/acme-challenge/";
/// The longest token that is looked for, in bytes. Usual ones have 43.
const MAX_TOKEN: usize = 128;
/// The longest answer that is passed on, in bytes. A usual one has less than 100.
const MAX_ANSWER: usize = 4096;
/// How many answers of others are looked for at once. Further requests wait.
const MAX_AT_ONCE: usize = 8;
/// How long the PBX may take for its answer.
const PBX_DEADLINE: Duration = Duration::from_secs(5);

/// What bounds the look for answers of others.
pub(super) struct ForeignChallenges {
    turns: Semaphore,
    /// The folder or the PBX cannot be read.
    unread: Notice,
}

impl Default for ForeignChallenges {
    fn default() -> Self {
        Self { turns: Semaphore::new(MAX_AT_ONCE), unread: Notice::default() }
    }
}

/// Returns the token that a request asks for; nothing if it asks for something else. A token has letters of base64url only,
/// so it is never a path.
pub(super) fn token<B>(request: &Request<B>) -> Option<&str> {
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    let token = request.uri().path().strip_prefix(CHALLENGES).filter(|_| is_read)?;
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    ((1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(is_base64url)).then_some(token)
}

impl ForeignChallenges {
    /// Answers a challenge that is not callgate's; nothing if no other client is known for it. `host`: in lower case.
    pub(super) async fn answer(&self, config: &Config, host: &str, token: &str) -> Option<Response<Full<Bytes>>> {
        let redirect = config.redirect_http.as_ref()?;
        let pbx = config.pbx.at_host(host).and_then(|node| redirect.challenges_of(&config.pbx[node].name));
        if redirect.acme_webroot.is_none() && pbx.is_none() {
            return None;
        }
        let _turn = self.turns.acquire().await.ok()?;
        let file = match &redirect.acme_webroot {
            Some(webroot) => self.of_folder(webroot, token).await,
            None => None,
        };
        match (file, pbx) {
            (Some(answer), _) => Some(Response::new(Full::from(answer))),
            (None, Some(pbx)) => Some(self.of_pbx(pbx, host, token).await),
            (None, None) => None,
        }
    }

    async fn of_folder(&self, webroot: &Path, token: &str) -> Option<Bytes> {
        let (folder, name) = (webroot.to_owned(), token.to_owned());
        let read = spawn_blocking(move || read(&folder, &name)).await.unwrap_or_else(|error| Err(error.into()));
        match read {
            Ok(answer) => Some(answer.into()),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound && self.unread.is_due() {
                    tracing::warn!(%error, folder = %webroot.display(), "cannot read an answer in `acme_webroot`");
                }
                None
            }
        }
    }

    /// Passes a challenge on. What is no answer becomes 404, and 502 if the PBX gives none.
    async fn of_pbx(&self, pbx: &HostPort, host: &str, token: &str) -> Response<Full<Bytes>> {
        let request = Request::get(format!("{CHALLENGES}{token}")).header(header::HOST, host).body(Bytes::new());
        let request = request.expect("a token is a path, a host name a field");
        let told = timeout(PBX_DEADLINE, fetch_plain(pbx, request, MAX_ANSWER)).await;
        let mut answer = Response::new(Full::default());
        match told.unwrap_or(Err(FetchError::Timeout)) {
            Ok(told) if told.status() == StatusCode::OK => *answer.body_mut() = Full::from(told.into_body()),
            Ok(_) => *answer.status_mut() = StatusCode::NOT_FOUND,
            Err(error) => {
                *answer.status_mut() = StatusCode::BAD_GATEWAY;
                if self.unread.is_due() {
                    let error = causes(&error);
                    tracing::warn!(%pbx, error, "the PBX at `acme_pbx` gives no answer to a challenge");
                }
            }
        }
        answer
    }
}

/// Reads a file of a webroot. Below the webroot no symbolic link is followed, so none leads out of it.
fn read(webroot: &Path, token: &str) -> io::Result<Vec<u8>> {
    let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, webroot, folder, Mode::empty())?;
    for name in CHALLENGES.split('/').filter(|name| !name.is_empty()) {
        at = openat(&at, name, folder | OFlags::NOFOLLOW, Mode::empty())?;
    }
    // A pipe in the place of a file is not waited for.
    let file = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(&at, token, file, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut answer = Vec::new();
    file.take(MAX_ANSWER as u64 + 1).read_to_end(&mut answer)?;
    if answer.len() > MAX_ANSWER { Err(io::Error::other("it is too long for an answer")) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_token_is_base64url_and_only_read() {
        let token = |method: Method, path: &str| {
            let request = Request::builder().method(method).uri(path).body(()).unwrap();
            token(&request).map(str::to_owned)
        };
        let at = |rest: &str| format!("/.well-known/acme-challenge/{rest}");
        assert_eq!(token(Method::GET, &at("aZ09-_")).as_deref(), Some("aZ09-_"));
        assert_eq!(token(Method::HEAD, &at("x")).as_deref(), Some("x"));
        assert_eq!(token(Method::POST, &at("x")), None);
        let long = "x".repeat(MAX_TOKEN + 1);
        for rest in ["", ".", "..", "a/b", "../x", "a.b", "%2e%2e", "a%2fb", "a=", "a+b", "a~", "x/", &long] {
            assert_eq!(token(Method::GET, &at(rest)), None, "{rest}");
        }
        for path in ["/x", "/.well-known/x", "/.well-known/acme-challengex", "/.WELL-KNOWN/acme-challenge/x"] {
            assert_eq!(token(Method::GET, path), None, "{path}");
        }
    }

    #[test]
    fn a_file_is_read_within_the_folder_and_within_a_bound() {
        let (root, outside) = (tempfile::TempDir::new().unwrap(), tempfile::TempDir::new().unwrap());
        let folder = root.path().join(".well-known/acme-challenge");
        let kind = |name: &str| read(root.path(), name).map_err(|error| error.kind());
        assert_eq!(kind("one"), Err(io::ErrorKind::NotFound));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("one"), "one.thumb").unwrap();
        fs::write(folder.join("long"), vec![b'x'; MAX_ANSWER + 1]).unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        symlink(outside.path().join("secret"), folder.join("link")).unwrap();
        fs::create_dir(folder.join("folder")).unwrap();
        rustix::fs::mknodat(CWD, folder.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(kind("one").as_deref(), Ok(&b"one.thumb"[..]));
        for refused in ["long", "link", "folder", "pipe"] {
            assert!(kind(refused).is_err(), "{refused}");
        }
        // The webroot itself may be a link, what is below it may not.
        symlink(root.path(), outside.path().join("webroot")).unwrap();
        assert!(read(&outside.path().join("webroot"), "one").is_ok());
        let other = tempfile::TempDir::new().unwrap();
        symlink(root.path().join(".well-known"), other.path().join(".well-known")).unwrap();
        assert!(read(other.path(), "one").is_err());
    }
}
