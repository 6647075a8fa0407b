//! `/status`: one document for programs and people, and who may see whom in it.

use serde_json::{Value, json};

use crate::kit::client::status;
use crate::kit::commands::limited;
use crate::kit::gate::Gate;
use crate::kit::program::Program;
use crate::kit::stage::{Plan, Stage, until};
use crate::kit::upstream::RawUpstream;

const TCP: &str = "[admin]\nlisten = \"127.0.0.1:0\"";

/// The fields of a browser that shows the page in a window, and that its script sends.
const WINDOW: &str =
    "Accept: text/html,*/*;q=0.8\r\nSec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";

/// Asks for a path with these fields.
fn ask(gate: &Gate, path: &str, fields: &str) -> String {
    gate.tell(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

fn document(gate: &Gate) -> Value {
    serde_json::from_str(body(&gate.told("/status"))).unwrap()
}

/// Refuses a caller whom no rule knows.
async fn refuse(stage: &Stage, subject: &str) {
    stage.claims(json!({ "sub": subject }));
    stage.as_alice("/auth/pbx").send().await.expect(403);
}

async fn stage() -> Stage {
    Plan { more: TCP, ..Plan::default() }.start().await
}

#[tokio::test]
async fn the_document_tells_logins_times_sessions_and_refusals() {
    let stage = stage().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    refuse(&stage, "ann").await;
    let told = document(&stage.gate);
    assert_eq!(told["logins"], json!({ "granted": 1, "ticket": 0, "refused": 1 }));
    assert_eq!(told["mints"]["count"], 1);
    assert!(
        told["mints"]["p50_ms"].as_f64().unwrap() > 0.0 && told["answers"]["count"].as_u64().unwrap() >= 2,
        "{told}"
    );
    assert_eq!((&told["shared"], &told["sessions_open"]), (&Value::Null, &json!(1)));
    let (session, refusal) = (&told["sessions"][0], &told["refusals"][0]);
    assert_eq!(
        (&session["account"], &session["subject"], &session["rule"]),
        (&json!("40@acme.test"), &json!("alice"), &json!("staff"))
    );
    assert_eq!((&refusal["act"], &refusal["client"]), (&json!("pbx_session"), &json!("127.0.0.1")));
    let line = stage.gate.line(&["audit refusal"]).await;
    for key in ["id", "reason"] {
        let value = refusal[key].as_str().unwrap();
        assert!(line.contains(value), "{key} {value}: {line}");
    }
    assert_eq!(told["certificates"][0]["days_left"].as_i64().map(|days| days > 0), Some(true));
    let caps: Vec<_> = told["caps"].as_array().unwrap().iter().map(|cap| cap["name"].as_str().unwrap()).collect();
    assert!(caps.contains(&"connections") && caps.contains(&"sessions remembered"), "{caps:?}");
    assert_eq!(stage.gate.metric("callgate_pbx_mint_time_seconds_count{}"), 1.0);
}

#[tokio::test]
async fn the_fullest_bound_is_told_first() {
    let upstream = RawUpstream::ok().await;
    let admin = "[admin]\nlisten = \"unix:admin.sock\"";
    let program = Program::start_by(limited("-n 100"), upstream.addr, "listen = \"127.0.0.1:0\"", admin).await;
    until("the admin listener", || program.file("admin.sock").exists()).await;
    let told: Value = serde_json::from_str(body(&program.told("/status.json"))).unwrap();
    let caps: Vec<_> = told["caps"].as_array().unwrap().iter().map(|cap| cap["name"].as_str().unwrap()).collect();
    assert_eq!(caps, ["open files", "connections", "bytes in buffers", "sessions remembered"], "{told}");
}

#[tokio::test]
async fn the_breaker_is_told_and_the_configuration_in_force_without_secrets() {
    let stage = stage().await;
    let told = document(&stage.gate);
    let closed = json!([{ "state": "closed", "refusals": 0, "since": null, "next_try": null }]);
    assert_eq!(told["breakers"], closed);
    assert_eq!(
        (&told["configuration"]["server"]["drain"], &told["configuration"]["admin"]["listen"]),
        (&json!("30s"), &json!("127.0.0.1:0"))
    );
    stage.pbx_does(|faults| faults.refuse_after = Some(0));
    stage.as_alice("/auth/pbx").send().await.expect(503);
    let breaker = document(&stage.gate)["breakers"][0].clone();
    assert_eq!((&breaker["state"], &breaker["refusals"]), (&json!("open"), &json!(1)));
    assert!(breaker["since"].as_str() < breaker["next_try"].as_str(), "{breaker}");
    let page = ask(&stage.gate, "/status", WINDOW);
    for part in
        ["<strong class=\"bad\">open</strong>", "#drain = &quot;30s&quot;", "cross-origin-opener-policy: same-origin"]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    let secret = crate::kit::vodia::Options::default().admin_password;
    assert!(!page.contains(&secret) && !told.to_string().contains(&secret));
}

#[tokio::test]
async fn limits_are_told_by_their_busiest_source() {
    let stage = Plan { limits: "caller = \"2/h\"", more: TCP, ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    let busiest = || {
        let told = document(&stage.gate);
        told["limit_usage"][0]["limit"] == "caller" && told["limit_usage"][0]["fullest_percent"] == 49
    };
    until("the limits were measured", busiest).await;
}

#[tokio::test]
async fn a_browser_gets_a_page_and_a_program_the_document() {
    let stage = stage().await;
    for (path, accept, is_page) in [
        ("/status", "", false),
        ("/status", "Accept: */*\r\n", false),
        ("/status", "Accept: application/json\r\n", false),
        ("/status", WINDOW, true),
        ("/status.json", WINDOW, false),
    ] {
        let answer = ask(&stage.gate, path, accept);
        assert_eq!(
            (status(&answer), answer.contains("content-type: text/html; charset=utf-8")),
            (200, is_page),
            "{path} {accept}"
        );
        match is_page {
            true => assert!(body(&answer).starts_with("<!doctype html><html lang=\"en\">"), "{answer}"),
            false => drop(serde_json::from_str::<Value>(body(&answer)).unwrap()),
        }
    }
}

#[tokio::test]
async fn the_page_shows_the_same_in_tables_and_nothing_as_markup() {
    let stage = stage().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    refuse(&stage, "<i>ann</i>").await;
    let page = ask(&stage.gate, "/status", WINDOW);
    let refusal = document(&stage.gate)["refusals"][0]["id"].as_str().unwrap().to_owned();
    for part in [
        "40@acme.test",
        &refusal,
        "<strong class=\"ok\">ready</strong>",
        "Logins per minute",
        "data-end=\"1\"",
        "127.0.0.1",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(page.contains("&lt;i&gt;ann&lt;/i&gt;") && !page.contains("<i>"), "{page}");
}

#[tokio::test]
async fn identities_are_shown_in_a_window_of_this_machine_alone() {
    let stage = stage().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    let navigates = "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
    for (fields, sees) in [
        (String::new(), true),
        (WINDOW.to_owned(), true),
        ("Sec-Fetch-Site: same-origin\r\n".to_owned(), true),
        (format!("Sec-Fetch-Site: cross-site\r\n{navigates}"), true),
        ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: script\r\n".to_owned(), false),
        ("Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n".to_owned(), false),
        ("Origin: http://evil.test\r\n".to_owned(), false),
    ] {
        let answer = ask(&stage.gate, "/status", &fields);
        assert_eq!((status(&answer), answer.contains("40@acme.test")), (200, sees), "{fields}");
    }
    let told = ask(&stage.gate, "/status.json", "Origin: http://evil.test\r\n");
    let told: Value = serde_json::from_str(body(&told)).unwrap();
    assert_eq!(
        (&told["sessions"], &told["refusals"], &told["configuration"], &told["logins"]["granted"]),
        (&Value::Null, &Value::Null, &Value::Null, &json!(1))
    );
}

#[tokio::test]
async fn behind_a_unix_socket_a_foreign_name_gets_nothing() {
    let stage = Plan { more: "[admin]\nlisten = \"unix:admin.sock\"", ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    let asked = |path: &str, host: &str, fields: &str| {
        stage.gate.tell(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"))
    };
    assert!(asked("/status", "localhost:9443", WINDOW).contains("40@acme.test"));
    assert!(asked("/status", "127.0.0.1", "").contains("40@acme.test"));
    // Browsers send no Fetch metadata to a name that is neither HTTPS nor of this machine, and a script sends no `Origin` to its own.
    for fields in [WINDOW, "Accept: text/html\r\n", ""] {
        for path in ["/status", "/metrics", "/readyz"] {
            let answer = asked(path, "ops.example.com:9443", fields);
            assert!(
                status(&answer) == 421 && answer.ends_with("ask for localhost or a loopback address\n"),
                "{answer}"
            );
        }
    }
}

#[tokio::test]
async fn only_the_page_itself_ends_a_session() {
    let stage = stage().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    let port = stage.gate.admin().tcp().unwrap().port();
    let end = |fields: &str| {
        let order = json!({ "number": 1 }).to_string();
        stage.gate.tell(&format!(
            "POST /sessions/end HTTP/1.1\r\nHost: localhost:{port}\r\n{fields}Content-Length: {}\r\n\r\n{order}",
            order.len()
        ))
    };
    let own = format!("Origin: http://localhost:{port}\r\n");
    let json = "Content-Type: application/json\r\n";
    for (fields, expected) in [
        (format!("{json}Origin: http://evil.test\r\nSec-Fetch-Site: cross-site\r\n"), 403),
        (format!("{json}Origin: http://localhost:{}\r\nSec-Fetch-Site: same-site\r\n", port ^ 1), 403),
        (format!("{json}Origin: http://127.0.0.1:{port}\r\nSec-Fetch-Site: cross-site\r\n"), 403),
        (format!("{json}Sec-Fetch-Site: same-origin\r\n"), 403),
        (format!("{json}Origin: null\r\nSec-Fetch-Site: same-origin\r\n"), 403),
        (format!("{own}Sec-Fetch-Site: same-origin\r\nContent-Type: text/plain\r\n"), 415),
    ] {
        assert_eq!(status(&end(&fields)), expected, "{fields}");
    }
    assert_eq!(document(&stage.gate)["sessions"][0]["number"], 1);
    let ended = end(&format!("{json}{own}Sec-Fetch-Site: same-origin\r\n"));
    assert_eq!(status(&ended), 200, "{ended}");
    assert_eq!(document(&stage.gate)["sessions"], json!([]));
    let line = stage.gate.line(&["audit session_end"]).await;
    assert!(line.contains("by=\"this machine\""), "{line}");
    // Other orders are no page's, its own included.
    let order = json!({ "whom": "account 40@acme.test" }).to_string();
    let frozen = stage.gate.tell(&format!(
        "POST /freeze HTTP/1.1\r\nHost: localhost:{port}\r\n{json}{own}Sec-Fetch-Site: same-origin\r\nContent-Length: {}\r\n\r\n{order}",
        order.len()
    ));
    assert_eq!(status(&frozen), 403, "{frozen}");
}

#[tokio::test]
async fn the_last_hour_is_drawn_in_steps() {
    let stage = stage().await;
    assert!(ask(&stage.gate, "/status", WINDOW).contains("The charts begin 10 s after the start"));
    stage.as_alice("/auth/pbx").send().await.expect(303);
    until("the first step", || ask(&stage.gate, "/status", WINDOW).contains("tunnels: 0, highest 0")).await;
    let page = ask(&stage.gate, "/status", WINDOW);
    assert!(page.contains("granted: ") && page.contains("class=\"line0\" d=\"M3"), "{page}");
}
