//! The example configuration, `proxy.toml`, and every key that it documents.

use super::*;

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
    assert_eq!(config.certificates[0].names[..4], ["www.example.com", "*.pbx.example.com", "127.0.0.1", "::1"]);
    let pbx = config.pbx.only().unwrap().clone();
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
    // A pin requires https, and login by certificate requires that one is asked for.
    let full = uncommented(EXAMPLE).replace("url = \"http://", "url = \"https://");
    let full = full.replacen("privkey.pem\" }", "privkey.pem\", client_ca = \"certs/client-ca.pem\" }", 1);
    let (plain, full) = (accepted(EXAMPLE), accepted(&full));
    let same = |plain: &dyn std::fmt::Debug, full: &dyn std::fmt::Debug| {
        assert_eq!(format!("{plain:?}"), format!("{full:?}"));
    };
    same(&plain.server, &full.server);
    same(&plain.limits, &full.limits);
    same(&plain.log, &full.log);
    let (plain_pbx, full_pbx) = (plain.pbx.only().unwrap().clone(), full.pbx.only().unwrap().clone());
    same(&plain_pbx.handoff, &full_pbx.handoff);
    same(&plain_pbx.landing, &full_pbx.landing);
    same(&plain_pbx.languages, &full_pbx.languages);
    same(&plain_pbx.timeout, &full_pbx.timeout);
    let (plain_app, full_app) = (plain.app.unwrap(), full.app.unwrap());
    for (plain, full) in [(plain_pbx.upstream, full_pbx.upstream), (plain_app.upstream, full_app.upstream)] {
        same(&plain.timeouts, &full.timeouts);
        same(&plain.trust.skip_verify, &full.trust.skip_verify);
        same(&plain.max_connections, &full.max_connections);
        same(&plain.policy, &full.policy);
    }
    let (plain_vox, full_vox) = (plain.voximplant.unwrap(), full.voximplant.unwrap());
    same(&plain_vox.max_key_length, &full_vox.max_key_length);
    same(&plain_vox.distinct_keys, &full_vox.distinct_keys);
    assert_eq!((full.methods.len(), full.rules.len(), full.workers.unwrap().get()), (14, 3, 4));
    assert!(full.audit.file.is_some() && full.audit.syslog.is_some() && full.redirect_http.is_some());
    assert!(!full.audit.chain);
    assert_eq!(plain.shared, None);
    let minimal = format!("{EXAMPLE}\n[shared]\nurl = \"rediss://redis.example.com\"\nkeys = \"secrets/ring.keys\"");
    let (minimal, shown) = (accepted(&minimal).shared.unwrap(), full.shared.unwrap());
    same(&minimal.prefix, &shown.prefix);
    same(&minimal.deadline, &shown.deadline);
    same(&minimal.members, &shown.members);
    same(&minimal.marks_when_down, &shown.marks_when_down);
    assert_eq!((plain.admin, full.admin.map(|listen| listen.to_string())), (None, Some("127.0.0.1:9443".to_owned())));
}

#[test]
fn the_example_shows_no_other_way_that_does_not_load() {
    let lines: Vec<_> = EXAMPLE.lines().collect();
    let ways: Vec<_> =
        lines.iter().enumerate().filter_map(|(at, line)| Some((at, line.strip_prefix("# or ")?))).collect();
    assert_eq!(ways.len(), 12);
    for (at, way) in ways {
        let key = way.split(" = ").next().unwrap();
        let replaced =
            (0..at).rev().find(|at| lines[*at].trim_start_matches('#').starts_with(&format!("{key} = "))).unwrap();
        let mut lines = lines.clone();
        lines[replaced] = way;
        let table = (0..replaced).rev().find(|at| lines[*at].trim_start_matches('#').starts_with('['));
        if let Some(table) = table {
            lines[table] = lines[table].trim_start_matches('#');
        }
        // An account at an ACME server needs a state file.
        let text = lines.join("\n").replace("#[state]", "[state]").replace("#file = \"state", "file = \"state");
        accepted(&text);
    }
}
