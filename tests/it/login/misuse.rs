//! Every method of login against every misuse, as docs/conformance.md lists them; the cases without a file of their own.
//!
//! One gate has all methods but certificates; the tests of certificates use the gate of `kit/client_certificates.rs`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use callgate::model::link::LinkKey;
use callgate::model::secret::Secret;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kit::app::Whoami;
use crate::kit::client::RequestBuilder;
use crate::kit::client_certificates::{BOTH, BY_MAIL, CertificateFiles, HOSTS, MtlsGate};
use crate::kit::gate::secret;
use crate::kit::issuer::{AUDIENCE, ISSUER, Signer, claims, now, with};
use crate::kit::links::sign;
use crate::kit::oidc::OidcStage;
use crate::kit::oidc::provider::Provider;
use crate::kit::stage::{Plan, Stage};
use crate::kit::upstream::RawUpstream;

const KEY: &str = "a-key-of-another-server-0123456789";
const SECRET: &str = "a-secret-of-thirty-two-bytes-or-more";
/// The proxy that is believed.
const PROXY: &str = "127.0.0.9";

const APP: &str = "[[auth]]\ntype = \"app\"\nwhoami = \"/api/me\"\ncookies = [\"demo_app\"]\n";

/// The methods, each by what shows its credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    App,
    Key,
    Link,
    TokenBearer,
    TokenField,
    TokenCookie,
    TokenQuery,
    Header,
    Oidc,
}

const WAYS: [Method; 9] = [
    Method::App,
    Method::Key,
    Method::Link,
    Method::TokenBearer,
    Method::TokenField,
    Method::TokenCookie,
    Method::TokenQuery,
    Method::Header,
    Method::Oidc,
];
const TOKENS: [Method; 4] = [Method::TokenBearer, Method::TokenField, Method::TokenCookie, Method::TokenQuery];

/// The credential of a request: a part of its query, and a field.
#[derive(Debug, Clone)]
struct Credential {
    query: String,
    field: Option<(&'static str, String)>,
}

impl Credential {
    fn field(name: &'static str, value: impl Into<String>) -> Self {
        Self { query: String::new(), field: Some((name, value.into())) }
    }

    fn query(query: impl Into<String>) -> Self {
        Self { query: query.into(), field: None }
    }
}

/// A gate with every method that a request can show a credential of, each for the account that its claims name.
struct AllMethods {
    scene: OidcStage,
    _keys: TempDir,
}

fn rules(keys: &TempDir) -> String {
    let token = |name: &str, place: &str| {
        format!(
            "[[auth]]\ntype = \"jwt\"\nname = \"{name}\"\nsecret = {{ file = \"{}/jwt\" }}\nissuer = \"{ISSUER}\"\n\
             audience = \"{AUDIENCE}\"\n{place}\n",
            keys.path().display()
        )
    };
    let digest = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, KEY.as_bytes()));
    [
        format!("[[auth]]\ntype = \"key\"\nsha256 = \"{digest}\"\nscopes = [\"pbx\"]\ndomains = [\"acme.test\"]\n"),
        "[[auth]]\ntype = \"link\"\nkeys = [{ kid = \"2026\", secret = { file = \"link.key\" } }]\nconfirm = \"never\"\n".to_owned(),
        token("bearer", ""),
        token("field", "header = \"x-token\""),
        token("cookie", "cookie = \"portal_token\""),
        token("query", "query = \"token\""),
        format!("[[auth]]\ntype = \"header\"\nfrom = [\"{PROXY}\"]\nuser = \"remote-user\"\nclaims = {{ ext = \"remote-ext\" }}\n"),
        "[[allow]]\nname = \"named\"\nauth = [\"key\", \"link\"]\npbx = { domain = \"{domain}\", account = \"{account}\" }\n".to_owned(),
        "[[allow]]\nname = \"claimed\"\nauth = [\"app\", \"bearer\", \"field\", \"cookie\", \"query\", \"header\", \"sso\"]\n\
         pbx = { domain = \"acme.test\", account = \"{ext}\" }\n"
            .to_owned(),
    ]
    .concat()
}

impl AllMethods {
    async fn open() -> Self {
        let keys = TempDir::new().unwrap();
        secret(&keys, "jwt", SECRET);
        let provider = Provider::start().await;
        let method = crate::kit::oidc::method("sso", &provider, "");
        let stage =
            Plan { app: "", rules: &rules(&keys), more: &(APP.to_owned() + &method), ..Plan::default() }.start().await;
        for text in [KEY, SECRET, crate::kit::oidc::SECRET] {
            stage.gate.canary(text);
        }
        Self { scene: OidcStage { stage, provider }, _keys: keys }
    }

    const fn stage(&self) -> &Stage {
        &self.scene.stage
    }

    /// Makes a good credential that leads to an account; nothing where none can carry it.
    async fn credential(&self, way: Method, account: &str) -> Option<Credential> {
        let clear = account.bytes().all(|byte| (b' '..0x7f).contains(&byte));
        Some(match way {
            Method::App => {
                self.stage().claims(json!({ "user": "alice", "ext": account, "tenant": "acme.test" }));
                Credential::field("cookie", self.stage().app.log_in("alice"))
            }
            Method::Key => Credential {
                query: form_urlencoded::Serializer::new(String::new()).append_pair("account", account).finish(),
                ..Credential::field("authorization", format!("Bearer {KEY}"))
            },
            Method::Link => {
                let link = sign("app.test", &[("account", account), ("domain", "acme.test")], 50);
                Credential::query(link.split_once('?').unwrap().1)
            }
            Method::TokenBearer | Method::TokenField | Method::TokenCookie | Method::TokenQuery => {
                self.token(way, &token(json!({ "ext": account })))
            }
            // The caller stands in another field; the account stands in this one.
            Method::Header if clear => Credential::field("remote-ext", account),
            Method::Header => return None,
            Method::Oidc => {
                self.scene.provider.set(|says| says.claims = json!({ "ext": account }));
                Credential::field("cookie", self.scene.cookie().await)
            }
        })
    }

    fn token(&self, way: Method, token: &str) -> Credential {
        self.stage().gate.canary(token);
        match way {
            Method::TokenBearer => Credential::field("authorization", format!("Bearer {token}")),
            Method::TokenField => Credential::field("x-token", token),
            Method::TokenCookie => Credential::field("cookie", format!("portal_token={token}")),
            _ => Credential::query(format!("token={token}")),
        }
    }

    /// Asks for a session with credentials, as a program does: a person would be led to a login.
    fn asking(&self, shown: &[&Credential]) -> RequestBuilder<'_> {
        let query: Vec<_> = shown.iter().map(|shown| &*shown.query).filter(|query| !query.is_empty()).collect();
        let mut asking = self.stage().gate.get(format!("/auth/pbx?{}", query.join("&")).trim_end_matches('?'));
        for (name, value) in shown.iter().filter_map(|shown| shown.field.as_ref()) {
            if *name == "remote-ext" {
                asking = asking.from(PROXY).header("remote-user", "alice");
            }
            asking = asking.header(name, value);
        }
        asking
    }

    async fn ask(&self, shown: &[&Credential]) -> u16 {
        self.asking(shown).send().await.status.as_u16()
    }

    /// Returns the reason in the last line of the audit log.
    fn reason(&self) -> String {
        let log = self.stage().gate.log();
        let line = log.lines().rfind(|line| line.contains(" audit ")).unwrap_or_default();
        line.split_once("reason=").map_or(line, |(_, reason)| reason).to_owned()
    }
}

/// Signs a token for alice, good in an address too.
fn token(changes: Value) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut claims = with(json!({ "jti": format!("id-{}", COUNT.fetch_add(1, Ordering::Relaxed)) }));
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    Signer::secret(SECRET).token(&claims)
}

// === Nothing at all ===

#[tokio::test]
async fn a_request_without_a_credential_logs_in_by_no_method() {
    let house = AllMethods::open().await;
    assert_eq!(house.ask(&[]).await, 401);
    // Nor does what is empty show anything.
    for empty in [
        Credential::field("cookie", "demo_app="),
        Credential::field("cookie", "portal_token="),
        Credential::field("cookie", "__Host-callgate="),
        Credential::field("authorization", ""),
        Credential::field("authorization", "Bearer"),
        Credential::field("x-token", ""),
        Credential::query("token="),
        Credential::query("sig="),
        Credential::query("v=1&kid=&exp=&nonce=&sig="),
        Credential::field("remote-user", "alice"),
    ] {
        let status = house.asking(&[&empty]).header("accept", "application/json").send().await.status;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{empty:?}");
    }
    assert_eq!(house.stage().minted(), [""; 0]);
}

// === Two at once ===

#[tokio::test]
async fn of_two_ways_at_once_none_is_gone() {
    let house = AllMethods::open().await;
    for (nth, one) in WAYS.into_iter().enumerate() {
        let alone = house.credential(one, "40").await.unwrap();
        assert_eq!(house.ask(&[&alone]).await, 303, "{one:?}: {}", house.reason());
        for other in WAYS.into_iter().skip(nth + 1) {
            let mints = house.stage().minted().len();
            let (mut first, second) =
                (house.credential(one, "40").await.unwrap(), house.credential(other, "40").await.unwrap());
            if other == Method::Link {
                // The link names the account: twice it would be no request for anybody.
                first.query.clear();
            }
            assert_eq!(house.ask(&[&first, &second]).await, 401, "{one:?} beside {other:?}");
            let reason = house.reason();
            let two_in_one_field = [Method::Key, Method::TokenBearer].contains(&one) && other == Method::TokenBearer;
            let expected =
                if two_in_one_field { "the bearer credential is malformed" } else { "more than one credential" };
            assert!(reason.contains(expected), "{one:?} beside {other:?}: {reason}");
            assert_eq!(house.stage().minted().len(), mints, "{one:?} beside {other:?}");
        }
    }
    let whole = house.stage().minted();
    assert!(whole.len() == WAYS.len() && whole.iter().all(|account| account == "40@acme.test"), "{whole:?}");
}

#[tokio::test]
async fn nothing_is_judged_beside_a_certificate() {
    let (files, keys) = (CertificateFiles::new(), TempDir::new().unwrap());
    secret(&keys, "jwt", SECRET);
    let rules =
        rules(&keys).replace(PROXY, "127.0.0.1").replace("\"query\", \"header\", \"sso\"", "\"query\", \"header\"");
    let door = MtlsGate::open(&files, &HOSTS[..4], &format!("{rules}\n{BY_MAIL}")).await;
    let config = files.shows(Some(&files.staff.client_named(&["email:40@acme.test"])), &BOTH);
    let good = token(json!({}));
    door.gate.canary(&good);
    for fields in [
        format!("Cookie: {}\r\n", door.app.log_in("bob")),
        format!("Cookie: portal_token={good}\r\n"),
        format!("Authorization: Bearer {KEY}\r\n"),
        format!("Authorization: Bearer {good}\r\n"),
        format!("X-Token: {good}\r\n"),
        "Remote-User: alice\r\nRemote-Ext: 41\r\n".to_owned(),
    ] {
        assert_eq!(door.ask(&config, "staff.test", &fields).await, 401, "{fields}");
    }
    assert_eq!(door.minted(), [""; 0]);
    assert_eq!(door.ask(&config, "staff.test", "").await, 303);
}

// === Accounts that are none ===

/// Names of which no rule can make an account.
fn no_accounts() -> Vec<String> {
    let texts = [
        "",
        " ",
        "admin",
        "ADMIN",
        "aDmIn",
        "40\n",
        "4\n0",
        "40\r\nX: 1",
        "4\t0",
        "40\0",
        "\u{7f}40",
        "40@acme.test",
        "40\"",
        "40'",
        "40\\",
        "40 41",
        "40,41",
        "40/41",
        "../40",
        "40?a=b",
        "40&user=admin",
        "40%00",
        "{ext}",
        "é",
        "ａdmin",
        "40\u{200b}",
    ];
    texts.map(str::to_owned).into_iter().chain(["4".repeat(65)]).collect()
}

#[tokio::test]
async fn no_method_leads_to_an_invalid_account() {
    let house = AllMethods::open().await;
    for way in WAYS {
        let mut tried = 0;
        for account in no_accounts() {
            let Some(shown) = house.credential(way, &account).await else { continue };
            let status = house.ask(&[&shown]).await;
            assert!([400, 401, 403].contains(&status), "{way:?} {account:?}: {status}");
            tried += 1;
        }
        assert!(tried > 15 && house.stage().pbx.requests().is_empty(), "{way:?}: {:?}", house.stage().minted());
    }
    for way in WAYS {
        let shown = house.credential(way, "40").await.unwrap();
        assert_eq!(house.ask(&[&shown]).await, 303, "{way:?}: {}", house.reason());
    }
}

#[tokio::test]
async fn no_certificate_leads_to_an_invalid_account() {
    let files = CertificateFiles::new();
    let door = MtlsGate::open(&files, &HOSTS[..4], BY_MAIL).await;
    // The names of a certificate are ASCII.
    for account in no_accounts().into_iter().filter(|account| account.is_ascii() && !account.contains('@')) {
        let name = format!("email:{account}@acme.test");
        let config = files.shows(Some(&files.staff.client_named(&[&name])), &BOTH);
        let status = door.ask(&config, "staff.test", "").await;
        assert!([401, 403].contains(&status), "{account:?}: {status}");
    }
    assert!(door.pbx.requests().is_empty());
    let config = files.shows(Some(&files.staff.client_named(&["email:40@acme.test"])), &BOTH);
    assert_eq!(door.ask(&config, "staff.test", "").await, 303);
}

#[tokio::test]
async fn no_answer_of_the_app_leads_to_an_invalid_account() {
    const RULES: &str = "[[allow]]\nauth = \"redirect\"\npbx = { domain = \"{domain}\", account = \"{account}\" }";
    let account = Arc::new(Mutex::new(String::new()));
    let said = Arc::clone(&account);
    let app = RawUpstream::serving(move |mut line| {
        let said = Arc::clone(&said);
        async move {
            while line.request().await.is_some() {
                let account = said.lock().unwrap().clone();
                line.say(format!(
                    "HTTP/1.1 302 Found\r\nLocation: https://pbx.test/welcome.htm\r\nPBX-Account: {account}\r\n\
                     PBX-Domain: acme.test\r\nContent-Length: 0\r\n\r\n"
                ))
                .await;
            }
        }
    })
    .await;
    let stage = Plan { app: "", rules: RULES, voximplant: "", app_at: Some(app.addr), ..Plan::default() }.start().await;
    // A line feed would end the field: what stands behind it is no part of it.
    for text in no_accounts().into_iter().filter(|text| !text.contains('\n')) {
        account.lock().unwrap().clone_from(&text);
        let answer = stage.gate.get("/").send().await;
        assert!(!answer.header("location").contains("sessId="), "{text:?}: {answer:?}");
        assert!(stage.pbx.requests().is_empty(), "{text:?}");
    }
    "40".clone_into(&mut account.lock().unwrap());
    assert!(stage.gate.get("/").send().await.header("location").contains("sessId="));
}

// === Tokens, wherever they are ===

#[tokio::test]
async fn a_bad_token_is_none_wherever_it_is() {
    let house = AllMethods::open().await;
    let signer = Signer::secret(SECRET);
    let other = Signer::secret("another-secret-of-thirty-two-bytes");
    let pem = Signer::rsa().pem();
    for way in TOKENS {
        let id = || json!({ "jti": format!("{way:?}") });
        let unsigned = signer.sign(&json!({ "alg": "none" }), &with(id()));
        let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
        for (bad, reason) in [
            ("a.b.c".to_owned(), "malformed"),
            (unsigned, "algorithm is unknown"),
            (signer.sign(&json!({ "alg": "nOnE" }), &with(id())), "algorithm is unknown"),
            (other.token(&with(id())), "signature is wrong"),
            (Signer::secret(&pem).token(&with(id())), "signature is wrong"),
            (Signer::rsa().token(&with(id())), "algorithm is not one of the key's"),
            (token(json!({ "exp": now() - 60 })), "has expired"),
            (token(json!({ "aud": "another" })), "for another audience"),
            (token(json!({ "iss": "https://evil.test" })), "issuer is not a trusted one"),
        ] {
            let shown = house.token(way, &bad);
            assert_eq!(house.ask(&[&shown]).await, 401, "{way:?} {reason}");
            assert!(house.reason().contains(reason), "{way:?}: not {reason:?} but {}", house.reason());
        }
        assert_eq!(house.stage().minted(), [""; 0], "{way:?}");
    }
    // In an address once, elsewhere until its end.
    for way in TOKENS {
        let shown = house.token(way, &token(json!({})));
        assert_eq!(house.ask(&[&shown]).await, 303, "{way:?}");
        assert_eq!(house.ask(&[&shown]).await, if way == Method::TokenQuery { 401 } else { 303 }, "{way:?}");
    }
}

/// A key pair's public half is known to all, so it is no secret, in no place.
#[tokio::test]
async fn a_public_key_signs_nothing_wherever_the_token_is() {
    let (signer, keys) = (Signer::ec(), TempDir::new().unwrap());
    secret(&keys, "public.pem", &signer.pem());
    for (place, name, lead) in [("header = \"x-token\"", "x-token", ""), ("cookie = \"t0\"", "cookie", "t0=")] {
        let rules = format!(
            "[[auth]]\ntype = \"jwt\"\npublic_key = \"{}/public.pem\"\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n{place}\n{}",
            keys.path().display(),
            crate::kit::stage::STAFF
        );
        let stage = Plan { app: "", rules: &rules, ..Plan::default() }.start().await;
        let ask = |token: String| stage.gate.get("/auth/pbx").header(name, &format!("{lead}{token}"));
        ask(Signer::secret(&signer.pem()).token(&claims())).send().await.expect(401);
        stage.gate.line(&["audit refusal", "algorithm is not one of the key's"]).await;
        ask(signer.token(&claims())).send().await.expect(303);
    }
}

// === What each method has alone ===

#[tokio::test]
async fn a_link_that_another_key_signed_is_refused() {
    let house = AllMethods::open().await;
    let until = Timestamp::now() + SignedDuration::from_secs(50);
    let forged = LinkKey::new("2026".to_owned(), &Secret::new("another-secret-of-thirty-two-bytes".to_owned()));
    let query = forged.sign("app.test", &[("account", "40"), ("domain", "acme.test")], until, &"n".repeat(22));
    assert_eq!(house.ask(&[&Credential::query(query)]).await, 401);
    assert!(house.reason().contains("the signature does not fit"), "{}", house.reason());
    assert_eq!(house.stage().minted(), [""; 0]);
}

#[tokio::test]
async fn a_login_that_another_gate_remembers_does_not_count_here() {
    let (one, other) = (OidcStage::new().await, OidcStage::new().await);
    let cookie = one.cookie().await;
    one.stage.gate.get("/auth/pbx").cookie(&cookie).send().await.expect(303);
    other.stage.gate.get("/auth/pbx").cookie(&cookie).send().await.expect(401);
    assert_eq!(other.stage.minted(), [""; 0]);
}

#[tokio::test]
async fn names_that_look_like_our_places_in_an_address_are_others() {
    let house = AllMethods::open().await;
    let good = token(json!({}));
    house.stage().gate.canary(&good);
    for name in ["Token", "TOKEN", "token%00", "token[]", "access_token"] {
        assert_eq!(house.ask(&[&Credential::query(format!("{name}={good}"))]).await, 401, "{name}");
    }
    // The value of another parameter belongs to the app, in its log line too.
    for name in ["xtoken", "token2"] {
        assert_eq!(house.ask(&[&Credential::query(format!("{name}={}", token(json!({}))))]).await, 401, "{name}");
    }
    let link = house.credential(Method::Link, "40").await.unwrap().query;
    assert_eq!(house.ask(&[&Credential::query(link.replace("sig=", "Sig="))]).await, 401);
    assert_eq!(house.ask(&[&Credential::query(link.replace("sig=", "signature="))]).await, 401);
    assert_eq!(house.stage().minted(), [""; 0]);
    assert_eq!(house.ask(&[&Credential::query(link)]).await, 303);
    assert_eq!(house.ask(&[&Credential::query(format!("token={good}"))]).await, 303);
}

/// Which of two cookies of one name counts, apps do not agree on: it is left to the one that is asked.
#[tokio::test]
async fn a_cookie_that_stands_twice_is_shown_to_the_app_as_it_came() {
    let house = AllMethods::open().await;
    let both = format!("{}; {}", house.stage().app.log_in("alice"), house.stage().app.log_in("bob"));
    house.ask(&[&Credential::field("cookie", both.clone())]).await;
    let asked = house.stage().app.requests().pop().unwrap();
    assert_eq!((&*asked.target, asked.header("cookie")), ("/api/me", Some(&*both)));
}

/// Whatever the app said before, what it says now counts.
#[tokio::test]
async fn a_cookie_whose_login_has_ended_is_no_login() {
    let house = AllMethods::open().await;
    let shown = house.credential(Method::App, "40").await.unwrap();
    assert_eq!(house.ask(&[&shown]).await, 303);
    house.stage().app.set(|faults| faults.whoami = Whoami::Status(StatusCode::UNAUTHORIZED));
    assert_eq!(house.ask(&[&shown]).await, 401);
    house.stage().app.set(|faults| faults.whoami = Whoami::Status(StatusCode::FORBIDDEN));
    assert_eq!(house.ask(&[&shown]).await, 401);
    assert_eq!(house.stage().minted().len(), 1);
}
