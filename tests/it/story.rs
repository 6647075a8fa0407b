//! The main job, end to end: a proven caller is logged in to the PBX and to Voximplant, and nobody else.

use callgate::demo::app::{App, AppOptions, SameSite};
use callgate::demo::vodia::{Options, Vodia};

use crate::harness::Gate;

/// A gate before the stand-ins for app and PBX.
pub async fn gate(more: &str) -> (Gate, App, Vodia) {
    let pbx = Vodia::start(Options::default()).await;
    let options = AppOptions {
        pbx_origin: "https://pbx.test".into(),
        tenant: "acme.test".into(),
        voximplant: None,
        cookie_same_site: SameSite::Lax,
    };
    let app = App::start(options).await;
    let text = format!(
        r#"
[app]
url = "http://{}"
whoami = "/api/me"
[pbx]
url = "http://{}"
hosts = ["pbx.test"]
admin = {{ user = "sso", password = {{ env = "PBX_ADMIN" }} }}
[voximplant]
users = {{ file = "voximplant.htdigest" }}
[[allow]]
name = "staff"
pbx = {{ domain = "{{tenant}}", account = "{{ext}}" }}
voximplant = "{{vox}}"
{more}"#,
        app.addr, pbx.addr
    );
    (Gate::start(&text).await, app, pbx)
}

#[tokio::test]
async fn a_link_logs_its_caller_in_to_the_pbx() {
    let (gate, app, pbx) = gate("").await;
    let answer = gate.get("/auth/pbx?lang=fr").cookie(&app.log_in("alice")).send().await.expect(303);
    let session = pbx.last_session().unwrap();
    gate.canary(&session);
    assert_eq!(answer.header("location"), format!("https://pbx.test/welcome.htm?sessId={session}&lang=fr"));
    assert_eq!(answer.header("cache-control"), "no-store");
    let mints = pbx.mints();
    assert_eq!(mints.len(), 1);
    assert_eq!((mints[0].username.as_deref(), mints[0].domain.as_deref()), (Some("40"), Some("acme.test")));
}

#[tokio::test]
async fn nobody_is_logged_in_as_nobody() {
    let (gate, _app, pbx) = gate("").await;
    gate.get("/auth/pbx").send().await.expect(401);
    gate.get("/auth/pbx").cookie("demo_app=wrong").send().await.expect(401);
    assert!(pbx.mints().is_empty());
}
