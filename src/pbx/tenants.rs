//! The tenants that the PBX knows, by their names: its list of domains, read with the administrator's credentials.
//!
//! One list answers for all names, so a flood of unknown names is no flood at the PBX: it is asked once in 30 s at most.

use std::collections::HashSet;
use std::error::Error as StdError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{Breaker, Error, basic, breaker, unreachable};
use crate::config::{PbxConfig, PbxNodes, PerNode};
use crate::model::account::host_name;
use crate::model::tenant_answer::TenantAnswer;
use crate::upstream::Connector;

/// Where the PBX lists its domains.
const DOMAINS: &str = "/rest/system/domains";
/// The longest list that is read, in bytes: ten thousand tenants and more.
const MAX_LIST: usize = 4 << 20;
/// How long a list counts, and how long after a failure the PBX is asked again.
const LIFE: Duration = Duration::from_secs(30);
/// How long after a refusal the PBX is asked again: it may block an address that is refused often.
const AFTER_REFUSAL: Duration = Duration::from_secs(10 * 60);

/// The tenants of all PBX nodes.
pub(crate) struct Tenants {
    nodes: PbxNodes,
    lists: PerNode<TenantList>,
    /// Held during a question: there is one at a time.
    turn: tokio::sync::Mutex<()>,
}

/// The tenants of one node.
struct TenantList {
    /// Where and as whom to ask; `None`: the node has no administrator.
    source: Option<ListSource>,
    latest: Mutex<Option<LatestList>>,
}

struct ListSource {
    connector: Connector,
    admin: header::HeaderValue,
    deadline: Duration,
    breaker: Arc<Breaker>,
}

struct LatestList {
    /// When the PBX is asked again.
    until: Instant,
    /// `None`: the PBX gave no list.
    names: Option<HashSet<String>>,
}

impl Tenants {
    /// Prepares to ask the nodes of a configuration.
    pub(crate) fn new(nodes: &PbxNodes, parts: impl Iterator<Item = (Connector, Arc<Breaker>)>) -> Self {
        let list = |(pbx, (connector, breaker)): (&PbxConfig, _)| TenantList {
            source: pbx.admin.as_ref().map(|admin| ListSource {
                connector,
                admin: basic(admin),
                deadline: pbx.timeout,
                breaker,
            }),
            latest: Mutex::default(),
        };
        Self {
            lists: nodes.iter().zip(parts).map(list).collect(),
            nodes: nodes.clone(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Looks a host name up, without asking the PBX. `host`: in lower case.
    pub(crate) fn look(&self, host: &str, now: Instant) -> TenantAnswer {
        match self.list(host) {
            Some(list) => list.look(host, now),
            None => TenantAnswer::Unknown,
        }
    }

    /// Looks a host name up, and asks the PBX if its latest list is too old.
    pub(crate) async fn ask(&self, host: &str) -> TenantAnswer {
        let Some(list) = self.list(host) else { return TenantAnswer::Unknown };
        let _turn = self.turn.lock().await;
        if list.look(host, Instant::now()) == TenantAnswer::Unasked {
            list.refresh().await;
        }
        list.look(host, Instant::now())
    }

    fn list(&self, host: &str) -> Option<&TenantList> {
        let node = self.nodes.at_host(host)?;
        Some(&self.lists[node]).filter(|list| list.source.is_some())
    }
}

impl TenantList {
    fn look(&self, host: &str, now: Instant) -> TenantAnswer {
        match &*self.latest() {
            Some(latest) if now < latest.until => match &latest.names {
                Some(names) if names.contains(host) => TenantAnswer::Known,
                Some(_) => TenantAnswer::Unknown,
                None => TenantAnswer::NoAnswer,
            },
            Some(_) | None => TenantAnswer::Unasked,
        }
    }

    async fn refresh(&self) {
        let Some(source) = &self.source else { return };
        let read = source.read().await;
        let is_refused = matches!(read, Err(Error::Refused { .. } | Error::NotPermitted));
        let pause = if is_refused { AFTER_REFUSAL } else { LIFE };
        let names = read.inspect_err(|error| {
            let (error, seconds) = (error as &dyn StdError, pause.as_secs());
            tracing::warn!(error, next_try_in_seconds = seconds, "the PBX does not list its tenants");
        });
        *self.latest() = Some(LatestList { until: Instant::now() + pause, names: names.ok() });
    }

    /// Locks even after a panic elsewhere: the list is replaced whole.
    fn latest(&self) -> MutexGuard<'_, Option<LatestList>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ListSource {
    /// Asks the PBX, unless the breaker is open. A refusal does not open it: an administrator who may open sessions may lack
    /// the right to list tenants.
    async fn read(&self) -> Result<HashSet<String>, Error> {
        match self.breaker.open_for(Instant::now()) {
            Some(retry_after) => Err(Error::Open { retry_after }),
            None => timeout(self.deadline, self.request()).await.unwrap_or(Err(Error::Timeout)),
        }
    }

    async fn request(&self) -> Result<HashSet<String>, Error> {
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = Uri::from_static(DOMAINS);
        request.headers_mut().insert(header::AUTHORIZATION, self.admin.clone());
        request.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        let answer = self.connector.send_once(request, MAX_LIST).await.map_err(unreachable)?;
        read_list(answer.status(), answer.body())
    }
}

/// Reads a list of domains: each is an object with `name` and perhaps `alias`, or only a name. What is no host name is left
/// out: no browser asks for it.
fn read_list(status: StatusCode, body: &[u8]) -> Result<HashSet<String>, Error> {
    match (status, body.trim_ascii()) {
        (StatusCode::OK, b"false" | b"\"\"") | (StatusCode::UNAUTHORIZED, _) => {
            return Err(Error::Refused { retry_after: breaker::OPEN });
        }
        (StatusCode::FORBIDDEN, _) => return Err(Error::NotPermitted),
        (StatusCode::OK, _) => {}
        _ => return Err(Error::BadResponse),
    }
    let Ok(Value::Array(domains)) = serde_json::from_slice(body) else { return Err(Error::BadResponse) };
    let mut names = HashSet::new();
    for domain in &domains {
        let known = match domain {
            Value::String(name) => Some(name),
            Value::Object(members) => members.get("name").and_then(|name| match name {
                Value::String(name) => Some(name),
                _ => None,
            }),
            _ => None,
        };
        let name = known.ok_or(Error::BadResponse)?;
        let aliases = match domain.get("alias") {
            Some(Value::Array(aliases)) => aliases.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(aliases)) => aliases.split_ascii_whitespace().collect(),
            _ => Vec::new(),
        };
        names.extend([name.as_str()].into_iter().chain(aliases).filter_map(host_name));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, body: &str, expected: Result<&[&str], &str>) {
        let read = read_list(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        let mut names: Vec<_> =
            read.as_ref().map(|names| names.iter().map(String::as_str).collect()).unwrap_or_default();
        names.sort_unstable();
        let shown = match &read {
            Ok(_) => Ok(&*names),
            Err(Error::Refused { .. }) => Err("refused"),
            Err(Error::NotPermitted) => Err("not permitted"),
            Err(_) => Err("nonsense"),
        };
        assert_eq!(shown, expected, "{status} {body}");
    }

    #[test]
    fn a_list_has_names_and_aliases_that_are_host_names() {
        check(200, "[]", Ok(&[]));
        check(
            200,
            r#"[{"id":1,"name":"A.test","alias":["a.test","b.test."],"country":"1"}]"#,
            Ok(&["a.test", "b.test"]),
        );
        check(
            200,
            r#"[{"name":"a.test","alias":"b.test c.test"},"d.test"]"#,
            Ok(&["a.test", "b.test", "c.test", "d.test"]),
        );
        check(200, r#"[{"name":"*.test"},{"name":"a b"},{"name":""},{"name":"localhost"}]"#, Ok(&["localhost"]));
        check(200, r#"[{"name":"a.test","alias":[1,null,"b.test"]}]"#, Ok(&["a.test", "b.test"]));
    }

    #[test]
    fn nonsense_is_no_list() {
        for body in
            ["", "null", "true", "{}", "\"a.test\"", "[1]", "[null]", "[{}]", "[[\"a.test\"]]", "<html>", "[\"a.test\""]
        {
            check(200, body, Err("nonsense"));
        }
        for status in [204, 302, 404, 500] {
            check(status, "[]", Err("nonsense"));
        }
        check(200, "false", Err("refused"));
        check(200, "\"\"", Err("refused"));
        check(401, "[]", Err("refused"));
        check(403, "[]", Err("not permitted"));
    }
}
