//! The stand-in is as faulty as it is told to be.

use std::time::Duration;

use callgate::demo::vodia::SESSION_PATH;
use http::StatusCode;

use super::*;
use crate::kit::raw_client::{Raw, ask};

const ALICE: &str = r#"{"name":"3rd","username":"40","domain":"acme.test"}"#;
/// The right administrator.
const ADMIN: &str = "Authorization: Basic c3NvOkFkbWluLVBhc3N3MHJkIQ==\r\n";
const IMPOSTOR: &str = "Authorization: Basic c3NvOndyb25n\r\n";
/// A deadline for what never comes. Tests over sockets cannot pause the clock.
const SOON: Duration = Duration::from_millis(200);

async fn pbx(dialect: Dialect) -> Vodia {
    Vodia::start(Options { dialect, ..Options::default() }).await
}

async fn mint(pbx: &Vodia, headers: &str, body: &str) -> Raw {
    ask(pbx.addr, &format!("POST {SESSION_PATH}"), headers, body.as_bytes()).await
}

async fn exchange(pbx: &Vodia, token: &str) -> Raw {
    mint(pbx, "", &format!(r#"{{"name":"session","value":"{token}"}}"#)).await
}

#[tokio::test]
async fn a_mint_is_recorded() {
    let pbx = pbx(Dialect::A).await;
    let answer = mint(&pbx, ADMIN, ALICE).await;
    assert_eq!(answer.json().as_str(), pbx.last_session().as_deref());
    let [record] = <[Mint; 1]>::try_from(pbx.mints()).unwrap();
    assert_eq!((record.username.as_deref(), record.domain.as_deref()), (Some("40"), Some("acme.test")));
    assert_eq!((record.body.as_ref(), record.value), (ALICE.as_bytes(), pbx.last_minted()));
    assert!(!pbx.saw_mint_without_admin() && !pbx.saw_admin_elsewhere());
    assert_eq!(pbx.requests()[0].header("host"), Some("acme.test"));
}

#[tokio::test]
async fn a_refusal_has_the_configured_form() {
    let pbx = pbx(Dialect::A).await;
    for (form, status, body) in
        [(FailForm::False, "200", "false"), (FailForm::EmptyString, "200", "\"\""), (FailForm::Status401, "401", "{")]
    {
        pbx.set(|faults| faults.fail_form = form);
        let answer = mint(&pbx, IMPOSTOR, ALICE).await;
        assert_eq!(answer.status(), status);
        assert!(answer.text().starts_with(body), "{form:?} {}", answer.text());
    }
    assert!(pbx.saw_mint_without_admin());
}

#[tokio::test]
async fn a_minted_session_has_the_configured_form() {
    let pbx = pbx(Dialect::A).await;
    for (form, before, after) in
        [(BodyForm::Quoted, "\"", "\""), (BodyForm::Bare, "", ""), (BodyForm::Object, "{\"session\":\"", "\"}")]
    {
        pbx.set(|faults| faults.body_form = form);
        let text = mint(&pbx, ADMIN, ALICE).await.text();
        assert_eq!(text, format!("{before}{}{after}", pbx.last_minted().unwrap()));
    }
}

#[tokio::test]
async fn a_rotated_password_is_refused_after_so_many_mints() {
    let pbx = pbx(Dialect::A).await;
    pbx.set(|faults| faults.refuse_after = Some(1));
    assert_ne!(mint(&pbx, ADMIN, ALICE).await.text(), "false");
    assert_eq!(mint(&pbx, ADMIN, ALICE).await.text(), "false");
}

#[tokio::test]
async fn the_administrator_is_noticed_anywhere_but_in_a_mint() {
    let pbx = pbx(Dialect::A).await;
    let answer = ask(pbx.addr, "GET /rest/system/session", ADMIN, b"").await;
    assert_eq!((answer.json()["type"].as_str(), answer.header("set-cookie")), (Some("admin"), ""));
    assert!(pbx.saw_admin_elsewhere());
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let pbx = pbx(Dialect::C).await;
    pbx.set(|faults| faults.tokens_expire = true);
    let minted = mint(&pbx, ADMIN, ALICE).await.json().as_str().unwrap().to_owned();
    assert_eq!(exchange(&pbx, &minted).await.text(), "false");
}

#[tokio::test]
async fn wrong_answers_replace_the_truth_and_open_no_session() {
    let pbx = pbx(Dialect::A).await;
    for (wrong, status, length) in [
        (Wrong::Status(StatusCode::FORBIDDEN), "403", 35),
        (Wrong::Status(StatusCode::INTERNAL_SERVER_ERROR), "500", 35),
        (Wrong::Status(StatusCode::BAD_GATEWAY), "502", 35),
        (Wrong::Status(StatusCode::SERVICE_UNAVAILABLE), "503", 35),
        (Wrong::Huge, "200", 2 * 1024 * 1024),
        (Wrong::Raw(Bytes::from_static(b"HTTP/1.1 20 x\r\n\r\n")), "20", 0),
    ] {
        pbx.set(|faults| faults.wrong = wrong.clone());
        let answer = mint(&pbx, ADMIN, ALICE).await;
        assert_eq!((answer.status(), answer.body.len()), (status, length), "{wrong:?}");
    }
    pbx.set(|faults| faults.wrong = Wrong::Html);
    assert!(mint(&pbx, ADMIN, ALICE).await.text().contains("data-page=\"login\""));
    assert_eq!((pbx.mints().len(), pbx.sessions().len()), (7, 0));
}

#[tokio::test]
async fn bodies_and_lengths_can_lie() {
    let pbx = pbx(Dialect::A).await;
    for (wrong, announced, length) in [
        (Wrong::Nothing, "22", 22),
        (Wrong::Truncated, "22", 11),
        (Wrong::LengthTooLong(10), "32", 22),
        (Wrong::LengthTooShort(10), "12", 22),
    ] {
        pbx.set(|faults| faults.wrong = wrong.clone());
        let answer = mint(&pbx, ADMIN, ALICE).await;
        assert_eq!((answer.header("content-length"), answer.body.len()), (announced, length), "{wrong:?}");
    }
}

#[tokio::test]
async fn connections_end_before_or_after_the_request() {
    let pbx = pbx(Dialect::A).await;
    pbx.set(|faults| faults.wrong = Wrong::Drop);
    assert_eq!(mint(&pbx, ADMIN, ALICE).await.head, "");
    assert_eq!(pbx.sessions().len(), 1);
    pbx.set(|faults| faults.refuse_connections = true);
    assert_eq!(mint(&pbx, ADMIN, ALICE).await.head, "");
    assert_eq!(pbx.requests().len(), 1);
}

#[tokio::test]
async fn a_hanging_request_has_its_effect_and_no_answer() {
    let pbx = pbx(Dialect::A).await;
    pbx.set(|faults| faults.wrong = Wrong::Hang);
    assert!(tokio::time::timeout(SOON, mint(&pbx, ADMIN, ALICE)).await.is_err());
    assert_eq!(pbx.mints().len(), 1);
}

#[tokio::test]
async fn heads_and_bodies_can_be_late() {
    let pbx = pbx(Dialect::A).await;
    for slow in [|faults: &mut Faults| faults.head_delay = SOON, |faults: &mut Faults| faults.body_delay = SOON] {
        pbx.set(|faults| *faults = Faults::default());
        pbx.set(slow);
        let started = tokio::time::Instant::now();
        assert_eq!(mint(&pbx, ADMIN, ALICE).await.body.len(), 22);
        assert!(started.elapsed() >= SOON);
    }
}

#[tokio::test]
async fn a_scope_keeps_faults_from_other_requests() {
    let pbx = pbx(Dialect::A).await;
    let statuses = async || {
        let other = ask(pbx.addr, "GET /", "", b"").await.status().to_owned();
        [mint(&pbx, ADMIN, ALICE).await.status().to_owned(), exchange(&pbx, "x").await.status().to_owned(), other]
    };
    pbx.set(|faults| faults.wrong = Wrong::Status(StatusCode::BAD_GATEWAY));
    for (scope, expected) in [
        (Scope::Mint, ["502", "200", "200"]),
        (Scope::Exchange, ["200", "502", "200"]),
        (Scope::Other, ["200", "200", "502"]),
        (Scope::All, ["502", "502", "502"]),
    ] {
        pbx.set(|faults| faults.scope = scope);
        assert_eq!(statuses().await, expected, "{scope:?}");
    }
}

#[tokio::test]
async fn cookies_can_be_doubled() {
    let pbx = pbx(Dialect::B).await;
    pbx.set(|faults| faults.duplicate_cookie = true);
    let token = mint(&pbx, ADMIN, ALICE).await.json().as_str().unwrap().to_owned();
    assert_eq!(exchange(&pbx, &token).await.all("set-cookie").len(), 2);
}
