//! `[[auth]]`: names, and the types `key`, `link` and `app`.

use super::*;

#[test]
fn keys_say_what_they_may_do() {
    let key = |tail: &str| format!("[[auth]]\ntype = \"key\"\n{tail}");
    for (tail, expected) in [
        (format!("{HASH}\nscopes = []"), "10:10: `auth.scopes`: is an empty list"),
        (format!("{HASH}\nscopes = [\"pxb\"]\n"), "10:11: `auth.scopes`: unknown word `pxb`"),
        (format!("{HASH}\nscopes = [\"pbx\"]"), "7:1: `auth.domains` is missing"),
        (format!("{HASH}\nscopes = [\"ott\"]"), "7:1: `auth.users` is missing"),
        (format!("{HASH}\nscopes = [\"ott\"]\nusers = [\"Ann\"]"), "11:10: `auth.users`: not a Voximplant user name"),
        (format!("{HASH}\nscopes = [\"pbx\"]\ndomains = [\"a+b\"]"), "11:12: `auth.domains`: not a PBX domain"),
        (
            format!("{HASH}\nscopes = [\"pbx\"]\ndomains = [\"a\"]\naccounts = [\"40\", \"ADMIN\"]"),
            "12:19: `auth.accounts`: the account is the administrator's",
        ),
        (
            format!("{HASH}\nscopes = [\"pbx\"]\ndomains = [\"a\"]\naccounts = [\"\"]"),
            "12:13: `auth.accounts`: the account is empty, which the PBX reads as the tenant administrator",
        ),
        (
            format!("{HASH}\nscopes = [\"pbx\"]\ndomains = [\"a\"]\nfrom = [\"10.0.0.1/8\"]"),
            "12:9: `auth.from`: has bits set behind its prefix",
        ),
        (
            format!("{HASH}\nscopes = [\"pbx\"]\ndomains = [\"a\"]\nfrom = [\"here\"]"),
            "12:9: `auth.from`: not a network",
        ),
        (
            format!("{HASH}\nscopes = [\"pbx\"]\ndomains = [\"a\"]\nexpires = 2001-01-01"),
            "12:11: `auth.expires`: the key has expired already",
        ),
        (
            format!("{HASH}\nscopes = [\"pbx\"]\ndomains = [\"a\"]\nexpires = \"2099-01-01\""),
            "12:11: `auth.expires`: not a date",
        ),
        (
            format!("{HASH}\nscopes = [\"pbx\"]\ndomains = [\"a\"]\nexpires = 2099-01-01T00:00:00"),
            "12:11: `auth.expires`: not a date, or a time without an offset",
        ),
        (format!("sha256 = \"{SECRET}\"\nscopes = [\"pbx\"]\ndomains = [\"a\"]"), "9:10: `auth.sha256`: not a SHA-256"),
        (format!("{HASH}\nscopes = [\"pbx\"]\ndomains = [\"a\"]\nwhoami = \"/\""), "12:1: unknown key `auth.whoami`"),
    ] {
        check_beside(&key(&tail), expected);
    }
    let text = key(&format!(
        "{HASH}\nscopes = [\"pbx\"]\ndomains = [\"A.test\"]\nfrom = [\"10.0.0.0/8\", \"::1\"]\nexpires = 2099-01-01"
    ));
    let config = accepted(&format!("{TOP}{BOTH}{text}"));
    let MethodKind::Key(key) = &config.methods[0].kind else { panic!("{config:?}") };
    assert_eq!(
        (key.pbx, key.ott, key.domains[0].as_str(), key.accounts.as_ref(), key.from.len()),
        (true, false, "a.test", None, 2)
    );
    assert_eq!(key.expires.unwrap().to_string(), "2099-01-02T00:00:00Z");
}

#[test]
fn links_have_keys_and_an_end() {
    let link = |tail: &str| format!("[[auth]]\ntype = \"link\"\n{tail}\n");
    let long = "{ file = \"long\" }";
    let key = |id: &str| format!("{{ kid = \"{id}\", secret = {long} }}");
    let parse = |tail: &str| {
        let folder = Folder::new();
        folder.write("long", &"x".repeat(32), 0o600);
        folder.write("short", &"x".repeat(31), 0o600);
        folder.parse(&format!("{TOP}{BOTH}{tail}"))
    };
    for (tail, expected) in [
        (link(""), "`auth.keys` is missing"),
        (link("keys = []"), "`auth.keys`: is an empty list"),
        (link("keys = [{ kid = \"a\", secret = { file = \"short\" } }]"), "the secret is shorter than 32 bytes"),
        (link("keys = [{ kid = \"a\", secret = \"literal\" }]"), "a secret must not be written in this file"),
        (link(&format!("keys = [{}]", key("a b"))), "not the name of a key"),
        (link(&format!("keys = [{}]", key(&"a".repeat(33)))), "not the name of a key"),
        (link(&format!("keys = [{}, {}]", key("a"), key("a"))), "another key is called `a`"),
        (
            link(&format!("keys = [{}]", key("a"))) + &link(&format!("name = \"b\"\nkeys = [{}]", key("a"))),
            "another key is called `a`",
        ),
        (link(&format!("keys = [{}]\nttl = \"16min\"", key("a"))), "longer than 15 minutes"),
        (link(&format!("keys = [{}]\nttl = \"500ms\"", key("a"))), "shorter than a second"),
        (link(&format!("keys = [{}]\nconfirm = \"maybe\"", key("a"))), "`auth.confirm`: unknown word `maybe`"),
    ] {
        let problems = parse(&tail).expect_err(&tail).to_string();
        assert!(problems.contains(expected), "{tail}\n{problems}");
    }
    let good = link(&format!("keys = [{}, {}]", key("b"), key("a")));
    let config = parse(&good).unwrap();
    let MethodKind::Link(links) = &config.methods[0].kind else { panic!("{config:?}") };
    let ids: Vec<_> = links.keys.iter().map(crate::model::link::LinkKey::id).collect();
    assert_eq!((ids, links.ttl, links.confirm), (vec!["b", "a"], Duration::from_secs(60), Confirm::Auto));
    let warned = |config: &Config| config.warnings.iter().any(|warning| warning.message.contains("works once more"));
    assert!(warned(&config));
    let config = parse(&format!("{good}[state]\nfile = \"link.state\"")).unwrap();
    assert!(!warned(&config) && config.state.is_some());
    let problems = parse("[state]\nfile = \"nowhere/state\"").unwrap_err().to_string();
    assert!(problems.contains("the folder nowhere does not exist"), "{problems}");
}

#[test]
fn methods_have_names_and_kinds_of_their_own() {
    let key = |name: &str, hash: &str| {
        format!("[[auth]]\ntype = \"key\"\n{name}\n{hash}\nscopes = [\"ott\"]\nusers = [\"ann\"]\n")
    };
    let other = HASH.replace("6c", "7c");
    check_beside(&(key("", HASH) + &key("", &other)), "13:1: `auth`: another method is called `key`");
    check_beside(
        &(key("name = \"a\"", HASH) + &key("name = \"a\"", &other)),
        "15:8: `auth.name`: another method is called `a`",
    );
    check_beside(
        &(key("name = \"a\"", HASH) + &key("", HASH)),
        "16:10: `auth.sha256`: the key of method `a` once more",
    );
    check_beside(&key("name = \"redirect\"", HASH), "9:8: `auth.name`: `redirect` is the name of the built-in method");
    check_beside(&key("name = \"\"", HASH), "9:8: `auth.name`: is empty");
    check_beside("[[auth]]\ntype = \"redirect\"", "8:8: `auth.type`: `redirect` is built in");
    check_beside("[[auth]]\ntype = \"jtw\"\nissuer = \"https://a\"", "8:8: `auth.type`: unknown word `jtw`");
    check_beside("[auth]\ntype = \"app\"", "7:1: `auth`: is a list of tables");
    check(
        "[pbx]\nurl = \"http://a\"\n[[auth]]\ntype = \"app\"\nwhoami = \"/\"",
        "6:8: `auth.type`: there is no app to ask",
    );
    let whoami =
        format!("{TOP}[app]\nurl = \"http://a\"\nwhoami = \"/me\"\n[[auth]]\ntype = \"app\"\nwhoami = \"/me\"");
    check_text(&whoami, &["6:1: `auth`: another method is called `app`"]);
}

#[test]
fn the_app_sees_only_fields_that_are_the_callers() {
    let app = |tail: &str| format!("[[auth]]\ntype = \"app\"\nwhoami = \"/me?full=1\"\n{tail}");
    check_beside(&app("headers = [\"Cookie\"]"), "10:12: `auth.headers`: cookies have a key of their own");
    check_beside(
        &app("headers = [\"X-Forwarded-For\"]"),
        "10:12: `auth.headers`: callgate writes or removes x-forwarded-for itself",
    );
    check_beside(&app("headers = [\"te\"]"), "10:12: `auth.headers`: callgate writes or removes te itself");
    check_beside(&app("headers = [\"a b\"]"), "10:12: `auth.headers`: not the name of a header field");
    check_beside(&app("cookies = [\"a=b\"]"), "10:12: `auth.cookies`: not the name of a cookie");
    let config =
        accepted(&format!("{TOP}{BOTH}{}", app("cookies = []\nheaders = [\"Authorization\"]\ntimeout = \"500ms\"")));
    let MethodKind::App(whoami) = &config.methods[0].kind else { panic!("{config:?}") };
    assert_eq!(
        (&whoami.cookies, whoami.headers[0].as_str(), whoami.timeout),
        (&CookieFilter::Listed(vec![]), "authorization", Duration::from_millis(500))
    );
}

#[test]
fn a_cached_answer_outlives_no_logout_for_long() {
    let app = |tail: &str| format!("[[auth]]\ntype = \"app\"\nwhoami = \"/me\"\n{tail}");
    check_beside(
        &app("cache = \"31s\""),
        "10:9: `auth.cache`: longer than 30 s: a login would outlive a logout by that time",
    );
    check_beside(&app("cache = \"0s\""), "10:9: `auth.cache`: a duration of zero");
    for (tail, expected) in [("", None), ("cache = \"30s\"", Some(Duration::from_secs(30)))] {
        let config = accepted(&format!("{TOP}{BOTH}{}", app(tail)));
        let MethodKind::App(whoami) = &config.methods[0].kind else { panic!("{config:?}") };
        assert_eq!(whoami.cache, expected);
    }
}
