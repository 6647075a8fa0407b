//! A node of the PBX, as `check --online` finds it: each `url`, its version and dialect, the administrator's password.

use std::rc::Rc;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Uri};
use tokio::time::timeout;

use super::clock::ClockDifferences;
use super::diagnosis::{Diagnosis, Fault};
use super::finding::{Finding, PartQuestion};
use super::upstreams::UpstreamPart;
use crate::config::{AdminCredentials, Config, Handoff, PbxConfig};
use crate::model::account::{Account, Role};
use crate::model::upstream_name::UpstreamName;
use crate::observe::metrics::Tally;
use crate::pbx::{Error, Pbx};
use crate::upstream::{self, RequestBody, Upstream, UpstreamResponse};

/// The page at which a browser with a session begins, in the dialects with temporary tokens.
const THIRD_PARTY: &str = "/thirdparty.htm";
/// The most characters of `Server` that are printed.
const MAX_SERVER: usize = 64;

/// Connects to each `url` of a node, asks for its version, and tries the administrator once: the PBX blocks addresses after
/// some failures.
pub(super) async fn findings(config: &Config, node: &PbxConfig, part: &str, clock: &ClockDifferences) -> Vec<Finding> {
    let upstream = UpstreamPart { settings: &node.upstream, name: UpstreamName::Pbx, part };
    let (open, mut findings) = upstream.open(config).await;
    if let Some(open) = open {
        findings.push(of_version(&open, node, part, clock).await);
        if let Some(admin) = &node.admin {
            findings.push(of_admin(open, node, admin, part).await);
        }
    }
    upstream.with_tls_hint(findings).await
}

/// Finds the version of the PBX and the hand-over that it is for, without a password.
async fn of_version(upstream: &Rc<Upstream>, node: &PbxConfig, part: &str, clock: &ClockDifferences) -> Finding {
    let question = PartQuestion::new(part, "its version");
    let home = ask(upstream, "/", node).await;
    if let Some(home) = &home {
        clock.note(part, &home.headers);
    }
    let landing = ask(upstream, THIRD_PARTY, node).await;
    let server = home.as_ref().and_then(|answer| server(&answer.headers));
    let knows_tokens = landing.map(|answer| answer.status == StatusCode::OK);
    let dialect = match knows_tokens {
        Some(true) => "it has the page /thirdparty.htm, so handoff = \"cookie\" is for it",
        Some(false) => "it has no page /thirdparty.htm, so handoff = \"link\" is for it",
        None => "it does not answer for the page /thirdparty.htm",
    };
    match server {
        Some(server) if knows_tokens == Some(false) && node.handoff == Handoff::Cookie => question.fail(
            Fault::Configuration,
            format!("{server}; {dialect}"),
            "it is too old for handoff = \"cookie\": write handoff = \"link\" into [pbx]",
        ),
        Some(server) => question.ok(format!("{server}; {dialect}")),
        None => question.warning(format!("{UNKNOWN}; {dialect}"), "is `url` right?"),
    }
}

/// Asks for a session in a domain that cannot exist. With the right password the PBX answers that the domain is unknown.
async fn of_admin(upstream: Rc<Upstream>, node: &PbxConfig, admin: &AdminCredentials, part: &str) -> Finding {
    let question = PartQuestion::new(part, format!("a session for the administrator {:?}", admin.user));
    if admin.password.is_unseen() {
        return question.untried("its password cannot be seen here, so it was not tried");
    }
    let unknown =
        Account::new("callgate-check", "callgate-check.invalid".parse().expect("a host name")).expect("an account");
    let pbx = Pbx::new(upstream, None, node, admin, Arc::default(), Tally::default());
    let (answer, advice) = match pbx.mint(&Role::User(unknown)).await {
        Err(Error::Unknown) => return question.ok("the PBX accepts the password"),
        Ok(_) => (
            "the PBX opens sessions in domains that do not exist",
            "does `url` lead to a Vodia PBX? It must refuse them",
        ),
        Err(Error::Refused { .. }) => (
            "the PBX refuses the password",
            "correct `pbx.admin`, and mind that the PBX blocks addresses after some failures",
        ),
        Err(Error::NotPermitted) => {
            let answer = "the administrator may not open sessions";
            return question.fail(Fault::Outside, answer, "give the administrator the API right on the PBX");
        }
        Err(error) => return question.failed(Diagnosis::of(&error), "look into the log of the PBX"),
    };
    question.fail(Fault::Configuration, answer, advice)
}

/// Said of a server without the field `Server`, such as an app whose address was written at `[pbx]`.
const UNKNOWN: &str = "the server does not say that it is a PBX (Server: PBX/…)";

/// The head of an answer.
struct PageHead {
    status: StatusCode,
    headers: HeaderMap,
}

/// Requests a page. Without an answer in time, there is nothing to report: the other steps of the check do that.
async fn ask(upstream: &Rc<Upstream>, page: &'static str, settings: &PbxConfig) -> Option<PageHead> {
    let host = settings.upstream.hosts.iter().find_map(|host| host.exact());
    let host = host.and_then(|host| HeaderValue::from_str(host).ok());
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, host.unwrap_or_else(|| HeaderValue::from_static("localhost")));
    let request = upstream::request(Method::GET, Uri::from_static(page), headers, RequestBody::Empty);
    match timeout(settings.timeout, upstream.send_fresh(request)).await {
        Ok(Ok(UpstreamResponse::Final(response))) => {
            let (head, _) = response.into_parts();
            Some(PageHead { status: head.status, headers: head.headers })
        }
        Ok(Ok(UpstreamResponse::Upgraded(..)) | Err(_)) | Err(_) => None,
    }
}

/// Returns the version in `Server`. The PBX is another machine, so only plain characters reach the terminal.
fn server(headers: &HeaderMap) -> Option<String> {
    let server = headers.get(header::SERVER)?.to_str().ok()?;
    let plain: String = server.chars().filter(|character| matches!(character, ' '..='~')).take(MAX_SERVER).collect();
    (!plain.is_empty()).then_some(plain)
}
