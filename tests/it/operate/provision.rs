//! `callgate provision`: users at Voximplant with random passwords.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use callgate::model::ott::Ha1;
use callgate::tls::dev;
use tempfile::TempDir;

use crate::kit::commands::{callgate, run};
use crate::kit::gate::secret;
use crate::kit::management::{Management, Trouble};

const PHONE: &str = "phone.acme.voximplant.com";
const SALES: &str = "sales.acme.voximplant.com";

/// A configuration with two applications, before an API that knows ann in both.
struct ProvisionFolder {
    dir: TempDir,
    api: Management,
}

impl ProvisionFolder {
    async fn with(proof: impl Fn(&Management) -> &'static str) -> Self {
        let dir = TempDir::new().unwrap();
        let api = Management::start(&[(PHONE, "ann"), (SALES, "ann")]).await;
        let certificate = dev::certificate(&["app.test"]).unwrap();
        secret(&dir, "fullchain.pem", &certificate.chain);
        secret(&dir, "privkey.pem", &certificate.key);
        secret(&dir, "account.json", &api.service_account);
        secret(&dir, "api-key", &api.api_key);
        let line = |user: &str| format!("{user}:voximplant.com:{}\n", Ha1::of(user, "old").expose());
        secret(&dir, "phone.htdigest", &format!("# phones\n{}{}", line("ann"), line("bob")));
        secret(&dir, "sales.htdigest", &line("ann"));
        let text = format!(
            r#"
listen = "127.0.0.1:0"
tls = {{ cert = "fullchain.pem", key = "privkey.pem" }}
[app]
url = "http://127.0.0.1:1"
whoami = "/api/me"
[voximplant]
users = {{ file = "phone.htdigest" }}
application = "phone.acme"
management = {{ {}, url = "http://{}/platform_api/" }}
[[voximplant.applications]]
name = "sales.acme"
users = {{ file = "sales.htdigest" }}
[[allow]]
voximplant = "{{vox}}"
"#,
            proof(&api),
            api.addr
        );
        secret(&dir, "proxy.toml", &text);
        Self { dir, api }
    }

    async fn new() -> Self {
        Self::with(|_| "service_account = { file = \"account.json\" }").await
    }

    async fn provision(&self, arguments: &[&str]) -> Output {
        let config = self.dir.path().join("proxy.toml").display().to_string();
        let arguments = [&["provision", "--config", &config], arguments].concat();
        let command = callgate(&arguments);
        run(command).await
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    fn ha1(&self, file: &str, user: &str) -> Option<String> {
        let text = self.file(file);
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{user}:voximplant.com:")));
        line.map(str::to_owned)
    }
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[track_caller]
fn check_failed(output: &Output, words: &str) {
    assert_eq!(output.status.code(), Some(1), "{}", told(output));
    assert!(told(output).contains(words), "{}", told(output));
}

#[tokio::test]
async fn a_password_is_set_and_only_its_ha1_is_kept() {
    let desk = ProvisionFolder::new().await;
    let bob = desk.ha1("phone.htdigest", "bob");
    let output = desk.provision(&["--user", "ann"]).await;
    assert!(output.status.success(), "{}", told(&output));
    let password = desk.api.password(PHONE, "ann").unwrap();
    assert!(password.len() > 30, "{password}");
    assert_eq!(desk.ha1("phone.htdigest", "ann").as_deref(), Some(Ha1::of("ann", &password).expose()));
    assert_eq!(desk.ha1("phone.htdigest", "bob"), bob);
    assert!(desk.file("phone.htdigest").starts_with("# phones\n"));
    let mode = fs::metadata(desk.dir.path().join("phone.htdigest")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for file in fs::read_dir(&desk.dir).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains(&password), "the password is in a file");
    }
    assert!(!told(&output).contains(&password) && !desk.api.targets().concat().contains(&password));
    // Another run sets another one.
    assert!(desk.provision(&["--user", "ann"]).await.status.success());
    assert_ne!(desk.api.password(PHONE, "ann").unwrap(), password);
}

#[tokio::test]
async fn a_user_is_added_where_it_is_new() {
    let desk = ProvisionFolder::new().await;
    check_failed(&desk.provision(&["--user", "eve"]).await, "nothing was changed: Voximplant refuses, code 117");
    assert_eq!(desk.ha1("phone.htdigest", "eve"), None);
    assert!(desk.provision(&["--user", "eve", "--create"]).await.status.success());
    let password = desk.api.password(PHONE, "eve").unwrap();
    assert_eq!(desk.ha1("phone.htdigest", "eve").as_deref(), Some(Ha1::of("eve", &password).expose()));
    check_failed(&desk.provision(&["--user", "eve", "--create"]).await, "code 118");
    assert_eq!(desk.api.password(PHONE, "eve"), Some(password));
}

#[tokio::test]
async fn each_application_has_its_own_file() {
    let desk = ProvisionFolder::new().await;
    let phone = desk.file("phone.htdigest");
    assert!(desk.provision(&["--user", "ann@sales.acme"]).await.status.success());
    let password = desk.api.password(SALES, "ann").unwrap();
    assert_eq!(desk.ha1("sales.htdigest", "ann").as_deref(), Some(Ha1::of("ann", &password).expose()));
    assert_eq!(desk.api.password(PHONE, "ann").as_deref(), Some(""));
    assert_eq!(desk.file("phone.htdigest"), phone);
    check_failed(&desk.provision(&["--user", "ann@other.acme"]).await, "lists no other.acme");
}

#[tokio::test]
async fn a_key_of_the_account_proves_the_same() {
    let desk = ProvisionFolder::with(|_| "account_id = 1234567, api_key = { file = \"api-key\" }").await;
    let output = desk.provision(&["--user", "ann"]).await;
    assert!(output.status.success(), "{}", told(&output));
    assert!(!desk.api.targets().concat().contains(&desk.api.api_key), "not in an address");
    secret(&desk.dir, "api-key", "wrong");
    check_failed(&desk.provision(&["--user", "ann"]).await, "nothing was changed: Voximplant refuses, code 100");
}

#[tokio::test]
async fn a_change_that_voximplant_may_have_made_is_reported() {
    let desk = ProvisionFolder::new().await;
    let before = desk.file("phone.htdigest");
    for (trouble, words) in [
        (Trouble::HangsUpAfterwards, "Voximplant may have set a new password: run this again"),
        (Trouble::Page, "Voximplant sent an unreadable answer"),
        (Trouble::Quotes, "Voximplant refuses, code 1: ***"),
    ] {
        desk.api.set(trouble);
        let output = desk.provision(&["--user", "ann"]).await;
        check_failed(&output, words);
        assert!(!told(&output).contains("user_password"), "{}", told(&output));
        assert_eq!(desk.file("phone.htdigest"), before);
    }
    assert_eq!(fs::read_dir(&desk.dir).unwrap().count(), 7, "no draft stays behind");
    desk.api.set(Trouble::None);
    assert!(desk.provision(&["--user", "ann"]).await.status.success());
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_stops_before_voximplant_is_asked() {
    let desk = ProvisionFolder::new().await;
    // A folder in the place of the draft: even root cannot remove it as a file.
    fs::create_dir(desk.dir.path().join(".phone.htdigest.callgate")).unwrap();
    check_failed(&desk.provision(&["--user", "ann"]).await, "nothing was changed");
    assert!(desk.api.targets().is_empty());
}

#[tokio::test]
async fn missing_parts_are_named() {
    let desk = ProvisionFolder::new().await;
    let text = desk.file("proxy.toml");
    let without = text.lines().filter(|line| !line.starts_with("management")).collect::<Vec<_>>().join("\n");
    secret(&desk.dir, "proxy.toml", &without);
    check_failed(&desk.provision(&["--user", "ann"]).await, "[voximplant] has no `management`");
}
