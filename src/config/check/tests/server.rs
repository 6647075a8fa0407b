//! `[server]`.

use super::*;

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
    // Resolved as a fully qualified name, and addressed without the dot.
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
            check(
                &list(everybody),
                &format!("{whole}: covers all addresses: any client could claim another's address"),
            );
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
