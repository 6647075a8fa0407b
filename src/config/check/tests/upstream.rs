//! Upstreams: addresses, hosts and paths, trust.

use super::*;
use crate::config::UpstreamPolicy;

#[test]
fn urls_name_a_host_and_nothing_more() {
    for (written, expected) in [
        ("ftp://a", "starts with neither http://, https:// nor unix:"),
        ("127.0.0.1:3000", "starts with neither http://, https:// nor unix:"),
        ("unix:run/app", "not the whole path of a socket"),
        ("unix:", "not the whole path of a socket"),
        ("unix:/run/", "not the whole path of a socket"),
        (&format!("unix:/{}", "x".repeat(107)), "longer than the path of a socket can be"),
        ("http://a/", "nothing may follow the host and port, not even a slash"),
        ("http://a?b", "nothing may follow the host and port, not even a slash"),
        (&format!("http://u:{SECRET}@a"), "a user name or password does not belong here"),
        ("http://", "not a host name or IP address with an optional port"),
        ("http://a:99999", "not a host name or IP address with an optional port"),
    ] {
        check(&format!("[app]\nurl = \"{written}\""), &format!("4:7: `app.url`: {expected}"));
    }
    let urls = |written: &str| accepted(&format!("{TOP}[app]\nurl = {written}")).app.unwrap().upstream.urls;
    let at = |host: &str, port| HostPort { host: host.into(), port };
    assert_eq!(urls("\"https://[2001:DB8::1]\""), [UpstreamUrl::Https(at("2001:db8::1", 443))]);
    assert_eq!(
        urls("[\"http://A.test\", \"unix:/run/app.sock\"]"),
        [UpstreamUrl::Http(at("a.test", 80)), UpstreamUrl::Unix("/run/app.sock".into())]
    );
    check("[app]\nurl = []", "4:7: `app.url`: is an empty list");
    check("[app]\nurl = [\"http://a\", \"http://A:80\"]", "4:20: `app.url`: the same url twice");
}

#[test]
fn urls_are_shown_and_named_as_people_and_hosts_write_them() {
    let at = |host: &str, port| HostPort { host: host.into(), port };
    for (url, address, authority) in [
        (UpstreamUrl::Http(at("a.test", 80)), "a.test:80", "a.test"),
        (UpstreamUrl::Https(at("a.test", 80)), "a.test:80", "a.test:80"),
        (UpstreamUrl::Https(at("::1", 443)), "[::1]:443", "[::1]"),
        (UpstreamUrl::Http(at("::1", 8080)), "[::1]:8080", "[::1]:8080"),
        (UpstreamUrl::Unix("/run/x".into()), "unix:/run/x", "localhost"),
    ] {
        assert_eq!((url.address().as_str(), url.authority().as_str()), (address, authority));
    }
}

#[test]
fn connections_are_counted_from_one() {
    let app = |tail: &str| format!("{TOP}[app]\nurl = \"http://a\"\n{tail}");
    let upstream = |tail: &str| accepted(&app(tail)).app.unwrap().upstream;
    assert_eq!((upstream("").max_connections, upstream("max_connections = 1").max_connections), (10_000, 1));
    check_text(&app("max_connections = 0"), &["5:19: `app.max_connections`: is out of bounds"]);
}

#[test]
fn hosts_and_paths_have_one_spelling() {
    for (written, expected) in [
        ("hosts = [\"a:80\"]", "5:10: `app.hosts`: not a host name"),
        ("hosts = [\"http://a\"]", "5:10: `app.hosts`: not a host name"),
        ("hosts = [\"*\"]", "5:10: `app.hosts`: not a host name"),
        ("hosts = [\"a.*.b\"]", "5:10: `app.hosts`: not a host name"),
        ("hosts = []", "5:9: `app.hosts`: is an empty list"),
        ("hosts = \"a\"", "5:9: `app.hosts`: must be a list in brackets"),
        ("hosts = [\"a\", \"A\"]", "5:15: `app.hosts`: the same host twice"),
        ("paths = [\"rest\"]", "5:10: `app.paths`: does not start with a slash"),
        ("paths = [\"/a?b\"]", "5:10: `app.paths`: has a query or a fragment"),
        ("paths = [\"/a/../b\"]", "5:10: `app.paths`: must be in its canonical spelling"),
        ("paths = [\"/%61\"]", "5:10: `app.paths`: must be in its canonical spelling"),
        ("paths = [\"/auth/callgate/x\"]", "5:10: `app.paths`: belongs to callgate itself"),
        ("paths = [\"/Auth/OTT\"]", "5:10: `app.paths`: belongs to callgate itself"),
        ("login = \"//evil.test\"", "5:9: `app.login`: neither a path nor an absolute URL"),
        ("login = \"/\\\\evil.test\"", "5:9: `app.login`: neither a path nor an absolute URL"),
        ("login = \"javascript:x\"", "5:9: `app.login`: neither a path nor an absolute URL"),
        ("whoami = \"api/me\"", "5:10: `app.whoami`: not a path of the app"),
    ] {
        check(&format!("[app]\nurl = \"http://a\"\n{written}"), expected);
    }
    for login in ["/login?next=1", "/#/login", "https://login.example.com/a?b#c"] {
        accepted(&format!("{TOP}[app]\nurl = \"http://a\"\nlogin = \"{login}\""));
    }
}

#[test]
fn trust_is_read_and_useless_trust_is_noted() {
    let app = |tail: &str| format!("{TOP}[app]\nurl = \"https://a\"\n{tail}");
    let trust = accepted(&app("ca = \"certs/upstream-ca.pem\"\nserver_name = \"b.test\"\ninsecure_skip_verify = true"))
        .app
        .unwrap()
        .upstream
        .trust;
    assert!(trust.ca.is_some() && trust.server_name.is_some() && trust.skip_verify);
    check_text(&app("ca = \"certs/none.pem\""), &["5:6: `app.ca`: has no certificate in PEM form"]);
    check_text(&app("server_name = \"a b\""), &["5:15: `app.server_name`: not a server name"]);
    check_text(&app("insecure_skip_verify = \"yes\""), &["5:24: `app.insecure_skip_verify`: must be true or false"]);
    let warnings = accepted(&format!("{TOP}[app]\nurl = \"http://a\"\nserver_name = \"b\"")).warnings;
    assert_eq!(
        warnings[0].to_string(),
        "proxy.toml:5:15: `app.server_name`: has no effect: `url` is not https\n    use https, or remove the key"
    );
    let both = "ca = \"certs/upstream-ca.pem\"\ninsecure_skip_verify = true";
    assert_eq!(accepted(&app(both)).warnings.len(), 1);
}

#[test]
fn the_policy_is_one_of_three_words_and_chooses_nothing_with_one_url() {
    let app = |url: &str, policy: &str| format!("{TOP}[app]\nurl = {url}\npolicy = {policy}");
    let two = "[\"http://a\", \"http://b\"]";
    for policy in UpstreamPolicy::ALL {
        let config = accepted(&app(two, &format!("\"{}\"", policy.as_str())));
        assert_eq!((config.app.unwrap().upstream.policy, config.warnings), (policy, Vec::new()));
    }
    assert_eq!(accepted(&format!("{TOP}[app]\nurl = {two}")).app.unwrap().upstream.policy, UpstreamPolicy::First);
    check_text(&app(two, "1"), &["5:10: `app.policy`: must be a string in quotes"]);
    let problems = refused(&app(two, "\"round-robin\""));
    let told = problems.as_slice()[0].to_string();
    assert!(told.contains("5:10: `app.policy`: unknown word `round-robin`"), "{told}");
    assert!(told.contains("did you mean `round_robin`?"), "{told}");
    for (policy, count) in [("round_robin", 1), ("least", 1), ("first", 0)] {
        let warnings = accepted(&app("\"http://a\"", &format!("\"{policy}\""))).warnings;
        assert_eq!(warnings.len(), count, "{policy}");
        for warning in warnings {
            let told = "proxy.toml:5:10: `app.policy`: chooses nothing: there is one `url`\n    add another `url`; leave the key if others come back soon";
            assert_eq!(warning.to_string(), told);
        }
    }
}

#[test]
fn a_pbx_takes_its_first_url_only() {
    let pbx = |policy: &str| {
        format!("{TOP}[pbx]\nurl = [\"http://a\", \"http://b\"]\npolicy = \"{policy}\"\nhosts = [\"pbx.test\"]")
    };
    assert_eq!(accepted(&pbx("first")).pbx.only().unwrap().clone().upstream.policy, UpstreamPolicy::First);
    for policy in ["round_robin", "least"] {
        check_text(
            &pbx(policy),
            &["5:10: `pbx.policy`: would send requests of a session to a PBX that does not know it"],
        );
    }
}

#[test]
fn a_pin_is_the_hash_of_a_key_and_never_without_use() {
    const PIN: &str = "YhKJKSzoTt2b5FP18fvpHo7fJYqQCjAa3HWY3tvRMwE=";
    let app = |tail: &str| format!("{TOP}[app]\nurl = \"https://a\"\n{tail}");
    let pins = |written: &str| accepted(&app(&format!("pin = {written}"))).app.unwrap().upstream.trust.pins;
    assert_eq!(pins(&format!("\"{PIN}\"")), pins(&format!("\"sha256/{PIN}\"")));
    assert_eq!(pins(&format!("\"{PIN}\""))[0].to_string(), format!("sha256/{PIN}"));
    let other = PIN.replace('Y', "Z");
    assert_eq!(pins(&format!("[\"{PIN}\", \"sha256/{other}\"]")).len(), 2);
    for written in
        ["", "sha256/", "sha1/YhKJKSzoTt2b5FP18fvpHo7fJYo=", "abc", "sha256/YhKJKSzoTt2b5FP18fvpHo7fJYo=", &PIN[1..]]
    {
        check_text(&app(&format!("pin = \"{written}\"")), &["5:7: `app.pin`: not a pin"]);
    }
    check_text(&app(&format!("pin = [\"{PIN}\", \"sha256/{PIN}\"]")), &["5:56: `app.pin`: the same pin twice"]);
    let pin = format!("pin = \"{PIN}\"");
    check_text(
        &app(&format!("{pin}\ninsecure_skip_verify = true")),
        &["5:7: `app.pin`: contradicts insecure_skip_verify, which takes any key"],
    );
    for url in ["\"http://a\"", "\"unix:/a\"", "[\"https://a\", \"http://a\"]"] {
        check_text(
            &format!("{TOP}[app]\nurl = {url}\n{pin}"),
            &["5:7: `app.pin`: a pin needs a key to compare with: not every `url` is https"],
        );
    }
}

#[test]
fn each_request_has_one_upstream() {
    let both =
        |app: &str, pbx: &str| format!("{TOP}[app]\nurl = \"http://a\"\n{app}\n[pbx]\nurl = \"http://b\"\n{pbx}");
    check_text(&both("", ""), &["6:1: `pbx`: takes every request, and so does the app"]);
    let same = "6:1: `pbx`: the same hosts and paths as in [app]";
    check_text(&both("hosts = [\"x\"]", "hosts = [\"x\", \"y\"]"), &[same]);
    check_text(&both("paths = [\"/p\"]", "paths = [\"/p\"]"), &[same]);
    accepted(&both("hosts = [\"x\"]", "hosts = [\"x\"]\npaths = [\"/p\"]"));
    accepted(&both("hosts = [\"x\"]", "hosts = [\"*.x\"]"));
    accepted(&both("", "paths = [\"/p\"]"));
    check_text(&both("", "hosts = [\"x:1\"]"), &["8:10: `pbx.hosts`: not a host name"]);
}
