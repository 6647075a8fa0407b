//! What is accepted, what is refused, and at which place.

mod mistakes;
mod rules;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;
use crate::config::{
    CertificateName, Confirm, CookieFilter, Handoff, HostPattern, HostPort, JwtKeySource, Listen, MethodKind,
    TokenLocation, UpstreamUrl, WhenStuck,
};

const EXAMPLE: &str = include_str!("../../../proxy.toml");
const SECRET: &str = "Admin-Passw0rd-canary";
const HA1: &str = "0d1b4aae7e388f745172210be3d30b41";

// === A folder with everything a configuration may name ===

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for name in ["certs", "secrets", "log", "state"] {
            fs::create_dir(folder.0.path().join(name)).unwrap();
        }
        let (chain, key) = certificate(2099);
        let (second, second_key) = certificate_for(&["second.example.com".to_owned()], 2099);
        for (name, text) in [
            ("certs/fullchain.pem", chain.as_str()),
            ("certs/upstream-ca.pem", chain.as_str()),
            ("certs/client-ca.pem", chain.as_str()),
            ("certs/id.pem", chain.as_str()),
            ("secrets/jwt", &format!("{SECRET}-{SECRET}")),
            ("certs/empty.pem", ""),
            ("certs/privkey.pem", key.as_str()),
            ("certs/second.pem", second.as_str()),
            ("certs/second-key.pem", second_key.as_str()),
            ("certs/other.pem", certificate(2099).1.as_str()),
            ("certs/old.pem", certificate(2001).0.as_str()),
            ("certs/none.pem", &format!("-----BEGIN {SECRET}\n")),
            ("secrets/pbx-admin", &format!("{SECRET}\r\n")),
            ("secrets/link-2026", "0123456789abcdef0123456789abcdef"),
            ("secrets/voximplant-api-key", SECRET),
            ("secrets/oidc-client", &format!("{SECRET}\n")),
            ("secrets/cookie-key", &format!("{SECRET}{SECRET}\n")),
            ("secrets/marked", &format!("\u{feff}{SECRET}\r\n")),
            ("secrets/utf-16", &SECRET.chars().flat_map(|c| [c, '\0']).collect::<String>()),
            ("secrets/spaced", &format!(" {SECRET}\n")),
            ("secrets/empty", ""),
            ("secrets/short", "fifteen-letters"),
            ("secrets/sso", SECRET),
            ("secrets/newline", "\n"),
            ("secrets/two-lines", &format!("{SECRET}\n{SECRET}\n")),
            ("secrets/nul", &format!("{SECRET}\0\n")),
            ("people.csv", "email,ext\nann@example.com,40\n"),
            ("voximplant.htdigest", &format!("ann:voximplant.com:{HA1}\n")),
            ("bad.htdigest", &format!("ann:voximplant.com:{HA1}\n{SECRET}\n")),
            ("open", SECRET),
        ] {
            folder.write(name, text, if name == "open" { 0o602 } else { 0o600 });
        }
        folder
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn parse(&self, text: &str) -> Result<Config, Problems> {
        let credentials = self.0.path().join("secrets").display().to_string();
        parse(text, self.0.path(), &|name| match name {
            "PBX_ADMIN_PASSWORD" => Some(SECRET.to_owned()),
            "EMPTY" => Some(String::new()),
            "MARKED" => Some(format!("\u{feff}{SECRET}\r\n")),
            "USERS" => Some(format!("\u{feff}ann:voximplant.com:{HA1}\r\nbob:voximplant.com:{HA1}\r\n")),
            "BAD_USERS" => Some(format!("ann:voximplant.com:{HA1}\n{SECRET}\n")),
            "CREDENTIALS_DIRECTORY" => Some(credentials.clone()),
            _ => None,
        })
    }
}

fn certificate(end: i32) -> (String, String) {
    certificate_for(&["WWW.example.com", "*.pbx.example.com", "127.0.0.1", "::1"].map(str::to_owned), end)
}

fn certificate_for(names: &[String], end: i32) -> (String, String) {
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(end, 1, 1);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

// === Asking ===

/// Two lines that every configuration starts with, so that what a test adds starts at line 3.
const TOP: &str = "listen = \"127.0.0.1:0\"\ntls = { cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\" }\n";
/// Four more lines: what a test adds starts at line 7.
const BOTH: &str = "[app]\nurl = \"http://127.0.0.1:3000\"\n[voximplant]\nusers = { file = \"voximplant.htdigest\" }\n";

fn accepted(text: &str) -> Config {
    Folder::new().parse(text).unwrap_or_else(|problems| panic!("{text}\n{problems}"))
}

fn refused(text: &str) -> Problems {
    let problems = Folder::new().parse(text).expect_err(text);
    let shown = problems.to_string();
    assert!(!shown.contains(SECRET) && !shown.contains(HA1), "{shown}");
    problems
}

/// Checks the places and messages of all problems.
#[track_caller]
fn check_text(text: &str, expected: &[&str]) {
    let shown = |problem: &Problem| {
        let place = problem.place.unwrap();
        format!("{}:{}: {}", place.line, place.column, problem.message)
    };
    let found: Vec<_> = refused(text).as_slice().iter().map(shown).collect();
    assert_eq!(found, expected, "{text}");
}

/// Checks the one problem of a configuration that has nothing but `[app]` around it.
#[track_caller]
fn check(tail: &str, expected: &str) {
    check_text(&format!("{TOP}{tail}"), &[expected]);
}

/// Checks the one problem of a table beside `[app]` and `[voximplant]`.
#[track_caller]
fn check_beside(tail: &str, expected: &str) {
    check_text(&format!("{TOP}{BOTH}{tail}"), &[expected]);
}

#[track_caller]
fn check_hint(tail: &str, expected: &str) {
    let problems = refused(&format!("{TOP}{tail}"));
    let hints: Vec<_> = problems.as_slice().iter().filter_map(|problem| problem.hint.as_deref()).collect();
    assert!(hints.iter().any(|hint| hint.contains(expected)), "{hints:?}");
}

// === The example ===

/// Removes the # of every key that is commented out.
fn uncommented(text: &str) -> String {
    let key = |line: &str| line.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let bare = |line| str::strip_prefix(line, "#").filter(|rest| key(rest)).unwrap_or(line);
    text.lines().map(bare).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_loads_as_it_stands() {
    let config = accepted(EXAMPLE);
    assert_eq!(config.warnings, []);
    assert_eq!(config.certificates[0].names, ["www.example.com", "*.pbx.example.com", "127.0.0.1", "::1"]);
    let pbx = config.pbx.unwrap();
    assert_eq!(pbx.admin.unwrap().password.expose(), SECRET);
    assert_eq!(pbx.upstream.hosts, [HostPattern::Exact("pbx.example.com".to_owned())]);
    assert!(config.voximplant.unwrap().users.contains_key("ann"));
    assert_eq!(config.rules[0].name, "rule 1");
    let [method] = &config.methods[..] else { panic!("{:?}", config.methods) };
    let MethodKind::App(whoami) = &method.kind else { panic!("{method:?}") };
    assert_eq!((method.name.as_str(), whoami.path.as_str()), ("app", "/api/me"));
    assert_eq!(
        (&whoami.cookies, whoami.headers.len(), whoami.timeout),
        (&CookieFilter::All, 0, Duration::from_secs(2))
    );
}

#[test]
fn the_example_documents_only_keys_and_defaults_that_are_true() {
    // A pin wants https, and a login by certificate that one is asked for.
    let full = uncommented(EXAMPLE).replace("url = \"http://", "url = \"https://");
    let full = full.replacen("privkey.pem\" }", "privkey.pem\", client_ca = \"certs/client-ca.pem\" }", 1);
    let (plain, full) = (accepted(EXAMPLE), accepted(&full));
    let same = |plain: &dyn std::fmt::Debug, full: &dyn std::fmt::Debug| {
        assert_eq!(format!("{plain:?}"), format!("{full:?}"));
    };
    same(&plain.server, &full.server);
    same(&plain.limits, &full.limits);
    same(&plain.log, &full.log);
    let (plain_pbx, full_pbx) = (plain.pbx.unwrap(), full.pbx.unwrap());
    same(&plain_pbx.handoff, &full_pbx.handoff);
    same(&plain_pbx.landing, &full_pbx.landing);
    same(&plain_pbx.languages, &full_pbx.languages);
    same(&plain_pbx.timeout, &full_pbx.timeout);
    let (plain_app, full_app) = (plain.app.unwrap(), full.app.unwrap());
    for (plain, full) in [(plain_pbx.upstream, full_pbx.upstream), (plain_app.upstream, full_app.upstream)] {
        same(&plain.timeouts, &full.timeouts);
        same(&plain.trust.skip_verify, &full.trust.skip_verify);
        same(&plain.max_connections, &full.max_connections);
    }
    let (plain_vox, full_vox) = (plain.voximplant.unwrap(), full.voximplant.unwrap());
    same(&plain_vox.max_key_length, &full_vox.max_key_length);
    same(&plain_vox.distinct_keys, &full_vox.distinct_keys);
    assert_eq!((full.methods.len(), full.rules.len(), full.workers.unwrap().get()), (14, 3, 4));
    assert!(full.audit.file.is_some() && full.audit.syslog.is_some() && full.redirect_http.is_some());
    assert!(!full.audit.chain);
    assert_eq!((plain.admin, full.admin.map(|listen| listen.to_string())), (None, Some("127.0.0.1:9443".to_owned())));
}

#[test]
fn the_example_shows_no_other_way_that_does_not_load() {
    let lines: Vec<_> = EXAMPLE.lines().collect();
    let ways: Vec<_> =
        lines.iter().enumerate().filter_map(|(at, line)| Some((at, line.strip_prefix("# or ")?))).collect();
    assert_eq!(ways.len(), 8);
    for (at, way) in ways {
        let key = way.split(" = ").next().unwrap();
        let replaced =
            (0..at).rev().find(|at| lines[*at].trim_start_matches('#').starts_with(&format!("{key} = "))).unwrap();
        let mut lines = lines.clone();
        lines[replaced] = way;
        accepted(&lines.join("\n"));
    }
}

// === All at once ===

#[test]
fn reports_every_problem_in_the_order_of_the_file() {
    let text = "listen = 443\ntls = { cert = \"certs/missing.pem\", key = \"certs/privkey.pem\" }\n\n[pbx]\nurl = \"http://127.0.0.1\"\nhots = [\"a.test\"]\n";
    let folder = Folder::new();
    let base = folder.0.path().display();
    let expected = format!(
        "proxy.toml:1:10: `listen`: an address is missing in front of the port\n    write \"0.0.0.0:443\"\n\
         proxy.toml:2:16: `tls.cert`: cannot read certs/missing.pem: No such file or directory\n    relative paths start at {base}\n\
         proxy.toml:6:1: unknown key `pbx.hots`\n    did you mean `hosts`?\n\
         3 problems; nothing was started"
    );
    assert_eq!(folder.parse(text).unwrap_err().to_string(), expected);
}

#[test]
fn a_text_that_is_no_toml_is_one_problem() {
    let problems = refused("listen = \n");
    let [problem] = problems.as_slice() else { panic!("{problems}") };
    assert_eq!(problem.place.map(|place| place.line), Some(1));
    check_text("a = 1\na = 2\n", &["2:1: duplicate key"]);
    check_text("a = 1\n[b\n", &["2:3: unclosed table, expected `]`"]);
}

#[test]
fn a_file_that_is_not_there_has_no_place() {
    let problems = load(Path::new("/nonexistent/proxy.toml"), &|_| None).unwrap_err();
    assert!(problems.to_string().starts_with("/nonexistent/proxy.toml: cannot read it: No such file"), "{problems}");
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let folder = Folder::new();
    folder.write("proxy.toml", EXAMPLE, 0o644);
    load(&folder.0.path().join("proxy.toml"), &|_| None).unwrap();
}

#[test]
fn the_folder_of_a_bare_name_is_the_current_one() {
    for (path, folder) in [("proxy.toml", "."), ("./proxy.toml", "."), ("a/proxy.toml", "a"), ("/proxy.toml", "/")] {
        assert_eq!(folder_of(Path::new(path)), Path::new(folder), "{path}");
    }
}

#[test]
fn everything_required_is_asked_for() {
    check_text(
        "",
        &["1:1: `listen` is missing", "1:1: `tls` is missing", "1:1: there is nothing to stand in front of"],
    );
    check("[app]\n", "3:1: `app.url` is missing");
    let admin = "[pbx]\nurl = \"http://[::1]\"\nhosts = [\"a\"]\nadmin = {}\n[[auth]]\n";
    check_text(
        &format!("{TOP}{BOTH}{admin}"),
        &["10:9: `pbx.admin.user` is missing", "10:9: `pbx.admin.password` is missing", "11:1: `auth.type` is missing"],
    );
}

#[test]
fn keys_of_later_releases_are_unknown() {
    check("[app]\nurl = \"http://a\"\nshield = true", "5:1: unknown key `app.shield`");
    check_beside("[state]\nfile = \"x\"\nsize = 1", "9:1: unknown key `state.size`");
    check_beside("[server]\ntimeouts = { idel = \"1s\" }", "8:14: unknown key `server.timeouts.idel`");
}

// === [server] ===

#[test]
fn fields_that_a_request_needs_are_not_stripped() {
    let server =
        accepted(&format!("{TOP}[app]\nurl = \"http://a\"\n[server]\nstrip_fields = [\"X-Who\", \"x_b\"]")).server;
    assert_eq!(server.strip_fields, ["x-who", "x_b"]);
    let list = |name: &str| format!("[server]\nstrip_fields = [\"{name}\"]");
    check_beside(&list("a b"), "8:17: `server.strip_fields`: not the name of a header field");
    for name in ["Host", "cookie", "Transfer-Encoding", "content-length"] {
        let message = format!("8:17: `server.strip_fields`: a request needs {}", name.to_lowercase());
        check_beside(&list(name), &message);
    }
}

#[test]
fn names_may_have_what_resolvers_know() {
    let app = |keys: &str| accepted(&format!("{TOP}[app]\n{keys}")).app.unwrap().upstream;
    let at = |url: &str| app(&format!("url = \"{url}\"")).urls.remove(0);
    assert_eq!(at("http://my_app:3000").address(), "my_app:3000");
    let whole = at("http://App.default.svc.cluster.local.:3000");
    // Looked up as a whole name, and called by it without the dot.
    assert_eq!(whole.address(), "app.default.svc.cluster.local.:3000");
    assert_eq!(whole.authority(), "app.default.svc.cluster.local:3000");
    assert_eq!(at("https://a_b.test.").authority(), "a_b.test");
    let hosts = app("url = \"http://a\"\nhosts = [\"My_App.test.\", \"*.B_c.test.\"]");
    assert!(["my_app.test", "x.b_c.test"].into_iter().all(|host| hosts.lists(host)), "{hosts:?}");
    for url in ["http://a..", "http://.", "http://1.2.3.4.", "http://a.1."] {
        check(
            &format!("[app]\nurl = \"{url}\""),
            "4:7: `app.url`: not a host name or IP address with an optional port",
        );
    }
}

#[test]
fn known_machines_are_networks_and_never_everybody() {
    for key in ["believe_forwarded_from", "accept_proxy_protocol_from"] {
        let list = |items: &str| format!("[app]\nurl = \"http://a\"\n[server]\n{key} = [{items}]");
        let column = key.len() + 4;
        let (whole, item) = (format!("6:{column}: `server.{key}`"), format!("6:{}: `server.{key}`", column + 1));
        let server = accepted(&format!("{TOP}{}", list("\"192.0.2.1\", \"10.0.0.0/8\", \"2001:db8::/32\""))).server;
        let known = |peer: &str| match key {
            "believe_forwarded_from" => server.believes(peer.parse().unwrap()),
            _ => server.expects_proxy_header(peer.parse().unwrap()),
        };
        assert!(known("192.0.2.1") && known("10.255.0.1") && known("2001:db8:1::1"), "{key}");
        assert!(!known("192.0.2.2") && !known("11.0.0.1") && !known("2001:db9::1") && !known("::1"), "{key}");
        accepted(&format!("{TOP}{}", list("")));
        for everybody in [
            "\"0.0.0.0/0\"",
            "\"::/0\"",
            "\"0.0.0.0/1\", \"128.0.0.0/1\"",
            "\"192.0.2.1\", \"8000::/1\", \"::/2\", \"4000::/2\"",
        ] {
            check(&list(everybody), &format!("{whole}: is everybody: any client could claim another's address"));
        }
        check(&list("\"10.0.0.1/8\""), &format!("{item}: has bits set behind its prefix"));
        check(&list("\"any\""), &format!("{item}: not a network"));
        check(&list("1"), &format!("{item}: must be a string in quotes"));
        check(
            &format!("[app]\nurl = \"http://a\"\n[server]\n{key} = \"10.0.0.0/8\""),
            &format!("{whole}: must be a list in brackets"),
        );
    }
}

#[test]
fn connections_are_counted_within_bounds() {
    let server = |lines: &str| accepted(&format!("{TOP}{BOTH}[server]\n{lines}")).server;
    for (lines, expected) in [
        ("", (16_384, 12_288)),
        ("max_connections = 100", (100, 75)),
        ("max_connections = 1", (1, 1)),
        ("max_connections_per_client = 7", (16_384, 7)),
        ("max_connections = 100\nmax_connections_per_client = 7", (100, 7)),
    ] {
        let server = server(lines);
        assert_eq!((server.max_connections, server.max_connections_per_client), expected, "{lines}");
    }
    check_beside("[server]\nmax_connections = 0", "8:19: `server.max_connections`: is out of bounds");
    check_beside("[server]\nmax_connections = 1000001", "8:19: `server.max_connections`: is out of bounds");
    check_beside(
        "[server]\nmax_connections_per_client = 0",
        "8:30: `server.max_connections_per_client`: is out of bounds",
    );
    for (budget, expected) in [("\"8MiB\"", 8 << 20), ("\"65536KiB\"", 64 << 20), ("\"1GiB\"", 1 << 30)] {
        let config = accepted(&format!("{TOP}{BOTH}[server]\nbuffer_budget = {budget}"));
        assert_eq!(config.server.buffer_budget, expected, "{budget}");
    }
    for (budget, problem) in [
        ("64", "a size needs a unit"),
        ("\"64\"", "not a size"),
        ("\"64MB\"", "not a size"),
        ("\"-1MiB\"", "not a size"),
        ("\"99999999999GiB\"", "not a size"),
        ("\"8191KiB\"", "too small"),
    ] {
        check_beside(
            &format!("[server]\nbuffer_budget = {budget}"),
            &format!("8:17: `server.buffer_budget`: {problem}"),
        );
    }
    let config = accepted(&format!("{TOP}{BOTH}[server]\nmax_connections = 5\nmax_connections_per_client = 6"));
    let told = config.warnings.iter().any(|warning| warning.message.contains("it is more than `max_connections`"));
    assert!(told, "{:?}", config.warnings);
}

// === Top ===

#[test]
fn listeners_are_addresses() {
    let top = |listen: &str| {
        format!("listen = {listen}\n{}[app]\nurl = \"http://a\"\n", TOP.lines().nth(1).unwrap().to_owned() + "\n")
    };
    for listen in ["\"[::]:443\"", "[\"0.0.0.0:443\", \"[::]:443\"]", "[\"127.0.0.1:0\", \"127.0.0.1:0\"]"] {
        accepted(&top(listen));
    }
    let sockets = accepted(&top("[\"unix:/run/x\", \"unix:y\", \"[::]:443\"]")).listen;
    assert_eq!(sockets[0].to_string(), "unix:/run/x");
    assert!(matches!(&sockets[1], Listen::Unix(path) if path.is_absolute() && path.ends_with("y")), "{sockets:?}");
    check_text(&top("\"unix:\""), &["1:10: `listen`: names no socket"]);
    check_text(&top(&format!("\"unix:/{}\"", "x".repeat(107))), &["1:10: `listen`: the path is longer than 107 bytes"]);
    check_text(&top("[\"unix:/x\", \"unix:/x\"]"), &["1:22: `listen`: the same address twice"]);
    check_text(&top("\":443\""), &["1:10: `listen`: not an address"]);
    check_text(&top("[]"), &["1:10: `listen`: is an empty list"]);
    check_text(&top("[\"[::]:1\", \"[::]:1\"]"), &["1:21: `listen`: the same address twice"]);
    check_text(
        &top("\"[::]:1\"\nredirect_http = { listen = \"[::]:1\", port = 443 }"),
        &["2:28: `redirect_http.listen`: is an address of `listen`, which speaks TLS"],
    );
    for (port, expected) in
        [("0", "is out of bounds"), ("65536", "is out of bounds"), ("\"443\"", "must be a whole number")]
    {
        check_text(
            &top(&format!("\"[::]:1\"\nredirect_http = {{ listen = \"[::]:2\", port = {port} }}")),
            &[&format!("2:45: `redirect_http.port`: {expected}")],
        );
    }
    check_text(
        &top("\"[::]:1\"\nredirect_http = \"[::]:1\""),
        &["2:17: `redirect_http`: is an address of `listen`, which speaks TLS"],
    );
    check_text(&top("\"[::]:1\"\nworkers = 0"), &["2:11: `workers`: is out of bounds"]);
    check_text(&top("\"[::]:1\"\nworkers = 1025"), &["2:11: `workers`: is out of bounds"]);
    check_text(&top("\"[::]:1\"\nworkers = \"4\""), &["2:11: `workers`: must be a whole number"]);
}

#[test]
fn cve_2026_27586_a_client_ca_that_cannot_be_used_is_no_start() {
    let tls = |tls: &str| format!("listen = \"[::]:0\"\ntls = {tls}\n[app]\nurl = \"http://a\"\n");
    let pair = "cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\"";
    for (file, expected) in [
        ("certs/missing.pem", "cannot read certs/missing.pem: No such file or directory"),
        ("certs/empty.pem", "certs/empty.pem is empty"),
        ("certs/privkey.pem", "is a private key and no certificate"),
        ("certs/none.pem", "has no certificate in PEM form"),
    ] {
        let ca = format!("client_ca = \"{file}\"");
        check_text(&tls(&format!("{{ {ca}, {pair} }}")), &[&format!("2:21: `tls.client_ca`: {expected}")]);
        check_text(
            &tls(&format!("{{ {ca}, certificates = [{{ {pair} }}] }}")),
            &[&format!("2:21: `tls.client_ca`: {expected}")],
        );
        check_text(
            &tls(&format!("{{ certificates = [{{ {ca}, {pair} }}] }}")),
            &[&format!("2:39: `tls.certificates.client_ca`: {expected}")],
        );
    }
    check_text(&tls(&format!("{{ {pair}, client_ca = [] }}")), &["2:78: `tls.client_ca`: must be a string in quotes"]);
}

#[test]
fn a_client_ca_is_for_all_certificates_or_for_one() {
    let pair = "cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\"";
    let second = "cert = \"certs/second.pem\", key = \"certs/second-key.pem\"";
    let (ca, other) = ("client_ca = \"certs/client-ca.pem\"", "client_ca = \"certs/old.pem\"");
    for (written, expected) in [
        (format!("{{ {pair} }}"), &[false][..]),
        (format!("{{ {pair}, {ca} }}"), &[true]),
        (format!("{{ certificates = [{{ {pair} }}, {{ {pair} }}], {ca} }}"), &[true, true]),
        (format!("{{ certificates = [{{ {pair} }}, {{ {second}, {ca} }}] }}"), &[false, true]),
    ] {
        let config = accepted(&format!("listen = \"[::]:0\"\ntls = {written}\n[app]\nurl = \"http://a\"\n"));
        let found: Vec<_> = config.certificates.iter().map(|certificate| certificate.client_ca.is_some()).collect();
        assert_eq!(found, expected, "{written}");
    }
    let both = format!("{{ certificates = [{{ {pair} }}, {{ {second}, {other} }}], {ca} }}");
    let config = accepted(&format!("listen = \"[::]:0\"\ntls = {both}\n[app]\nurl = \"http://a\"\n"));
    assert_ne!(config.certificates[0].client_ca, config.certificates[1].client_ca);
}

#[test]
fn no_name_is_open_by_one_certificate_and_closed_by_another() {
    let pair = "cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\"";
    let (ca, other) = ("client_ca = \"certs/client-ca.pem\"", "client_ca = \"certs/old.pem\"");
    let torn = "`tls.certificates`: www.example.com is in two certificates with different `client_ca`";
    for (list, around) in [
        (format!("{{ {pair} }}, {{ {pair}, {ca} }}"), String::new()),
        (format!("{{ {pair}, {ca} }}, {{ {pair} }}"), String::new()),
        (format!("{{ {pair}, {other} }}, {{ {pair} }}"), format!(", {ca}")),
    ] {
        let text =
            format!("listen = \"[::]:0\"\ntls = {{ certificates = [{list}]{around} }}\n[app]\nurl = \"http://a\"\n");
        check_text(&text, &[&format!("2:24: {torn}")]);
    }
}

/// Makes the certificate of an authority between, and one that it signed, each with its key.
fn chained(folder: &Folder) {
    let between_key = KeyPair::generate().unwrap();
    let mut between = CertificateParams::new(Vec::new()).unwrap();
    between.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    between.distinguished_name.push(rcgen::DnType::CommonName, "between");
    let between_pem = between.self_signed(&between_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(["own.test".to_owned()]).unwrap();
    let own_pem = own.signed_by(&key, &rcgen::Issuer::new(between, between_key)).unwrap().pem();
    let other = certificate(2099).0;
    folder.write("own.key", &key.serialize_pem(), 0o600);
    for (name, parts) in [
        ("right.pem", [&own_pem, &between_pem].as_slice()),
        ("intermediate-first.pem", &[&between_pem, &own_pem]),
        ("disordered.pem", &[&own_pem, &other, &between_pem]),
        ("alone.pem", &[&own_pem]),
    ] {
        folder.write(name, &parts.iter().map(|part| part.as_str()).collect::<String>(), 0o644);
    }
}

#[test]
fn a_chain_begins_with_the_servers_own_certificate_and_goes_on_in_order() {
    let folder = Folder::new();
    chained(&folder);
    let parse = |cert: &str| {
        let tls = format!("tls = {{ cert = \"{cert}\", key = \"own.key\" }}");
        folder.parse(&format!("listen = \"[::]:0\"\n{tls}\n[app]\nurl = \"http://a\"\n"))
    };
    assert!(parse("right.pem").unwrap().warnings.is_empty());
    let problem = parse("intermediate-first.pem").unwrap_err().into_vec().remove(0);
    assert_eq!(
        problem.message,
        "`tls.cert`: the first certificate is another's; the key belongs to number 2 of the file"
    );
    assert!(problem.hint.unwrap().contains("own certificate first"));
    let warning = parse("disordered.pem").unwrap().warnings.remove(0);
    assert!(warning.message.contains("certificate 2 of the file did not issue the one before it"), "{warning}");
    let config = parse("alone.pem").unwrap();
    assert!(config.warnings.is_empty(), "a private authority may be known to all clients");
    assert!(matches!(config.certificates[0].flaw(), Some(ChainFlaw::Private(issuer)) if issuer.contains("between")));
}

#[test]
fn certificates_are_read_and_belong_to_their_keys() {
    let tls = |tls: &str| format!("listen = \"[::]:0\"\ntls = {tls}\n[app]\nurl = \"http://a\"\n");
    let pair = "cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\"";
    assert_eq!(accepted(&tls(&format!("{{ certificates = [{{ {pair} }}, {{ {pair} }}] }}"))).certificates.len(), 2);
    for (written, expected) in [
        ("{ cert = \"certs/fullchain.pem\" }", "2:7: `tls.key` is missing"),
        ("{ certificates = [] }", "2:24: `tls.certificates`: is an empty list"),
        ("{ certificates = [], cert = \"c\", key = \"k\" }", "2:7: `tls`: has both one certificate and a list"),
        (
            "{ cert = \"certs/fullchain.pem\", key = \"certs/other.pem\" }",
            "2:45: `tls.key`: the key does not belong to the certificate",
        ),
        (
            "{ cert = \"certs/none.pem\", key = \"certs/privkey.pem\" }",
            "2:16: `tls.cert`: has no certificate in PEM form",
        ),
        (
            "{ cert = \"certs/fullchain.pem\", key = \"certs/fullchain.pem\" }",
            "2:45: `tls.key`: is a certificate and no private key",
        ),
        (
            "{ cert = \"certs/fullchain.pem\", key = \"certs/none.pem\" }",
            "2:45: `tls.key`: has no private key in PEM form",
        ),
        (
            "{ cert = \"certs/old.pem\", key = \"certs/privkey.pem\" }",
            "2:16: `tls.cert`: the certificate has expired at 2001-01-01T00:00:00Z",
        ),
        ("{ cert = \"secrets/empty\", key = \"certs/privkey.pem\" }", "2:16: `tls.cert`: secrets/empty is empty"),
        (
            "{ cert = \"/dev/zero\", key = \"certs/privkey.pem\" }",
            "2:16: `tls.cert`: cannot read /dev/zero: it is a pipe or a device",
        ),
        ("{ cert = \"certs\", key = \"certs/privkey.pem\" }", "2:16: `tls.cert`: cannot read certs: Is a directory"),
        ("{ cert = \"certs/fullchain.pem\", key = \"people.csv\" }", "2:45: `tls.key`: has no private key in PEM form"),
        ("\"auto\"", "2:7: `tls`: must be a table"),
    ] {
        check_text(&tls(written), &[expected]);
    }
}

#[test]
fn the_key_of_a_certificate_may_be_shared_with_a_warning() {
    let folder = Folder::new();
    let path = folder.0.path().join("certs/privkey.pem");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let warnings = folder.parse(&format!("{TOP}[app]\nurl = \"http://a\"")).unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].message, "`tls.key`: certs/privkey.pem is readable by group or world (mode 0640)");
    assert_eq!(warnings[0].hint, Some(format!("run: chmod 600 {}", path.display())));
}

#[test]
fn the_remedy_for_open_files_can_be_pasted() {
    let folder = Folder::new();
    let text = format!("{TOP}[app]\nurl = \"http://a\"\n[voximplant]\nusers = {{ file = \"open\" }}");
    let problems = folder.parse(&text).unwrap_err();
    let expected = format!("run: chmod go-w {}", folder.0.path().join("open").display());
    assert_eq!(problems.as_slice()[0].hint.as_deref(), Some(expected.as_str()));
}

// === [admin] ===

#[test]
fn the_admin_listener_is_reached_from_this_machine_only() {
    let admin = |listen: &str| accepted(&format!("{TOP}{BOTH}[admin]\nlisten = \"{listen}\"")).admin.unwrap();
    for listen in ["127.0.0.1:9443", "127.1.2.3:0", "[::1]:9443", "unix:/run/callgate/admin.sock"] {
        assert_eq!(admin(listen).to_string(), listen);
    }
    let Listen::Unix(path) = admin("unix:admin.sock") else { panic!("not a socket") };
    assert!(path.is_absolute(), "{path:?}");
    let reached = "8:10: `admin.listen`: can be reached from other machines, and whoever reaches it may read it";
    for listen in ["0.0.0.0:9443", "[::]:9443", "192.0.2.1:9443", "[::ffff:127.0.0.1]:9443"] {
        check_beside(&format!("[admin]\nlisten = \"{listen}\""), reached);
    }
    for listen in ["localhost:9443", "9443", ":9443", "127.0.0.1", "http://127.0.0.1:9443"] {
        check_beside(&format!("[admin]\nlisten = \"{listen}\""), "8:10: `admin.listen`: not an address");
    }
    check_beside("[admin]\nlisten = \"unix:\"", "8:10: `admin.listen`: names no socket");
    let long = format!("[admin]\nlisten = \"unix:/{}\"", "x".repeat(107));
    check_beside(&long, "8:10: `admin.listen`: the path is longer than 107 bytes");
    check_beside("[admin]", "7:1: `admin.listen` is missing");
    check_beside("[admin]\nlisten = [\"127.0.0.1:1\"]", "8:10: `admin.listen`: must be a string in quotes");
    let taken = "8:10: `admin.listen`: is an address of `listen` or `redirect_http`";
    let top = TOP.replace("127.0.0.1:0", "127.0.0.1:8443");
    check_text(&format!("{top}{BOTH}[admin]\nlisten = \"127.0.0.1:8443\""), &[taken]);
}

// === [server], [limits], [log], [audit] ===

#[test]
fn durations_and_rates_have_a_form() {
    check_beside("[server]\ndrain = 30", "8:9: `server.drain`: a duration needs a unit");
    check_hint("[app]\nurl = \"http://a\"\n[server]\ndrain = 30", "write \"30s\"");
    check_beside("[server]\ndrain = \"0s\"", "8:9: `server.drain`: a duration of zero");
    check_beside("[server]\ntimeouts = { idle = \"soon\" }", "8:21: `server.timeouts.idle`: not a duration");
    check_beside(
        "[limits]\nclient = \"often\"",
        "8:10: `limits.client`: a rate looks like \"30/min\", \"5/15min\" or \"30/min burst 10\"",
    );
}

#[test]
fn logs_go_to_known_places() {
    let log = |tail: &str| accepted(&format!("{TOP}{BOTH}[log]\n{tail}")).log;
    assert_eq!(log("access = \"off\"").access, AccessLogTarget::Off);
    assert!(matches!(log("access = \"log/access.log\"").access, AccessLogTarget::File(path) if path.is_absolute()));
    assert_eq!(log("format = \"json\"\nlevel = \"trace\"").level, Level::TRACE);
    check_beside(
        "[log]\naccess = \"sdtout\"",
        "8:10: `log.access`: unknown word `sdtout`, and a file has a / or a . in its name",
    );
    check_beside("[log]\nformat = \"jsno\"", "8:10: `log.format`: unknown word `jsno`");
    check_hint("[app]\nurl = \"http://a\"\n[log]\nformat = \"jsno\"", "did you mean `json`?");
    check_beside("[log]\nlevel = \"loud\"", "8:9: `log.level`: unknown word `loud`");
    check_beside("[audit]\nfile = \"no/such/folder.log\"", "8:8: `audit.file`: the folder no/such does not exist");
    check_beside("[audit]\nfile = \"a\\u0007b\"", "8:8: `audit.file`: has a control character in it");
}

#[test]
fn audit_lines_go_to_known_places() {
    let audit = |tail: &str| accepted(&format!("{TOP}{BOTH}[audit]\n{tail}")).audit;
    let full = audit("file = \"log/audit.log\"\nchain = true\nsyslog = \"udp:192.0.2.9:514\"");
    assert!(full.chain && full.file.is_some_and(|path| path.is_absolute()));
    assert_eq!(full.syslog.unwrap().to_string(), "udp:192.0.2.9:514");
    let syslog = |word: &str| audit(&format!("syslog = \"{word}\"")).syslog.unwrap().to_string();
    assert_eq!(syslog("unix:/dev/log"), "unix:/dev/log");
    assert_eq!(syslog("udp:[::1]:514"), "udp:[::1]:514");
    assert_eq!((full.when_stuck, audit("when_stuck = \"go_on\"").when_stuck), (WhenStuck::Refuse, WhenStuck::GoOn));
    check_beside("[audit]\nwhen_stuck = \"wait\"", "8:14: `audit.when_stuck`: unknown word `wait`");
    check_beside("[audit]", "7:1: `audit`: says nothing about where to");
    check_beside("[audit]\nchain = true", "7:1: `audit`: says nothing about where to");
    check_beside("[audit]\nchain = true\nsyslog = \"unix:/dev/log\"", "8:9: `audit.chain`: there is no file to guard");
    for (word, problem) in [
        ("/dev/log", "not a place of a syslog daemon"),
        ("unix:", "not a place of a syslog daemon"),
        ("tcp:192.0.2.9:514", "not a place of a syslog daemon"),
        ("udp:loghost:514", "has no IP address with a port behind udp:"),
        ("udp:192.0.2.9", "has no IP address with a port behind udp:"),
    ] {
        check_beside(&format!("[audit]\nsyslog = \"{word}\""), &format!("8:10: `audit.syslog`: {problem}"));
    }
    check_beside(
        "[log]\naccess = \"log/one.log\"\n[audit]\nfile = \"log/one.log\"",
        "10:8: `audit.file`: is the file of the access log",
    );
}

// === Upstreams ===

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
        ("paths = [\"/a/../b\"]", "5:10: `app.paths`: a path that has another spelling"),
        ("paths = [\"/%61\"]", "5:10: `app.paths`: a path that has another spelling"),
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
            &["5:7: `app.pin`: there is no key to hold it against: not every `url` is https"],
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

// === The administrator ===

fn pbx(url: &str, tail: &str) -> String {
    format!(
        "{TOP}[pbx]\nurl = \"{url}\"\n{tail}\n[[allow]]\nauth = \"redirect\"\npbx = {{ domain = \"a\", account = \"40\" }}\n"
    )
}

#[test]
fn the_administrators_password_travels_safely() {
    let admin = "admin = { user = \"sso\", password = { file = \"secrets/pbx-admin\" } }";
    for url in ["http://127.0.0.1:8080", "http://[::1]", "http://localhost", "https://pbx.test", "unix:/run/pbx"] {
        accepted(&pbx(url, admin));
    }
    let pinned = format!("{admin}\npin = \"YhKJKSzoTt2b5FP18fvpHo7fJYqQCjAa3HWY3tvRMwE=\"");
    accepted(&pbx("https://10.0.0.1", &pinned));
    // Every place is judged, not the first alone.
    let several = |urls: &str| pbx("", admin).replace("url = \"\"", &format!("url = [{urls}]"));
    accepted(&several("\"https://pbx.test\", \"http://[::1]\", \"unix:/run/pbx\""));
    check_text(
        &several("\"https://pbx.test\", \"http://[::1]\", \"http://10.0.0.1\""),
        &["5:9: `pbx.admin`: the password would travel in clear over http://"],
    );
    check_text(&pbx("http://10.0.0.1", admin), &["5:9: `pbx.admin`: the password would travel in clear over http://"]);
    let unverified = format!("{admin}\ninsecure_skip_verify = true");
    check_text(
        &pbx("https://pbx.test", &unverified),
        &["5:9: `pbx.admin`: the password would travel to whoever answers: insecure_skip_verify is set"],
    );
    for url in ["http://10.0.0.1", "https://pbx.test"] {
        accepted(&pbx(url, &format!("{admin}\ninsecure_admin_over_http = true\ninsecure_skip_verify = true")));
    }
    check_text(
        &pbx("http://[::1]", &format!("{admin}\nhosts = [\"*.a\"]")),
        &["5:9: `pbx.admin`: browsers cannot be sent to a PBX host that only a wildcard names"],
    );
    accepted(&pbx("http://[::1]", &format!("{admin}\nhosts = [\"*.a\", \"a\"]")));
}

#[test]
fn secrets_come_from_exactly_one_good_place() {
    let text = |secret: &str| pbx("http://[::1]", &format!("admin = {{ user = \"sso\", password = {secret} }}"));
    for secret in
        ["{ file = \"secrets/pbx-admin\" }", "{ env = \"PBX_ADMIN_PASSWORD\" }", "{ credential = \"pbx-admin\" }"]
            .into_iter()
            // As editors on Windows save it.
            .chain(["{ file = \"secrets/marked\" }", "{ env = \"MARKED\" }", "{ credential = \"marked\" }"])
    {
        assert_eq!(accepted(&text(secret)).pbx.unwrap().admin.unwrap().password.expose(), SECRET, "{secret}");
    }
    for (secret, column, key, expected) in [
        (format!("\"{SECRET}\""), 36, "", "a secret is never written here"),
        ("{}".to_owned(), 36, "", "a secret has exactly one source"),
        ("{ env = \"A\", file = \"b\" }".to_owned(), 36, "", "a secret has exactly one source"),
        ("{ file = \"secrets/empty\" }".to_owned(), 45, ".file", "secrets/empty is empty"),
        ("{ file = \"secrets/newline\" }".to_owned(), 36, "", "the secret is empty"),
        ("{ file = \"secrets/two-lines\" }".to_owned(), 36, "", "the secret has a line break or a NUL inside"),
        ("{ file = \"secrets/nul\" }".to_owned(), 36, "", "the secret has a line break or a NUL inside"),
        ("{ file = \"secrets\" }".to_owned(), 45, ".file", "cannot read secrets: Is a directory"),
        (
            "{ file = \"open\" }".to_owned(),
            45,
            ".file",
            "open is writable by group or world (mode 0602): a writer decides who logs in",
        ),
        ("{ file = \"secrets/utf-16\" }".to_owned(), 45, ".file", "secrets/utf-16 is text in UTF-16, not in UTF-8"),
        ("{ file = \"missing\" }".to_owned(), 45, ".file", "cannot read missing: No such file or directory"),
        (
            "{ env = \"MISSING\" }".to_owned(),
            44,
            ".env",
            "the environment variable MISSING is not set, or not in UTF-8",
        ),
        ("{ env = \"A=b\" }".to_owned(), 44, ".env", "not the name of a variable"),
        ("{ env = \"EMPTY\" }".to_owned(), 36, "", "the secret is empty"),
        ("{ credential = \"../open\" }".to_owned(), 51, ".credential", "is a path"),
    ] {
        check_text(&text(&secret), &[&format!("5:{column}: `pbx.admin.password{key}`: {expected}")]);
    }
    check_text(
        &text("{ env = \"PBX_ADMIN_PASSWORD\" }").replace("\"sso\"", "\"s:o\""),
        &["5:18: `pbx.admin.user`: has a colon in it"],
    );
}

#[test]
fn spaces_around_a_secret_are_part_of_it_and_noted() {
    let text = pbx("http://[::1]", "admin = { user = \"sso\", password = { file = \"secrets/spaced\" } }");
    let config = accepted(&text);
    assert_eq!(config.pbx.unwrap().admin.unwrap().password.expose(), format!(" {SECRET}"));
    let message = &config.warnings[0].message;
    assert_eq!(message, "`pbx.admin.password`: the secret has spaces around it, which are taken as part of it");
}

#[test]
fn users_come_from_a_file_a_variable_or_a_credential() {
    let text = |users: &str| format!("{TOP}[app]\nurl = \"http://a\"\n[voximplant]\nusers = {users}");
    for (users, count) in [
        ("{ file = \"voximplant.htdigest\" }", 1),
        ("{ env = \"USERS\" }", 2),
        ("{ credential = \"../voximplant.htdigest\" }", 0),
    ] {
        let found = Folder::new().parse(&text(users)).ok().and_then(|config| config.voximplant);
        let found = found.map_or(0, |voximplant| voximplant.users.len());
        assert_eq!(found, count, "{users}");
    }
    let config = accepted(&text("{ env = \"USERS\" }"));
    assert_eq!(config.voximplant.unwrap().users_file, None);
    check_text(
        &text("{ env = \"BAD_USERS\" }"),
        &["6:17: `voximplant.users.env`: BAD_USERS line 2: expected three fields, user:voximplant.com:HA1, found 1"],
    );
    check_text(&text("\"voximplant.htdigest\""), &["6:9: `voximplant.users`: must be a table"]);
    check_text(&text("{}"), &["6:9: `voximplant.users`: a secret has exactly one source"]);
}

#[test]
fn what_others_may_write_decides_nothing() {
    let folder = Folder::new();
    let text = format!(
        "{TOP}[app]\nurl = \"https://a\"\nwhoami = \"/me\"\nca = \"certs/upstream-ca.pem\"\n[voximplant]\nusers = {{ file = \"voximplant.htdigest\" }}\n[[allow]]\nvoximplant = \"{{row.ext}}-x\"\ntable = {{ file = \"people.csv\", key = \"{{email}}\" }}\n"
    );
    folder.write("proxy.toml", &text, 0o644);
    let path = folder.0.path().join("proxy.toml");
    assert!(load(&path, &|_| None).unwrap().warnings.is_empty());
    for (name, group) in [
        ("proxy.toml", Ok(())),
        ("people.csv", Ok(())),
        ("certs/upstream-ca.pem", Ok(())),
        ("certs/fullchain.pem", Ok(())),
        ("certs/privkey.pem", Err(())),
        ("voximplant.htdigest", Err(())),
    ] {
        let file = folder.0.path().join(name);
        let before = fs::metadata(&file).unwrap().permissions();
        for (mode, expected) in [(0o620, group), (0o602, Err(())), (0o622, Err(()))] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let read = load(&path, &|_| None);
            assert_eq!(read.as_ref().map(drop).map_err(drop), expected, "{name} {mode:04o}");
            let told = match read {
                Ok(config) => config.warnings,
                Err(problems) => problems.into_vec(),
            };
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].message.contains("is writable by group or world"), "{told:?}");
        }
        fs::set_permissions(&file, before).unwrap();
    }
}

#[test]
fn a_configuration_of_another_encoding_is_told_so() {
    let folder = Folder::new();
    let path = folder.0.path().join("proxy.toml");
    let utf_16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    for (bytes, message, hint) in [
        (utf_16("\u{feff}listen = 1"), "is text in UTF-16, not in UTF-8", "iconv -f UTF-16"),
        (utf_16("listen = 1"), "is text in UTF-16, not in UTF-8", "iconv -f UTF-16"),
        (b"# gr\xfc\xdfe\n".to_vec(), "line 1 is not text in UTF-8", "save the file as UTF-8"),
        (b"#\n#\n# gr\xfc\xdfe\n".to_vec(), "line 3 is not text in UTF-8", "save the file as UTF-8"),
    ] {
        fs::write(&path, bytes).unwrap();
        let problems = load(&path, &|_| None).unwrap_err().into_vec();
        assert_eq!(problems[0].message, message);
        assert!(problems[0].hint.as_ref().unwrap().contains(hint), "{problems:?}");
    }
    fs::write(&path, format!("\u{feff}{TOP}[app]\nurl = \"http://a\"\n").replace('\n', "\r\n")).unwrap();
    load(&path, &|_| None).unwrap();
}

#[test]
fn systemd_sets_the_mode_of_its_credentials() {
    let folder = Folder::new();
    folder.write("secrets/pbx-admin", SECRET, 0o644);
    let text = pbx("http://[::1]", "admin = { user = \"sso\", password = { credential = \"pbx-admin\" } }");
    folder.parse(&text).unwrap();
    let problems = parse(&text, folder.0.path(), &|_| None).unwrap_err();
    assert!(problems.to_string().contains("CREDENTIALS_DIRECTORY is not set"), "{problems}");
}

#[test]
fn the_landing_page_follows_the_handoff() {
    let landing = |tail: &str| {
        let pbx = accepted(&format!("{TOP}[pbx]\nurl = \"http://a\"\n{tail}")).pbx.unwrap();
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

// === [pbx] shield ===

#[test]
fn a_shield_is_read_strictly() {
    let pbx = |shield: &str| format!("{TOP}[pbx]\nurl = \"http://127.0.0.1\"\nshield = {{ {shield} }}");
    for (shield, expected) in [
        ("", "5:10: `pbx.shield.from` is missing"),
        ("from = [\"0.0.0.0/0\"]", "5:19: `pbx.shield.from`: is everybody: nobody would be kept out"),
        ("from = [\"::/1\", \"8000::/1\"]", "5:19: `pbx.shield.from`: is everybody: nobody would be kept out"),
        ("from = [\"10.0.0.1/8\"]", "5:20: `pbx.shield.from`: has bits set behind its prefix"),
        ("from = [], admin_paths = [\"/\"]", "5:38: `pbx.shield.admin_paths`: is every path"),
        ("from = [], open_paths = [\"/a/../b\"]", "5:37: `pbx.shield.open_paths`: a path that has another spelling"),
        (
            "from = [], sessions = \"ours\"",
            "5:34: `pbx.shield.sessions`: callgate opens no sessions: nobody could land",
        ),
        ("from = [], form = 1", "5:23: unknown key `pbx.shield.form`"),
    ] {
        check_text(&pbx(shield), &[expected]);
    }
    let shield = accepted(&pbx("from = [\"10.0.0.0/8\"], admin_paths = [\"/Reg_\"]")).pbx.unwrap().shield.unwrap();
    assert_eq!((shield.doors.admin, shield.any_session), (vec!["/reg_".to_owned()], true));
    let admin = "from = []}\nadmin = { user = \"sso\", password = { env = \"PBX_ADMIN_PASSWORD\" }";
    assert!(!accepted(&pbx(admin)).pbx.unwrap().shield.unwrap().any_session);
}

// === [voximplant] ===

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
            "13:14: `allow.voximplant`: this application goes without saying: `users` are its own",
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
            "{TOP}[app]\nurl = \"http://a\"\n[voximplant]\nusers = {{ file = \"voximplant.htdigest\" }}\nmanagement = {{ {management} }}"
        )
    };
    let key = "account_id = 1, api_key = { file = \"secrets/pbx-admin\" }";
    for (management, expected) in [
        ("", "7:14: `voximplant.management`: there is one way to prove that callgate may"),
        ("account_id = 1", "7:14: `voximplant.management`: there is one way to prove that callgate may"),
        (
            "service_account = { file = \"secrets/pbx-admin\" }",
            "7:34: `voximplant.management.service_account`: not the key of a service account",
        ),
        ("service_account = \"x\"", "7:34: `voximplant.management.service_account`: a secret is never written here"),
    ] {
        check_text(&text(management), &[expected]);
    }
    for url in ["http://api.test/", "https://api.test", "ftp://a/", "https://u@a.test/", "https://a.test/?x/"] {
        let problems = refused(&text(&format!("{key}, url = \"{url}\"")));
        assert!(problems.to_string().contains("not the place of an API"), "{url}: {problems}");
    }
    let read = accepted(&text(key)).voximplant.unwrap().management.unwrap();
    assert_eq!((read.account_id, &*read.url), (1, "https://api.voximplant.com/platform_api/"));
    accepted(&text(&format!("{key}, url = \"http://127.0.0.1:1/platform_api/\"")));
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
        ("origins = [\"http://a.test\"]", "7:12: `voximplant.origins`: a page over http:// can be changed on its way"),
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

// === [[auth]] ===

const HASH: &str = "sha256 = \"6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090\"";

#[test]
fn signed_tokens_need_a_key_an_issuer_and_an_audience() {
    let jwt = |tail: &str| format!("[[auth]]\ntype = \"jwt\"\n{tail}");
    let jwks = |tail: &str| jwt(&format!("jwks = \"https://a/\"\nissuer = \"a\"\naudience = \"b\"\n{tail}"));
    let secret = |tail: &str| jwt(&format!("secret = {{ file = \"secrets/jwt\" }}\n{tail}"));
    let preset = |name: &str, tail: &str| jwt(&format!("preset = \"{name}\"\n{tail}"));
    let tenant = "tenant = \"72f988bf-86f1-41af-91ab-2d7cd011db47\"";
    for (text, expected) in [
        (jwt(""), "7:1: `auth`: nothing says who signs"),
        (jwt("jwks = \"https://a/\"\nissuer = \"a\""), "7:1: `auth.audience` is missing"),
        (jwt("jwks = \"https://a/\"\naudience = \"a\""), "7:1: `auth.issuer` is missing"),
        (jwks("secret = { file = \"secrets/jwt\" }"), "7:1: `auth`: keys have one source"),
        (jwks("issuer2 = 1"), "12:1: unknown key `auth.issuer2`"),
        (jwks("algorithms = [\"none\"]"), "12:15: `auth.algorithms`: `none` is not an algorithm"),
        (jwks("algorithms = []"), "12:14: `auth.algorithms`: is an empty list"),
        (jwks("leeway = \"6min\""), "12:10: `auth.leeway`: is more than 5 min"),
        (jwks("leeway = \"0s\""), "12:10: `auth.leeway`: a duration of zero"),
        (jwks("header = \"cookie\""), "12:10: `auth.header`: cookies have a key of their own"),
        (jwks("header = \"a b\""), "12:10: `auth.header`: not the name of a header field"),
        (jwks("cookie = \"a=\""), "12:10: `auth.cookie`: not the name of a cookie"),
        (jwks("query = \"q\""), "12:9: `auth.query`: logs would tell the token"),
        (jwks("query = \"token&x\""), "12:9: `auth.query`: logs would tell the token"),
        (jwks("query = \"token\"\ncookie = \"a\""), "7:1: `auth`: a token has one place"),
        (jwks("query = \"token\"\nambient = true"), "13:11: `auth.ambient`: no browser adds a parameter by itself"),
        (jwks("cookie = \"a\"\nambient = false"), "13:11: `auth.ambient`: such a token travels by itself"),
        (jwks("header = \"a\"\nambient = false"), "13:11: `auth.ambient`: such a token travels by itself"),
        (
            jwks("cookie = \"a\"\nignore_cookies = true"),
            "13:18: `auth.ignore_cookies`: this method's own credential is a cookie",
        ),
        (secret("ca = \"certs/upstream-ca.pem\""), "10:6: `auth.ca`: nothing is fetched"),
        (secret("algorithms = [\"RS256\"]"), "9:10: `auth.secret`: [RS256] is not what this key is for"),
        (secret("algorithms = [\"HS512\"]"), "9:10: `auth.secret`: [HS512] is not what this key is for"),
        (
            jwt("secret = { file = \"secrets/pbx-admin\" }"),
            "9:10: `auth.secret`: shorter than the 32 bytes that HS256 needs",
        ),
        (jwt("secret = \"0123456789abcdef0123456789abcdef\""), "9:10: `auth.secret`: a secret is never written here"),
        (jwt("public_key = \"certs/privkey.pem\""), "9:14: `auth.public_key`: has a private key in it"),
        (jwt("public_key = \"certs/none.pem\""), "9:14: `auth.public_key`: has no public key in PEM form"),
        (
            jwt("public_key = \"certs/id.pem\"\nalgorithms = [\"HS256\"]"),
            "9:14: `auth.public_key`: [HS256] is not what this key is for",
        ),
        (preset("cloudflare", ""), "9:10: `auth.preset`: unknown word `cloudflare`"),
        (preset("cloudflare-access", "audience = \"a\""), "7:1: `auth.team` is missing"),
        (preset("cloudflare-access", "team = \"a\""), "7:1: `auth.audience` is missing"),
        (
            preset("cloudflare-access", "team = \"a.cloudflareaccess.com\"\naudience = \"a\""),
            "10:8: `auth.team`: not the name of a team",
        ),
        (preset("google-iap", "team = \"a\"\naudience = \"a\""), "10:1: unknown key `auth.team`"),
        (preset("google-iap", ""), "7:1: `auth.audience` is missing"),
        (preset("pomerium", "host = \"https://a\""), "10:8: `auth.host`: not a host name"),
        (
            preset("keycloak", "realm = \"https://a/realms/b/\"\naudience = \"a\""),
            "10:9: `auth.realm`: not the address of a realm",
        ),
        (
            preset("keycloak", "realm = \"http://a.test/realms/b\"\naudience = \"a\""),
            "10:9: `auth.realm`: not an https address",
        ),
        (preset("entra", "tenant = \"common\"\naudience = \"a\""), "10:10: `auth.tenant`: not the id of a tenant"),
        (
            preset("entra", "tenant = \"organizations\"\naudience = \"a\""),
            "10:10: `auth.tenant`: not the id of a tenant",
        ),
        (preset("entra", tenant), "7:1: `auth.audience` is missing"),
        (
            jwks("") + &jwks("name = \"two\""),
            "12:1: `auth`: tokens of this method could be those of method `jwt`, in the same place",
        ),
        (
            secret("") + &jwks("name = \"two\""),
            "10:1: `auth`: tokens of this method could be those of method `jwt`, in the same place",
        ),
    ] {
        check_beside(&text, expected);
    }
    for url in ["http://id.example.com/", "id.example.com", "/jwks", "https://a@id.example.com/", "ftp://a/", ""] {
        let text = jwt(&format!("jwks = \"{url}\"\nissuer = \"a\"\naudience = \"b\""));
        let problems = refused(&format!("{TOP}{BOTH}{text}"));
        assert!(problems.as_slice().iter().any(|problem| problem.message.contains("`auth.jwks`")), "{url} {problems}");
    }
}

#[test]
fn presets_fill_in_what_is_known() {
    let read = |lines: &str| {
        let config = accepted(&format!("{TOP}{BOTH}[[auth]]\ntype = \"jwt\"\naudience = \"a\"\n{lines}"));
        let MethodKind::Jwt(jwt) = config.methods[0].kind.clone() else { panic!("{config:?}") };
        jwt
    };
    let check = |lines: &str, url: &str, issuer: &str, place: &str| {
        let jwt = read(lines);
        let JwtKeySource::Fetched(at) = &jwt.keys else { panic!("{jwt:?}") };
        assert_eq!((at.url.to_string().as_str(), jwt.rules.issuers.as_deref()), (url, Some(&[issuer.to_owned()][..])));
        let (found, is_ambient) = match jwt.place {
            TokenLocation::Header(name) => (name.to_string(), true),
            TokenLocation::Bearer => ("authorization".to_owned(), false),
            other => panic!("{other:?}"),
        };
        assert_eq!((found.as_str(), jwt.is_ambient), (place, is_ambient));
    };
    check(
        "preset = \"cloudflare-access\"\nteam = \"Acme\"",
        "https://acme.cloudflareaccess.com/cdn-cgi/access/certs",
        "https://acme.cloudflareaccess.com",
        "cf-access-jwt-assertion",
    );
    check(
        "preset = \"google-iap\"",
        "https://www.gstatic.com/iap/verify/public_key-jwk",
        "https://cloud.google.com/iap",
        "x-goog-iap-jwt-assertion",
    );
    check(
        "preset = \"pomerium\"\nhost = \"a.test\"",
        "https://a.test/.well-known/pomerium/jwks.json",
        "a.test",
        "x-pomerium-jwt-assertion",
    );
    check(
        "preset = \"keycloak\"\nrealm = \"https://a.test/realms/b\"",
        "https://a.test/realms/b/protocol/openid-connect/certs",
        "https://a.test/realms/b",
        "authorization",
    );
    check(
        "preset = \"entra\"\ntenant = \"72F988BF-86f1-41af-91ab-2d7cd011db47\"",
        "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/discovery/v2.0/keys",
        "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0",
        "authorization",
    );
    let own =
        read("preset = \"cloudflare-access\"\nteam = \"a\"\ncookie = \"CF_Authorization\"\nissuer = [\"b\", \"c\"]");
    assert_eq!((own.place, own.is_ambient), (TokenLocation::Cookie("CF_Authorization".to_owned()), true));
    assert_eq!(own.rules.issuers, Some(vec!["b".to_owned(), "c".to_owned()]));
}

#[test]
fn tokens_that_work_once_want_to_be_remembered() {
    let text =
        format!("{TOP}{BOTH}[[auth]]\ntype = \"jwt\"\nsecret = {{ file = \"secrets/jwt\" }}\nquery = \"token\"\n");
    let warns = |text: &str| accepted(text).warnings.iter().any(|warning| warning.message.contains("after a restart"));
    assert!(warns(&text));
    assert!(!warns(&format!("{text}[state]\nfile = \"log/state\"")));
    assert!(!warns(&text.replace("query", "cookie")));
}

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
        (link("keys = [{ kid = \"a\", secret = \"literal\" }]"), "a secret is never written here"),
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
        "10:9: `auth.cache`: longer than 30 s: so long a login would outlive a logout",
    );
    check_beside(&app("cache = \"0s\""), "10:9: `auth.cache`: a duration of zero");
    for (tail, expected) in [("", None), ("cache = \"30s\"", Some(Duration::from_secs(30)))] {
        let config = accepted(&format!("{TOP}{BOTH}{}", app(tail)));
        let MethodKind::App(whoami) = &config.methods[0].kind else { panic!("{config:?}") };
        assert_eq!(whoami.cache, expected);
    }
}

#[test]
fn only_known_proxies_are_believed_and_only_in_fields_of_their_own() {
    const FROM: &str = "from = [\"10.0.0.0/8\"]";
    let header = |tail: &str| format!("[[auth]]\ntype = \"header\"\n{tail}");
    for (tail, expected) in [
        ("user = \"remote-user\"", "7:1: `auth.from` is missing"),
        (FROM, "7:1: `auth.user` is missing"),
        ("from = []\nuser = \"remote-user\"", "9:8: `auth.from`: is an empty list"),
        (
            "from = [\"0.0.0.0/0\"]\nuser = \"remote-user\"",
            "9:8: `auth.from`: is everybody: any client could claim to be anybody",
        ),
        (
            "from = [\"::/0\"]\nuser = \"remote-user\"",
            "9:8: `auth.from`: is everybody: any client could claim to be anybody",
        ),
        (
            "from = [\"0.0.0.0/1\", \"128.0.0.0/1\"]\nuser = \"remote-user\"",
            "9:8: `auth.from`: is everybody: any client could claim to be anybody",
        ),
    ] {
        check_beside(&header(tail), expected);
    }
    for (tail, expected) in [
        ("user = \"remote user\"", "10:8: `auth.user`: not the name of a header field"),
        ("user = \"Authorization\"", "10:8: `auth.user`: authorization has another meaning"),
        ("user = \"x_forwarded_for\"", "10:8: `auth.user`: x_forwarded_for has another meaning"),
        ("user = \"cookie\"", "10:8: `auth.user`: cookie has another meaning"),
        ("user = \"a\"\nclaims = \"b\"", "11:10: `auth.claims`: not a table"),
        (
            "user = \"a\"\nclaims = { user = \"b\" }",
            "11:19: `auth.claims.user`: the claim `user` is what the key `user` names",
        ),
        ("user = \"a\"\nclaims = { \"a b\" = \"b\" }", "11:20: `auth.claims.a b`: not the name of a claim"),
        ("user = \"a\"\nclaims = { g = { header = \"b\" } }", "11:16: `auth.claims.g.separator` is missing"),
        (
            "user = \"a\"\nclaims = { g = { header = \"b\", separator = \"\" } }",
            "11:44: `auth.claims.g.separator`: unknown word ``",
        ),
        ("user = \"a\"\nsecret = \"hidden\"", "11:10: `auth.secret`: must be a table"),
        ("user = \"a\"\nsecret = { header = \"b\" }", "11:10: `auth.secret.value` is missing"),
        (
            "user = \"a\"\nsecret = { header = \"b\", value = { file = \"secrets/short\" } }",
            "11:34: `auth.secret.value`: shorter than 16 characters, or with others than letters, digits and signs",
        ),
        (
            "user = \"a-b\"\nsecret = { header = \"A_B\", value = { file = \"secrets/pbx-admin\" } }",
            "7:1: `auth`: one field is both the secret and a claim",
        ),
    ] {
        check_beside(&header(&format!("{FROM}\n{tail}")), expected);
    }
    let text = format!(
        "{FROM}\nuser = \"Remote-User\"\nclaims = {{ email = \"x-forwarded-email\", groups = {{ header = \"remote-groups\", separator = \"|\" }} }}\n\
         secret = {{ header = \"x-sso\", value = {{ file = \"secrets/pbx-admin\" }} }}"
    );
    let config = accepted(&format!("{TOP}{BOTH}{}", header(&text)));
    let MethodKind::Header(settings) = &config.methods[0].kind else { panic!("{config:?}") };
    let fields: Vec<_> = settings.fields().map(http::HeaderName::as_str).collect();
    assert_eq!(fields, ["remote-user", "x-forwarded-email", "remote-groups", "x-sso"]);
    assert_eq!((settings.claims[0].1.separator, settings.claims[1].1.separator), (None, Some('|')));
}

#[test]
fn what_only_a_proxy_may_say_is_not_shown_to_the_app_as_anybody_says_it() {
    let app = "[[auth]]\ntype = \"app\"\nname = \"portal\"\nwhoami = \"/me\"\nheaders = [\"X_Who\"]\n";
    let header = "[[auth]]\ntype = \"header\"\nfrom = [\"10.0.0.1\"]\nuser = \"x-who\"\n";
    const WHY: &str = "`auth`: shows the app x_who, which only a trusted proxy may say";
    let known = app.replace("X_Who", "Remote_User");
    check_beside(&known, "11:12: `auth.headers`: callgate writes or removes remote_user itself");
    check_beside(&format!("{app}{header}"), &format!("7:1: {WHY}"));
    check_beside(&format!("{header}{app}"), &format!("11:1: {WHY}"));
}

#[test]
fn certificates_of_clients_are_read_where_they_are_asked_for() {
    const ASKED: &str = "listen = \"127.0.0.1:0\"\ntls = { certificates = [\
        { cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\", client_ca = \"certs/client-ca.pem\" },\
        { cert = \"certs/second.pem\", key = \"certs/second-key.pem\", client_ca = \"certs/second.pem\" }] }\n";
    let method = |tail: &str| format!("[[auth]]\ntype = \"mtls\"\n{tail}");
    check_beside(&method(""), "7:1: `auth`: no client is asked for a certificate");
    let check = |tail: &str, expected: &str| check_text(&format!("{ASKED}{BOTH}{}", method(tail)), &[expected]);
    check("", "7:1: `auth`: there are several `client_ca` in `tls`, and what one vouches for another may not");
    check(
        "client_ca = \"certs/fullchain.pem\"\nidentity = \"common-name\"",
        "10:12: `auth.identity`: unknown word `common-name`",
    );
    check(
        "client_ca = \"certs/second.pem\"\nidentity = [\"cn\", \"cn\"]",
        "10:19: `auth.identity`: the same kind of name twice",
    );
    check("client_ca = \"certs/second.pem\"\nfingerprints = [\"ab\"]", "10:17: `auth.fingerprints`: not a SHA-256");
    check("client_ca = \"certs/empty.pem\"", "9:13: `auth.client_ca`: certs/empty.pem is empty");
    check("client_ca = \"certs/old.pem\"", "7:1: `auth`: no client is asked for a certificate of this `client_ca`");
    let colons = HASH_HEX.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect::<Vec<_>>();
    let text = format!(
        "identity = \"cn\"\nfingerprints = [\"{}\"]\nclient_ca = \"certs/second.pem\"\nignore_cookies = true",
        colons.join(":").to_uppercase()
    );
    let config = accepted(&format!("{ASKED}{BOTH}{}", method(&text)));
    let MethodKind::Mtls(settings) = &config.methods[0].kind else { panic!("{config:?}") };
    assert_eq!(
        (&settings.identity[..], hex::encode(settings.fingerprints[0])),
        (&[CertificateName::Cn][..], HASH_HEX.into())
    );
    assert!(config.methods[0].ignore_cookies);
}

const HASH_HEX: &str = "6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090";

// === [[allow]] ===

#[test]
fn rules_lead_from_somewhere_to_somewhere() {
    for (tail, expected) in [
        ("auth = \"redirect\"", "7:1: `allow`: allows nothing"),
        ("voximplant = \"ann\"", "7:1: `allow`: nobody can prove to be anybody"),
        ("auth = \"redirct\"\nvoximplant = \"ann\"", "8:8: `allow.auth`: there is no method `redirct`"),
        ("auth = [\"redirect\", \"redirect\"]\nvoximplant = \"ann\"", "8:21: `allow.auth`: the same method twice"),
        ("auth = \"redirect\"\nvoximplant = \"Ann\"", "9:14: `allow.voximplant`: not a Voximplant user name"),
        ("auth = \"redirect\"\nvoximplant = \"an\"", "9:14: `allow.voximplant`: not a Voximplant user name"),
        (
            "auth = \"redirect\"\npbx = { domain = \"a\", account = \"40\" }",
            "9:7: `allow.pbx`: there is no administrator to open sessions",
        ),
        (
            "auth = \"redirect\"\nvoximplant = \"{vox}\"\nlanguages = [\"e\"]",
            "10:14: `allow.languages`: not a language of the PBX",
        ),
        ("auth = \"redirect\"\nvoximplant = \"{vox}\"\nwhere = \"x\"", "10:1: unknown key `allow.where`"),
    ] {
        check_beside(&format!("[[allow]]\n{tail}"), expected);
    }
    check(
        "[app]\nurl = \"http://a\"\n[[allow]]\nauth = \"redirect\"\nvoximplant = \"ann\"",
        "7:14: `allow.voximplant`: there are no Voximplant users",
    );
    let problems = refused(&format!("{TOP}{BOTH}[[allow]]\nauth = \"redirect\"\nvoximplant = \"{{vox\""));
    assert!(problems.as_slice()[0].message.starts_with("`allow.voximplant`: "), "{problems}");
}

#[test]
fn literal_accounts_are_accounts() {
    let admin = "admin = { user = \"sso\", password = { env = \"PBX_ADMIN_PASSWORD\" } }";
    let rule =
        |domain: &str, account: &str| pbx("http://[::1]", admin).replace("\"a\"", domain).replace("\"40\"", account);
    check_text(&rule("\"a\"", "\"Admin\""), &["8:33: `allow.pbx.account`: the account is the administrator's"]);
    refused(&rule("\"a\"", "\"\""));
    check_text(&rule("\"a b\"", "\"40\""), &["8:18: `allow.pbx.domain`: not of the form the PBX knows"]);
    check_text(&rule("\"a\"", "40"), &["8:33: `allow.pbx.account`: must be a string in quotes"]);
    accepted(&rule("\"{tenant}.test\"", "\"{ext}\""));
}

#[test]
fn a_broken_method_does_not_break_the_rules_that_name_it() {
    check_beside(
        "[[auth]]\ntype = \"app\"\nname = \"x\"\n[[allow]]\nauth = \"x\"\nvoximplant = \"{vox}\"",
        "7:1: `auth.whoami` is missing",
    );
}

#[test]
fn what_no_rule_leads_to_is_noted() {
    let text = format!(
        "{TOP}[app]\nurl = \"http://a\"\nwhoami = \"/me\"\n[voximplant]\nusers = {{ file = \"voximplant.htdigest\" }}\n[[auth]]\ntype = \"app\"\nname = \"b\"\nwhoami = \"/me\"\n"
    );
    let warnings = |text: &str| -> Vec<String> {
        let shown = |problem: &Problem| format!("{}: {}", problem.place.unwrap().line, problem.message);
        accepted(text).warnings.iter().map(shown).collect()
    };
    let methods = ["5: `app.whoami`: no rule uses the method `app`", "8: `auth`: no rule uses the method `b`"];
    assert_eq!(warnings(&text), [methods[0], "6: `voximplant`: no rule answers Voximplant keys", methods[1]]);
    assert_eq!(warnings(&format!("{text}[[allow]]\nvoximplant = \"{{vox}}\"")), [""; 0]);
    assert_eq!(warnings(&format!("{text}[[allow]]\nauth = \"app\"\nvoximplant = \"{{vox}}\"")), [methods[1]]);
    let admin =
        "[pbx]\nurl = \"http://[::1]\"\nadmin = { user = \"sso\", password = { env = \"PBX_ADMIN_PASSWORD\" } }";
    assert_eq!(warnings(&format!("{TOP}{admin}")), ["5: `pbx.admin`: no rule opens PBX sessions"]);
}

// === [[auth]] type = "oidc" ===

/// A method of type `oidc` whose line 11 is `line`.
fn oidc(line: &str) -> String {
    format!(
        "[[auth]]\ntype = \"oidc\"\nissuer = \"https://id.test\"\nclient_id = \"a\"\n{line}\n[[allow]]\nauth = \"oidc\""
    ) + "\nvoximplant = \"{sub}\""
}

#[test]
fn a_provider_is_named_as_it_names_itself() {
    for (issuer, problem) in [
        ("http://id.test", "not an https:// address, or one of this machine"),
        ("https://a:b@id.test", "not an https:// address, or one of this machine"),
        ("id.test", "not an https:// address, or one of this machine"),
        ("https://id.test/?a", "has a query or a fragment"),
        ("https://id.test/.well-known/openid-configuration", "is the address of its document"),
    ] {
        let text = oidc("").replace("https://id.test", issuer);
        check_beside(&text, &format!("9:10: `auth.issuer`: {problem}"));
    }
    for issuer in ["https://id.test/realms/a/", "http://127.0.0.1:8080", "http://localhost:1"] {
        accepted(&format!("{TOP}{BOTH}{}", oidc("").replace("https://id.test", issuer)));
    }
}

#[test]
fn a_login_at_a_provider_is_configured_safely() {
    for (line, problem) in [
        ("name = \"a/b\"", "8: `auth.name`: cannot be the end of /auth/callgate/oidc/…"),
        ("scopes = [\"email\"]", "10: `auth.scopes`: lacks \"openid\""),
        ("scopes = [\"openid\", \"a b\"]", "21: `auth.scopes`: not a scope"),
        ("remember = \"31d\"", "12: `auth.remember`: is out of bounds"),
        ("remember = \"1500ms\"", "12: `auth.remember`: is out of bounds"),
        ("cookie_key = { file = \"secrets/short\" }", "14: `auth.cookie_key`: is shorter than 32 bytes"),
        ("client_secret = \"a\"", "17: `auth.client_secret`: a secret is never written here"),
        ("host = \"https://a.test\"", "8: `auth.host`: not a host name"),
        ("after_logout = \"/bye\"", "16: `auth.after_logout`: not an https:// address"),
        ("after_logout = \"http://a.test\"", "16: `auth.after_logout`: not an https:// address"),
        ("ignore_cookies = true", "1: unknown key `auth.ignore_cookies`"),
    ] {
        let problems = refused(&format!("{TOP}{BOTH}{}", oidc(line)));
        let found = problems.to_string();
        assert!(found.contains(&format!("proxy.toml:11:{problem}")), "{line}: {found}");
    }
}

#[test]
fn a_rule_for_administrators_behind_one_for_everybody_is_noted() {
    let all = "[[allow]]\npbx = { domain = \"{tenant}.test\", account = \"{ext}\" }\n";
    let few = all.replace("[[allow]]", "[[allow]]\nwhen = { groups = \"staff\" }");
    let level = "[[allow]]\nauth = \"app\"\npbx = { level = \"domain\", domain = \"{tenant}.test\" }\n";
    let warned = |rules: &[&str]| {
        let text = "[app]\nurl = \"http://a\"\nwhoami = \"/me\"\n[pbx]\nurl = \"http://[::1]\"\nhosts = [\"p.test\"]\n\
                    admin = { user = \"sso\", password = { env = \"PBX_ADMIN_PASSWORD\" } }\n";
        let config = accepted(&format!("{TOP}{text}{}", rules.concat()));
        config.warnings.iter().any(|warning| warning.message.contains("the rule `rule 1` before it fits"))
    };
    assert!(warned(&[all, level]));
    assert!(!warned(&[level, all]));
    assert!(!warned(&[&few, level]));
}
