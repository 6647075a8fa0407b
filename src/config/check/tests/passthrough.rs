//! `[[passthrough]]`: names, targets, and names that are served here as well.

use super::*;
use crate::config::{PassthroughConfig, PassthroughTo, ProxyProtocolVersion};

/// A configuration with one table; its first line is line 6.
fn table(lines: &str) -> String {
    format!("{TOP}[app]\nurl = \"http://a\"\n[[passthrough]]\n{lines}")
}

fn read(lines: &str) -> PassthroughConfig {
    accepted(&table(lines)).passthrough.remove(0)
}

#[test]
fn a_table_names_hosts_and_a_target() {
    let one = read("names = [\"Phones.example.com\", \"*.phones.example.com.\"]\nto = \"192.0.2.10:443\"");
    let names = [HostPattern::Exact("phones.example.com".into()), HostPattern::Below(".phones.example.com".into())];
    assert_eq!((&one.names[..], one.proxy_protocol, one.connect), (&names[..], None, Duration::from_secs(3)));
    assert_eq!(one.to, PassthroughTo::Tcp(HostPort { host: "192.0.2.10".into(), port: 443 }));
    for (written, shown) in [
        ("192.0.2.10:5061", "192.0.2.10:5061"),
        ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
        ("PBX.internal:443", "pbx.internal:443"),
        ("pbx.internal.:443", "pbx.internal.:443"),
        ("unix:/run/pbx.sock", "unix:/run/pbx.sock"),
    ] {
        assert_eq!(read(&format!("names = [\"p.test\"]\nto = \"{written}\"")).to.to_string(), shown);
    }
    for (word, version) in
        [("off", None), ("v1", Some(ProxyProtocolVersion::V1)), ("v2", Some(ProxyProtocolVersion::V2))]
    {
        let one = read(&format!("names = [\"p.test\"]\nto = \"a:1\"\nproxy_protocol = \"{word}\""));
        assert_eq!(one.proxy_protocol, version);
    }
    let one = read("names = [\"p.test\"]\nto = \"a:1\"\ntimeouts = { connect = \"1s\" }");
    assert_eq!(one.connect, Duration::from_secs(1));
}

#[test]
fn wrong_values_are_told() {
    for (lines, expected) in [
        ("to = \"a:1\"", "5:1: `passthrough.names` is missing"),
        ("names = [\"p.test\"]", "5:1: `passthrough.to` is missing"),
        ("names = []\nto = \"a:1\"", "6:9: `passthrough.names`: is an empty list"),
        ("names = \"p.test\"\nto = \"a:1\"", "6:9: `passthrough.names`: must be a list in brackets"),
        ("names = [\"p.test:443\"]\nto = \"a:1\"", "6:10: `passthrough.names`: not a host name"),
        ("names = [\"*\"]\nto = \"a:1\"", "6:10: `passthrough.names`: not a host name"),
        ("names = [\"p.test\", \"P.test\"]\nto = \"a:1\"", "6:20: `passthrough.names`: the same name twice"),
        ("names = [\"p.test\"]\nto = \"192.0.2.10\"", "7:6: `passthrough.to`: has no port"),
        (
            "names = [\"p.test\"]\nto = \"https://192.0.2.10:443\"",
            "7:6: `passthrough.to`: has a scheme, although any bytes pass",
        ),
        (
            "names = [\"p.test\"]\nto = \"https://192.0.2.10:443/\"",
            "7:6: `passthrough.to`: not a host name or IP address with a port",
        ),
        ("names = [\"p.test\"]\nto = \"a:0\"", "7:6: `passthrough.to`: not a host name or IP address with a port"),
        ("names = [\"p.test\"]\nto = \"\"", "7:6: `passthrough.to`: not a host name or IP address with a port"),
        ("names = [\"p.test\"]\nto = \"unix:pbx.sock\"", "7:6: `passthrough.to`: not the whole path of a socket"),
        (
            "names = [\"p.test\"]\nto = \"a:1\"\nproxy_protocol = \"v3\"",
            "8:18: `passthrough.proxy_protocol`: unknown word `v3`",
        ),
        (
            "names = [\"p.test\"]\nto = \"a:1\"\nproxy_protocol = true",
            "8:18: `passthrough.proxy_protocol`: must be a string in quotes",
        ),
        ("names = [\"p.test\"]\nto = \"a:1\"\nurl = \"b\"", "8:1: unknown key `passthrough.url`"),
        (
            "names = [\"p.test\"]\nto = \"a:1\"\ntimeouts = { connect = 3 }",
            "8:24: `passthrough.timeouts.connect`: a duration needs a unit",
        ),
    ] {
        check_text(&table(lines), &[expected]);
    }
    check_text(
        &format!("{TOP}[app]\nurl = \"http://a\"\n[passthrough]\nnames = [\"p.test\"]\nto = \"a:1\""),
        &["5:1: `passthrough`: is a list of tables"],
    );
}

/// A configuration with hosts of app and PBX, and one table.
fn beside(app: &str, pbx: &str, name: &str) -> String {
    format!(
        "{TOP}[app]\nurl = \"http://a\"\n{app}\n[pbx]\nurl = \"http://b\"\nhosts = [\"{pbx}\"]\n\
         [[passthrough]]\nnames = [\"{name}\"]\nto = \"192.0.2.10:443\""
    )
}

#[test]
fn a_name_is_served_here_or_passed_on() {
    for (app, pbx, name, place) in [
        ("", "pbx.test", "pbx.test", "[pbx]"),
        ("", "pbx.test", "*.test", "[pbx]"),
        ("", "*.pbx.test", "phones.pbx.test", "[pbx]"),
        ("", "*.pbx.test", "*.old.pbx.test", "[pbx]"),
        ("", "*.old.pbx.test", "*.pbx.test", "[pbx]"),
        ("hosts = [\"app.test\"]", "pbx.test", "app.test", "[app]"),
        ("hosts = [\"*.test\"]", "pbx.example", "phones.test", "[app]"),
    ] {
        let expected = format!("10:10: `passthrough.names`: is served here: `hosts` of {place} covers it too");
        check_text(&beside(app, pbx, name), &[&expected]);
    }
    for (app, pbx, name) in [
        ("", "pbx.test", "phones.test"),
        ("", "*.pbx.test", "pbx.test"),
        ("hosts = [\"app.test\"]", "*.pbx.test", "*.phones.test"),
        ("hosts = [\"*.app.test\"]", "pbx.test", "xapp.test"),
    ] {
        accepted(&beside(app, pbx, name));
    }
    let login = "[[auth]]\ntype = \"oidc\"\nissuer = \"https://id.test\"\nclient_id = \"c\"\nhost = \"www.test\"\n\
        [[allow]]\npbx = { domain = \"d\", account = \"{ext}\" }\n[[passthrough]]\nnames = [\"*.test\"]\nto = \"192.0.2.1:443\"";
    let text = format!("{TOP}[app]\nurl = \"http://a\"\n[pbx]\nurl = \"http://b\"\nhosts = [\"pbx.example\"]\n{login}");
    let problems = refused(&text).to_string();
    assert!(problems.contains("is served here: `host` of the method \"oidc\" covers it too"), "{problems}");
}

#[test]
fn two_tables_have_no_name_in_common() {
    let more = |second: &str| {
        table(&format!(
            "names = [\"a.test\", \"*.b.test\"]\nto = \"x:1\"\n[[passthrough]]\nnames = [\"{second}\"]\nto = \"y:1\""
        ))
    };
    for name in ["a.test", "*.b.test"] {
        check_text(&more(name), &["9:10: `passthrough.names`: another [[passthrough]] has the same name"]);
    }
    // The more exact name decides.
    assert_eq!(accepted(&more("c.b.test")).passthrough.len(), 2);
}

#[test]
fn a_target_never_leads_back_to_callgate() {
    let listening = |listen: &str, to: &str| {
        table(&format!("names = [\"phones.test\", \"*.old.test\"]\nto = \"{to}\"")).replacen("127.0.0.1:0", listen, 1)
    };
    for (listen, to) in [
        ("0.0.0.0:443", "127.0.0.1:443"),
        ("0.0.0.0:443", "localhost:443"),
        ("[::]:443", "127.0.0.2:443"),
        ("192.0.2.1:8443", "192.0.2.1:8443"),
        ("unix:/run/tls.sock", "unix:/run/tls.sock"),
        ("0.0.0.0:443", "phones.test:443"),
        ("0.0.0.0:443", "phones.test.:5061"),
        ("0.0.0.0:443", "x.old.test:443"),
        ("0.0.0.0:8443", "www.example.com:443"),
        ("0.0.0.0:8443", "WWW.example.com:8443"),
    ] {
        let problems = refused(&listening(listen, to)).to_string();
        assert!(problems.contains("7:6: `passthrough.to`: leads back to callgate"), "{listen} {to}: {problems}");
    }
    for (listen, to) in [
        ("0.0.0.0:443", "127.0.0.1:8443"),
        ("192.0.2.1:443", "127.0.0.1:443"),
        ("0.0.0.0:443", "192.0.2.9:443"),
        // The certificate has this name, and callgate is not at this port; a wildcard names other owners' hosts too.
        ("0.0.0.0:443", "www.example.com:8443"),
        ("0.0.0.0:443", "trunk.pbx.example.com:443"),
        ("192.0.2.1:8443", "127.0.0.1:443"),
    ] {
        accepted(&listening(listen, to));
    }
    let problems = refused(&beside("", "pbx.test", "phones.test").replace("192.0.2.10", "pbx.test")).to_string();
    assert!(problems.contains("clients reach it under this name"), "{problems}");
}

#[test]
fn a_certificate_that_no_client_sees_is_told() {
    let warnings = accepted(&table("names = [\"*.example.com\"]\nto = \"192.0.2.10:443\"")).warnings;
    assert_eq!(warnings, []);
    let second = "certificates = [{ cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\" }, \
        { cert = \"certs/second.pem\", key = \"certs/second-key.pem\" }]";
    let text = table("names = [\"second.example.com\"]\nto = \"192.0.2.10:443\"");
    let text = text.replace("cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\"", second);
    let warnings = accepted(&text).warnings;
    assert_eq!(warnings.len(), 1, "{text}");
    assert!(warnings[0].to_string().contains("for second.example.com is never shown"), "{}", warnings[0]);
}
