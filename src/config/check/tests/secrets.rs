//! Secrets and files: their sources, permissions and encodings.

use super::*;

#[test]
fn the_administrators_password_travels_safely() {
    let admin = "admin = { user = \"sso\", password = { file = \"secrets/pbx-admin\" } }";
    for url in ["http://127.0.0.1:8080", "http://[::1]", "http://localhost", "https://pbx.test", "unix:/run/pbx"] {
        accepted(&pbx(url, admin));
    }
    let pinned = format!("{admin}\npin = \"YhKJKSzoTt2b5FP18fvpHo7fJYqQCjAa3HWY3tvRMwE=\"");
    accepted(&pbx("https://10.0.0.1", &pinned));
    // Every address is checked, not only the first.
    let several = |urls: &str| pbx("", admin).replace("url = \"\"", &format!("url = [{urls}]"));
    accepted(&several("\"https://pbx.test\", \"http://[::1]\", \"unix:/run/pbx\""));
    check_text(
        &several("\"https://pbx.test\", \"http://[::1]\", \"http://10.0.0.1\""),
        &["5:9: `pbx.admin`: the password would be sent unencrypted over http://"],
    );
    check_text(
        &pbx("http://10.0.0.1", admin),
        &["5:9: `pbx.admin`: the password would be sent unencrypted over http://"],
    );
    let unverified = format!("{admin}\ninsecure_skip_verify = true");
    check_text(
        &pbx("https://pbx.test", &unverified),
        &["5:9: `pbx.admin`: the password could be sent to any server: insecure_skip_verify is set"],
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
            // Saved by editors on Windows.
            .chain(["{ file = \"secrets/marked\" }", "{ env = \"MARKED\" }", "{ credential = \"marked\" }"])
    {
        assert_eq!(
            accepted(&text(secret)).pbx.only().unwrap().clone().admin.unwrap().password.expose(),
            SECRET,
            "{secret}"
        );
    }
    for (secret, column, key, expected) in [
        (format!("\"{SECRET}\""), 36, "", "a secret must not be written in this file"),
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
    assert_eq!(config.pbx.only().unwrap().clone().admin.unwrap().password.expose(), format!(" {SECRET}"));
    let message = &config.warnings[0].message;
    assert_eq!(message, "`pbx.admin.password`: the secret has spaces around it, which count as part of it");
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
