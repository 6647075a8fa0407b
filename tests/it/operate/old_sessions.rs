//! Ends of sessions reach the old processes of an upgrade: their tunnels end, and the PBX is told once.

use http::Method;
use serde_json::{Value, json};

use super::old_processes::{SHORT, done, ends, logged, stands, told};
use crate::kit::client::status;
use crate::kit::commands::text;
use crate::kit::office::{Office, Socket};
use crate::kit::program::{Successor, code};
use crate::kit::stage::until;

const PHONE: &str = "socket = \"/auth/pbx/socket\"";

/// A caller with tunnels in the old process.
struct Caller {
    cookie: String,
    session: String,
    page: Socket,
    phone: Socket,
}

impl Caller {
    async fn of(office: &Office, name: &str) -> Self {
        let cookie = office.app.log_in(name);
        let session = office.log_in_with(&cookie).await;
        let page = office.socket("", &session).await.unwrap();
        let phone = office.phone(&cookie).await.unwrap();
        Self { cookie, session, page, phone }
    }

    async fn stands(&mut self) {
        stands(&mut self.page).await;
        stands(&mut self.phone).await;
    }
}

/// An office after an upgrade: alice and bob have tunnels in the old process.
struct Upgraded {
    office: Office,
    successor: Successor,
    alice: Caller,
    bob: Caller,
}

impl Upgraded {
    async fn start() -> Self {
        let mut office = Office::open(PHONE, SHORT).await;
        let (alice, bob) = (Caller::of(&office, "alice").await, Caller::of(&office, "bob").await);
        let successor = Successor::of(&mut office.program).await;
        let mut upgraded = Self { office, successor, alice, bob };
        upgraded.alice.stands().await;
        upgraded.bob.stands().await;
        upgraded
    }

    /// Checks that alice is out, bob is in, and that the PBX was told once of each session.
    async fn check_end(mut self) {
        ends(&mut self.alice.page).await;
        ends(&mut self.alice.phone).await;
        logged(&self.office, &["target=\"/websocket?", " ended=session_ended"]).await;
        logged(&self.office, &["target=\"/auth/pbx/socket\"", " ended=session_ended"]).await;
        let hers = |office: &Office| office.pbx.sessions().iter().filter(|one| one.identity.user == "40").count();
        until("the end of her sessions at the PBX", || hers(&self.office) == 0).await;
        self.bob.stands().await;
        assert_eq!(self.office.pbx.sessions().len(), 2, "his sessions");
        drop(self.bob);
        assert_eq!(code(&mut self.office.program).await, Some(0));
        assert!(self.successor.is_running());
        // Hers, and that of his phone.
        let deletes = deletes(&self.office);
        assert_eq!(deletes.iter().filter(|cookie| cookie.contains(&self.alice.session)).count(), 1, "{deletes:?}");
        assert_eq!(deletes.len(), 3, "{deletes:?}");
    }
}

/// Returns the cookies of the sessions that the PBX was told to end.
fn deletes(office: &Office) -> Vec<String> {
    let deletes = office.pbx.requests().into_iter().filter(|seen| seen.method == Method::DELETE);
    deletes.map(|seen| seen.header("cookie").unwrap().to_owned()).collect()
}

// === Logouts ===

#[tokio::test]
async fn a_logout_of_the_app_ends_tunnels_of_the_old_process() {
    let upgraded = Box::pin(Upgraded::start()).await;
    let head = upgraded.office.ask("app.test", "/app-logout?say=1", &upgraded.alice.cookie).await;
    assert_eq!(status(&head), 200);
    upgraded.check_end().await;
}

#[tokio::test]
async fn a_logout_of_a_person_ends_tunnels_of_the_old_process() {
    let upgraded = Box::pin(Upgraded::start()).await;
    let head = upgraded.office.send("POST", "app.test", "/auth/pbx/logout", &upgraded.alice.cookie).await;
    assert_eq!(status(&head), 204, "{head}");
    upgraded.check_end().await;
}

#[tokio::test]
async fn a_logout_by_the_session_itself_ends_its_tunnel_and_no_other() {
    let mut office = Office::open("", SHORT).await;
    let (alice, bob) = (office.log_in("alice").await, office.log_in("bob").await);
    // The PBX opened this one for a password.
    let by_password = office.pbx.open_session("40", "acme.test");
    let (mut hers, mut his) = (office.socket("", &alice).await.unwrap(), office.socket("", &bob).await.unwrap());
    let mut other = office.socket("", &by_password).await.unwrap();
    let _successor = Successor::of(&mut office.program).await;
    for (session, socket, path, method) in
        [(&alice, &mut hers, "/auth/pbx/logout", "POST"), (&by_password, &mut other, "/rest/system/session", "DELETE")]
    {
        stands(socket).await;
        let head = office.send(method, "pbx.test", path, &format!("session={session}")).await;
        assert!((200..=204).contains(&status(&head)), "{head}");
        ends(socket).await;
    }
    stands(&mut his).await;
    drop(his);
    assert_eq!(code(&mut office.program).await, Some(0));
    assert_eq!(deletes(&office), [format!("session={alice}"), format!("session={by_password}")]);
}

// === The operator ===

#[tokio::test]
async fn the_operator_ends_sessions_of_the_old_process() {
    let upgraded = Box::pin(Upgraded::start()).await;
    let answer = done(&upgraded.office.command(&["sessions", "end", "--account", "40@ACME.test"]).await);
    assert!(
        answer.starts_with("ended 1  40@acme.test at pbx.test")
            && answer
                .ends_with("ended 1 session that an old process knew\n1 old process that keeps tunnels obeys, too\n"),
        "{answer}"
    );
    let again = upgraded.office.command(&["sessions", "end", "--account", "40@acme.test"]).await;
    assert_eq!(again.status.code(), Some(1), "{}", text(&again.stdout));
    upgraded.check_end().await;
}

#[tokio::test]
async fn a_freeze_ends_sessions_of_the_old_process_at_the_pbx() {
    let mut upgraded = Box::pin(Upgraded::start()).await;
    done(&upgraded.office.command(&["freeze", "account", "40@acme.test"]).await);
    ends(&mut upgraded.alice.page).await;
    ends(&mut upgraded.alice.phone).await;
    until("the end of her sessions", || deletes(&upgraded.office).len() == 2).await;
    upgraded.bob.stands().await;
    drop(upgraded.bob);
    assert_eq!(code(&mut upgraded.office.program).await, Some(0));
    assert_eq!(deletes(&upgraded.office).len(), 3);
}

#[tokio::test]
async fn an_old_process_that_is_stuck_delays_no_logout_and_ends_the_tunnel_later() {
    let upgraded = Box::pin(Upgraded::start()).await;
    upgraded.office.program.running.signal("-STOP");
    let id = upgraded.office.program.running.child.id();
    let ended = upgraded.office.command(&["sessions", "end", "--account", "40@acme.test", "--json"]).await;
    assert_eq!(ended.status.code(), Some(69));
    assert!(text(&ended.stderr).contains(&format!("the old process {id} does not obey")), "{}", text(&ended.stderr));
    let answer: Value = serde_json::from_str(&text(&ended.stdout)).unwrap();
    assert_eq!(answer["old_processes"], json!([{ "pid": id, "obeyed": false }]));
    let head = upgraded.office.ask("app.test", "/app-logout?say=1", &upgraded.alice.cookie).await;
    assert_eq!(status(&head), 200);
    assert!(told(&upgraded.office, "/status").contains("\"obeyed\": false"));
    upgraded.office.program.running.signal("-CONT");
    upgraded.check_end().await;
}

// === What the new process knows ===

/// Returns the numbers and accounts of the sessions that the newest process lists.
async fn listed(office: &Office) -> Vec<(u64, String)> {
    let listed = done(&office.command(&["sessions", "list", "--json"]).await);
    let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
    let account = |one: &Value| one["account"].as_str().unwrap().to_owned();
    listed.iter().map(|one| (one["number"].as_u64().unwrap(), account(one))).collect()
}

#[tokio::test]
async fn the_new_process_knows_the_sessions_of_the_old_one() {
    let mut office = Office::open("shield = { from = [\"127.0.0.7\"] }", SHORT).await;
    let cookie = office.app.log_in("alice");
    let (alice, bob) = (office.log_in_with(&cookie).await, office.log_in("bob").await);
    let before = listed(&office).await;
    assert_eq!(before, [(1, "40@acme.test".to_owned()), (2, "41@acme.test".to_owned())]);
    let mut first = Successor::of(&mut office.program).await;
    assert_eq!(code(&mut office.program).await, Some(0));
    first = first.next(&mut office.program).await;
    assert_eq!(listed(&office).await, before);
    assert_eq!(status(&office.ask("pbx.test", "/after", &format!("session={alice}")).await), 404);
    logged(&office, &["target=\"/after\"", " account=40@acme.test"]).await;
    assert_eq!(status(&office.ask("pbx.test", &format!("/welcome.htm?sessId={bob}"), "").await), 200);
    let foreign = office.pbx.open_session("41", "acme.test");
    assert_eq!(status(&office.ask("pbx.test", &format!("/welcome.htm?sessId={foreign}"), "").await), 403);
    office.log_in("bob").await;
    assert_eq!(listed(&office).await.last().unwrap(), &(3, "41@acme.test".to_owned()));

    // By the number, and by the credential of a login before both upgrades.
    done(&office.command(&["sessions", "end", "2"]).await);
    assert_eq!(status(&office.ask("app.test", "/app-logout?say=1", &cookie).await), 200);
    until("both ends at the PBX", || deletes(&office).len() == 2).await;
    let mut ended = deletes(&office);
    ended.sort_unstable();
    let mut expected = [alice, bob].map(|session| format!("session={session}"));
    expected.sort_unstable();
    assert_eq!(ended, expected);
    assert_eq!(listed(&office).await, [(3, "41@acme.test".to_owned())]);
    done(&office.command(&["freeze", "domain", "acme.test"]).await);
    until("the last end at the PBX", || office.pbx.sessions().iter().all(|one| one.id == foreign)).await;
    assert!(first.is_running());
}

#[tokio::test]
async fn an_end_that_the_pbx_has_not_confirmed_goes_along() {
    let mut office = Office::open("", SHORT).await;
    let alice = office.log_in("alice").await;
    let bob = office.log_in("bob").await;
    let mut his = office.socket("", &bob).await.unwrap();
    office.pbx.set(|faults| faults.refuse_connections = true);
    done(&office.command(&["sessions", "end", "--account", "40@acme.test"]).await);
    let successor = Successor::of(&mut office.program).await;
    assert_eq!(listed(&office).await, [(2, "41@acme.test".to_owned())]);
    // Meanwhile the session reaches the PBX in no way.
    let target = format!("/welcome.htm?sessId={alice}");
    assert_eq!(status(&office.ask("pbx.test", &target, "").await), 403);
    office.pbx.set(|faults| faults.refuse_connections = false);
    until("the end at the PBX", || office.pbx.sessions().len() == 1).await;
    assert_eq!(deletes(&office), [format!("session={alice}")]);
    stands(&mut his).await;
    drop(his);
    assert_eq!(code(&mut office.program).await, Some(0));
    assert!(successor.is_running());
}
