//! Conditions, tables, choices and levels of `[[allow]]`.

use super::*;
use crate::config::Dialect;
use crate::model::account::AdminLevel;
use crate::model::grant::{Choose, PbxTemplate, Rule};

/// Ten lines; the text of a test starts at line 11, within a rule.
const RULE: &str = "[app]\nurl = \"http://127.0.0.1:3000\"\nwhoami = \"/me\"\n[pbx]\nurl = \"http://127.0.0.1:8080\"\n\
    admin = { user = \"sso\", password = { env = \"PBX_ADMIN_PASSWORD\" } }\nhosts = [\"pbx.test\"]\n[[allow]]\n";
const USER: &str = "pbx = { domain = \"{tenant}\", account = \"{ext}\" }\n";

fn with(lines: &str) -> String {
    format!("{TOP}{RULE}{lines}")
}

#[track_caller]
fn check_rule(lines: &str, expected: &[&str]) {
    check_text(&with(lines), expected);
}

fn the_rule(lines: &str) -> Rule {
    accepted(&with(lines)).rules.remove(0)
}

// === when ===

#[track_caller]
fn check_when(when: &str, expected: &str) {
    check_rule(&format!("{USER}when = {when}"), &[expected]);
}

#[test]
fn conditions_are_what_claims_say() {
    let rule = the_rule(&format!(
        "{USER}when = {{ email_verified = true, level = 3, plan = [\"pro\", \"team\"], realm.roles = \"phone\", \
         \"https://acme.test/x\" = \"y\", email = \"*@acme.test\" }}"
    ));
    let shown: Vec<_> = rule.when.conditions.iter().map(ToString::to_string).collect();
    let says = |claim: &str, wanted: &str| format!("the claim \"{claim}\" does not say {wanted}");
    let mut expected = [
        says("email", "\"*@acme.test\""),
        says("email_verified", "\"true\""),
        says("https://acme.test/x", "\"y\""),
        says("level", "\"3\""),
        says("plan", "\"pro\" or \"team\""),
        says("realm.roles", "\"phone\""),
    ];
    expected.sort();
    assert_eq!(shown, expected);
}

#[test]
fn hours_are_one_or_several() {
    assert_eq!(the_rule(USER).when.hours.len(), 0);
    let one = the_rule(&format!("{USER}when = {{ hours = \"Mon-Fri 08:00-18:00 Europe/Berlin\" }}"));
    assert_eq!((one.when.hours.len(), one.when.conditions.len()), (1, 0));
    let two = the_rule(&format!("{USER}when = {{ hours = [\"Mon 08:00-18:00 UTC\", \"Sat 08:00-12:00 UTC\"] }}"));
    assert_eq!(two.when.hours.len(), 2);
}

#[test]
fn what_no_claim_can_say_is_refused() {
    check_when("{}", "12:8: `allow.when`: has no condition");
    check_when("\"x\"", "12:8: `allow.when`: must be a table");
    check_when("{ plan = [] }", "12:17: `allow.when.plan`: is an empty list");
    check_when("{ plan = [\"a\", \"a\"] }", "12:23: `allow.when.plan`: the same value twice");
    check_when("{ plan = 1.5 }", "12:17: `allow.when.plan`: is not a value that a claim can have");
    check_when("{ since = 2026-01-01 }", "12:18: `allow.when.since`: is not a value that a claim can have");
    check_when("{ plan = [[\"a\"]] }", "12:18: `allow.when.plan`: is not a value that a claim can have");
    let star = "a * stands only for the name in an address: \"*@example.com\"";
    check_when("{ email = \"*\" }", &format!("12:18: `allow.when.email`: {star}"));
    check_when("{ host = \"*.example.com\" }", &format!("12:17: `allow.when.host`: {star}"));
    check_when("{ email = \"*@example\\u0000\" }", "12:18: `allow.when.email`: has a control character in it");
    check_when("{ a.b.c.d = 1 }", "12:14: `allow.when.a.b.c`: is nested too deep");
}

#[test]
fn hours_that_are_none_are_refused() {
    for (hours, what) in [
        ("08:00-18:00", "hours have days, times and a time zone"),
        ("Mon 08:00-18:00", "hours have days, times and a time zone"),
        ("Mo-Fr 08:00-18:00 UTC", "\"Mo-Fr\" names no days"),
        ("Mon 8-18 UTC", "\"8-18\" is not a span of time"),
        ("Mon 08:00-18:00 Berlin", "there is no time zone \"Berlin\""),
    ] {
        check_when(&format!("{{ hours = \"{hours}\" }}"), &format!("12:18: `allow.when.hours`: {what}"));
    }
}

// === table ===

/// Reads a rule with this file, whose columns are `mail,ext,tenant`.
fn table(name: &str, text: &[u8], more: &str) -> Result<Config, Problems> {
    let folder = Folder::new();
    fs::write(folder.0.path().join(name), text).unwrap();
    folder.parse(&with(&format!(
        "pbx = {{ domain = \"{{row.tenant}}\", account = \"{{row.ext}}\" }}\ntable = {{ file = \"{name}\", key = \"{{email|lower}}\" }}\n{more}"
    )))
}

#[track_caller]
fn check_table(name: &str, text: impl AsRef<[u8]>, expected: &[&str]) {
    let problems = table(name, text.as_ref(), "").unwrap_err();
    let found: Vec<_> = problems.as_slice().iter().map(|problem| problem.message.as_str()).collect();
    let expected: Vec<_> = expected.iter().map(|text| format!("`allow.table.file`: {name}{text}")).collect();
    assert_eq!(found, expected, "{}", String::from_utf8_lossy(text.as_ref()));
}

#[track_caller]
fn check_cells(name: &str, text: &str, key: &str, expected: &[[&str; 2]]) {
    let config = table(name, text.as_bytes(), "choose = \"first\"\n").unwrap();
    let table = &config.rules[0].table.as_ref().unwrap().table;
    let cells: Vec<_> = table.rows(key).map(|row| ["ext", "tenant"].map(|column| row.cell(column).unwrap())).collect();
    assert_eq!(cells, expected, "{key}");
}

#[test]
fn tables_are_csv_or_toml() {
    let csv = "\u{feff}mail,ext,tenant\r\nann@a.test,40,a.test\r\n\"bob@a.test\",041,\"b.test\"\nann@a.test,42,c.test";
    check_cells("people.csv", csv, "ann@a.test", &[["40", "a.test"], ["42", "c.test"]]);
    check_cells("people.csv", csv, "bob@a.test", &[["041", "b.test"]]);
    check_cells("people.csv", csv, "mail", &[]);
    let toml = "[\"bob@a.test\"]\next = 41\ntenant = \"b.test\"\n\
        [[\"ann@a.test\"]]\ntenant = \"a.test\"\next = \"40\"\n[[\"ann@a.test\"]]\next = \"42\"\ntenant = \"c.test\"\n";
    check_cells("people.toml", toml, "ann@a.test", &[["40", "a.test"], ["42", "c.test"]]);
    check_cells("people.toml", toml, "bob@a.test", &[["41", "b.test"]]);
}

#[test]
fn faults_of_a_csv_table_are_told_by_their_lines() {
    let head = "mail,ext,tenant\n";
    check_table("t.csv", format!("{head}a,40,x\na,41,x"), &[":3: the key \"a\" stands in line 2 already"]);
    check_table(
        "t.csv",
        format!("{head}a,40\nb,41,x,y"),
        &[":2: 2 cells, and the first line has 3", ":3: 4 cells, and the first line has 3"],
    );
    check_table("t.csv", format!("{head},40,x"), &[":2: the key is empty"]);
    check_table(
        "t.csv",
        format!("{head}a,4\u{0}0,x"),
        &[":2: \"4\\00\" has a control character in it or spaces around it"],
    );
    check_table(
        "t.csv",
        format!("{head}a,\"4\n0\",x\nb, 41,x"),
        &[
            ":2: \"4\\n0\" has a control character in it or spaces around it",
            ":4: \" 41\" has a control character in it or spaces around it",
        ],
    );
    check_table("t.csv", head, &[":1: there are no rows"]);
    check_table("t.csv", b"mail,ext,tenant\na,\xff,x", &[":2: is not text in UTF-8"]);
    check_table("t.csv", "mail,ext,ext\na,40,x", &[":1: column 3 is called \"ext\" too"]);
    check_table("t.csv", "mail;ext;tenant\na;40;x", &[":1: \"mail;ext;tenant\" is not a column name"]);
    check_table("t.csv", "mail,e t,tenant\na,40,x", &[":1: \"e t\" is not a column name"]);
    let wide = (0..33).map(|number| format!("c{number}")).collect::<Vec<_>>().join(",");
    check_table("t.csv", wide, &[":1: more than 32 columns"]);
    let ten = (0..12).map(|number| format!("\n{number}")).collect::<String>();
    let problems = table("t.csv", format!("{head}{ten}").as_bytes(), "").unwrap_err();
    assert_eq!(problems.as_slice().len(), 11);
    assert!(problems.to_string().contains("t.csv: 2 faults more"), "{problems}");
}

#[test]
fn faults_of_a_toml_table_are_told_by_their_lines() {
    check_table("t.toml", "ext = \"40\"", &[":1: is not a table"]);
    check_table("t.toml", "\n[a]\next = 1.5\ntenant = \"x\"", &[":2: ext of \"a\" is not text"]);
    check_table(
        "t.toml",
        "[a]\next = \"1\"\ntenant = \"x\"\n[b]\next = \"2\"",
        &[":4: the row of \"b\" has other columns than others: ext, tenant"],
    );
    check_table("t.toml", "[a]\n\"e t\" = \"1\"", &[":1: \"e t\" is not a column name"]);
    check_table(
        "t.toml",
        "[a]\next = \"1\\t\"\ntenant = \"x\"",
        &[":1: \"1\\t\" has a control character in it or spaces around it"],
    );
    check_table(
        "t.toml",
        "[[a]]\next = \"1\"\ntenant = \"x\"\n[[a]]\next = \"2\"\ntenant = \"x\"",
        &[":1: the key \"a\" stands in line 1 already"],
    );
    let twice = table("t.toml", b"[a]\next = \"1\"\n[a]\next = \"2\"", "").unwrap_err();
    assert!(twice.to_string().contains("t.toml:3: "), "{twice}");
}

#[test]
fn tables_have_bounds() {
    let rows = |count: usize| (0..count).map(|number| format!("\n{number},40,x")).collect::<String>();
    assert!(table("t.csv", format!("mail,ext,tenant{}", rows(100_000)).as_bytes(), "").is_ok());
    check_table("t.csv", format!("mail,ext,tenant{}", rows(100_001)), &[":100002: more than 100000 rows"]);
    check_table("t.csv", "x".repeat((16 << 20) + 1), &[" is larger than 16 MiB"]);
}

#[test]
fn columns_that_are_not_there_are_refused() {
    let problems = table("t.csv", b"mail,exts,tenant\na,40,x", "").unwrap_err();
    assert_eq!(problems.as_slice().len(), 1);
    let problem = &problems.as_slice()[0];
    assert_eq!(problem.message, "`allow.pbx.account`: the table has no column `ext`");
    assert_eq!(problem.hint.as_deref(), Some("did you mean `exts`?"));
    let problems = table("t.csv", b"mail,ext,tenant\na,40,x", "when = { \"row.ext\" = \"40\" }").unwrap_err();
    assert_eq!(problems.as_slice()[0].message, "`allow.when`: asks for a column of the table");
    check_rule(
        &format!("{USER}table = {{ file = \"t.txt\", key = \"{{email}}\" }}"),
        &["12:18: `allow.table.file`: is neither a .csv nor a .toml file"],
    );
    check_rule(
        &format!("{USER}table = {{ file = \"none.csv\", key = \"{{email}}\" }}"),
        &["12:18: `allow.table.file`: cannot read none.csv: No such file or directory"],
    );
    check_rule(
        &format!("{USER}table = {{ file = \"none.csv\" }}"),
        &[
            "12:9: `allow.table.key` is missing",
            "12:18: `allow.table.file`: cannot read none.csv: No such file or directory",
        ],
    );
}

// === choose, level ===

#[test]
fn choices_are_first_or_ask() {
    assert_eq!(the_rule(USER).choose, None);
    assert_eq!(the_rule(&format!("{USER}choose = \"first\"")).choose, Some(Choose::First));
    assert_eq!(the_rule(&format!("{USER}choose = \"ask\"")).choose, Some(Choose::Ask));
    check_rule(&format!("{USER}choose = \"all\""), &["12:10: `allow.choose`: unknown word `all`"]);
}

#[test]
fn a_level_is_a_users_unless_it_says_otherwise() {
    let level = |lines: &str| the_rule(lines).pbx.as_ref().map(PbxTemplate::level);
    assert_eq!(level(USER), Some(AdminLevel::User));
    assert_eq!(level("pbx = { level = \"user\", domain = \"a\", account = \"40\" }"), Some(AdminLevel::User));
    let admin = "auth = \"app\"\npbx = { level = \"domain\", domain = \"{tenant}\" }";
    assert_eq!(level(admin), Some(AdminLevel::Domain));
}

#[test]
fn an_administrators_level_is_meant() {
    check_rule(
        "auth = \"app\"\npbx = { level = \"domain\", domain = \"a\", account = \"40\" }",
        &["12:51: `allow.pbx.account`: an administrator has no account"],
    );
    check_rule("auth = \"app\"\npbx = { level = \"domain\" }", &["12:7: `allow.pbx.domain` is missing"]);
    check_rule(
        "pbx = { level = \"domain\", domain = \"a\" }",
        &["11:7: `allow.pbx`: a rule for administrators must name its methods"],
    );
    check_rule(
        "auth = [\"app\", \"redirect\"]\npbx = { level = \"domain\", domain = \"a\" }",
        &["11:8: `allow.auth`: a redirect names an account, and an administrator has none"],
    );
    check_rule(
        "auth = \"app\"\npbx = { level = \"root\", domain = \"a\" }",
        &["12:17: `allow.pbx.level`: unknown word `root`"],
    );
    check_rule(
        USER.replace("account = \"{ext}\"", "").replace(", ", "").as_str(),
        &["11:7: `allow.pbx.account` is missing"],
    );
    check_rule(
        "auth = \"app\"\npbx = { level = \"admin\", domain = \"a\" }",
        &["12:17: `allow.pbx.level`: the legacy dialect has no login for administrators of the system"],
    );
}

#[test]
fn the_dialect_follows_from_the_hand_over_unless_it_is_written() {
    let dialect = |lines: &str| {
        let text = with(USER).replace("admin = {", &format!("{lines}\nadmin = {{"));
        accepted(&text).pbx.only().unwrap().clone().dialect
    };
    assert_eq!(dialect(""), Dialect::Legacy);
    assert_eq!(dialect("handoff = \"cookie\""), Dialect::Modern);
    assert_eq!(dialect("handoff = \"cookie\"\ndialect = \"legacy\""), Dialect::Legacy);
    assert_eq!(dialect("dialect = \"modern\""), Dialect::Modern);
    let rule = "auth = \"app\"\npbx = { level = \"admin\", domain = \"a\" }";
    let text = with(rule).replace("admin = {", "dialect = \"modern\"\nadmin = {");
    assert_eq!(accepted(&text).rules[0].pbx.as_ref().map(PbxTemplate::level), Some(AdminLevel::Admin));
}
