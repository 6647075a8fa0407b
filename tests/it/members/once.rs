//! What works once works once at all members together: links, tickets, logout tokens, one-time keys.

use futures_util::future::join_all;
use http::Method;
use serde_json::json;

use super::quotas::{reached, readiness};
use crate::kit::client::Answer;
use crate::kit::engine::Engine;
use crate::kit::links::{CLICK, link, method as link_method};
use crate::kit::oidc::provider::Provider;
use crate::kit::oidc::{OidcStage, RULES, method as oidc_method};
use crate::kit::stage::{Plan, Stage, until};
use crate::kit::vodia::Dialect;

const FORM: &str = "application/x-www-form-urlencoded";
const PATIENT: &str = "deadline = \"5s\"";

/// Starts an engine whose members have known it for long.
async fn engine() -> Option<Engine> {
    let engine = Engine::start().await?;
    engine.tell(&["SET", "callgate:generation", "kept 1000"]);
    Some(engine)
}

/// Starts members of a plan, with `[shared]`.
async fn members(engine: &Engine, count: usize, shared: &str, plan: impl Fn() -> Plan<'static>) -> Vec<Stage> {
    let mut members = Vec::new();
    for _ in 0..count {
        let plan = plan();
        let more = engine.shared(shared) + plan.more;
        let member = Plan { more: &more, ..plan }.start().await;
        reached(&member).await;
        members.push(member);
    }
    members
}

/// A plan with links that need no confirmation.
fn with_links() -> Plan<'static> {
    Plan { rules: String::leak(link_method("confirm = \"never\"")), ..Plan::default() }
}

async fn click(member: &Stage, link: &str) -> Answer {
    let asking = CLICK.iter().fold(member.gate.get(link), |asking, (name, value)| asking.header(name, value));
    asking.send().await
}

async fn until_missed(member: &Stage) {
    until("the engine is missed", || !readiness(member).contains("shared: ok")).await;
}

#[tokio::test]
async fn a_link_that_is_clicked_at_four_members_at_once_logs_in_once() {
    let Some(engine) = engine().await else { return };
    let members = members(&engine, 4, PATIENT, with_links).await;
    members.iter().for_each(|member| member.gate.logins.are_not_explained());
    for round in 0..8 {
        let link = link();
        let answers = join_all(members.iter().chain(&members).map(|member| click(member, &link))).await;
        let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [&[303][..], &[401; 7]].concat());
        assert_eq!(members.iter().map(|member| member.minted().len()).sum::<usize>(), round + 1);
    }
}

/// Each login is explained first: the explanation agrees, and marks nothing.
#[tokio::test]
async fn a_link_that_was_used_at_one_member_is_used_at_another() {
    let Some(engine) = engine().await else { return };
    let members = members(&engine, 2, PATIENT, with_links).await;
    for round in 0..2 {
        let link = link();
        click(&members[round], &link).await.expect(303);
        click(&members[1 - round], &link).await.expect(401);
        members[1 - round].gate.line(&["audit refusal", "method=link", "reason=\"the link was used before\""]).await;
    }
    let names = engine.tell(&["KEYS", "callgate:mark:*"]);
    assert_eq!(names.lines().count(), 2, "{names}");
}

#[tokio::test]
async fn without_the_engine_a_link_waits_or_works_once_at_each_member() {
    let Some(mut engine) = engine().await else { return };
    let strict = members(&engine, 1, PATIENT, with_links).await.remove(0);
    let lenient = members(&engine, 2, "deadline = \"5s\"\nmarks_when_down = \"local\"", with_links).await;
    let (used, fresh) = (link(), link());
    click(&lenient[0], &used).await.expect(303);
    engine.kill();
    for member in lenient.iter().chain([&strict]) {
        // An explanation makes no mark, so it cannot know that none can be made.
        member.gate.logins.are_not_explained();
        until_missed(member).await;
    }
    let asking = strict.gate.get(&fresh).header("accept", "application/json");
    let refused = asking.send().await.expect(503);
    assert_eq!(refused.json()["error"], "shared_unavailable");
    assert!(!refused.header("retry-after").is_empty());
    strict.gate.line(&["audit refusal", "method=link", "the shared engine cannot be used"]).await;
    assert!(strict.minted().is_empty());
    click(&lenient[0], &used).await.expect(401);
    for member in &lenient {
        click(member, &fresh).await.expect(303);
        click(member, &fresh).await.expect(401);
    }
    engine.restart().await;
    // It is empty, and gets back what the members know; a new link works after that.
    let new = link();
    loop {
        let answer = click(&strict, &new).await;
        match answer.status.as_u16() {
            303 => break,
            _ => drop(answer.expect(503)),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    until("the members write back", || engine.tell(&["KEYS", "callgate:mark:*"]).lines().count() == 3).await;
    for link in [&used, &fresh, &new] {
        click(&strict, link).await.expect(401);
    }
    assert_eq!(strict.minted().len(), 1);
}

#[tokio::test]
async fn a_ticket_of_one_member_is_redeemed_at_another_once() {
    let Some(engine) = engine().await else { return };
    let plan = || Plan { dialect: Dialect::B, pbx: "handoff = \"cookie\"", ..Plan::default() };
    let members = members(&engine, 3, PATIENT, plan).await;
    let began = members[0].as_alice("/auth/pbx").send().await.expect(303);
    let (cookie, address) = (began.header("set-cookie").to_owned(), began.header("location").to_owned());
    let ticket = address.split("t=").nth(1).unwrap();
    for name in engine.tell(&["KEYS", "callgate:ticket:*"]).lines() {
        let value = engine.tell(&["--no-raw", "GET", name]);
        assert!(!value.contains("alice") && !value.contains("acme") && !name.contains(ticket), "{name}");
        let life: i64 = engine.tell(&["PTTL", name]).trim().parse().unwrap();
        assert!((1..=30_000).contains(&life), "{life}");
    }
    let landed = members[1].redeem(&cookie, &address).await.expect(200);
    let session = members[1].pbx.last_session().unwrap();
    assert!(landed.header("set-cookie").starts_with(&format!("session={session};")));
    for member in &members {
        let path = address.strip_prefix("https://pbx.test").unwrap();
        let page = member.gate.get(path).host("pbx.test").header("accept", "text/html").send().await.expect(403);
        // Each member knows a ticket of another's, so that it leads back to the login.
        assert!(page.text().contains("https://app.test"), "{}", page.text());
    }
    assert_eq!(members.iter().map(|member| member.minted().len()).sum::<usize>(), 1);
}

#[tokio::test]
async fn a_logout_that_the_provider_reports_to_one_member_holds_at_all() {
    let Some(engine) = engine().await else { return };
    let provider = Provider::start().await;
    let more = oidc_method("sso", &provider, "cookie_key = { env = \"OIDC_KEY\" }") + &engine.shared(PATIENT);
    let start = async || Plan { app: "", rules: RULES, more: &more, ..Plan::default() }.start().await;
    let (stage, other) = (start().await, start().await);
    for member in [&stage, &other] {
        reached(member).await;
    }
    let scene = OidcStage { stage, provider };
    let opens = async |member: &Stage, cookie: &str| member.gate.get("/auth/pbx").cookie(cookie).send().await.status;
    let mut cookies = Vec::new();
    for sid in ["s1", "s2"] {
        scene.provider.set(|says| says.claims = json!({ "sid": sid }));
        cookies.push(scene.cookie().await);
    }
    assert_eq!(opens(&other, &cookies[0]).await, 303);
    let token = scene.provider.logout_token(json!({}));
    let form = form_urlencoded::Serializer::new(String::new()).append_pair("logout_token", &token).finish();
    let report =
        async |member: &Stage| member.gate.post("/auth/callgate/backchannel-logout", FORM, form.clone()).send().await;
    report(&scene.stage).await.expect(200);
    for member in [&other, &scene.stage] {
        assert_eq!(opens(member, &cookies[0]).await, 401);
        assert_eq!(opens(member, &cookies[1]).await, 303);
        // The token works once.
        report(member).await.expect(400);
    }
    // The person's own logout ends the login of the cookie.
    let out = scene.stage.gate.ask(Method::POST, "/auth/callgate/logout").cookie(&cookies[1]);
    out.header("origin", "https://app.test").header("content-type", FORM).send().await.expect(303);
    assert_eq!(opens(&other, &cookies[1]).await, 401);
}

#[tokio::test]
async fn members_answer_as_many_different_keys_of_a_user_as_one_does() {
    let Some(engine) = engine().await else { return };
    let plan = || Plan { voximplant: "distinct_keys = \"4/h\"", ..Plan::default() };
    let members = members(&engine, 2, "deadline = \"5s\"\nmembers = 2", plan).await;
    let ask = async |member: usize, key: &str| {
        members[member].alice_posts("/auth/ott", FORM, format!("key={key}")).send().await
    };
    for key in 0..4 {
        ask(key % 2, &format!("k{key}")).await.expect(200);
    }
    for member in 0..2 {
        ask(member, "k4").await.expect(429);
        ask(member, "k0").await.expect(200);
    }
}
