//! Listeners and certificates.

use super::*;
use crate::config::Certificate;

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

// === What is merely old, and what cannot be read ===

/// Reads a configuration with this `tls`, after one in which other files were good.
fn read(folder: &Folder, tls: &str, last_good: &LastGood) -> Result<Config, Problems> {
    let text = format!("listen = \"[::]:0\"\ntls = {tls}\n[app]\nurl = \"http://a\"\n");
    parse_with(&text, folder.0.path(), &|_| None, last_good)
}

fn messages(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.message.as_str()).collect()
}

const GOOD: &str = "{ cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\" }";
const OLD: &str = "{ cert = \"certs/old.pem\", key = \"certs/old-key.pem\" }";
const REFUSED: &str = "until that is corrected, handshakes for its names are refused";
const KEPT: &str = "what was read before stays in use";

#[test]
fn an_expired_certificate_is_used_and_reported() {
    let config = read(&Folder::new(), OLD, &LastGood::default()).unwrap();
    let now = Timestamp::now();
    assert!(config.certificates[0].is_expired(now) && !config.certificates[0].is_overdue(now));
    let alarms = config.certificate_alarms(now);
    assert_eq!(alarms.len(), 1);
    let said = "certs/old.pem: the certificate for old.example.com expired at 2001-01-01T00:00:00Z";
    assert!(alarms[0].contains(said), "{alarms:?}");
    assert_eq!(config.certificate_alarms("2000-12-31T00:00:00Z".parse().unwrap()), [] as [&str; 0]);
}

#[test]
fn a_certificate_that_cannot_be_read_is_missing_and_the_rest_is_read() {
    for (entry, problems, names) in [
        (
            "{ cert = \"certs/second.pem\", key = \"certs/none.pem\" }",
            &["`tls.certificates.key`: has no private key in PEM form"][..],
            &["second.example.com"][..],
        ),
        (
            "{ cert = \"certs/second.pem\", key = \"certs/privkey.pem\" }",
            &["`tls.certificates.key`: the key does not belong to the certificate"],
            &["second.example.com"],
        ),
        (
            "{ cert = \"certs/missing.pem\", key = \"certs/empty.pem\" }",
            &[
                "`tls.certificates.cert`: cannot read certs/missing.pem: No such file or directory",
                "`tls.certificates.key`: certs/empty.pem is empty",
            ],
            &[],
        ),
    ] {
        let config = read(&Folder::new(), &format!("{{ certificates = [{entry}, {GOOD}] }}"), &LastGood::default());
        let config = config.unwrap();
        assert_eq!(
            (config.certificates.len(), config.missing_certificates[0].names.as_slice()),
            (1, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()[..])
        );
        let expected: Vec<_> = problems.iter().map(|problem| format!("{problem}; {REFUSED}")).collect();
        assert_eq!(messages(&config.certificate_problems), expected);
        assert_eq!(config.certificate_alarms(Timestamp::now()).len(), problems.len());
    }
}

#[test]
fn what_was_read_before_stays_in_use_while_it_cannot_be_read() {
    let folder = Folder::new();
    let tls = format!(
        "{{ certificates = [{GOOD}, {{ cert = \"certs/second.pem\", key = \"certs/second-key.pem\" }}], \
         client_ca = \"certs/client-ca.pem\" }}"
    );
    let before = read(&folder, &tls, &LastGood::default()).unwrap();
    folder.write("certs/second.pem", "", 0o600);
    folder.write("certs/client-ca.pem", "cut", 0o600);
    let after = read(&folder, &tls, &before.last_good()).unwrap();
    assert_eq!((&after.certificates, after.missing_certificates.len()), (&before.certificates, 0));
    let mut told = messages(&after.certificate_problems);
    told.sort_unstable();
    let expected = [
        format!("`tls.certificates.cert`: certs/second.pem is empty; {KEPT}"),
        format!("`tls.client_ca`: has no certificate in PEM form; {KEPT}"),
    ];
    assert_eq!(told, expected);
    // And still the next time, since it is remembered from reading to reading.
    assert_eq!(read(&folder, &tls, &after.last_good()).unwrap().certificates, before.certificates);
    // A start knows nothing of before.
    assert!(read(&folder, &tls, &LastGood::default()).is_err());
}

#[test]
fn a_missing_certificate_opens_no_name_that_asks_for_client_certificates() {
    let unknown = "cert = \"certs/empty.pem\", key = \"certs/second-key.pem\"";
    let known = "cert = \"certs/second.pem\", key = \"certs/empty.pem\"";
    let ca = "client_ca = \"certs/client-ca.pem\"";
    for (tls, is_accepted) in [
        // The name may be one that the other certificate covers too, which asks for nothing.
        (format!("{{ certificates = [{GOOD}, {{ {unknown}, {ca} }}] }}"), false),
        (format!("{{ certificates = [{GOOD}, {{ {unknown}, {ca} }}], {ca}, client_auth = \"optional\" }}"), false),
        (format!("{{ certificates = [{GOOD}, {{ {unknown}, {ca} }}], {ca} }}"), true),
        (format!("{{ certificates = [{GOOD}, {{ {known}, {ca} }}] }}"), true),
        (format!("{{ certificates = [{GOOD}, {{ {unknown} }}] }}"), true),
        (
            "{ certificates = [{ cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\", client_ca = \"certs/client-ca.pem\" }, \
             { cert = \"certs/empty.pem\", key = \"certs/second-key.pem\" }] }"
                .to_owned(),
            true,
        ),
    ] {
        let read = read(&Folder::new(), &tls, &LastGood::default());
        assert_eq!(read.is_ok(), is_accepted, "{tls}: {read:?}");
    }
}

#[test]
fn a_renewed_certificate_that_loses_a_closed_name_to_an_open_wildcard_is_warned_of() {
    let folder = Folder::new();
    let write = |file: &str, names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let (chain, key) = certificate_for(&names, 2099);
        folder.write(&format!("{file}.pem"), &chain, 0o600);
        folder.write(&format!("{file}.key"), &key, 0o600);
    };
    write("wild", &["*.a.test"]);
    for (asks_too, lost, count) in [(false, "staff.a.test", 1), (true, "staff.a.test", 0), (false, "staff.b.test", 0)] {
        write("staff", &["portal.a.test", lost]);
        let ca = "client_ca = \"certs/client-ca.pem\"";
        let wild = if asks_too { format!(", {ca}") } else { String::new() };
        let tls = format!(
            "{{ certificates = [{{ cert = \"wild.pem\", key = \"wild.key\"{wild} }}, {{ cert = \"staff.pem\", key = \"staff.key\", {ca} }}] }}"
        );
        let before = read(&folder, &tls, &LastGood::default()).unwrap();
        assert_eq!(messages(&before.warnings), [""; 0], "{lost}");
        write("staff", &["portal.a.test"]);
        let after = read(&folder, &tls, &before.last_good()).unwrap();
        let told: Vec<_> =
            after.warnings.iter().filter(|one| one.message.contains(&format!("{lost} is no longer in "))).collect();
        assert_eq!((told.len(), after.warnings.len()), (count, count), "{:?}", after.warnings);
        assert_eq!(messages(&read(&folder, &tls, &after.last_good()).unwrap().warnings), [""; 0]);
    }
}

/// Returns the warnings of a certificate with this change.
fn warned(change: &dyn Fn(&mut CertificateParams)) -> Vec<Problem> {
    let folder = Folder::new();
    let key = KeyPair::generate().unwrap();
    folder.write("own.key", &key.serialize_pem(), 0o600);
    let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2099, 1, 1);
    change(&mut params);
    folder.write("own.pem", &params.self_signed(&key).unwrap().pem(), 0o600);
    let tls = "{ cert = \"own.pem\", key = \"own.key\" }";
    read(&folder, tls, &LastGood::default()).unwrap().warnings
}

#[test]
fn certificates_that_clients_will_refuse_are_warned_of() {
    assert_eq!(messages(&warned(&|_| ())), [] as [&str; 0]);
    let server = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    };
    assert_eq!(messages(&warned(&server)), [] as [&str; 0]);
    let client = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    };
    assert!(warned(&client)[0].message.contains("lacks serverAuth"));
    let authority = |params: &mut CertificateParams| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    };
    assert!(warned(&authority)[0].message.contains("that of an authority"));
    let later = |params: &mut CertificateParams| params.not_before = date_time_ymd(2098, 1, 1);
    assert!(warned(&later)[0].message.contains("the certificate begins at 2098-01-01T00:00:00Z"));
    assert_eq!(warned(&later).len(), 1, "it will be valid for a year");
}

#[test]
fn a_certificate_should_have_been_renewed_21_days_before_its_end() {
    let folder = Folder::new();
    let certificate = read(&folder, OLD, &LastGood::default()).unwrap().certificates.remove(0);
    let until = |lifetime: i64, left: i64| {
        let now = certificate.not_after - jiff::SignedDuration::from_hours(left);
        let not_before = certificate.not_after - jiff::SignedDuration::from_hours(lifetime);
        Certificate { not_before, ..certificate.clone() }.is_overdue(now)
    };
    let day = 24;
    assert!(!until(90 * day, 21 * day) && until(90 * day, 21 * day - 1) && until(90 * day, 1));
    assert!(!until(90 * day, 0) && !until(90 * day, -day), "it has expired");
    // Short-lived ones are renewed shortly before their end.
    assert!(!until(6 * day, 2 * day) && until(6 * day, day));
}

#[test]
fn a_certificate_that_ends_within_21_days_is_warned_of() {
    let in_days = |days: i64| Timestamp::from_second(Timestamp::now().as_second() + days * 24 * 3600).unwrap();
    let ending_at = |end: Timestamp| {
        let since_1970 = Duration::from_secs(end.as_second().unsigned_abs());
        warned(&|params| params.not_after = date_time_ymd(1970, 1, 1) + since_1970)
    };
    let soon = in_days(20);
    let warnings = ending_at(soon);
    assert_eq!(messages(&warnings), [format!("`tls.cert`: the certificate ends at {soon}")]);
    assert_eq!(warnings[0].hint.as_deref(), Some("renew it, and look why that was not done by now"));
    assert_eq!(messages(&ending_at(in_days(30))), [""; 0]);
}

#[test]
fn hosts_without_a_certificate_are_warned_of() {
    let warned = |hosts: &str| {
        let config = accepted(&format!("{TOP}[app]\nurl = \"http://a\"\nhosts = {hosts}\n"));
        config.warnings.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>()
    };
    let none = "`tls`: no certificate of `tls` is for";
    let end = "which is in `hosts`: browsers will warn";
    assert_eq!(warned("[\"www.example.com\", \"x.pbx.example.com\", \"*.pbx.example.com\"]"), [] as [&str; 0]);
    assert_eq!(
        warned("[\"x.c.test\", \"*.example.com\", \"x.y.pbx.example.com\"]"),
        ["*.example.com", "x.c.test", "x.y.pbx.example.com"].map(|host| format!("{none} {host}, {end}"))
    );
}

#[test]
fn challenges_of_other_acme_clients_have_a_folder_and_an_address_of_the_pbx() {
    let redirect = |keys: &str, rest: &str| {
        let top = TOP.replacen("tls", &format!("redirect_http = {{ listen = \"[::]:80\", {keys} }}\ntls"), 1);
        format!("{top}[app]\nurl = \"http://a\"\nhosts = [\"a.test\"]\n{rest}")
    };
    let pbx = "[pbx]\nurl = \"http://b\"\nhosts = [\"*.b.test\"]\n";
    let config = accepted(&redirect("acme_webroot = \"certs\", acme_pbx = \"http://pbx.internal\"", pbx));
    let read = config.redirect_http.unwrap();
    assert!(read.acme_webroot.is_some_and(|folder| folder.is_absolute() && folder.ends_with("certs")));
    assert_eq!(read.acme_pbx[0].1.to_string(), "pbx.internal:80");
    let missing = accepted(&redirect("acme_webroot = \"nowhere\"", pbx)).warnings;
    assert!(missing[0].message.contains("there is no folder") && missing[0].message.contains("nowhere"), "{missing:?}");
    let node =
        |name: &str| format!("[[pbx]]\nname = \"{name}\"\nurl = \"http://{name}\"\nhosts = [\"*.{name}.test\"]\n");
    let nodes = node("north") + &node("south");
    let several =
        accepted(&redirect("acme_pbx = { south = \"http://192.0.2.2:8080\" }", &nodes)).redirect_http.unwrap();
    assert_eq!(several.challenges_of("south").map(ToString::to_string).as_deref(), Some("192.0.2.2:8080"));
    assert_eq!(several.challenges_of("north"), None);
    for (keys, rest, expected) in [
        ("acme_pbx = \"https://pbx\"", pbx, "`redirect_http.acme_pbx`: ACME servers ask over plain HTTP"),
        ("acme_pbx = \"http://pbx/x\"", pbx, "`redirect_http.acme_pbx`: nothing may follow the host and port"),
        ("acme_pbx = \"http://pbx\"", "", "`redirect_http.acme_pbx`: no host is the PBX's"),
        ("acme_pbx = \"http://pbx\"", &nodes, "`redirect_http.acme_pbx`: there are several PBX nodes"),
        ("acme_pbx = { west = \"http://pbx\" }", &nodes, "`redirect_http.acme_pbx.west`: no PBX has this name"),
    ] {
        let told = refused(&redirect(keys, rest)).to_string();
        assert!(told.contains(expected), "{keys}: {told}");
    }
}

// === acme ===

fn with_acme(acme: &str, top: &str, rest: &str) -> String {
    format!("listen = \"[::]:443\"\n{top}tls = {{ {acme} }}\n[app]\nurl = \"http://a\"\n{rest}")
}

const STATE: &str = "[state]\nfile = \"state/state\"\n";

#[test]
fn certificates_of_an_acme_server_stand_alone_or_beside_files() {
    let pair = "cert = \"certs/fullchain.pem\", key = \"certs/privkey.pem\"";
    let config = accepted(&with_acme("acme = { names = [\"Own.example.com.\"] }", "", STATE));
    let acme = config.acme.unwrap();
    assert_eq!((config.certificates.len(), acme.names), (0, vec!["own.example.com".to_owned()]));
    assert_eq!((acme.directory.as_str(), acme.email), ("https://acme-v02.api.letsencrypt.org/directory", None));
    assert!(config.warnings.is_empty() && !acme.has_http && acme.client_auth.is_none());

    let beside = "acme = { names = [\"own.example.com\", \"www.example.com\", \"x.pbx.example.com\"], \
        email = \"a@b.test\", directory = \"http://127.0.0.1:1/dir\", ca = \"certs/upstream-ca.pem\" }";
    let ca = "client_ca = \"certs/client-ca.pem\"";
    let text = with_acme(&format!("{pair}, {beside}, {ca}"), "redirect_http = \"[::]:80\"\n", STATE);
    let config = accepted(&text);
    let acme = config.acme.as_ref().unwrap();
    assert_eq!(acme.names, ["own.example.com"], "a file's certificate wins");
    assert_eq!(messages(&config.warnings).len(), 2);
    assert!(config.warnings[0].message.contains("a certificate of a file covers www.example.com"));
    assert_eq!(acme.client_auth, config.certificates[0].client_auth);
    assert!(acme.has_http && acme.ca.is_some() && config.gets_certificate_for("own.example.com"));
}

#[test]
fn an_acme_server_must_be_able_to_check_the_names_and_the_account_is_kept() {
    let warned = accepted(&with_acme("acme = { names = [\"own.example.com\"] }", "", STATE).replace(":443", ":8443"));
    assert!(warned.warnings[0].message.contains("cannot check the names"), "{:?}", warned.warnings);
    for (acme, rest, expected) in [
        (
            "names = [\"a.b.test\"]",
            "",
            "2:16: `tls.acme`: the account and the certificates need a [state] file, or each start would order them again",
        ),
        ("email = \"a@b.test\"", STATE, "2:16: `tls.acme.names` is missing"),
        (
            "names = [\"*.pbx.test\"]",
            STATE,
            "2:16: `tls.acme`: no PBX with `admin` has a wildcard in `hosts`, so no name can be a tenant's",
        ),
        ("on_demand = false, names = [\"a.b.test\"]", STATE, "2:30: `tls.acme.on_demand`: is off without the key"),
        (
            "on_demand = { quota = \"many\" }",
            STATE,
            "2:40: `tls.acme.on_demand.quota`: a rate looks like \"30/min\", \"5/15min\" or \"30/min burst 10\"",
        ),
        ("names = [\"*.test\"]", STATE, "2:27: `tls.acme.names`: not a host name with a domain"),
        ("names = [\"192.0.2.1\"]", STATE, "2:27: `tls.acme.names`: not a host name with a domain"),
        ("names = [\"localhost\"]", STATE, "2:27: `tls.acme.names`: not a host name with a domain"),
        ("names = [\"a.b.test\"], email = \"a\"", STATE, "2:48: `tls.acme.email`: not a mail address"),
        (
            "names = [\"a.b.test\"], directory = \"http://ca.test/\"",
            STATE,
            "2:52: `tls.acme.directory`: not an https address",
        ),
        ("names = [\"a.b.test\"], mail = \"a@b.test\"", STATE, "2:40: unknown key `tls.acme.mail`"),
    ] {
        check_text(&with_acme(&format!("acme = {{ {acme} }}"), "", rest), &[expected]);
    }
}

#[test]
fn names_on_demand_are_those_that_a_pbx_with_an_administrator_may_know() {
    let pbx = |hosts: &str, admin: &str| {
        let text = format!("[pbx]\nurl = \"http://127.0.0.1\"\nhosts = {hosts}\n{admin}");
        text + STATE
    };
    let admin = "admin = { user = \"sso\", password = { env = \"PBX_ADMIN_PASSWORD\" } }\n";
    let hosts = "[\"pbx.test\", \"*.pbx.test\", \"*.other.test\"]";
    let read = |acme: &str| {
        let text = with_acme(&format!("acme = {{ {acme} }}"), "", &pbx(hosts, admin));
        accepted(&text.replacen("[app]\nurl = \"http://a\"", "[app]\nurl = \"http://a\"\nhosts = [\"a.test\"]", 1))
    };
    let shown = |config: &Config| {
        let on_demand = config.acme.as_ref().unwrap().on_demand.as_ref().unwrap();
        (on_demand.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(), on_demand.quota.to_string())
    };
    let all = read("on_demand = true");
    assert_eq!(shown(&all), (vec!["*.pbx.test".to_owned(), "*.other.test".to_owned()], "10/h".to_owned()));
    let acme = all.acme.as_ref().unwrap();
    assert!(acme.is_on_demand("a.b.pbx.test") && !acme.is_on_demand("pbx.test") && !acme.is_on_demand("a.test"));
    assert!(all.gets_certificate_for("one.pbx.test.") && !all.gets_certificate_for("onepbx.test"));
    let narrowed = read("names = [\"pbx.test\", \"one.pbx.test\", \"*.PBX.test.\"], on_demand = { quota = \"3/24h\" }");
    assert_eq!(shown(&narrowed), (vec!["*.pbx.test".to_owned()], "3/24h".to_owned()));
    assert_eq!(narrowed.acme.as_ref().unwrap().names, ["pbx.test", "one.pbx.test"]);
    assert!(!narrowed.acme.as_ref().unwrap().is_on_demand("one.pbx.test"), "it is ordered at once");
    assert_eq!(shown(&read("names = [\"*.a.pbx.test\"]")).0, ["*.a.pbx.test"]);
    for (acme, admin, expected) in [
        ("names = [\"*.foreign.test\"]", admin, "*.foreign.test is not in `hosts` of a PBX with `admin`"),
        ("names = [\"*.test.test\"]", admin, "*.test.test is not in `hosts`"),
        ("on_demand = true", "", "no PBX with `admin` has a wildcard in `hosts`"),
    ] {
        let told = refused(&with_acme(&format!("acme = {{ {acme} }}"), "", &pbx(hosts, admin))).to_string();
        assert!(told.contains(expected), "{acme}: {told}");
    }
}
