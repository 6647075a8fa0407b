//! The app's whoami, as `check --online` finds it.

use std::rc::Rc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Uri};
use tokio::time::timeout;

use super::clock::ClockDifferences;
use super::diagnosis::{self, Diagnosis, Fault};
use super::finding::{Finding, PartQuestion};
use super::upstreams::UpstreamPart;
use crate::config::{AppConfig, AppMethodConfig, Config, MethodKind};
use crate::model::upstream_name::UpstreamName;
use crate::upstream::{self, RequestBody, Upstream, UpstreamResponse};

const PART: &str = "app";

/// Connects to each `url` of the app, and asks each whoami.
pub(super) async fn findings(config: &Config, app: &AppConfig, clock: &ClockDifferences) -> Vec<Finding> {
    let upstream = UpstreamPart { settings: &app.upstream, name: UpstreamName::App, part: PART };
    let (open, mut findings) = upstream.open(config).await;
    for method in &config.methods {
        if let (MethodKind::App(whoami), Some(open)) = (&method.kind, &open) {
            let question =
                PartQuestion::new(PART, format!("{} without a cookie (method {:?})", whoami.path, method.name));
            findings.push(of_whoami(open, whoami, &question, clock).await);
        }
    }
    upstream.with_tls_hint(findings).await
}

/// Asks the app's whoami without a credential: the answer must be 401 or 403.
async fn of_whoami(
    upstream: &Rc<Upstream>,
    whoami: &AppMethodConfig,
    question: &PartQuestion,
    clock: &ClockDifferences,
) -> Finding {
    let Ok(uri) = whoami.path.parse::<Uri>() else {
        return question.fail(Fault::Configuration, "it is not a path", "correct `whoami`");
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let asked = upstream.send_fresh(upstream::request(Method::GET, uri, headers, RequestBody::Empty));
    match timeout(whoami.timeout, asked).await {
        Err(_) => question.fail(Fault::Outside, "no answer in time", "look into the log of the app"),
        Ok(Err(error)) => question.failed(Diagnosis::of(&error), "look into the log of the app"),
        Ok(Ok(UpstreamResponse::Upgraded(..))) => {
            question.fail(Fault::Configuration, "it switches protocols", "correct `whoami`")
        }
        Ok(Ok(UpstreamResponse::Final(response))) => {
            clock.note(PART, response.headers());
            of_status(response.status(), question)
        }
    }
}

fn of_status(status: StatusCode, question: &PartQuestion) -> Finding {
    let fault = if diagnosis::is_of_address(status) { Fault::Configuration } else { Fault::Outside };
    let advice = match (status, fault) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => return question.ok(status.to_string()),
        (StatusCode::OK, _) => {
            "it must answer 401 to a caller without a cookie, or every caller is logged in: correct `whoami`, or the app"
        }
        (_, Fault::Configuration) => {
            "it must answer 401: is `whoami` the path, and does the app answer there without a redirect?"
        }
        (_, Fault::Outside) => "it must answer 401: look into the log of the app",
    };
    question.fail(fault, status.to_string(), advice)
}
