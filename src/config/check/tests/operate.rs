//! `[admin]`, `[limits]`, `[log]` and `[audit]`.

use super::*;

#[test]
fn the_admin_listener_is_reached_from_this_machine_only() {
    let admin = |listen: &str| accepted(&format!("{TOP}{BOTH}[admin]\nlisten = \"{listen}\"")).admin.unwrap();
    for listen in ["127.0.0.1:9443", "127.1.2.3:0", "[::1]:9443", "unix:/run/callgate/admin.sock"] {
        assert_eq!(admin(listen).to_string(), listen);
    }
    let Listen::Unix(path) = admin("unix:admin.sock") else { panic!("not a socket") };
    assert!(path.is_absolute(), "{path:?}");
    let reached = "8:10: `admin.listen`: can be reached from other machines, and it has no login";
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

#[test]
fn durations_and_rates_have_a_form() {
    check_beside("[server]\ndrain = 30", "8:9: `server.drain`: a duration needs a unit");
    check_hint("[app]\nurl = \"http://a\"\n[server]\ndrain = 30", "write \"30s\"");
    check_beside("[server]\ndrain = \"0s\"", "8:9: `server.drain`: a duration of zero");
    check_beside("[server]\ndrain_tunnels = 12", "8:17: `server.drain_tunnels`: a duration needs a unit");
    check_beside("[server]\ntimeouts = { idle = \"soon\" }", "8:21: `server.timeouts.idle`: not a duration");
    check_beside(
        "[limits]\nclient = \"often\"",
        "8:10: `limits.client`: a rate looks like \"30/min\", \"5/15min\" or \"30/min burst 10\"",
    );
}

#[test]
fn all_limits_are_in_shadow_or_those_that_are_named() {
    let read = |shadow: &str| accepted(&format!("{TOP}{BOTH}[limits]\n{shadow}"));
    let names = |shadow: &str| read(shadow).limits.shadow.names().collect::<Vec<_>>();
    assert!(names("").is_empty() && names("shadow = false").is_empty() && names("shadow = []").is_empty());
    assert_eq!(names("shadow = true"), LIMITS);
    assert_eq!(names("shadow = [\"account\", \"client\"]"), ["client", "account"]);
    let hint = "[limits]\nshadow = [\"acount\"]";
    check_beside(hint, "8:11: `limits.shadow`: unknown word `acount`");
    check_hint(&format!("{BOTH}{hint}"), "did you mean `account`?");
    check_beside("[limits]\nshadow = [\"client\", \"client\"]", "8:21: `limits.shadow`: the same limit twice");
    check_beside("[limits]\nshadow = \"client\"", "8:10: `limits.shadow`: must be a list in brackets");
}

#[test]
fn guesses_without_a_limit_are_warned_of() {
    let warned = |shadow: &str| {
        let read = accepted(&format!("{TOP}{BOTH}[limits]\nshadow = {shadow}"));
        let warned = read.warnings.iter().map(ToString::to_string).filter(|one| one.contains("limits.shadow"));
        warned.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(warned("[\"client\", \"caller\", \"account\", \"admin\"]"), "");
    let all = warned("true");
    assert!(
        all.contains("guesses are not limited while in shadow: failures, stale_cookies, pbx_logins")
            && all.contains("watch the audit log"),
        "{all}"
    );
    assert!(warned("[\"failures\"]").contains("in shadow: failures\n"));
}

#[test]
fn tunnels_go_on_at_least_as_long_as_other_exchanges() {
    let read = |keys: &str| accepted(&format!("{TOP}{BOTH}[server]\n{keys}"));
    let hours = |keys: &str| read(keys).server.drain_tunnels.as_secs() / 3600;
    assert_eq!([hours("drain_tunnels = \"2h\""), hours(""), hours("drain = \"24h\"")], [2, 12, 24]);
    let short = read("drain = \"30s\"\ndrain_tunnels = \"29s\"");
    assert_eq!(short.server.drain_tunnels.as_secs(), 30);
    let warned = short.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(warned.contains("`server.drain_tunnels`: has no effect: it is less than `drain`"), "{warned}");
    let warned = read("drain = \"30s\"\ndrain_tunnels = \"30s\"").warnings;
    assert!(!warned.iter().any(|one| one.to_string().contains("drain_tunnels")));
}

#[test]
fn a_member_has_a_short_plain_name() {
    let read = |name: &str| accepted(&format!("member = \"{name}\"\n{TOP}{BOTH}"));
    assert_eq!(read("edge-1").member.unwrap().as_str(), "edge-1");
    assert_eq!(accepted(&format!("{TOP}{BOTH}")).member, None);
    for text in ["", "a b", "é"] {
        check_text(
            &format!("member = \"{text}\"\n{TOP}{BOTH}"),
            &["1:10: `member`: not 1 to 63 letters, digits and . _ -"],
        );
    }
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
    assert_eq!(syslog("tcp:Logs.test:601"), "tcp:logs.test:601");
    assert_eq!(syslog("tcp:[::1]:601"), "tcp:[::1]:601");
    assert_eq!(syslog("tls:logs.test"), "tls:logs.test:6514");
    let table = "syslog = { to = \"tls:logs.test:99\", ca = \"certs/upstream-ca.pem\", server_name = \"b.test\" }";
    let Some(crate::config::SyslogConfig::Tls(tls)) = audit(table).syslog else { panic!("{table}") };
    assert_eq!((tls.at.to_string().as_str(), tls.ca.is_some()), ("logs.test:99", true));
    assert_eq!(tls.server_name, Some("b.test".try_into().unwrap()));
    assert_eq!(audit("syslog = { to = \"tcp:a:1\" }").syslog.unwrap().to_string(), "tcp:a:1");
    check_beside("[audit]\nsyslog = { ca = \"certs/upstream-ca.pem\" }", "8:10: `audit.syslog.to` is missing");
    check_beside(
        "[audit]\nsyslog = { to = \"tcp:a:1\", server_name = \"b.test\" }",
        "8:42: `audit.syslog.server_name`: there is no certificate: `to` is not tls:",
    );
    check_beside(
        "[audit]\nsyslog = { to = \"tls:a\", ca = \"no-such.pem\" }",
        "8:31: `audit.syslog.ca`: cannot read no-such.pem: No such file or directory",
    );
    check_beside(
        "[audit]\nsyslog = { to = \"tls:a\", server_name = \"b c\" }",
        "8:40: `audit.syslog.server_name`: not a server name",
    );
    assert_eq!((full.when_stuck, audit("when_stuck = \"go_on\"").when_stuck), (WhenStuck::Refuse, WhenStuck::GoOn));
    check_beside("[audit]\nwhen_stuck = \"wait\"", "8:14: `audit.when_stuck`: unknown word `wait`");
    check_beside("[audit]", "7:1: `audit`: has no target");
    check_beside("[audit]\nchain = true", "7:1: `audit`: has no target");
    check_beside("[audit]\nchain = true\nsyslog = \"unix:/dev/log\"", "8:9: `audit.chain`: there is no file to guard");
    for (word, problem) in [
        ("/dev/log", "not the address of a syslog daemon"),
        ("unix:", "not the address of a syslog daemon"),
        ("smtp:192.0.2.9:514", "not the address of a syslog daemon"),
        ("tcp:192.0.2.9", "has no host with a port behind tcp:"),
        ("tcp:a b:601", "has no host with a port behind tcp:"),
        ("tls:", "has no host behind tls:"),
        ("tls:logs.test:0", "has no host behind tls:"),
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

#[test]
fn the_combined_format_needs_a_file_for_audit_lines() {
    let combined = "[log]\naccess_format = \"combined\"\n";
    let log = |more: &str| accepted(&format!("{TOP}{BOTH}{combined}{more}")).log.access_format;
    assert_eq!(log("[audit]\nfile = \"audit.log\""), AccessFormat::Combined);
    assert_eq!(log("access = \"off\""), AccessFormat::Combined);
    check_beside(combined.trim_end(), "1:1: `log.access_format`: the combined format has no audit lines");
    check_beside("[log]\naccess_format = \"combine\"", "8:17: `log.access_format`: unknown word `combine`");
    let json = accepted(&format!("{TOP}{BOTH}[log]\nformat = \"json\""));
    assert_eq!(json.log.access_format, AccessFormat::Lines(LogFormat::Json));
}
