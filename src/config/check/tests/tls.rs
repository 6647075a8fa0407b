//! Listeners and certificates.

use super::*;

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
        let found: Vec<_> = config.certificates.iter().map(|certificate| certificate.client_auth.is_some()).collect();
        assert_eq!(found, expected, "{written}");
    }
    let both = format!("{{ certificates = [{{ {pair} }}, {{ {second}, {other} }}], {ca} }}");
    let config = accepted(&format!("listen = \"[::]:0\"\ntls = {both}\n[app]\nurl = \"http://a\"\n"));
    assert_ne!(config.certificates[0].client_auth, config.certificates[1].client_auth);
}

#[test]
fn no_name_is_open_by_one_certificate_and_closed_by_another() {
    let pair = "cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\"";
    let (ca, other) = ("client_ca = \"certs/client-ca.pem\"", "client_ca = \"certs/old.pem\"");
    let optional = "client_auth = \"optional\"";
    let torn = "`tls.certificates`: www.example.com is in two certificates with different `client_ca` or `client_auth`";
    for (list, around) in [
        (format!("{{ {pair} }}, {{ {pair}, {ca} }}"), String::new()),
        (format!("{{ {pair}, {ca} }}, {{ {pair} }}"), String::new()),
        (format!("{{ {pair}, {other} }}, {{ {pair} }}"), format!(", {ca}")),
        (format!("{{ {pair}, {ca}, {optional} }}, {{ {pair}, {ca} }}"), String::new()),
        (format!("{{ {pair} }}, {{ {pair}, {ca} }}"), format!(", {ca}, {optional}")),
    ] {
        let text =
            format!("listen = \"[::]:0\"\ntls = {{ certificates = [{list}]{around} }}\n[app]\nurl = \"http://a\"\n");
        check_text(&text, &[&format!("2:24: {torn}")]);
    }
}

#[test]
fn a_client_auth_belongs_to_the_client_ca_beside_it() {
    let pair = "cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\"";
    let second = "cert = \"certs/second.pem\", key = \"certs/second-key.pem\"";
    let (ca, optional) = ("client_ca = \"certs/client-ca.pem\"", "client_auth = \"optional\"");
    let tls = |written: &str| {
        format!("listen = \"[::]:0\"\ntls = {written}\n[app]\nurl = \"http://a\"\n[[auth]]\ntype = \"mtls\"\n")
    };
    for (written, expected) in [
        (format!("{{ {pair}, {ca} }}"), &[Some(false)][..]),
        (format!("{{ {pair}, {ca}, client_auth = \"required\" }}"), &[Some(false)]),
        (format!("{{ {pair}, {ca}, {optional} }}"), &[Some(true)]),
        (format!("{{ certificates = [{{ {pair} }}, {{ {second} }}], {ca}, {optional} }}"), &[Some(true), Some(true)]),
        // One with a `client_ca` of its own inherits nothing.
        (
            format!("{{ certificates = [{{ {pair} }}, {{ {second}, {ca} }}], {ca}, {optional} }}"),
            &[Some(true), Some(false)],
        ),
        (format!("{{ certificates = [{{ {pair} }}, {{ {second}, {ca}, {optional} }}] }}"), &[None, Some(true)]),
    ] {
        let config = accepted(&tls(&written));
        let modes: Vec<_> =
            config.certificates.iter().map(|one| one.client_auth.as_ref().map(|auth| auth.is_optional)).collect();
        assert_eq!(modes, expected, "{written}");
    }
    let alone = "there is no `client_ca` beside it";
    for (written, expected) in [
        (format!("{{ {optional}, {pair} }}"), format!("2:23: `tls.client_auth`: {alone}")),
        (format!("{{ {optional}, certificates = [{{ {pair}, {ca} }}] }}"), format!("2:23: `tls.client_auth`: {alone}")),
        (
            format!("{{ certificates = [{{ {optional}, {pair} }}], {ca} }}"),
            format!("2:41: `tls.certificates.client_auth`: {alone}"),
        ),
        (
            format!("{{ client_auth = \"optionl\", {ca}, {pair} }}"),
            "2:23: `tls.client_auth`: unknown word `optionl`".to_owned(),
        ),
        (
            format!("{{ client_auth = true, {ca}, {pair} }}"),
            "2:23: `tls.client_auth`: must be a string in quotes".into(),
        ),
    ] {
        check_text(&tls(&written), &[&expected]);
    }
}

/// Makes the certificate of an intermediate CA, and one that it signed, each with its key.
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
            "2:16: `tls.cert`: the certificate expired at 2001-01-01T00:00:00Z",
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
