//! The ACME server, as `check --online` finds it. It asks for its directory (RFC 8555 §7.1.1), and orders nothing.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, StatusCode, Uri};
use serde_json::Value;

use super::clock::ClockDifferences;
use super::diagnosis::{self, Diagnosis, Fault};
use super::finding::{Finding, PartQuestion};
use super::providers::way;
use crate::config::{AcmeConfig, Trust};
use crate::upstream::{FetchError, Fetcher};

/// The deadline of the request.
const DEADLINE: Duration = Duration::from_secs(10);
const PART: &str = "tls.acme";

/// Fetches the directory.
pub(super) async fn findings(acme: &AcmeConfig, clock: &ClockDifferences) -> Vec<Finding> {
    let Ok(url) = acme.directory.parse::<Uri>() else {
        let question = PartQuestion::new(PART, format!("directory {}", acme.directory));
        return vec![question.fail(Fault::Configuration, "it is not a URL", "correct `directory`")];
    };
    let question = PartQuestion::new(PART, format!("directory {url}{}", way(&url, acme.outbound_proxy.as_deref())));
    let fetcher = match Fetcher::new(&Trust::roots(acme.ca.clone()), DEADLINE, acme.outbound_proxy.clone()) {
        Ok(fetcher) => fetcher,
        Err(error) => return vec![question.failed(Diagnosis::of(&error), "correct `ca`")],
    };
    vec![match fetch(&fetcher, url).await {
        Ok(answer) => {
            clock.note(PART, answer.headers());
            of_answer(answer.status(), answer.body(), &question)
        }
        Err(error) => question.failed(Diagnosis::of(&error), "is `directory` right, and may callgate reach it?"),
    }]
}

async fn fetch(fetcher: &Fetcher, url: Uri) -> Result<http::Response<Bytes>, FetchError> {
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = url;
    let agent = HeaderValue::from_static(concat!("callgate/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(header::USER_AGENT, agent);
    fetcher.fetch(request).await
}

fn of_answer(status: StatusCode, body: &[u8], question: &PartQuestion) -> Finding {
    let directory: Value = serde_json::from_slice(body).unwrap_or_default();
    let fault = if diagnosis::is_of_address(status) { Fault::Configuration } else { Fault::Outside };
    match status {
        StatusCode::OK if directory["newOrder"].is_string() => question.ok("the directory of an ACME server"),
        StatusCode::OK => question.fail(fault, "it is no directory of an ACME server", "correct `directory`"),
        status if fault == Fault::Outside => question.fail(fault, status.to_string(), "try again later"),
        status => question.fail(fault, status.to_string(), "correct `directory`"),
    }
}
