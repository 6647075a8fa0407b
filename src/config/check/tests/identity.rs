//! `[[auth]]` of the types `header` and `mtls`.

use super::*;

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
            "9:8: `auth.from`: covers all addresses: any client could claim to be any caller",
        ),
        (
            "from = [\"::/0\"]\nuser = \"remote-user\"",
            "9:8: `auth.from`: covers all addresses: any client could claim to be any caller",
        ),
        (
            "from = [\"0.0.0.0/1\", \"128.0.0.0/1\"]\nuser = \"remote-user\"",
            "9:8: `auth.from`: covers all addresses: any client could claim to be any caller",
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
            "11:19: `auth.claims.user`: the claim `user` comes from the key `user`",
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
    check("", "7:1: `auth`: `tls` has several `client_ca`, and this method does not say which one it trusts");
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

#[test]
fn certificates_that_are_optional_have_a_method_that_reads_them() {
    let tls = |first: &str, second: &str| {
        format!(
            "listen = \"127.0.0.1:0\"\ntls = {{ certificates = [\
             {{ cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\", client_ca = \"certs/client-ca.pem\"{first} }},\
             {{ cert = \"certs/second.pem\", key = \"certs/second-key.pem\", client_ca = \"certs/second.pem\"{second} }}] }}\n{BOTH}"
        )
    };
    const OPTIONAL: &str = ", client_auth = \"optional\"";
    const UNREAD: &str = "2:7: `tls`: a client certificate is optional (`client_auth`), and no method reads it";
    let method = |ca: &str| format!("[[auth]]\ntype = \"mtls\"\nname = \"of {ca}\"\nclient_ca = \"certs/{ca}.pem\"\n");
    let (own, other) = (method("client-ca"), method("second"));
    accepted(&tls("", ""));
    check_text(&tls(OPTIONAL, ""), &[UNREAD]);
    check_text(&format!("{}{other}", tls(OPTIONAL, "")), &[UNREAD]);
    check_text(&format!("{}{own}", tls(OPTIONAL, OPTIONAL)), &[UNREAD]);
    accepted(&format!("{}{own}", tls(OPTIONAL, "")));
    accepted(&format!("{}{own}{other}", tls(OPTIONAL, OPTIONAL)));
    // The method that is meant may be one that is wrong.
    let wrong = own.replace("mtls\"", "mtls\"\nidentity = \"x\"");
    check_text(&format!("{}{wrong}", tls(OPTIONAL, "")), &["9:12: `auth.identity`: unknown word `x`"]);
}

#[test]
fn a_cookie_beside_an_optional_certificate_is_warned_of() {
    let tls = |mode: &str| {
        format!(
            "listen = \"127.0.0.1:0\"\ntls = {{ cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\", \
             client_ca = \"certs/client-ca.pem\", client_auth = \"{mode}\" }}\n"
        )
    };
    let warnings = |mode: &str, app: &str, more: &str| {
        let text = format!("{}[app]\nurl = \"http://a\"\n{app}[[auth]]\ntype = \"mtls\"\n{more}", tls(mode));
        let warnings = accepted(&text).warnings;
        let messages = warnings.into_iter().map(|warning| warning.message);
        messages.filter(|message| message.contains("certificate")).collect::<Vec<_>>()
    };
    const WHOAMI: &str = "whoami = \"/me\"\n";
    let warning =
        "`auth`: browsers that show a certificate and a cookie of method \"app\" have two credentials, and are refused";
    assert_eq!(warnings("optional", WHOAMI, ""), [warning]);
    for (mode, app, more) in [
        ("optional", WHOAMI, "ignore_cookies = true"),
        // What is written is meant.
        ("optional", WHOAMI, "ignore_cookies = false"),
        ("optional", "", ""),
        ("required", WHOAMI, ""),
    ] {
        assert_eq!(warnings(mode, app, more), [""; 0], "{mode} {app} {more}");
    }
}
