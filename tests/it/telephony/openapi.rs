//! `docs/openapi.json` says what a running gate does: requests are made from the document, and each answer is compared with it.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use crate::kit::client::{Answer, RequestBuilder};
use crate::kit::json_schema::{check, resolved};
use crate::kit::stage::{Plan, Stage};

fn document() -> Value {
    serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap()
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
        let Some(content) = described["content"].as_object() else { return };
        let media_type = answer.header("content-type").split(';').next().unwrap().trim();
        let media = content.get(media_type).unwrap_or_else(|| panic!("{place}: {media_type} is not described"));
        let body = if media_type == "application/json" { answer.json() } else { json!(answer.text()) };
        check(self.document, &media["schema"], &body).unwrap_or_else(|wrong| panic!("{place}: {wrong}"));
    }

    fn ask<'s>(&self, stage: &'s Stage, query: &str) -> RequestBuilder<'s> {
        stage.gate.ask(self.method.clone(), &format!("{}{query}", self.path))
    }

    /// Returns the examples of the body: media type and text.
    fn bodies(&self) -> Vec<(String, Value)> {
        let content = self.value["requestBody"]["content"].as_object().into_iter().flatten();
        content.map(|(media_type, media)| (media_type.clone(), media["example"].clone())).collect()
    }

    /// Returns a query for each parameter: one that fits its schema, and one that breaks its pattern.
    fn queries(&self) -> Vec<String> {
        let parameters = self.value["parameters"].as_array().into_iter().flatten();
        let in_query = parameters.map(|one| resolved(self.document, one)).filter(|one| one["in"] == "query");
        let spelled = |one: &Value| {
            let name = one["name"].as_str().unwrap();
            let broken = one["schema"]["pattern"].is_string().then(|| format!("?{name}=%22%20%22"));
            [Some(format!("?{name}={}", one["example"].as_str().unwrap())), broken]
        };
        in_query.flat_map(spelled).flatten().collect()
    }
}

fn text_of(body: &Value) -> String {
    body.as_str().map_or_else(|| body.to_string(), str::to_owned)
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
    let stage = Stage::new().await;
    let (document, mut seen) = (document(), BTreeSet::new());
    for operation in operations(&document) {
        let cookie = stage.app.log_in("alice");
        let mut note = |answer: &Answer, why: &str| {
            operation.expect(answer, why);
            seen.insert(format!("{} {} {}", operation.method, operation.path, answer.status.as_u16()));
        };
        for query in [&[String::new()][..], &operation.queries()].concat() {
            for accept in ["application/json", "text/html"] {
                let asking = || operation.ask(&stage, &query).header("accept", accept);
                note(&asking().cookie(&cookie).send().await, &query);
                note(&asking().send().await, "no credential");
                note(&asking().cookie(&cookie).header("origin", "https://evil.test").send().await, "a foreign page");
            }
        }
        for (media_type, example) in operation.bodies() {
            let sending = |media_type: &str, body: String| {
                operation.ask(&stage, "").cookie(&cookie).header("content-type", media_type).body(body)
            };
            note(&sending(&media_type, text_of(&example)).send().await.expect(200), "the example");
            let json = sending(&media_type, text_of(&example)).header("accept", "application/json");
            note(&json.send().await.expect(200), "the example, for a program");
            for body in without_members(&operation, &media_type, &example) {
                note(&sending(&media_type, body).send().await.expect(400), "a member is missing");
            }
            note(&sending("text/csv", text_of(&example)).send().await, "another media type");
            note(&sending(&media_type, "x".repeat(100_000)).send().await, "a long body");
        }
    }
    for expected in [
        "GET /auth/callgate/client.d.ts 200",
        "GET /auth/callgate/client.js 200",
        "GET /auth/pbx 303",
        "GET /auth/pbx 401",
        "GET /auth/pbx 403",
        "GET /auth/pbx/logout 200",
        "POST /auth/ott 200",
        "POST /auth/ott 400",
        "POST /auth/ott 401",
        "POST /auth/ott 403",
        "POST /auth/ott 413",
        "POST /auth/ott 415",
        "POST /auth/pbx 200",
        "POST /auth/pbx 401",
        "POST /auth/pbx 403",
        "POST /auth/pbx/logout 403",
    ] {
        assert!(seen.contains(expected), "{expected} is not among {seen:#?}");
    }
}

#[tokio::test]
async fn other_methods_and_limits_are_described_too() {
    let limits = "client = \"1000/min\"\ncaller = \"3/min\"";
    let stage = Plan { limits, ..Plan::default() }.start().await;
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
    let post =
        operations(&document).into_iter().find(|one| one.path == "/auth/pbx" && one.method == Method::POST).unwrap();
    let mut statuses = BTreeSet::new();
    for _ in 0..6 {
        let answer = post.ask(&stage, "").cookie(&stage.app.log_in("alice")).header("accept", "application/json");
        let answer = answer.send().await;
        post.expect(&answer, "again and again");
        statuses.insert(answer.status.as_u16());
    }
    assert!(statuses.contains(&429), "{statuses:?}");
}

#[tokio::test]
async fn the_admin_listener_serves_the_document() {
    let stage = Stage::new().await;
    let told = stage.gate.told("/openapi.json");
    let (head, body) = told.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: application/json"), "{head}");
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), document());
}
