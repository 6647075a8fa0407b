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
use crate::kit::stage::until;

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

// === A list ===

impl ProvisionFolder {
    /// Provisions the users of a list.
    async fn list(&self, text: &str) -> Output {
        fs::write(self.dir.path().join("users.csv"), text).unwrap();
        let path = self.dir.path().join("users.csv").display().to_string();
        self.provision(&["--from", &path]).await
    }

    /// Checks that the users file has the HA1 of the user's password at Voximplant.
    #[track_caller]
    fn check_ha1(&self, file: &str, application: &str, user: &str) -> String {
        let password = self.api.password(application, user).unwrap();
        assert_eq!(self.ha1(file, user).as_deref(), Some(Ha1::of(user, &password).expose()), "{user}");
        password
    }
}

#[tokio::test]
async fn a_list_adds_its_users_and_a_second_run_changes_nothing() {
    let desk = ProvisionFolder::new().await;
    fs::write(desk.dir.path().join("audit.log"), "").unwrap();
    let audited = format!("{}\n[audit]\nfile = \"audit.log\"\n", desk.file("proxy.toml"));
    secret(&desk.dir, "proxy.toml", &audited);
    let list = "user,display_name\neve,\"Eve, Sales\"\nann,Ann\ndan@sales.acme,\nfay,\n";
    let output = desk.list(list).await;
    assert!(output.status.success(), "{}", told(&output));
    let lines = told(&output);
    for (line, words) in
        [(2, "eve added at Voximplant"), (3, "ann is in the users file already"), (4, "dan@sales.acme added")]
    {
        assert!(lines.contains(&format!("users.csv line {line}: {words}")), "{lines}");
    }
    assert!(
        lines.ends_with("4 users: 3 added, 0 with a new password, 1 known already, 0 frozen, 0 refused\n"),
        "{lines}"
    );
    let password = desk.check_ha1("phone.htdigest", PHONE, "eve");
    desk.check_ha1("sales.htdigest", SALES, "dan");
    assert_eq!(desk.api.user(PHONE, "eve").unwrap().display_name, "Eve, Sales");
    assert_eq!(desk.api.user(PHONE, "fay").unwrap().display_name, "fay");
    assert_eq!(desk.api.password(PHONE, "ann").as_deref(), Some(""), "a known user keeps its password");
    let mode = fs::metadata(desk.dir.path().join("phone.htdigest")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let audit = desk.file("audit.log");
    assert!(audit.contains(r#""kind":"audit create","account":"eve@phone.acme","by":"uid "#), "{audit}");
    for text in [&lines, &audit, &desk.api.targets().concat()] {
        assert!(!text.contains(&password), "a password is shown");
    }
    let done = desk.api.done();
    let again = desk.list(list).await;
    assert!(told(&again).ends_with("4 users: 0 added, 0 with a new password, 4 known already, 0 frozen, 0 refused\n"));
    assert_eq!(desk.api.done(), done);
}

#[tokio::test]
async fn a_wrong_line_of_a_list_stops_all_before_the_first_request() {
    let desk = ProvisionFolder::new().await;
    let before = desk.file("phone.htdigest");
    let output = desk.list("user\neve\nDan\nfay@other.acme\neve\n").await;
    check_failed(&output, "users.csv line 3: the user is \"Dan\"");
    assert!(told(&output).contains("users.csv line 5: eve is on line 2 already"), "{}", told(&output));
    let output = desk.list("user\neve\nfay@other.acme\n").await;
    check_failed(&output, "users.csv line 3: fay@other.acme: [[voximplant.applications]] lists no other.acme");
    assert!(told(&output).ends_with("callgate: nothing was changed\n"), "{}", told(&output));
    check_failed(&desk.list("name\neve\n").await, "users.csv line 1: unknown column \"name\"");
    check_failed(&desk.provision(&["--from", "/no/such/list"]).await, "cannot read /no/such/list");
    assert_eq!((desk.api.targets().len(), desk.file("phone.htdigest")), (0, before));
    assert_eq!(desk.provision(&["--from", "x", "--user", "ann"]).await.status.code(), Some(2));
    assert_eq!(desk.provision(&[]).await.status.code(), Some(2));
}

#[tokio::test]
async fn a_run_that_was_interrupted_is_repeated() {
    let desk = ProvisionFolder::new().await;
    // It knows three users, and there may be four.
    desk.api.set_most(3);
    let list = "user\neve\ndan\n";
    let output = desk.list(list).await;
    check_failed(&output, "users.csv line 3: dan: stopped here; 1 of 2 users are done: run this again");
    assert!(told(&output).contains("code 109"), "{}", told(&output));
    let password = desk.check_ha1("phone.htdigest", PHONE, "eve");
    desk.api.set_most(9);
    let output = desk.list(list).await;
    assert!(told(&output).ends_with("2 users: 1 added, 0 with a new password, 1 known already, 0 frozen, 0 refused\n"));
    desk.check_ha1("phone.htdigest", PHONE, "dan");
    assert_eq!(desk.api.password(PHONE, "eve"), Some(password));
    // Added at Voximplant, but the run ended before the users file was written.
    let file = desk.file("phone.htdigest");
    let without: String =
        file.lines().filter(|line| !line.starts_with("dan:")).map(|line| format!("{line}\n")).collect();
    secret(&desk.dir, "phone.htdigest", &without);
    let output = desk.list(list).await;
    assert!(
        told(&output).contains("users.csv line 3: dan existed at Voximplant; has a new password"),
        "{}",
        told(&output)
    );
    desk.check_ha1("phone.htdigest", PHONE, "dan");
}

#[tokio::test]
async fn a_busy_api_is_asked_again_and_a_refused_user_stops_no_other() {
    let desk = ProvisionFolder::new().await;
    for (trouble, user) in [(Trouble::RefusesAll, "eve"), (Trouble::Breaks, "dan"), (Trouble::HangsUpAfterwards, "fay")]
    {
        desk.api.set(trouble);
        let asked = desk.api.targets().len();
        let repaired = async {
            until("a request", || desk.api.targets().len() > asked).await;
            desk.api.set(Trouble::None);
        };
        let list = format!("user\n{user}\n");
        let (output, ()) = tokio::join!(desk.list(&list), repaired);
        assert!(output.status.success() && told(&output).contains("tried again in "), "{}", told(&output));
        desk.check_ha1("phone.htdigest", PHONE, user);
    }
    let long = "x".repeat(200);
    let output = desk.list(&format!("user,display_name\ngus,{long}\nhal,Hal\n")).await;
    check_failed(&output, "gus: Voximplant refuses, code 157");
    assert!(told(&output).contains("2 users: 1 added, 0 with a new password, 0 known already, 0 frozen, 1 refused\n"));
    desk.check_ha1("phone.htdigest", PHONE, "hal");
    assert_eq!(desk.ha1("phone.htdigest", "gus"), None);
}

#[tokio::test]
async fn a_frozen_user_gets_no_password() {
    let desk = ProvisionFolder::new().await;
    let state = desk.dir.path().join("state");
    let text = format!("{}\n[state]\nfile = \"{}\"\n", desk.file("proxy.toml"), state.display());
    secret(&desk.dir, "proxy.toml", &text);
    let store = callgate::state::Store::open(&state).unwrap();
    let freeze = callgate::state::Freeze {
        since: jiff::Timestamp::now(),
        until: None,
        by: String::new(),
        why: String::new(),
        shared: None,
    };
    store.freeze("user eve", freeze.clone()).await.unwrap();
    store.freeze("user ann@phone.acme", freeze).await.unwrap();
    drop(store);
    check_failed(&desk.provision(&["--user", "ann"]).await, "nothing was changed: ann is frozen: thaw it first");
    let output = desk.list("user\neve\ndan\n").await;
    assert!(told(&output).contains("users.csv line 2: eve is frozen, and was left as it is"), "{}", told(&output));
    assert_eq!(desk.api.done(), ["add dan"]);
}
