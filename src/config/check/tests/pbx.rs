//! `[pbx]` and its shield.

use super::*;
use crate::config::LoginOrigin;
use crate::model::session_state::{SessionMarker, SessionMarkers};

#[test]
fn the_landing_page_follows_the_handoff() {
    let landing = |tail: &str| {
        let pbx = accepted(&format!("{TOP}[pbx]\nurl = \"http://a\"\n{tail}")).pbx.only().unwrap().clone();
        (pbx.handoff, pbx.landing)
    };
    assert_eq!(landing(""), (Handoff::Link, "/welcome.htm".to_owned()));
    assert_eq!(landing("handoff = \"cookie\""), (Handoff::Cookie, "/thirdparty.htm".to_owned()));
    assert_eq!(landing("handoff = \"cookie\"\nlanding = \"/x.htm\""), (Handoff::Cookie, "/x.htm".to_owned()));
    check("[pbx]\nurl = \"http://a\"\nhandoff = \"link \"", "5:11: `pbx.handoff`: unknown word `link `");
    check("[pbx]\nurl = \"http://a\"\nlanding = \"welcome.htm\"", "5:11: `pbx.landing`: does not start with a slash");
    check(
        "[pbx]\nurl = \"http://a\"\nlanguages = [\"en\", \"EN\"]",
        "5:20: `pbx.languages`: not a language of the PBX",
    );
    check("[pbx]\nurl = \"http://a\"\nwhoami = \"/\"", "5:1: unknown key `pbx.whoami`");
}

#[test]
fn a_shield_is_read_strictly() {
    let pbx = |shield: &str| format!("{TOP}[pbx]\nurl = \"http://127.0.0.1\"\nshield = {{ {shield} }}");
    for (shield, expected) in [
        ("", "5:10: `pbx.shield.from` is missing"),
        ("from = [\"0.0.0.0/0\"]", "5:19: `pbx.shield.from`: covers all addresses: the shield would have no effect"),
        (
            "from = [\"::/1\", \"8000::/1\"]",
            "5:19: `pbx.shield.from`: covers all addresses: the shield would have no effect",
        ),
        ("from = [\"10.0.0.1/8\"]", "5:20: `pbx.shield.from`: has bits set behind its prefix"),
        ("from = [], admin_paths = [\"/\"]", "5:38: `pbx.shield.admin_paths`: is every path"),
        ("from = [], open_paths = [\"/a/../b\"]", "5:37: `pbx.shield.open_paths`: must be in its canonical spelling"),
        (
            "from = [], sessions = \"ours\"",
            "5:34: `pbx.shield.sessions`: callgate opens no sessions, so it would refuse every landing",
        ),
        ("from = [], form = 1", "5:23: unknown key `pbx.shield.form`"),
    ] {
        check_text(&pbx(shield), &[expected]);
    }
    let shield = accepted(&pbx("from = [\"10.0.0.0/8\"], admin_paths = [\"/Reg_\"]"))
        .pbx
        .only()
        .unwrap()
        .clone()
        .shield
        .unwrap();
    assert_eq!((shield.protected.admin, shield.any_session), (vec!["/reg_".to_owned()], true));
    let admin = "from = []}\nadmin = { user = \"sso\", password = { env = \"PBX_ADMIN_PASSWORD\" }";
    assert!(!accepted(&pbx(admin)).pbx.only().unwrap().clone().shield.unwrap().any_session);
}

#[test]
fn pages_of_other_origins_are_listed_for_the_pbx_alone() {
    let origins =
        |tail: &str| accepted(&format!("{TOP}[pbx]\nurl = \"http://a\"\n{tail}")).pbx.only().unwrap().clone().origins;
    assert_eq!(origins(""), None);
    assert_eq!(origins("origins = []"), Some(Vec::new()));
    assert_eq!(origins("origins = [\"https://a.test\"]"), Some(vec!["https://a.test".to_owned()]));
    for (written, expected) in [
        ("origins = [\"*\"]", "5:12: `pbx.origins`: any page could ask"),
        (
            "origins = [\"null\"]",
            "5:12: `pbx.origins`: every sandboxed page and every file sends it: any page could ask",
        ),
        ("origins = [\"https://A\"]", "5:12: `pbx.origins`: not spelled as browsers send it"),
        ("origins = [\"https://a/x\"]", "5:12: `pbx.origins`: an origin ends behind its host and port"),
        ("origins = [\"http://a.test\"]", "5:12: `pbx.origins`: a page over http:// can be changed in transit"),
    ] {
        check(&format!("[pbx]\nurl = \"http://a\"\n{written}"), expected);
    }
}

/// A PBX whose administrator opens sessions, beside an app.
const OPENER: &str = "[app]\nurl = \"http://127.0.0.1:1\"\nwhoami = \"/api/me?x=1\"\nlogin = \"/login?x\"\npaths = [\"/shop/\"]\n\
    [pbx]\nurl = \"http://127.0.0.1\"\npaths = [\"/pbx.htm\"]\nadmin = { user = \"sso\", password = { env = \"PBX_ADMIN_PASSWORD\" } }\n";

#[test]
fn aliases_name_paths_that_have_no_other_use() {
    for (written, expected) in [
        ("[]", "12:11: `pbx.aliases`: is an empty list"),
        ("[\"x.php\"]", "12:12: `pbx.aliases`: does not start with a slash"),
        ("[\"/x.php?a\"]", "12:12: `pbx.aliases`: has a query or a fragment"),
        ("[\"/a/../x.php\"]", "12:12: `pbx.aliases`: must be in its canonical spelling"),
        ("[\"/\"]", "12:12: `pbx.aliases`: is the start page of every host"),
        ("[\"/auth/pbx\"]", "12:12: `pbx.aliases`: belongs to callgate already"),
        ("[\"/auth/pbx/socket\"]", "12:12: `pbx.aliases`: belongs to callgate already"),
        ("[\"/auth/callgate/x\"]", "12:12: `pbx.aliases`: belongs to callgate already"),
        ("[\"/Websocket\"]", "12:12: `pbx.aliases`: is the PBX's own path"),
        ("[\"/rest/x\"]", "12:12: `pbx.aliases`: is the PBX's own path"),
        ("[\"/thirdparty.htm\"]", "12:12: `pbx.aliases`: is the PBX's own path"),
        ("[\"/x.php\", \"/X.php\"]", "12:22: `pbx.aliases`: the same path twice"),
        ("[\"/api/me\"]", "12:12: `pbx.aliases`: is also named by `whoami`"),
        ("[\"/Login\"]", "12:12: `pbx.aliases`: is also named by `login` of [app]"),
        ("[\"/shop/\"]", "12:12: `pbx.aliases`: is also named by `paths` of [app]"),
        ("[\"/x.php\", \"/pbx.htm\"]", "12:22: `pbx.aliases`: is also named by `paths` of [pbx]"),
    ] {
        check_text(&format!("{TOP}{OPENER}aliases = {written}"), &[expected]);
    }
    let landing = format!("{TOP}{OPENER}landing = \"/x.htm\"\naliases = [\"/x.htm\"]");
    check_text(&landing, &["13:12: `pbx.aliases`: is also named by `landing`"]);
    check("[pbx]\nurl = \"http://a\"\naliases = [\"/x\"]", "5:12: `pbx.aliases`: callgate opens no sessions");
    let aliases =
        accepted(&format!("{TOP}{OPENER}aliases = [\"/x.php\", \"/Shop/x\"]")).pbx.only().unwrap().clone().aliases;
    assert_eq!(aliases, ["/x.php", "/Shop/x"]);
}

/// The start of a PBX that opens sessions.
const OPENS: &str = "[pbx]\nurl = \"http://127.0.0.1\"\nhosts = [\"pbx.test\"]\nadmin = { user = \"sso\", password = { env = \"PBX_ADMIN_PASSWORD\" } }\n";

#[test]
fn landings_are_exact_paths_of_the_pbx() {
    for (line, expected) in [
        ("landings = []", "7:12: `pbx.landings`: is an empty list"),
        ("landings = \"/usr_index.htm\"", "7:12: `pbx.landings`: must be a list in brackets"),
        ("landings = [\"usr_index.htm\"]", "7:13: `pbx.landings`: does not start with a slash"),
        ("landings = [\"https://evil.test/\"]", "7:13: `pbx.landings`: does not start with a slash"),
        ("landings = [\"//evil.test/\"]", "7:13: `pbx.landings`: must be in its canonical spelling"),
        ("landings = [\"/a/../b.htm\"]", "7:13: `pbx.landings`: must be in its canonical spelling"),
        ("landings = [\"/a.htm?b=1\"]", "7:13: `pbx.landings`: has a query or a fragment"),
        ("landings = [\"/a.htm\", \"/a.htm\"]", "7:23: `pbx.landings`: the same page twice"),
        ("landings = [\"/auth/callgate/ticket\"]", "7:13: `pbx.landings`: belongs to callgate itself"),
        ("paths = [\"/usr_\"]\nlandings = [\"/a.htm\"]", "8:13: `pbx.landings`: is not one of the paths of the PBX"),
    ] {
        check_text(&format!("{TOP}{OPENS}{line}"), &[expected]);
    }
    check_text(
        &format!("{TOP}[pbx]\nurl = \"http://a\"\nlandings = [\"/a.htm\"]"),
        &["5:12: `pbx.landings`: callgate opens no sessions that could land there"],
    );
    let pbx = accepted(&format!("{TOP}{OPENS}landings = [\"/usr_index.htm\", \"/\"]")).pbx.only().unwrap().clone();
    assert_eq!(pbx.landings, ["/usr_index.htm", "/"]);
}

#[test]
fn automatic_logins_begin_at_an_origin_that_is_served_here() {
    let app = "[app]\nurl = \"http://127.0.0.1\"\nhosts = [\"app.test\"]\n";
    for (line, expected) in [
        ("auto = 1", "10:8: `pbx.auto`: must be an origin or true"),
        ("auto = \"app.test\"", "10:8: `pbx.auto`: logins are asked for over https only"),
        ("auto = \"unix:/run/app.sock\"", "10:8: `pbx.auto`: not an origin"),
        ("auto = \"http://app.test\"", "10:8: `pbx.auto`: logins are asked for over https only"),
        ("auto = \"https://app.test/\"", "10:8: `pbx.auto`: an origin ends behind its host and port"),
        ("auto = \"https://APP.test\"", "10:8: `pbx.auto`: not spelled as browsers write it"),
        ("auto = \"https://app.test:443\"", "10:8: `pbx.auto`: not spelled as browsers write it"),
        (
            "auto = \"https://other.test\"",
            "10:8: `pbx.auto`: callgate does not serve that host, so no login can be asked for there",
        ),
        ("logged_in = { type = true }", "10:13: `pbx.logged_in`: has no effect without `auto`"),
        ("auto = true\nlogged_in = {}", "11:13: `pbx.logged_in`: names no member, so every session would be over"),
        ("auto = true\nlogged_in = { type = false }", "11:22: `pbx.logged_in.type`: must be a list of values or true"),
        (
            "auto = true\nlogged_in = { type = \"user\" }",
            "11:22: `pbx.logged_in.type`: must be a list of values or true",
        ),
        ("auto = true\nlogged_in = { type = [] }", "11:22: `pbx.logged_in.type`: is an empty list"),
        ("auto = true\nlogged_in = { type = [\"\"] }", "11:23: `pbx.logged_in.type`: is empty"),
    ] {
        check_text(&format!("{TOP}{app}{OPENS}{line}"), &[expected]);
    }
    let passed = "[[passthrough]]\nnames = [\"*.app.test\"]\nto = \"192.0.2.10:443\"";
    check_text(
        &format!("{TOP}[app]\nurl = \"http://127.0.0.1\"\n{OPENS}auto = \"https://www.app.test\"\n{passed}"),
        &["11:10: `passthrough.names`: is served here: `auto` of [pbx] covers it too"],
    );
    check_text(
        &format!("{TOP}[pbx]\nurl = \"http://a\"\nauto = true"),
        &["5:8: `pbx.auto`: callgate opens no sessions"],
    );
    let without_hosts = OPENS.replace("hosts = [\"pbx.test\"]\n", "paths = [\"/usr_\"]\n");
    check_text(
        &format!("{TOP}{app}{without_hosts}auto = \"https://app.test\""),
        &["10:8: `pbx.auto`: browsers are led back to listed hosts only, and [pbx] lists none"],
    );
    let auto = |line: &str| accepted(&format!("{TOP}{app}{OPENS}{line}")).pbx.only().unwrap().clone().auto;
    assert_eq!((auto(""), auto("auto = false")), (None, None));
    assert_eq!(auto("auto = true").unwrap().at, LoginOrigin::Own);
    let at = |host: &str, port, origin: &str| LoginOrigin::Other { host: host.into(), port, origin: origin.into() };
    assert_eq!(auto("auto = \"https://app.test\"").unwrap().at, at("app.test", 443, "https://app.test"));
    assert_eq!(auto("auto = \"https://pbx.test:8443\"").unwrap().at, at("pbx.test", 8443, "https://pbx.test:8443"));
    let marker = |member: &str, values: &[&str]| SessionMarker {
        member: member.to_owned(),
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    };
    let markers = |line: &str| auto(line).unwrap().markers;
    let level = || marker("type", &["admin", "domain", "user"]);
    assert_eq!(markers("auto = true"), SessionMarkers::new(vec![level()]));
    let modern = markers("auto = true\nhandoff = \"cookie\"");
    assert_eq!(modern, SessionMarkers::new(vec![level(), marker("user", &[])]));
    let own = markers("auto = true\nlogged_in = { a = [\"b\", \"c\"], d = true }");
    assert_eq!(own, SessionMarkers::new(vec![marker("a", &["b", "c"]), marker("d", &[])]));
}

#[test]
fn a_socket_has_a_path_of_its_own() {
    for (written, expected) in [
        ("true", "12:10: `pbx.socket`: must be a string in quotes"),
        ("\"socket\"", "12:10: `pbx.socket`: does not start with a slash"),
        ("\"/phone//socket\"", "12:10: `pbx.socket`: must be in its canonical spelling"),
        ("\"/phone/%73ocket\"", "12:10: `pbx.socket`: must be in its canonical spelling"),
        ("\"/phone?x\"", "12:10: `pbx.socket`: has a query or a fragment"),
        ("\"/\"", "12:10: `pbx.socket`: is the start page of every host"),
        ("\"/auth/pbx\"", "12:10: `pbx.socket`: callgate answers otherwise there"),
        ("\"/auth/ott\"", "12:10: `pbx.socket`: callgate answers otherwise there"),
        ("\"/auth/pbx/Socket\"", "12:10: `pbx.socket`: callgate answers otherwise there"),
        ("\"/auth/callgate/socket\"", "12:10: `pbx.socket`: callgate answers otherwise there"),
        ("\"/websocket\"", "12:10: `pbx.socket`: is the PBX's own path"),
        ("\"/Rest/socket\"", "12:10: `pbx.socket`: is the PBX's own path"),
        ("\"/pbx.htm\"", "12:10: `pbx.socket`: is also named by `paths` of [pbx]"),
        ("\"/api/Me\"", "12:10: `pbx.socket`: is also named by `whoami`"),
    ] {
        check_text(&format!("{TOP}{OPENER}socket = {written}"), &[expected]);
    }
    let twice = format!("{TOP}{OPENER}aliases = [\"/phone\"]\nsocket = \"/Phone\"");
    check_text(&twice, &["13:10: `pbx.socket`: is also one of `aliases`"]);
    check("[pbx]\nurl = \"http://a\"\nsocket = \"/auth/pbx/socket\"", "5:10: `pbx.socket`: callgate opens no sessions");
    check("[app]\nurl = \"http://a\"\npaths = [\"/auth/pbx/socket\"]", "5:10: `app.paths`: belongs to callgate itself");
    for path in ["/auth/pbx/socket", "/Phone", "/shop/socket", "/auth/phone"] {
        let read = accepted(&format!("{TOP}{OPENER}socket = \"{path}\"")).pbx.only().unwrap().clone();
        assert_eq!(read.socket.as_deref(), Some(path));
    }
}
