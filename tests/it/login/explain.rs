//! `callgate explain`: the account that a caller would get, and the reason, without a login.

use std::io::Write;
use std::process::Stdio;

use callgate::model::link;
use callgate::model::secret::Secret;
use callgate::observe::RequestId;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kit::app::Whoami;
use crate::kit::client::status;
use crate::kit::client_certificates::Authority;
use crate::kit::commands::{callgate, run};
use crate::kit::gate::{Gate, secret};
use crate::kit::issuer::{AUDIENCE, ISSUER, Publisher, Signer, claims, with};
use crate::kit::oidc::OidcStage;
use crate::kit::stage::{Plan, STAFF, Stage};
use crate::kit::vodia::Options;

/// The key of the tests' server.
const KEY: &str = "a-key-of-another-server-0123456789";

/// The output of a command, and its exit code.
struct CommandOutput {
    code: Option<i32>,
    text: String,
}

impl Stage {
    /// Explains a caller twice, alone and by the running gate, and makes sure that both say the same, nothing secret, and
    /// that no login happened.
    async fn explain(&self, arguments: &[&str]) -> CommandOutput {
        self.explain_with(arguments, "").await
    }

    async fn explain_with(&self, arguments: &[&str], input: &str) -> CommandOutput {
        let mints = self.minted();
        let told = self.gate.explain_with(arguments, input).await;
        assert_eq!(self.minted(), mints, "somebody was let in");
        told
    }

    async fn run(&self, arguments: &[&str], input: &str) -> CommandOutput {
        self.gate.run(arguments, input).await
    }
}

impl Gate {
    async fn explain_with(&self, arguments: &[&str], input: &str) -> CommandOutput {
        let log = self.log();
        let alone = self.run(arguments, input).await;
        let running = self.run(&[arguments, &["--running"]].concat(), input).await;
        assert_eq!((running.code, &running.text), (alone.code, &alone.text), "the running gate says something else");
        assert_eq!(self.log(), log, "it was noted as a login");
        alone
    }

    /// Runs the command, and makes sure that it repeats no credential.
    async fn run(&self, arguments: &[&str], input: &str) -> CommandOutput {
        let file = self.file();
        let mut command = callgate(&[&["explain", "--config", &file], arguments].concat());
        command.env("PBX_ADMIN", Options::default().admin_password).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // One that reads nothing may have ended by now.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        // Only the user of the command sees warnings of the configuration.
        let told = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        let text = String::from_utf8(told).unwrap();
        let names = ["--cookie", "--bearer", "--link"];
        let given = arguments.windows(2).filter(|pair| names.contains(&pair[0])).map(|pair| pair[1]);
        for secret in given.chain([input.trim_end()]).filter(|text| text.len() >= 16) {
            let secret = secret.rsplit_once('=').map_or(secret, |(_, value)| value);
            assert!(!text.contains(secret), "{secret} is told: {text}");
        }
        CommandOutput { code: output.status.code(), text: without_id(&text) }
    }
}

/// Puts a word in the place of the id, which is another one each time.
fn without_id(text: &str) -> String {
    let parts = text.split_once("(id ").or_else(|| text.split_once("\"id\": \""));
    parts.map_or_else(|| text.to_owned(), |(before, rest)| format!("{before}(id ID{}", &rest[32..]))
}

#[track_caller]
fn check(told: &CommandOutput, code: i32, lines: &[&str]) {
    assert_eq!((told.code, told.text.as_str()), (Some(code), format!("{}\n", lines.join("\n")).as_str()));
}

const AT: &str = "Asked for: a session of the PBX, at pbx.test, from 127.0.0.1 (id ID)";

// === Method `app` ===

#[tokio::test]
async fn a_cookie_is_shown_to_the_app_and_its_claims_lead_to_an_account() {
    let stage = Stage::new().await;
    let cookie = stage.app.log_in("alice");
    let told = stage.explain_with(&["--cookie", "-"], &format!("{cookie}\n")).await;
    check(
        &told,
        0,
        &[
            AT,
            "Credential: app",
            "Caller: alice, proven by method \"app\"",
            "    ext = 40",
            "    name = Alice Martin",
            "    tenant = acme.test",
            "    user = alice",
            "    vox = alice",
            "Granted by rule \"staff\": account 40@acme.test, level user, at pbx.test",
        ],
    );
    let told = stage.explain(&["--cookie", &cookie, "--act", "ott", "--host", "app.test"]).await;
    assert!(told.text.starts_with("Asked for: an answer to a Voximplant key, at app.test"), "{}", told.text);
    assert!(told.text.ends_with("Granted by rule \"staff\": Voximplant user alice\n"), "{}", told.text);
}

#[tokio::test]
async fn a_cookie_that_the_app_does_not_know_is_refused() {
    let stage = Stage::new().await;
    let told = stage.explain(&["--cookie", "demo_app=nobody-has-this-session-0"]).await;
    check(
        &told,
        1,
        &[AT, "Credential: app", "Refused: the app knows no such user", "The caller is told: 401 unauthenticated"],
    );
    let told = stage.explain(&[]).await;
    let why = "Refused: the request shows no credential that a method looks for";
    check(&told, 1, &[AT, "Credential: nothing", why, "The caller is told: 401 unauthenticated"]);
}

#[tokio::test]
async fn an_app_that_does_not_answer_is_reported_with_the_cause() {
    let stage = Stage::new().await;
    stage.app.set(|faults| faults.whoami = Whoami::Status(http::StatusCode::INTERNAL_SERVER_ERROR));
    let told = stage.explain(&["--cookie", "demo_app=1"]).await;
    let why = "Refused: the app did not say who you are: whoami answered 500 Internal Server Error: only 200, 401 and 403 are answers";
    check(&told, 1, &[AT, "Credential: app", why, "The caller is told: 502 whoami_failed"]);
}

#[tokio::test]
async fn claims_with_the_name_of_a_secret_are_named_and_not_told() {
    let stage = Stage::new().await;
    stage.claims(json!({
        "sub": "ann", "ext": "40", "tenant": "acme.test", "api_key": "a-secret-of-ann", "groups": ["a", "b"],
        "session": { "id": "an-id-of-ann" }, "next": "/welcome.htm?sessId=the-session-of-ann", "bell": "\u{7}\u{1b}[31m",
    }));
    let told = stage.explain(&["--cookie", "demo_app=1"]).await;
    for line in ["    api_key = ***", "    groups = [\"a\",\"b\"]", "    session.id = ***", "    ext = 40"] {
        assert!(told.text.contains(line), "{line}: {}", told.text);
    }
    for secret in ["a-secret-of-ann", "an-id-of-ann", "the-session-of-ann", "\u{7}", "\u{1b}"] {
        assert!(!told.text.contains(secret), "{secret:?}: {}", told.text);
    }
}

// === Method `key` ===

fn key(more: &str) -> String {
    let hash = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, KEY.as_bytes()));
    format!(
        "[[auth]]\ntype = \"key\"\nname = \"crm\"\nsha256 = \"{hash}\"\nscopes = [\"pbx\"]\ndomains = [\"acme.test\"]\n\
         {more}\n{STAFF}\n[[allow]]\nname = \"machines\"\nauth = \"crm\"\npbx = {{ domain = \"{{domain}}\", account = \"{{account}}\" }}\n"
    )
}

#[tokio::test]
async fn a_key_chooses_within_its_lists_and_every_rule_says_why_it_does_not_apply() {
    let stage = Plan { rules: &key("accounts = [\"40\"]"), ..Plan::default() }.start().await;
    let told = stage.explain_with(&["--bearer", "-", "--account", "40"], KEY).await;
    check(
        &told,
        0,
        &[
            AT,
            "Credential: key",
            "Caller: key:crm, proven by method \"crm\"",
            "    account = 40",
            "    domain = acme.test",
            "Rule \"staff\" does not apply: there is no claim \"ext\"",
            "Granted by rule \"machines\": account 40@acme.test, level user, at pbx.test",
        ],
    );
    let told = stage.explain(&["--bearer", KEY]).await;
    assert!(told.text.contains("Rule \"machines\" does not apply: there is no claim \"account\"\n"), "{}", told.text);
    assert!(told.text.ends_with("Refused: no rule applies\nThe caller is told: 403 forbidden\n"), "{}", told.text);
    let told = stage.explain(&["--bearer", KEY, "--account", "41"]).await;
    assert!(told.text.contains("Refused: the key may not name this account\n"), "{}", told.text);
    assert_eq!(told.code, Some(1));
}

#[tokio::test]
async fn a_key_that_is_unknown_or_elsewhere_is_refused_for_that_reason() {
    let stage = Plan { rules: &key("from = [\"192.0.2.0/24\"]"), ..Plan::default() }.start().await;
    let told = stage.explain(&["--bearer", "another-key-0123456789"]).await;
    let why = "Refused by method \"key\": the key is not known";
    check(&told, 1, &[AT, "Credential: key", why, "The caller is told: 401 unauthenticated"]);
    let told = stage.explain(&["--bearer", KEY, "--account", "40"]).await;
    assert!(told.text.contains("Refused by method \"crm\": the key may not come from this address\n"), "{}", told.text);
    let told = stage.explain(&["--bearer", KEY, "--account", "40", "--from", "192.0.2.7"]).await;
    assert_eq!(told.code, Some(0), "{}", told.text);
    let told = stage.explain(&["--bearer", KEY, "--cookie", "demo_app=1"]).await;
    assert!(told.text.contains("Credential: key, app\nRefused: more than one credential\n"), "{}", told.text);
}

// === Method `jwt` ===

#[tokio::test]
async fn a_token_is_checked_with_the_keys_that_were_fetched() {
    let signer = Signer::ec();
    let publisher = Publisher::start(&[signer.jwk("k1")]).await;
    let rules = format!(
        "[[auth]]\ntype = \"jwt\"\njwks = \"{}\"\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n{STAFF}",
        publisher.url()
    );
    let stage = Plan { app: "", rules: &rules, ..Plan::default() }.start().await;
    let told = stage.explain_with(&["--bearer", "-"], &signer.named("k1", &claims())).await;
    assert!(told.text.contains("Credential: jwt\nCaller: alice, proven by method \"jwt\"\n"), "{}", told.text);
    let granted = "Granted by rule \"staff\": account 40@acme.test, level user, at pbx.test\n";
    assert!(told.code == Some(0) && told.text.ends_with(granted), "{}", told.text);
    for token in [
        signer.named("k1", &with(json!({ "exp": 1 }))),
        signer.named("k1", &with(json!({ "aud": "another" }))),
        Signer::ec().named("k1", &claims()),
    ] {
        let told = stage.explain(&["--bearer", &token]).await;
        let refused = told.text.contains("\nRefused by method \"jwt\": ");
        assert!(told.code == Some(1) && refused && told.text.ends_with("401 unauthenticated\n"), "{}", told.text);
    }
}

// === Method `header` ===

const SSO: &str = r#"
[[auth]]
type = "header"
name = "sso"
from = ["127.0.0.9"]
user = "remote-user"
claims = { ext = "remote-ext" }
[[allow]]
name = "by proxy"
auth = "sso"
pbx = { domain = "acme.test", account = "{ext}" }
"#;

#[tokio::test]
async fn fields_count_from_the_proxy_alone() {
    let stage = Plan { rules: SSO, ..Plan::default() }.start().await;
    let fields = ["--header", "Remote-User: Alice", "--header", "Remote-Ext: 40", "--from"];
    let told = stage.explain(&[&fields[..], &["127.0.0.9"]].concat()).await;
    let granted = "Granted by rule \"by proxy\": account 40@acme.test, level user, at pbx.test\n";
    assert!(told.text.contains("Credential: header\n") && told.text.ends_with(granted), "{}", told.text);
    let told = stage.explain(&[&fields[..], &["127.0.0.8"]].concat()).await;
    let nobody = "looks for; \"remote-user\" counts only from the addresses of method \"sso\"\nThe caller is told: 401 unauthenticated\n";
    assert!(told.text.contains("Credential: nothing\n") && told.text.ends_with(nobody), "{}", told.text);
    let twice = [&fields[..], &["127.0.0.9", "--header", "Remote-User: bob"]].concat();
    let told = stage.explain(&twice).await;
    assert!(told.code == Some(1) && told.text.contains("Refused by method \"sso\": "), "{}", told.text);
}

// === Method `mtls` ===

#[tokio::test]
async fn a_certificate_is_judged_as_its_handshake_would() {
    let (staff, guests) = (Authority::new("staff"), Authority::new("guests"));
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        secret(&folder, name, text);
        folder.path().join(name).display().to_string()
    };
    let ca = file("staff.pem", staff.pem());
    let (ann, bob) = (staff.client_named(&["email:40@acme.test"]), guests.client_named(&["email:41@acme.test"]));
    let (ann, bob) = (file("ann.pem", &ann.0), file("bob.pem", &bob.0));
    let gate = Gate::start(&format!(
        "tls = {{ cert = \"fullchain.pem\", key = \"privkey.pem\", client_ca = {ca:?} }}\n\
         [pbx]\nurl = \"http://127.0.0.1:9\"\nhosts = [\"pbx.test\"]\n\
         admin = {{ user = \"sso\", password = {{ env = \"PBX_ADMIN\" }} }}\n\
         [[auth]]\ntype = \"mtls\"\n[[allow]]\nname = \"cards\"\n\
         pbx = {{ domain = \"acme.test\", account = \"{{email|before:@}}\" }}\n"
    ))
    .await;
    let told = gate.explain_with(&["--certificate", &ann], "").await;
    assert!(told.text.contains("Credential: mtls\nCaller: 40@acme.test, proven by method \"mtls\"\n"), "{}", told.text);
    let granted = "Granted by rule \"cards\": account 40@acme.test, level user, at pbx.test\n";
    assert!(told.code == Some(0) && told.text.ends_with(granted), "{}", told.text);
    for (arguments, why) in
        [(&["--certificate", &bob][..], "invalid peer certificate: UnknownIssuer"), (&[], "peer sent no certificates")]
    {
        let told = gate.explain_with(arguments, "").await;
        let refused = format!("{AT}\nCredential: nothing\nRefused: the handshake ends the connection: {why}\n");
        assert_eq!((told.code, told.text), (Some(1), refused));
    }
}

#[tokio::test]
async fn without_an_optional_certificate_the_other_methods_judge() {
    let (staff, guests) = (Authority::new("staff"), Authority::new("guests"));
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        secret(&folder, name, text);
        folder.path().join(name).display().to_string()
    };
    let ca = file("staff.pem", staff.pem());
    let ann = file("ann.pem", &staff.client_named(&["email:40@acme.test"]).0);
    let bob = file("bob.pem", &guests.client_named(&["email:41@acme.test"]).0);
    let hash = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, KEY.as_bytes()));
    let tls = format!(
        "tls = {{ cert = \"fullchain.pem\", key = \"privkey.pem\", client_ca = {ca:?}, client_auth = \"optional\" }}"
    );
    let text = format!(
        "{tls}\n[pbx]\nurl = \"http://127.0.0.1:9\"\nhosts = [\"pbx.test\"]\n\
         admin = {{ user = \"sso\", password = {{ env = \"PBX_ADMIN\" }} }}\n\
         [[auth]]\ntype = \"mtls\"\n[[auth]]\ntype = \"key\"\nsha256 = \"{hash}\"\nscopes = [\"pbx\"]\ndomains = [\"acme.test\"]\n\
         [[allow]]\nname = \"cards\"\nauth = \"mtls\"\n\
         pbx = {{ domain = \"acme.test\", account = \"{{email|before:@}}\" }}\n\
         [[allow]]\nname = \"keys\"\nauth = \"key\"\npbx = {{ domain = \"acme.test\", account = \"41\" }}\n"
    );
    let gate = Gate::start(&text).await;
    for (arguments, code, end) in [
        (
            &["--certificate", &*ann][..],
            0,
            "Granted by rule \"cards\": account 40@acme.test, level user, at pbx.test\n",
        ),
        (&["--bearer", KEY], 0, "Granted by rule \"keys\": account 41@acme.test, level user, at pbx.test\n"),
        (
            &["--certificate", &ann, "--bearer", KEY],
            1,
            "Refused: more than one credential\nThe caller is told: 401 unauthenticated\n",
        ),
        (
            &[],
            1,
            "Refused: the request shows no credential that a method looks for; the client shows no certificate, which is \
             optional at this host\nThe caller is told: 401 unauthenticated\n",
        ),
        (
            &["--certificate", &bob, "--bearer", KEY],
            1,
            "Refused: the handshake ends the connection: invalid peer certificate: UnknownIssuer\n",
        ),
    ] {
        let told = gate.explain_with(arguments, "").await;
        assert!(told.code == Some(code) && told.text.ends_with(end), "{arguments:?}: {}", told.text);
    }
}

// === Where the login begins and ends ===

#[tokio::test]
async fn a_link_at_an_alias_is_explained_with_the_page_where_it_ends() {
    let pbx = "aliases = [\"/thirdpartylogin.php\"]\nlandings = [\"/usr_index.htm\"]";
    let stage = Plan { pbx, ..Plan::default() }.start().await;
    let cookie = stage.app.log_in("alice");
    let granted = "Granted by rule \"staff\": account 40@acme.test, level user, at pbx.test";
    for (link, end) in [
        ("/auth/pbx", ""),
        ("/thirdpartylogin.php", ""),
        ("/thirdpartylogin.php?next=/usr_index.htm&from=a-bookmark", ", on the page /usr_index.htm"),
        ("/auth/pbx?next=/welcome.htm", ""),
    ] {
        let told = stage.explain(&["--link", &format!("https://pbx.test{link}"), "--cookie", &cookie]).await;
        assert!(told.code == Some(0) && told.text.ends_with(&format!("{granted}{end}\n")), "{link}: {}", told.text);
    }
    let told = stage.explain(&["--link", "https://pbx.test/auth/pbx?next=/other.htm", "--cookie", &cookie]).await;
    let end = "Refused: next is not one of the pages that [pbx] landings lists\nThe caller is told: 400 malformed\n";
    assert!(told.code == Some(1) && told.text.ends_with(end), "{}", told.text);
    // An address in another spelling is no login, and neither is that of a WebSocket.
    for path in ["/ThirdPartyLogin.php", "/auth/pbx/socket"] {
        let told = stage.run(&["--link", &format!("https://pbx.test{path}"), "--cookie", &cookie], "").await;
        assert!(told.code == Some(2) && told.text.contains("the path of the link is not"), "{path}: {}", told.text);
    }
}

// === Method `link` ===

/// Signs a link of pbx.test that is good for so many seconds.
fn link(key: &link::LinkKey, claims: &[(&str, &str)], seconds: i64) -> String {
    let expires = Timestamp::now() + SignedDuration::from_secs(seconds);
    let query = key.sign("pbx.test", claims, expires, &RequestId::next().to_string());
    format!("https://pbx.test/auth/pbx?{query}")
}

#[tokio::test]
async fn a_link_is_not_used_by_asking_about_it_and_once_used_it_says_so() {
    const SECRET: &str = "a-secret-that-signs-links-0123456789";
    let folder = TempDir::new().unwrap();
    secret(&folder, "links", SECRET);
    let path = folder.path().join("links");
    let rules = format!(
        "[[auth]]\ntype = \"link\"\nconfirm = \"auto\"\nkeys = [{{ kid = \"k1\", secret = {{ file = {path:?} }} }}]\n\
         [[allow]]\nname = \"links\"\nauth = \"link\"\npbx = {{ domain = \"{{domain}}\", account = \"{{account}}\" }}\n"
    );
    let stage = Plan { rules: &rules, ..Plan::default() }.start().await;
    let key = link::LinkKey::new("k1".to_owned(), &Secret::new(SECRET.to_owned()));
    let claims = [("account", "40"), ("domain", "acme.test")];
    let good = link(&key, &claims, 50);
    let person = ["Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Sec-Fetch-Site: none", "Sec-Fetch-User: ?1"];
    let clicked: Vec<_> = person.iter().flat_map(|field| ["--header", field]).collect();
    for _ in 0..2 {
        let told = stage.run(&[&["--running", "--link", "-"], &clicked[..]].concat(), &good).await;
        let end = "The credential works once\n\
                   Granted by rule \"links\": account 40@acme.test, level user, at pbx.test\n";
        assert!(told.code == Some(0) && told.text.ends_with(end), "{}", told.text);
        assert!(!told.text.contains("sig = ") && !told.text.contains("nonce = "), "{}", told.text);
    }
    let told = stage.run(&["--link", &good], "").await;
    let notes = "The credential works once\nA page with a button comes first\n\
                 But now: it may have been used before, which only the running gate knows (--running)\nGranted by";
    assert!(told.code == Some(0) && told.text.contains(notes), "{}", told.text);
    assert_eq!((stage.minted().len(), stage.gate.log().len()), (0, 0));

    let path = good.strip_prefix("https://pbx.test").unwrap();
    let asking = person.iter().map(|field| field.split_once(": ").unwrap());
    let asking = asking.fold(stage.gate.get(path).host("pbx.test"), |asking, (name, value)| asking.header(name, value));
    asking.send().await.expect(303);
    let told = stage.run(&["--running", "--link", &good], "").await;
    assert!(told.text.contains("Refused by method \"link\": the link was used before\n"), "{}", told.text);
    for bad in [link(&key, &claims, -50), good.replace("account=40", "account=41"), good.replace("kid=k1", "kid=k2")] {
        let told = stage.explain(&["--link", &bad]).await;
        assert!(told.code == Some(1) && told.text.contains("Refused by method \"link\": "), "{bad} {}", told.text);
    }
    assert_eq!(stage.minted(), ["40@acme.test"]);
}

// === Method `oidc` ===

#[tokio::test]
async fn a_remembered_login_is_opened_by_the_gate_that_sealed_it() {
    let scene = OidcStage::new().await;
    let cookie = scene.cookie().await;
    let mints = scene.stage.minted();
    let arguments = ["--running", "--host", "app.test", "--cookie", "-"];
    let told = scene.stage.run(&arguments, &cookie).await;
    let page = std::fs::read_to_string("docs/explain.md").unwrap();
    let shown = page.split("(`oidc`)").nth(1).unwrap().split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    let masked = told.text.lines().map(|line| if line.starts_with("    iat = ") { "    iat = …" } else { line });
    let masked: String = masked.flat_map(|line| [line, "\n"]).collect();
    assert!(told.code == Some(0) && masked.ends_with(shown), "{masked}instead of\n{shown}");
    let (name, sealed) = cookie.split_once('=').unwrap();
    let forged = format!("{name}={}", sealed.chars().rev().collect::<String>());
    let told = scene.stage.run(&arguments, &forged).await;
    assert!(told.code == Some(1) && told.text.ends_with("The caller is told: 401 unauthenticated\n"), "{}", told.text);
    assert_eq!(scene.stage.minted(), mints);
}

// === What a request is like ===

#[tokio::test]
async fn a_trusted_proxy_names_the_client() {
    let rules = key("from = [\"192.0.2.0/24\"]");
    let more = "[server]\nbelieve_forwarded_from = [\"10.0.0.0/8\"]\n";
    let stage = Plan { rules: &rules, more, ..Plan::default() }.start().await;
    let field = "X-Forwarded-For: 192.0.2.9";
    let told = stage.explain(&["--bearer", KEY, "--account", "40", "--from", "10.1.2.3", "--header", field]).await;
    assert!(told.code == Some(0) && told.text.contains(", from 192.0.2.9 ("), "{}", told.text);
    let told = stage.explain(&["--bearer", KEY, "--account", "40", "--from", "11.1.2.3", "--header", field]).await;
    assert!(told.code == Some(1) && told.text.contains(", from 11.1.2.3 ("), "{}", told.text);
}

#[tokio::test]
async fn a_page_of_another_origin_and_a_prefetch_are_reported_as_such() {
    let stage = Stage::new().await;
    let cookie = stage.app.log_in("alice");
    let ott = ["--cookie", &cookie, "--act", "ott", "--header"];
    let told = stage.explain(&[&ott[..], &["Origin: https://evil.test"]].concat()).await;
    assert!(told.text.contains("Refused: the request came from a page of another origin\n"), "{}", told.text);
    assert!(told.text.ends_with("The caller is told: 403 cross_site\n"), "{}", told.text);
    let told = stage.explain(&["--cookie", &cookie, "--header", "Sec-Purpose: prefetch"]).await;
    assert!(told.text.ends_with("The caller is told: 503 prefetch\n"), "{}", told.text);
}

#[tokio::test]
async fn a_wish_selects_only_inside_the_grant() {
    let stage = Stage::new().await;
    let cookie = stage.app.log_in("alice");
    let told = stage.explain(&["--cookie", &cookie, "--account", "41"]).await;
    assert!(told.text.contains("Refused: rule \"staff\" grants something else than was asked for\n"), "{}", told.text);
    let told = stage.explain(&["--cookie", &cookie, "--lang", "fr", "--account", "40"]).await;
    assert!(told.text.ends_with(": account 40@acme.test, level user, in language fr, at pbx.test\n"), "{}", told.text);
    let told = stage.explain(&["--cookie", &cookie, "--lang", "xx"]).await;
    assert!(told.text.ends_with("The caller is told: 400 malformed\n"), "{}", told.text);
    let told = stage.explain(&["--cookie", &cookie, "--act", "ott", "--user", "bob"]).await;
    assert!(told.text.contains("grants something else than was asked for\n"), "{}", told.text);
}

#[tokio::test]
async fn a_user_without_a_password_is_reported_to_the_operator() {
    let stage = Stage::new().await;
    stage.claims(json!({ "ext": "40", "tenant": "acme.test", "vox": "carol" }));
    let told = stage.explain(&["--cookie", "demo_app=1", "--act", "ott"]).await;
    assert!(told.text.contains("Refused: the users file has no such user: carol\n"), "{}", told.text);
}

#[tokio::test]
async fn json_has_the_same_content_for_programs() {
    let stage = Stage::new().await;
    let cookie = stage.app.log_in("bob");
    let file = stage.gate.file();
    for running in [&[][..], &["--running"]] {
        let arguments = [&["explain", "--config", &file, "--json", "--cookie", &cookie], running].concat();
        let mut command = callgate(&arguments);
        command.env("PBX_ADMIN", Options::default().admin_password);
        let output = run(command).await;
        let story: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(story["proven"]["claims"]["ext"], "41");
        assert_eq!(story["outcome"]["granted"]["pbx"]["account"], "41@acme.test");
        assert_eq!((&story["shown"], &story["client"]), (&json!(["app"]), &json!("127.0.0.1")));
    }
}

#[tokio::test]
async fn explain_counts_nothing_and_reports_the_counts() {
    let stage = Plan { limits: "failures = \"2/15min\"", ..Plan::default() }.start().await;
    for _ in 0..4 {
        let told = stage.explain(&["--cookie", "demo_app=0"]).await;
        assert!(!told.text.contains("But now"), "{}", told.text);
    }
    for status in [403, 403, 429] {
        stage.as_alice("/auth/pbx?account=41").send().await.expect(status);
    }
    let told = stage.run(&["--running", "--cookie", &stage.app.log_in("alice")], "").await;
    assert!(told.text.contains("\nBut now: the limit `failures` is used up: 429 for "), "{}", told.text);
    assert_eq!(told.code, Some(0), "{}", told.text);
}

#[tokio::test]
async fn the_running_gate_judges_by_what_it_has_loaded() {
    let mut stage = Stage::new().await;
    let cookie = stage.app.log_in("alice");
    let before = stage.run(&["--running", "--cookie", &cookie], "").await;
    assert_eq!(before.code, Some(0), "{}", before.text);
    let text = stage.gate.text.replace("name = \"staff\"", "name = \"crew\"");
    stage.gate.reload(&text).await.unwrap();
    let after = stage.run(&["--running", "--cookie", &cookie], "").await;
    assert!(after.text.contains("Granted by rule \"crew\""), "{}", after.text);
    // A file that is wrong by now, or whose secrets are not readable, does not matter: only the admin listener is read.
    let file = stage.gate.file();
    std::fs::write(&file, "listen = \"nonsense\"\nmore = 1\n[admin]\nlisten = \"unix:admin.sock\"\n").unwrap();
    let command = callgate(&["explain", "--config", &file, "--running", "--cookie", &cookie]);
    let output = run(command).await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_frozen_caller_gets_an_answer_that_says_so() {
    let stage = Stage::new().await;
    let order = r#"{"whom":"account 40@acme.test"}"#;
    let length = order.len();
    let answer = stage
        .gate
        .tell(&format!("POST /freeze HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{JSON}\r\n{order}"));
    assert_eq!(status(&answer), 200, "{answer}");
    let told = stage.run(&["--running", "--cookie", &stage.app.log_in("alice")], "").await;
    let end = "Refused: the account is frozen\nThe caller is told: 403 forbidden\n";
    assert!(told.code == Some(1) && told.text.ends_with(end), "{}", told.text);
    let told = stage.run(&["--running", "--cookie", &stage.app.log_in("bob")], "").await;
    assert_eq!(told.code, Some(0), "{}", told.text);
}

// === What cannot be answered ===

#[tokio::test]
async fn an_invalid_question_has_its_own_exit_code() {
    let stage = Stage::new().await;
    for (arguments, code, part) in [
        (&["--header", "no colon"][..], 2, "a header field is written as"),
        (&["--header", "a b: c"], 2, "no header field"),
        (&["--link", "https://app.test/other?x=1"], 2, "the path of the link is not"),
        (&["--cookie", "4f3a"], 2, "a cookie is written with its name"),
        (&["--link", "/auth/pbx?x=1"], 2, "has no host"),
        (&["--cookie", "-", "--bearer", "-"], 2, "only one credential"),
        (&["--host", "a b"], 2, "the host is not a valid host name"),
        (&["--certificate", "/nowhere.pem"], 2, "cannot read /nowhere.pem"),
        (&["--config", "/nowhere/proxy.toml"], 2, "cannot be used multiple times"),
    ] {
        let told = stage.run(arguments, "").await;
        assert!(told.code == Some(code) && told.text.contains(part), "{arguments:?}: {:?} {}", told.code, told.text);
    }
    for arguments in
        [&["explain", "--config", "/nowhere.toml"][..], &["explain", "--config", "/nowhere.toml", "--running"]]
    {
        assert_eq!(callgate(arguments).output().unwrap().status.code(), Some(78));
    }
    let file = stage.gate.file();
    std::fs::write(&file, "[admin]\nlisten = \"unix:nobody.sock\"\n").unwrap();
    let output = callgate(&["explain", "--config", &file, "--running"]).output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(&file, "[app]\n").unwrap();
    let output = callgate(&["explain", "--config", &file, "--running"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", String::from_utf8_lossy(&output.stderr));
}

// === The desk ===

fn post(gate: &Gate, fields: &str, body: &str) -> String {
    let length = body.len();
    gate.tell(&format!("POST /explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{fields}\r\n{body}"))
}

const QUESTION: &str =
    r#"{"act":"pbx","host":null,"from":null,"headers":[],"target":null,"certificate":null,"user":null}"#;
const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test]
async fn orders_are_taken_from_programs_and_not_from_pages() {
    for admin in ["", "[admin]\nlisten = \"127.0.0.1:0\""] {
        let stage = Plan { more: admin, ..Plan::default() }.start().await;
        let gate = &stage.gate;
        assert_eq!(status(&post(gate, JSON, QUESTION)), 200);
        for (fields, body, expected) in [
            ("Content-Type: text/plain\r\n", QUESTION, 415),
            ("Content-Type: application/x-www-form-urlencoded\r\n", QUESTION, 415),
            ("", QUESTION, 415),
            (&format!("{JSON}Origin: https://evil.test\r\n"), QUESTION, 403),
            (&format!("{JSON}Origin: null\r\n"), QUESTION, 403),
            (&format!("{JSON}Sec-Fetch-Site: none\r\n"), QUESTION, 403),
            (&format!("{JSON}Sec-Fetch-Mode: no-cors\r\n"), QUESTION, 403),
            (JSON, "{}", 400),
            (JSON, "", 400),
            (JSON, &QUESTION.replace("\"user\"", "\"usre\""), 400),
            (JSON, &QUESTION.replace("[]", "[[\"a\\nb\",\"c\"]]"), 400),
            (JSON, &QUESTION.replace("[]", "[[\"a\",\"c\\r\\nd: e\"]]"), 400),
            (JSON, &format!("{QUESTION}{}", " ".repeat(64 << 10)), 413),
        ] {
            let answer = post(gate, fields, body);
            assert_eq!(status(&answer), expected, "{fields}: {answer}");
            assert!(answer.contains("\"error\": ") && answer.contains("no-store"), "{answer}");
        }
        let answer = gate.told("/explain");
        assert!(status(&answer) == 405 && answer.to_lowercase().contains("allow: post\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn an_order_under_the_name_of_another_site_is_not_taken() {
    let stage = Plan { more: "[admin]\nlisten = \"127.0.0.1:0\"", ..Plan::default() }.start().await;
    let length = QUESTION.len();
    let order =
        format!("POST /explain HTTP/1.1\r\nHost: evil.test\r\nContent-Length: {length}\r\n{JSON}\r\n{QUESTION}");
    assert_eq!(status(&stage.gate.tell(&order)), 421);
}
