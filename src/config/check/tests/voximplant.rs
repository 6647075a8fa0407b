//! `[voximplant]`.

use super::*;
use crate::model::freeze_target::FreezeMeans;

#[test]
fn applications_are_told_apart() {
    let text = |own: &str, tail: &str| {
        format!(
            "{TOP}[app]\nurl = \"http://a\"\nwhoami = \"/me\"\n[voximplant]\nusers = {{ file = \"voximplant.htdigest\" }}\n{own}\n{tail}"
        )
    };
    let other = |name: &str| {
        format!("[[voximplant.applications]]\nname = \"{name}\"\nusers = {{ file = \"voximplant.htdigest\" }}\n")
    };
    let own = "application = \"phone.acme\"";
    let rule = |user: &str| format!("{}[[allow]]\nvoximplant = \"{user}\"", other("sales.acme"));
    for (own, tail, expected) in [
        (
            "",
            other("sales.acme"),
            "9:1: `voximplant.applications`: there are several applications, and the first has no name",
        ),
        (own, other("phone.acme"), "10:8: `voximplant.applications.name`: this application has users already"),
        (own, other("phone.acme.n2"), "10:8: `voximplant.applications.name`: this application has users already"),
        (own, other("sales"), "10:8: `voximplant.applications.name`: not of the form myapp.myaccount"),
        (
            own,
            rule("{vox}@phone.acme"),
            "13:14: `allow.voximplant`: the users of this application have no name behind the @",
        ),
        (own, rule("{vox}@sale.acme"), "13:14: `allow.voximplant`: there is no application `sale.acme`"),
    ] {
        check_text(&text(own, &tail), &[expected]);
    }
    for user in
        ["{vox}", "ann", "{vox}@sales.acme", "ann@sales.acme", "{email|before:@}", "{email|before:@}@sales.acme"]
    {
        accepted(&text(own, &rule(user)));
    }
}

#[test]
fn the_management_api_is_read_strictly() {
    let text = |management: &str| {
        format!(
            "{TOP}[app]\nurl = \"http://a\"\n[voximplant]\nusers = {{ file = \"voximplant.htdigest\" }}\napplication = \"phone.acme\"\nmanagement = {{ {management} }}"
        )
    };
    let key = "account_id = 1, api_key = { file = \"secrets/pbx-admin\" }";
    for (management, expected) in [
        ("", "8:14: `voximplant.management`: must have exactly one credential"),
        ("account_id = 1", "8:14: `voximplant.management`: must have exactly one credential"),
        (
            "service_account = { file = \"secrets/pbx-admin\" }",
            "8:34: `voximplant.management.service_account`: not the key of a service account",
        ),
        (
            "service_account = \"x\"",
            "8:34: `voximplant.management.service_account`: a secret must not be written in this file",
        ),
    ] {
        check_text(&text(management), &[expected]);
    }
    for url in ["http://api.test/", "https://api.test", "ftp://a/", "https://u@a.test/", "https://a.test/?x/"] {
        let problems = refused(&text(&format!("{key}, url = \"{url}\"")));
        assert!(problems.to_string().contains("not the URL of an API"), "{url}: {problems}");
    }
    let read = accepted(&text(key)).voximplant.unwrap().management.unwrap();
    assert_eq!((read.account_id, &*read.url), (1, "https://api.voximplant.com/platform_api/"));
    accepted(&text(&format!("{key}, url = \"http://127.0.0.1:1/platform_api/\"")));
    check_text(
        &text(key).replace("application = \"phone.acme\"\n", ""),
        &["7:14: `voximplant.management`: the application has no name"],
    );
}

#[test]
fn voximplant_is_read_strictly() {
    let voximplant = |tail: &str| format!("{TOP}[app]\nurl = \"http://a\"\n[voximplant]\n{tail}");
    let users = |tail: &str| voximplant(&format!("users = {{ file = \"voximplant.htdigest\" }}\n{tail}"));
    check_text(&voximplant("users = \"voximplant.htdigest\""), &["6:9: `voximplant.users`: must be a table"]);
    check_text(
        &voximplant("users = { file = \"missing\" }"),
        &["6:18: `voximplant.users.file`: cannot read missing: No such file or directory"],
    );
    let problems = refused(&voximplant("users = { file = \"bad.htdigest\" }"));
    assert!(problems.to_string().contains("6:18: `voximplant.users.file`: bad.htdigest line 2: "), "{problems}");
    for (tail, expected) in [
        ("max_key_length = 96", "7:18: `voximplant.max_key_length`: keys this long give the password away"),
        ("max_key_length = 0", "7:18: `voximplant.max_key_length`: is out of bounds"),
        ("application = \"myapp\"", "7:15: `voximplant.application`: not of the form myapp.myaccount"),
        ("application = \"a.b.voximplant.com\"", "7:15: `voximplant.application`: not of the form myapp.myaccount"),
        ("origins = [\"*\"]", "7:12: `voximplant.origins`: any page could ask"),
        (
            "origins = [\"null\"]",
            "7:12: `voximplant.origins`: every sandboxed page and every file sends it: any page could ask",
        ),
        (
            "origins = [\"file://\"]",
            "7:12: `voximplant.origins`: pages of files send \"null\", as every sandboxed page does",
        ),
        ("origins = [\"https://a/\"]", "7:12: `voximplant.origins`: an origin ends behind its host and port"),
        ("origins = [\"capacitor://localhost/\"]", "7:12: `voximplant.origins`: not an origin"),
        ("origins = [\"Capacitor://localhost\"]", "7:12: `voximplant.origins`: not an origin"),
        ("origins = [\"app://\"]", "7:12: `voximplant.origins`: not an origin"),
        ("origins = [\"data://a\"]", "7:12: `voximplant.origins`: not an origin"),
        ("origins = [\"app.example.com\"]", "7:12: `voximplant.origins`: not an origin"),
        ("origins = [\"https://A\"]", "7:12: `voximplant.origins`: not spelled as browsers send it"),
        ("origins = [\"https://a:443\"]", "7:12: `voximplant.origins`: not spelled as browsers send it"),
        ("origins = [\"http://a.test\"]", "7:12: `voximplant.origins`: a page over http:// can be changed in transit"),
        ("origins = [\"https://a\", \"https://a\"]", "7:25: `voximplant.origins`: the same origin twice"),
        ("distinct_keys = 5", "7:17: `voximplant.distinct_keys`: must be a string in quotes"),
    ] {
        check_text(&users(tail), &[expected]);
    }
    for origin in [
        "capacitor://localhost",
        "ionic://localhost",
        "tauri://localhost",
        "app://.",
        "app://obsidian.md",
        "http://tauri.localhost",
        "https://localhost",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "safari-web-extension://E5B9A4B2-0000-4000-8000-ABCDEF012345",
    ] {
        accepted(&users(&format!("origins = [\"{origin}\"]")));
    }
    check_hint(
        "[app]\nurl = \"http://a\"\n[voximplant]\nusers = { file = \"voximplant.htdigest\" }\norigins = [\"https://A.test/phone\"]",
        "write \"https://a.test\"",
    );
    let read = accepted(&users("application = \"a.b\"\nmax_key_length = 64\norigins = [\"https://a:8443\", \"http://localhost:3000\", \"http://[::1]\"]")).voximplant.unwrap();
    assert_eq!((read.application.as_deref(), read.max_key_length, read.origins.len()), (Some("a.b"), 64, 3));
    check_hint(
        "[app]\nurl = \"http://a\"\n[voximplant]\nusers = { file = \"voximplant.htdigest\" }\nmax_key_length = 500",
        "chosen-challenge attack",
    );
}

#[test]
fn a_freeze_stops_phones_where_there_is_access_to_them() {
    let text = |tail: &str| {
        format!(
            "{TOP}[app]\nurl = \"http://a\"\n[voximplant]\nusers = {{ file = \"voximplant.htdigest\" }}\napplication = \"phone.acme\"\n{tail}"
        )
    };
    let management = "management = { account_id = 1, api_key = { file = \"secrets/pbx-admin\" } }";
    let means = |tail: &str| accepted(&text(&format!("{management}\n{tail}"))).voximplant.unwrap().freeze;
    assert_eq!(means(""), FreezeMeans::Deactivate);
    assert_eq!(means("freeze = \"rotate\""), FreezeMeans::Rotate);
    check_text(
        &text("freeze = \"deactivate\""),
        &["8:10: `voximplant.freeze`: there is no access to Voximplant's users"],
    );
    check_text(
        &text(&format!("{management}\nfreeze = \"delete\"")),
        &["9:10: `voximplant.freeze`: unknown word `delete`"],
    );
}
