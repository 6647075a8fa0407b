//! Common mistakes, and the problems reported for them: the error, its position, and the remedy.

use super::*;

const APP: &str = "[app]\nurl = \"http://127.0.0.1:3000\"\nwhoami = \"/me\"\n";
const PBX: &str = "[pbx]\nurl = \"http://127.0.0.1:1\"\nhosts = [\"pbx.test\"]\nadmin = { user = \"sso\", password = { env = \"PBX_ADMIN_PASSWORD\" } }\n";

/// Checks the first problem of a text: its position, a part of the message and a part of the hint.
#[track_caller]
fn check(text: &str, place: (usize, usize), message: &str, hint: &str) {
    let mut problems = Folder::new().parse(text).map_or_else(Problems::into_vec, |config| config.warnings);
    problems.retain(|problem| !problem.message.contains("no rule"));
    let told = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let first = problems.first().unwrap_or_else(|| panic!("nothing is said of {text}"));
    let found = first.position.map(|place| (place.line, place.column));
    assert_eq!(found, Some(place), "{text}\n{told}");
    assert!(first.message.contains(message), "{text}\n{told}");
    assert!(first.hint.as_deref().unwrap_or(&first.message).contains(hint), "{text}\n{told}");
}

/// Checks a listener.
#[track_caller]
fn listen(written: &str, message: &str, hint: &str) {
    let tls = TOP.lines().nth(1).unwrap();
    check(&format!("listen = {written}\n{tls}\n{APP}"), (1, 10), message, hint);
}

/// Checks a line below `[app]`, which is line 6.
#[track_caller]
fn app(line: &str, column: usize, message: &str, hint: &str) {
    check(&format!("{TOP}{APP}{line}\n"), (6, column), message, hint);
}

/// Checks a table behind `[app]`, from line 6 on.
#[track_caller]
fn table(text: &str, place: (usize, usize), message: &str, hint: &str) {
    check(&format!("{TOP}{APP}{text}\n"), place, message, hint);
}

#[test]
fn addresses() {
    listen("443", "an address is missing in front of the port", "write \"0.0.0.0:443\"");
    for written in ["\"443\"", "\":443\"", "\"*:443\""] {
        listen(written, "not an address", "write \"0.0.0.0:443\" for all addresses");
    }
    listen(
        "\"localhost:8443\"",
        "not an address",
        "localhost is a name: write an IP address, such as \"127.0.0.1:8443\"",
    );
    listen("\"gate.test:443\"", "not an address", "such as \"0.0.0.0:443\"");
    listen("\"0.0.0.0\"", "not an address", "add a port: \"0.0.0.0:443\"");
    listen("\"::1\"", "not an address", "add a port: \"[::1]:443\"");
    listen("\"https://0.0.0.0:443\"", "not an address", "write \"0.0.0.0:443\", without a scheme");
    listen("\"https://gate.test\"", "not an address", "such as \"0.0.0.0:443\"");
    listen("true", "must be a string in quotes", "put it in quotes");
    listen("{ port = 443 }", "must be a string in quotes", "found a table: write listen = \"…\"");
    table("[admin]\nlisten = 9443", (7, 10), "an address is missing in front of the port", "write \"127.0.0.1:9443\"");
    for (written, hint) in [
        (":9443", "write \"127.0.0.1:9443\""),
        ("gate.test:9443", "such as \"127.0.0.1:9443\""),
        ("/run/admin.sock", "write \"unix:/run/admin.sock\""),
        ("here", "such as \"127.0.0.1:9443\""),
    ] {
        table(&format!("[admin]\nlisten = \"{written}\""), (7, 10), "not an address", hint);
    }
    listen("\"/run/tls.sock\"", "not an address", "write \"unix:/run/tls.sock\"");
    check(&format!("redirect_http = 80\n{TOP}{APP}"), (1, 17), "an address is missing", "write \"0.0.0.0:80\"");
}

#[test]
fn urls() {
    let url = |written: &str, message: &str, hint: &str| {
        check(&format!("{TOP}[app]\nurl = \"{written}\"\n"), (4, 7), message, hint);
    };
    for (written, hint) in [
        ("http://127.0.0.1:3000/", "write \"http://127.0.0.1:3000\": the path of each request stays as it is"),
        ("http://127.0.0.1:3000/app", "write \"http://127.0.0.1:3000\""),
        ("https://app.test?x=1", "write \"https://app.test\""),
    ] {
        url(written, "nothing may follow the host and port", hint);
    }
    for (written, hint) in [
        ("127.0.0.1:3000", "write \"http://127.0.0.1:3000\""),
        ("HTTP://app.test", "write \"http://app.test\""),
        ("wss://app.test", "write \"https://app.test\""),
        ("ftp://app.test", "write \"http://127.0.0.1:3000\", "),
        ("ann:pw@app.test", "write \"http://127.0.0.1:3000\", "),
    ] {
        url(written, "starts with neither http://, https:// nor unix:", hint);
    }
    url("http://ann:pw@app.test", "a user name or password does not belong here", "write");
    url("http://app.test:http", "not a host name or IP address", "write");
}

#[test]
fn hosts_and_paths() {
    for (written, hint) in [
        ("https://a.test", "write the name alone: \"a.test\""),
        ("a.test:8443", "write the name alone: \"a.test\""),
        ("a.test/x", "write the name alone: \"a.test\""),
        ("*a.test", "write \"*.a.test\""),
        ("*", "leave the key out for every host"),
        ("münchen.test", "in ASCII"),
        ("a b", "write a name without scheme, port or path"),
    ] {
        app(&format!("hosts = [\"{written}\"]"), 10, "not a host name", hint);
    }
    app("hosts = \"a.test\"", 9, "must be a list in brackets", "put brackets around it: hosts = [\"…\"]");
    app("host = [\"a.test\"]", 1, "unknown key `app.host`", "did you mean `hosts`?");
    app("paths = [\"rest\"]", 10, "does not start with a slash", "write \"/rest\"");
    app("paths = [\"https://a.test/rest/\"]", 10, "does not start with a slash", "write \"/rest/\"");
    app("paths = [\"https://a.test\"]", 10, "does not start with a slash", "write a path such as");
    app("paths = [\"/rest/*\"]", 10, "a * stands for itself", "leave it out");
}

#[test]
fn what_the_app_is_asked() {
    let whoami = |written: &str, message: &str, hint: &str| {
        check(&format!("{TOP}[app]\nurl = \"http://a\"\nwhoami = {written}\n"), (5, 10), message, hint);
    };
    whoami("\"http://127.0.0.1:3000/api/me\"", "not a path of the app", "write \"/api/me\"");
    whoami("\"api/me\"", "not a path of the app", "write \"/api/me\"");
    whoami("true", "must be a string in quotes", "put it in quotes");
    app("timeout = \"3s\"", 1, "unknown key `app.timeout`", "did you mean `timeouts`?");
    app("insecure_skip_verify = \"true\"", 24, "must be true or false", "without quotes");
    app("max_connections = \"100\"", 19, "must be a whole number", "without quotes");
    app("max_connections = 1e4", 19, "must be a whole number", "in digits");
    app("max_connections = 0", 19, "is out of bounds", "write a number from 1 to ");
}

#[test]
fn sizes() {
    for (written, hint) in [
        ("134217728", "write \"128MiB\""),
        ("1500000000", "write \"1464843KiB\""),
        ("64", "write \"64MiB\""),
        ("\"64\"", "write \"64MiB\""),
        ("\"64 mb\"", "write \"64MiB\""),
        ("\"1G\"", "write \"1GiB\""),
        ("\"65536k\"", "write \"64MiB\""),
        ("\"67108864 bytes\"", "write \"64MiB\""),
        ("\"lots\"", "write \"512KiB\", \"256MiB\" or \"1GiB\""),
        ("\"99999999999GiB\"", "write \"512KiB\""),
        ("0", "write \"128MiB\""),
    ] {
        let problem = if written.starts_with('"') { "not a size" } else { "a size needs a unit" };
        table(&format!("[server]\nbuffer_budget = {written}"), (7, 17), problem, hint);
    }
}

#[test]
fn keys_that_belong_elsewhere() {
    for (line, home) in [
        ("listen = \"0.0.0.0:443\"", "`listen` belongs above the first [table]"),
        ("tls = { cert = \"a\", key = \"b\" }", "`tls` belongs above the first [table]"),
        ("handoff = \"link\"", "`handoff` belongs in [pbx]"),
        ("drain = \"30s\"", "`drain` belongs in [server]"),
        ("level = \"info\"", "`level` belongs in [log]"),
        ("origins = []", "`origins` belongs in [pbx] or [voximplant]"),
        ("failures = \"5/min\"", "`failures` belongs in [limits]"),
        ("when_stuck = \"go_on\"", "`when_stuck` belongs in [audit]"),
        ("stale_cookies = \"5/min\"", "`stale_cookies` belongs in [limits]"),
        ("buffer_budget = \"1GiB\"", "`buffer_budget` belongs in [server]"),
        ("trusted_audiences = []", "`trusted_audiences` belongs in an [[auth]] table with type = \"oidc\""),
    ] {
        app(line, 1, "unknown key `app.", home);
    }
    check(
        &format!("max_connections = 5\n{TOP}{APP}"),
        (1, 1),
        "unknown key",
        "`max_connections` belongs in [server], [app] or [pbx]",
    );
    table(
        "[[auth]]\ntype = \"app\"\nname = \"b\"\nwhoami = \"/b\"\nremember = \"1h\"",
        (10, 1),
        "unknown key",
        "`remember` belongs in an [[auth]] table",
    );
    table("[server]\nwhoami = \"/me\"", (7, 1), "unknown key `server.whoami`", "`whoami` belongs in [app]");
    table("[server]\nmax-connections = 5", (7, 1), "unknown key", "did you mean `max_connections`");
    table("[server]\nmaxConnections = 5", (7, 1), "unknown key", "did you mean `max_connections`");
}

#[test]
fn tables_and_lists_of_tables() {
    let tls = |written: &str, place, message: &str, hint: &str| {
        check(&format!("listen = \"[::]:0\"\n{written}\n{APP}"), place, message, hint);
    };
    tls(
        "tls = \"cert.pem\"",
        (2, 7),
        "must be a table",
        "write tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }",
    );
    tls("[[tls]]\ncert = \"a\"\nkey = \"b\"", (2, 1), "must be a table", "write [tls] instead of [[tls]]");
    check(&format!("{TOP}[[app]]\nurl = \"http://a\""), (3, 1), "must be a table", "write [app] instead of [[app]]");
    table("[allow]\nauth = \"app\"", (6, 1), "is a list of tables", "write [[allow]] instead of [allow]");
    check(&format!("{TOP}state = \"state\"\n{APP}"), (3, 9), "must be a table", "write state = { file = \"state\" }");
    let pbx = |admin: &str| format!("{PBX}{admin}");
    table(&pbx("[[allow]]\npbx = \"40\""), (11, 7), "must be a table", "pbx = { domain = \"…\", account = \"…\" }");
    table(
        &pbx("[[allow]]\npbx = { domain = \"a.test\", account = \"40@a.test\" }"),
        (11, 38),
        "not of the form",
        "what follows the @ belongs into `domain`",
    );
    for (domain, account, column, message, hint) in [
        ("a.test", "${ext}", 38, "an account or a domain never has a $", "write the claim in braces alone"),
        ("a.test", "{ext}@a.test", 38, "not of the form", "what follows the @ belongs into `domain`"),
        ("a.test", "{ext} {sub}", 38, "not of the form", "a claim in braces"),
        ("https://{tenant}.test", "40", 18, "not of the form", "write a host name, or a claim in braces"),
        ("{tenant}.test/", "40", 18, "not of the form", "write a host name, or a claim in braces"),
    ] {
        let rule = format!("[[allow]]\npbx = {{ domain = \"{domain}\", account = \"{account}\" }}");
        let column = if column == 38 { 32 + domain.len() } else { column };
        table(&pbx(&rule), (11, column), message, hint);
    }
    table(
        &pbx("[[allow]]\npbx = { domain = \"a.test\", account = 40 }"),
        (11, 38),
        "must be a string",
        "put it in quotes",
    );
    table(
        &pbx("[[allow]]\nauth = \"ap\"\npbx = { domain = \"a.test\", account = \"40\" }"),
        (11, 8),
        "no method",
        "`app`",
    );
}

#[test]
fn secrets() {
    let admin = |written: &str, message: &str, hint: &str| {
        let text = PBX.replace("{ env = \"PBX_ADMIN_PASSWORD\" }", written);
        let found = refused(&format!("{TOP}{text}")).into_vec().remove(0);
        assert!(found.message.contains(message), "{found}");
        assert!(found.hint.as_ref().is_some_and(|found| found.contains(hint)), "{found}");
    };
    admin("\"hunter2\"", "a secret must not be written in this file", "write { file = \"…\" }");
    admin("{ env = \"$PBX\" }", "not the name of a variable", "write the name alone");
    admin("{ value = \"x\" }", "a secret has exactly one source", "write one of { file");
    admin("{ file = \"secrets/utf-16\" }", "is text in UTF-16", "iconv -f UTF-16 -t UTF-8");
    admin("{ file = \"pww\" }", "cannot read pww: No such file or directory", "relative paths start at /");
    let user = PBX.replace("user =", "username =");
    let told = refused(&format!("{TOP}{user}")).to_string();
    assert!(told.contains("did you mean `user`?"), "{told}");
}

#[test]
fn durations_rates_and_words() {
    for (written, hint) in [
        ("30", "write \"30s\" for seconds"),
        ("\"30\"", "write \"30s\""),
        ("\"30 s\"", "write \"30s\""),
        ("\"5 minutes\"", "write \"5min\""),
        ("\"2w\"", "write \"14d\""),
        ("\"1.5h\"", "write \"500ms\", "),
        ("\"PT30S\"", "write \"500ms\", "),
    ] {
        table(&format!("[server]\ndrain = {written}"), (7, 9), "duration", hint);
    }
    for written in ["\"30/second\"", "\"30 per minute\"", "\"30\"", "\"0/min\"", "\"off\"", "\"30/min, burst 10\""] {
        table(&format!("[limits]\nclient = {written}"), (7, 10), "a rate looks like", "\"30/min burst 10\"");
    }
    table("[limits]\nclient = 30", (7, 10), "must be a string in quotes", "client = \"30/min\"");
    table("[limits]\nclients = \"30/min\"", (7, 1), "unknown key", "did you mean `client`?");
    table("[log]\nlevel = \"warning\"", (7, 9), "unknown word `warning`", "did you mean `warn`?");
    table("[log]\nformat = \"JSON\"", (7, 10), "unknown word `JSON`", "did you mean `json`?");
    table("[log]\naccess = \"Stdout\"", (7, 10), "unknown word `Stdout`", "did you mean `stdout`?");
    table("[logging]\nlevel = \"info\"", (6, 2), "unknown key `logging`", "did you mean `log`?");
    table("[[auth]]\ntype = \"keys\"", (7, 8), "unknown word `keys`", "did you mean `key`?");
    table(
        "[[auth]]\ntype = \"link\"\nkeys = { file = \"k\" }",
        (8, 8),
        "must be a list",
        "keys = [{ kid = \"…\", secret",
    );
    let pbx_line = |line: &str, column, message: &str, hint: &str| {
        check(&format!("{TOP}{PBX}{line}\n"), (7, column), message, hint);
    };
    pbx_line("socket = true", 10, "must be a string in quotes", "write socket = \"/auth/pbx/socket\"");
    pbx_line("auto = \"app.test:8443/x\"", 8, "over https only", "write \"https://app.test:8443\"");
    pbx_line("origins = [\"CRM.test\"]", 12, "not an origin", "write \"https://crm.test\"");
    pbx_line("aliases = [\"/old/*\"]", 12, "a * stands for itself", "write each path in full");
    check(
        &format!("{TOP}{PBX}[[allow]]\nauth = \"app\"\npbx = {{ domain = \"a.test\", account = \"{{ext}}\" }}\n"),
        (8, 8),
        "there is no method `app`",
        "add `whoami` to [app]",
    );
    table("[[passthrough]]\nhosts = [\"p.test\"]\nto = \"192.0.2.1:443\"", (6, 1), "names` is missing", "add `names");
    let api = "[voximplant]\nusers = { env = \"USERS\" }\napplication = \"a.b\"\nmanagement = { url = \"http://127.0.0.1:5070\", account_id = 1, api_key = { env = \"PBX_ADMIN_PASSWORD\" } }";
    assert!(told(&format!("{TOP}{APP}{api}")).contains("write \"http://127.0.0.1:5070/\", with a slash at the end"));
    let passed = "[[passthrough]]\nhosts = [\"p.test\"]\nurl = \"192.0.2.1:443\"";
    let problems = told(&format!("{TOP}{APP}{passed}"));
    assert!(problems.contains("did you mean `names`?") && problems.contains("did you mean `to`?"), "{problems}");
    // Hosts that cannot be read are one mistake, not two.
    let text = format!("{TOP}[app]\nurl = \"http://a\"\nhosts = \"app.test\"\n{PBX}auto = \"https://app.test\"\n");
    assert!(!told(&text).contains("does not serve"), "{}", told(&text));
}

/// Returns all problems of a text.
fn told(text: &str) -> String {
    let problems = Folder::new().parse(text).map_or_else(Problems::into_vec, |config| config.warnings);
    problems.iter().map(|problem| format!("{problem} {}\n", problem.hint.as_deref().unwrap_or_default())).collect()
}

#[test]
fn files_and_folders() {
    table("[log]\naccess = \"nowhere/access.log\"", (7, 10), "nowhere does not exist", "mkdir -p /");
    table("[log]\naccess = \"./\"", (7, 10), "./ is a folder", "name a file in it");
    table("[audit]\nfile = \"log\"", (7, 8), "log is a folder", "name a file in it");
    table("[audit]\nfile = \"stdout\"", (7, 8), "must be the name of a file", "leave the key out");
    table("[state]\nfile = \"nowhere/state\"", (7, 8), "nowhere does not exist", "mkdir -p /");
    let lookup = |file: &str| {
        format!(
            "{PBX}[[allow]]\npbx = {{ domain = \"a.test\", account = \"{{row.ext}}\" }}\ntable = {{ file = \"{file}\", key = \"{{sub}}\" }}"
        )
    };
    table(&lookup("people.xlsx"), (12, 18), "is neither a .csv nor a .toml file", "saved as CSV");
    let folder = Folder::new();
    folder.write("semicolons.csv", "sub;ext\nann;40\n", 0o600);
    folder.write("spaces.csv", "sub, ext\nann, 40\n", 0o600);
    for (file, hint) in [("semicolons.csv", "with commas between"), ("spaces.csv", "without spaces around")] {
        let problems = folder.parse(&format!("{TOP}{APP}{}", lookup(file))).unwrap_err();
        assert!(problems.to_string().contains(hint), "{problems}");
    }
}

#[test]
fn certificates_and_keys() {
    let folder = Folder::new();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let request = CertificateParams::new(["a.test".to_owned()]).unwrap().serialize_request(&key).unwrap();
    let path = |name: &str| folder.0.path().join(name);
    fs::write(path("cert.der"), certificate.der()).unwrap();
    fs::write(path("key.der"), key.serialize_der()).unwrap();
    fs::set_permissions(path("key.der"), fs::Permissions::from_mode(0o600)).unwrap();
    folder.write("key.pem", &key.serialize_pem(), 0o600);
    folder.write("cert.pem", &certificate.pem(), 0o600);
    folder.write("request.pem", &request.pem().unwrap(), 0o600);
    folder.write("public.pem", &key.public_key_pem(), 0o600);
    folder.write(
        "encrypted.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII=\n-----END ENCRYPTED PRIVATE KEY-----\n",
        0o600,
    );
    folder.write("cut.pem", &key.serialize_pem()[..80], 0o600);
    for (cert, key, message, hint) in [
        ("cert.der", "key.pem", "is a certificate in DER form", "openssl x509 -inform DER -in cert.der"),
        ("key.pem", "key.pem", "is a private key and no certificate", "the wrong way round?"),
        ("request.pem", "key.pem", "is a request for a certificate", "send it to a certificate authority"),
        ("public.pem", "key.pem", "is a public key and no certificate", "name the certificate"),
        ("people.csv", "key.pem", "has no certificate in PEM form", "-----BEGIN CERTIFICATE-----"),
        ("cert.pem", "key.der", "is a key in DER form", "openssl pkey -inform DER -in key.der"),
        ("cert.pem", "cert.pem", "is a certificate and no private key", "the wrong way round?"),
        ("cert.pem", "encrypted.pem", "the key is encrypted", "openssl pkey -in encrypted.pem"),
        ("cert.pem", "public.pem", "is a public key, not the private one", "name the file of the private key"),
        ("cert.pem", "request.pem", "is a request for a certificate", "the key that the request was made with"),
        ("cert.pem", "cut.pem", "is cut off or changed", "copy the file again"),
        ("cert.pem", "certs/other.pem", "the key does not belong to the certificate", "was issued for"),
        ("missing.pem", "key.pem", "cannot read missing.pem", "relative paths start at"),
    ] {
        let tls = format!("tls = {{ cert = \"{cert}\", key = \"{key}\" }}");
        let problems = folder.parse(&format!("listen = \"[::]:0\"\n{tls}\n{APP}")).unwrap_err().into_vec();
        assert!(problems[0].message.contains(message), "{}", problems[0]);
        assert!(problems[0].hint.as_ref().is_some_and(|found| found.contains(hint)), "{}", problems[0]);
    }
}

#[test]
fn what_is_no_toml() {
    for (text, place, hint) in [
        ("listen = “0.0.0.0:443”", (1, 10), "a typographic quotation mark"),
        ("listen: \"0.0.0.0:443\"", (1, 9), "write = in the place of the colon: listen = …"),
        ("listen = 0.0.0.0:443", (1, 13), "put the value in quotes: listen = \"…\""),
        ("[app]\nurl = http://127.0.0.1", (2, 7), "put the value in quotes: url = \"…\""),
        ("[app]\ninsecure_skip_verify = yes", (2, 24), "write insecure_skip_verify = true"),
        ("[app\nurl = \"http://a\"", (1, 5), "close the name of the table with ]"),
        ("[app]\n\u{a0}url = \"http://a\"", (2, 1), "an invisible character (U+00A0)"),
        ("[app]\nurl = \"http://a", (2, 16), "end the string with \" on the same line"),
        ("[log]\naccess = \"C:\\log\"", (2, 14), "write \\\\ for each \\"),
        ("[app]\nurl = \"http://a\"\n[app]\nlogin = \"/\"", (3, 2), "it stands above already (line 1)"),
        ("{ \"listen\": \"0.0.0.0:443\" }", (1, 1), "looks like JSON"),
    ] {
        check(text, place, "", hint);
    }
}

#[test]
fn lines_of_the_users_file() {
    let folder = Folder::new();
    for (line, message) in [
        ("ann:mypass", "vox line 1: expected three fields, user:voximplant.com:HA1, found 2"),
        ("ann:$apr1$x$y", "found 2"),
        (&format!("ann:example.com:{HA1}"), "the realm is \"example.com\", write voximplant.com"),
        ("ann:voximplant.com:mypass", "the HA1 is not 32 hex digits"),
        (&format!("Ann:voximplant.com:{HA1}"), "the user is \"Ann\""),
    ] {
        folder.write("vox", &format!("{line}\n"), 0o600);
        let text = format!("{TOP}{APP}[voximplant]\nusers = {{ file = \"vox\" }}\n");
        let problem = folder.parse(&text).unwrap_err().into_vec().remove(0);
        assert!(problem.message.contains(message), "{problem}");
        assert!(problem.hint.unwrap().contains("callgate hash"));
    }
}

#[test]
fn pages_that_people_meet() {
    #[track_caller]
    fn pages(line: &str, column: usize, message: &str, hint: &str) {
        check(&format!("{TOP}{APP}[pages]\n{line}\n"), (7, column), message, hint);
    }
    let help = "mailto:help@example.com";
    pages("contact = \"javascript:alert(1)\"", 11, "not an address where people find help", help);
    pages("contact = \"http://help.example.com\"", 11, "not an address where people find help", help);
    pages("contact = \"mailto:help\"", 11, "not an address where people find help", help);
    pages("home = \"//evil.test\"", 8, "neither a path nor an https address", "www.example.com");
    pages("home = \"javascript:alert(1)\"", 8, "neither a path nor an https address", "www.example.com");
    pages("language = \"sv\"", 12, "unknown word `sv`", "en, de");
    pages("name = \"a\\nb\"", 8, "has a control character in it", "one line");
    pages(&format!("name = \"{}\"", "a".repeat(61)), 8, "is too long for a page", "60");
    pages("logo = \"certs/fullchain.pem\"", 8, "no picture that browsers show", "SVG");
    let folder = Folder::new();
    folder.write("pages/logo.svg", &format!("<svg>{}</svg>", " ".repeat(64 << 10)), 0o600);
    let large = folder.parse(&format!("{TOP}{APP}[pages]\nlogo = \"pages/logo.svg\"\n")).unwrap_err().into_vec();
    assert!(large[0].message.contains("the picture is too large"), "{large:?}");
    pages("logo = \"pages/none.png\"", 8, "pages/none.png", "");
    pages("texts = { de = { wait = \"gleich\" } }", 25, "has no {wait}", "{wait}");
    pages("texts = { de = { no_acess = \"a\" } }", 18, "no_acess", "no_access");
    pages("texts = { sv = { no_access = \"a\" } }", 11, "texts.sv", "");
    pages("texts = { en = { no_access = \"\" } }", 30, "no_access", "");
}

#[test]
fn a_collector_of_spans() {
    for wrong in ["http://a.test:4318", "a.test:4318", "https://ann:pw@a.test", "https://a.test/?x=1", "grpc://a.test"]
    {
        let text = format!("{TOP}{APP}[telemetry]\notlp = \"{wrong}\"\n");
        check(&text, (7, 8), "not the URL of a collector", "https://collector.example.com:4318");
    }
    let more = |line: &str, column: usize, message: &str, hint: &str| {
        check(&format!("{TOP}{APP}[telemetry]\notlp = \"https://a.test\"\n{line}\n"), (8, column), message, hint);
    };
    more("sample = 101", 10, "is out of bounds", "from 0 to 100");
    more("metrics = \"900ms\"", 11, "metrics are posted too often", "write \"1s\" or more");
    let value = "value = { file = \"secrets/sso\" }";
    more(&format!("headers = [{{ header = \"host\", {value} }}]"), 23, "not the name of a field", "authorization");
    more(&format!("headers = [{{ header = \"a b\", {value} }}]"), 23, "not the name of a field", "authorization");
}
