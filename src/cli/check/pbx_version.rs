//! The version and the dialect of the PBX, as `check --online` finds them without a password.

use std::rc::Rc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Uri};
use tokio::time::timeout;

use super::print_fact;
use crate::config::{Handoff, PbxConfig};
use crate::upstream::{self, RequestBody, Upstream, UpstreamResponse};

/// The page at which a browser with a session begins, in the dialects with temporary tokens.
const THIRD_PARTY: &str = "/thirdparty.htm";
/// The most characters of `Server` that are printed.
const MAX_SERVER: usize = 64;

/// Prints the version of the PBX and the hand-over that it is for. Returns what contradicts the configuration.
pub(super) async fn report(upstream: &Rc<Upstream>, settings: &PbxConfig, table: &str) -> Option<String> {
    let (home, landing) = (ask(upstream, "/", settings).await, ask(upstream, THIRD_PARTY, settings).await);
    let server = home.as_ref().and_then(|answer| server(&answer.headers));
    let knows_tokens = landing.as_ref().map(|answer| answer.status == StatusCode::OK);
    let dialect = match knows_tokens {
        Some(true) => "it has the page /thirdparty.htm, so handoff = \"cookie\" is for it",
        Some(false) => "it has no page /thirdparty.htm, so handoff = \"link\" is for it",
        None => "it does not answer for the page /thirdparty.htm",
    };
    print_fact(&format_args!("{table}: {}; {dialect}", server.as_deref().unwrap_or(UNKNOWN)));
    let is_contradiction = knows_tokens == Some(false) && settings.handoff == Handoff::Cookie;
    is_contradiction.then(|| {
        format!(
            "{table}: the PBX has no page /thirdparty.htm, so it is too old for handoff = \"cookie\": write handoff = \"link\" into [pbx]"
        )
    })
}

/// Printed for a server without the field `Server`, such as an app whose address was written at `[pbx]`.
const UNKNOWN: &str = "the server does not say that it is a PBX (Server: PBX/…): is `url` right?";

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
