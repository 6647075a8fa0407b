//! The file as a whole: all problems at once, keys that are missing or unknown.

use super::*;

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
    assert_eq!(problem.position.map(|place| place.line), Some(1));
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
    check_text("", &["1:1: `listen` is missing", "1:1: `tls` is missing", "1:1: there is no upstream"]);
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
