//! `docs/openapi.json` says what a running gate does: requests are made from the document, and each answer is compared with it.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use super::socket::SOCKET;
use crate::kit::client::{Answer, RequestBuilder};
use crate::kit::json_schema::{check, resolved};
use crate::kit::oidc::provider::Provider;
use crate::kit::oidc::{OidcStage, SECRET, method};
use crate::kit::stage::{Plan, Stage};

/// The paths of callgate that the document leaves out, each with the reason.
const LEFT_OUT: [(&str, &str); 5] = [
    ("/auth/callgate", "it is the beginning of other paths, and nothing answers there"),
    ("/auth/callgate/confirm", "a button on a page of callgate posts to it"),
    ("/auth/callgate/oidc/", "identity providers send browsers there"),
    ("/auth/callgate/page", "callgate sends browsers there, before and after an automatic login"),
    ("/auth/callgate/ticket", "callgate sends browsers there, with a ticket that works once"),
];

/// The paths that need more than a PBX and an app.
const NEED_MORE: [&str; 4] =
    ["/auth/pbx/socket", "/auth/callgate/login", "/auth/callgate/logout", "/auth/callgate/backchannel-logout"];

/// Answers that the requests made from the document bring about.
const MUST_BE_SEEN: &[&str] = &[
    "GET /auth/callgate/client.d.ts 200",
    "GET /auth/callgate/client.js 200",
    "GET /auth/callgate/login 200",
    "GET /auth/callgate/login 400",
    "GET /auth/callgate/login 403",
    "GET /auth/callgate/login 404",
    "GET /auth/callgate/login 503",
    "GET /auth/callgate/logout 200",
    "GET /auth/pbx 302",
    "GET /auth/pbx 303",
    "GET /auth/pbx 401",
    "GET /auth/pbx 403",
    "GET /auth/pbx 503",
    "GET /auth/pbx/logout 200",
    "GET /auth/pbx/socket 101",
    "GET /auth/pbx/socket 302",
    "GET /auth/pbx/socket 400",
    "GET /auth/pbx/socket 401",
    "GET /auth/pbx/socket 403",
    "GET /auth/pbx/socket 426",
    "POST /auth/callgate/backchannel-logout 200",
    "POST /auth/callgate/backchannel-logout 400",
    "POST /auth/callgate/backchannel-logout 403",
    "POST /auth/callgate/backchannel-logout 413",
    "POST /auth/callgate/backchannel-logout 415",
    "POST /auth/callgate/logout 200",
    "POST /auth/callgate/logout 403",
    "POST /auth/ott 200",
    "POST /auth/ott 302",
    "POST /auth/ott 400",
    "POST /auth/ott 401",
    "POST /auth/ott 403",
    "POST /auth/ott 413",
    "POST /auth/ott 415",
    "POST /auth/pbx 200",
    "POST /auth/pbx 302",
    "POST /auth/pbx 401",
    "POST /auth/pbx 403",
    "POST /auth/pbx/logout 200",
    "POST /auth/pbx/logout 204",
    "POST /auth/pbx/logout 403",
];

fn document() -> Value {
    serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap()
}

/// Starts a gate that has every path of the document: with a WebSocket and an identity provider.
async fn start(plan: Plan<'_>) -> OidcStage {
    start_with(plan, "").await
}

/// As `start`, with more lines for the identity provider.
async fn start_with(plan: Plan<'_>, lines: &str) -> OidcStage {
    let provider = Provider::start().await;
    let more = method("sso", &provider, lines);
    let stage = Plan { pbx: SOCKET, more: &more, ..plan }.start().await;
    stage.gate.canary(SECRET);
    OidcStage { stage, provider }
}

/// An operation of the document.
struct Operation<'d> {
    document: &'d Value,
    path: &'d str,
    method: Method,
    value: &'d Value,
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let paths = document["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, item)| {
        let item = item.as_object().unwrap().iter();
        item.map(move |(method, value)| Operation {
            document,
            path,
            method: method.to_uppercase().parse().unwrap(),
            value,
        })
    });
    operations.collect()
}

fn find<'d>(document: &'d Value, method: &Method, path: &str) -> Operation<'d> {
    operations(document).into_iter().find(|one| one.path == path && one.method == *method).unwrap()
}

impl Operation<'_> {
    /// Checks that an answer is one that the document describes: its status, its fields, its body.
    fn expect(&self, answer: &Answer, why: &str) {
        let place = format!("{} {} ({why}): {}", self.method, self.path, answer.status.as_u16());
        let described = &self.value["responses"][answer.status.as_str()];
        assert!(described.is_object(), "{place} is not described\n{}", answer.text());
        let described = resolved(self.document, described);
        for (name, header) in described["headers"].as_object().into_iter().flatten() {
            let value = answer.header(&name.to_lowercase());
            assert!(!value.is_empty(), "{place}: no {name}");
            let header = resolved(self.document, header);
            check(self.document, &header["schema"], &json!(value))
                .unwrap_or_else(|wrong| panic!("{place}: {name}: {wrong}"));
        }
        let Some(content) = described["content"].as_object() else {
            return assert!(answer.body.is_empty(), "{place}: the body is not described\n{}", answer.text());
        };
        let media_type = answer.header("content-type").split(';').next().unwrap().trim();
        let media = content.get(media_type).unwrap_or_else(|| panic!("{place}: {media_type} is not described"));
        let body = if media_type == "application/json" { answer.json() } else { json!(answer.text()) };
        check(self.document, &media["schema"], &body).unwrap_or_else(|wrong| panic!("{place}: {wrong}"));
    }

    /// Asks with the header fields that the operation requires.
    fn ask<'s>(&self, stage: &'s Stage, query: &str) -> RequestBuilder<'s> {
        let asking = stage.gate.ask(self.method.clone(), &format!("{}{query}", self.path));
        let required = self.required_fields().into_iter();
        required.fold(asking, |asking, (name, value)| asking.header(name, value))
    }

    fn parameters(&self, place: &str) -> impl Iterator<Item = &Value> {
        let parameters = self.value["parameters"].as_array().into_iter().flatten();
        parameters.map(|one| resolved(self.document, one)).filter(move |one| one["in"] == place)
    }

    /// Returns the examples of the required header fields: name and value.
    fn required_fields(&self) -> Vec<(&str, &str)> {
        let required = self.parameters("header").filter(|one| one["required"] == true);
        required.map(|one| (one["name"].as_str().unwrap(), one["example"].as_str().unwrap())).collect()
    }

    fn takes_origin(&self) -> bool {
        self.parameters("header").any(|one| one["name"] == "Origin")
    }

    /// Returns the examples of the body: media type and text.
    fn bodies(&self) -> Vec<(String, Value)> {
        let content = self.value["requestBody"]["content"].as_object().into_iter().flatten();
        content.map(|(media_type, media)| (media_type.clone(), media["example"].clone())).collect()
    }

    /// Returns a query for each parameter: one that fits its schema, and one that breaks its pattern or its constant.
    fn queries(&self) -> Vec<String> {
        let spelled = |one: &Value| {
            let name = one["name"].as_str().unwrap();
            let is_bound = ["pattern", "const"].iter().any(|keyword| one["schema"][keyword].is_string());
            let broken = is_bound.then(|| format!("?{name}=%22%20%22"));
            [Some(format!("?{name}={}", one["example"].as_str().unwrap())), broken]
        };
        self.parameters("query").flat_map(spelled).flatten().collect()
    }
}

fn text_of(body: &Value) -> String {
    body.as_str().map_or_else(|| body.to_string(), str::to_owned)
}

/// Returns an example of a body as the gate accepts it: only the provider of the gate signs a logout token for it.
fn accepted_body(scene: &OidcStage, example: &Value) -> String {
    let text = text_of(example);
    match text.strip_prefix("logout_token=") {
        Some(_) => format!("logout_token={}", scene.provider.logout_token(json!({}))),
        None => text,
    }
}

/// Returns the body without each of its required members.
fn without_members(operation: &Operation<'_>, media_type: &str, body: &Value) -> Vec<String> {
    let schema = resolved(operation.document, &operation.value["requestBody"]["content"][media_type]["schema"]);
    let names = schema["required"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap());
    let shortened = |name: &str| match body {
        Value::String(form) => {
            form.split('&').filter(|pair| !pair.starts_with(&format!("{name}="))).collect::<Vec<_>>().join("&")
        }
        object => {
            let mut object = object.clone();
            object.as_object_mut().unwrap().remove(name);
            object.to_string()
        }
    };
    names.map(shortened).collect()
}

#[tokio::test]
async fn each_answer_is_one_that_the_document_describes() {
    let scene = start(Plan::default()).await;
    let stage = &scene.stage;
    let (document, mut seen) = (document(), BTreeSet::new());
    for operation in operations(&document) {
        let cookie = stage.app.log_in("alice");
        let mut note = |answer: &Answer, why: &str| {
            operation.expect(answer, why);
            seen.insert(format!("{} {} {}", operation.method, operation.path, answer.status.as_u16()));
        };
        for query in [&[String::new()][..], &operation.queries()].concat() {
            for accept in ["application/json", "text/html", "*/*"] {
                let asking = || operation.ask(stage, &query).header("accept", accept);
                note(&asking().cookie(&cookie).send().await, &query);
                note(&asking().send().await, "no credential");
                note(&asking().cookie(&cookie).header("origin", "https://evil.test").send().await, "a foreign page");
                if operation.takes_origin() {
                    let own = asking().cookie(&cookie).header("origin", "https://app.test");
                    note(&own.send().await, "a page of this host");
                }
            }
        }
        note(&operation.ask(stage, "").cookie(&cookie).header("sec-purpose", "prefetch").send().await, "a prefetch");
        for (name, _) in operation.required_fields() {
            let mut asking = operation.ask(stage, "").cookie(&cookie);
            asking.headers.remove(name);
            note(&asking.send().await, &format!("without {name}"));
        }
        for (media_type, example) in operation.bodies() {
            let sending = |media_type: &str, body: String| {
                operation.ask(stage, "").cookie(&cookie).header("content-type", media_type).body(body)
            };
            note(&sending(&media_type, accepted_body(&scene, &example)).send().await.expect(200), "the example");
            let json = sending(&media_type, accepted_body(&scene, &example)).header("accept", "application/json");
            note(&json.send().await.expect(200), "the example, for a program");
            let foreign = sending(&media_type, accepted_body(&scene, &example)).header("origin", "https://evil.test");
            note(&foreign.send().await.expect(403), "the example, from a foreign page");
            for body in without_members(&operation, &media_type, &example) {
                note(&sending(&media_type, body).send().await.expect(400), "a member is missing");
            }
            note(&sending("text/csv", text_of(&example)).send().await, "another media type");
            note(&sending(&media_type, "x".repeat(100_000)).send().await, "a long body");
        }
    }
    for expected in MUST_BE_SEEN {
        assert!(seen.contains(*expected), "{expected} is not among {seen:#?}");
    }
}

#[tokio::test]
async fn other_methods_and_limits_are_described_too() {
    let limits = "client = \"1000/min\"\ncaller = \"3/min\"";
    let scene = start(Plan { limits, ..Plan::default() }).await;
    let stage = &scene.stage;
    let document = document();
    for operation in operations(&document) {
        let item = document["paths"][operation.path].as_object().unwrap();
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            if item.contains_key(&method.to_lowercase()) {
                continue;
            }
            let answer = stage.gate.ask(method.parse().unwrap(), operation.path).send().await.expect(405);
            operation.expect(&answer, method);
            let allowed: BTreeSet<_> = answer.header("allow").split(", ").map(str::to_owned).collect();
            let described = item.keys().map(|name| name.to_uppercase());
            assert!(described.into_iter().all(|name| allowed.contains(&name)), "{}: {allowed:?}", operation.path);
        }
    }
    for (method, path) in [(Method::POST, "/auth/pbx"), (Method::GET, "/auth/pbx/socket")] {
        check_limit(stage, &find(&document, &method, path)).await;
    }
}

/// Asks more often than the limit of the caller permits.
async fn check_limit(stage: &Stage, operation: &Operation<'_>) {
    let mut statuses = BTreeSet::new();
    for _ in 0..6 {
        let asking = operation.ask(stage, "").cookie(&stage.app.log_in("alice")).header("accept", "application/json");
        let answer = asking.header("origin", "https://app.test").send().await;
        operation.expect(&answer, "again and again");
        statuses.insert(answer.status.as_u16());
    }
    assert!(statuses.contains(&429), "{}: {statuses:?}", operation.path);
}

#[tokio::test]
async fn a_logout_leads_to_the_provider_or_says_what_the_pbx_did_not_confirm() {
    let scene = start(Plan::default()).await;
    let document = document();
    let operation = find(&document, &Method::POST, "/auth/callgate/logout");
    for (is_pbx_down, status) in [(false, 303), (true, 502)] {
        let cookie = scene.cookie().await;
        scene.stage.gate.get("/auth/pbx").cookie(&cookie).send().await.expect(303);
        scene.stage.pbx_does(|faults| faults.refuse_connections = is_pbx_down);
        let answer = operation.ask(&scene.stage, "").cookie(&cookie).send().await.expect(status);
        operation.expect(&answer, "a login at the provider");
    }
}

#[tokio::test]
async fn a_login_leads_to_the_host_of_its_provider() {
    let scene = start_with(Plan::default(), "host = \"pbx.test\"").await;
    let document = document();
    let operation = find(&document, &Method::GET, "/auth/callgate/login");
    operation.expect(&operation.ask(&scene.stage, "").send().await.expect(302), "another host");
}

#[tokio::test]
async fn a_path_without_its_configuration_is_not_found() {
    let stage = Stage::new().await;
    stage.gate.logins.are_not_explained();
    let document = document();
    for operation in operations(&document).iter().filter(|one| NEED_MORE.contains(&one.path)) {
        operation.expect(&operation.ask(&stage, "").send().await.expect(404), "nothing is configured");
    }
}

/// Each path that src/model/path.rs names is described, or left out for a reason.
#[test]
fn no_path_is_forgotten() {
    let constants = include_str!("../../../src/model/path.rs").lines().filter_map(|line| {
        let (_, value) = line.strip_prefix("pub const ")?.split_once(": &str = \"")?;
        value.strip_suffix("\";")
    });
    let constants: BTreeSet<_> = constants.collect();
    let document = document();
    let described: BTreeSet<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let left_out: BTreeSet<_> = LEFT_OUT.iter().map(|(path, _)| *path).collect();
    assert_eq!(&described | &left_out, constants, "describe each path in docs/openapi.json, or name the reason");
    for (path, reason) in LEFT_OUT {
        assert!(!described.contains(path), "{path} is described, although {reason}");
    }
}

#[tokio::test]
async fn the_admin_listener_serves_the_document() {
    let stage = Stage::new().await;
    let told = stage.gate.told("/openapi.json");
    let (head, body) = told.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: application/json"), "{head}");
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), document());
}
