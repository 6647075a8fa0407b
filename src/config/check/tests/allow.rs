//! `[[allow]]` beside its methods.

use super::*;

#[test]
fn rules_lead_from_somewhere_to_somewhere() {
    for (tail, expected) in [
        ("auth = \"redirect\"", "7:1: `allow`: allows nothing"),
        ("voximplant = \"ann\"", "7:1: `allow`: there is no method that can prove a caller"),
        ("auth = \"redirct\"\nvoximplant = \"ann\"", "8:8: `allow.auth`: there is no method `redirct`"),
        ("auth = [\"redirect\", \"redirect\"]\nvoximplant = \"ann\"", "8:21: `allow.auth`: the same method twice"),
        ("auth = \"redirect\"\nvoximplant = \"Ann\"", "9:14: `allow.voximplant`: not a Voximplant user name"),
        ("auth = \"redirect\"\nvoximplant = \"an\"", "9:14: `allow.voximplant`: not a Voximplant user name"),
        (
            "auth = \"redirect\"\npbx = { domain = \"a\", account = \"40\" }",
            "9:7: `allow.pbx`: there is no administrator to open sessions",
        ),
        (
            "auth = \"redirect\"\nvoximplant = \"{vox}\"\nlanguages = [\"e\"]",
            "10:14: `allow.languages`: not a language of the PBX",
        ),
        ("auth = \"redirect\"\nvoximplant = \"{vox}\"\nwhere = \"x\"", "10:1: unknown key `allow.where`"),
    ] {
        check_beside(&format!("[[allow]]\n{tail}"), expected);
    }
    check(
        "[app]\nurl = \"http://a\"\n[[allow]]\nauth = \"redirect\"\nvoximplant = \"ann\"",
        "7:14: `allow.voximplant`: there are no Voximplant users",
    );
    let problems = refused(&format!("{TOP}{BOTH}[[allow]]\nauth = \"redirect\"\nvoximplant = \"{{vox\""));
    assert!(problems.as_slice()[0].message.starts_with("`allow.voximplant`: "), "{problems}");
}

#[test]
fn literal_accounts_are_accounts() {
    let admin = "admin = { user = \"sso\", password = { env = \"PBX_ADMIN_PASSWORD\" } }";
    let rule =
        |domain: &str, account: &str| pbx("http://[::1]", admin).replace("\"a\"", domain).replace("\"40\"", account);
    check_text(&rule("\"a\"", "\"Admin\""), &["8:33: `allow.pbx.account`: the account is the administrator's"]);
    refused(&rule("\"a\"", "\"\""));
    check_text(&rule("\"a b\"", "\"40\""), &["8:18: `allow.pbx.domain`: not of the form the PBX knows"]);
    check_text(&rule("\"a\"", "40"), &["8:33: `allow.pbx.account`: must be a string in quotes"]);
    accepted(&rule("\"{tenant}.test\"", "\"{ext}\""));
}

#[test]
fn a_broken_method_does_not_break_the_rules_that_name_it() {
    check_beside(
        "[[auth]]\ntype = \"app\"\nname = \"x\"\n[[allow]]\nauth = \"x\"\nvoximplant = \"{vox}\"",
        "7:1: `auth.whoami` is missing",
    );
}

#[test]
fn what_no_rule_leads_to_is_noted() {
    let text = format!(
        "{TOP}[app]\nurl = \"http://a\"\nwhoami = \"/me\"\n[voximplant]\nusers = {{ file = \"voximplant.htdigest\" }}\n[[auth]]\ntype = \"app\"\nname = \"b\"\nwhoami = \"/me\"\n"
    );
    let warnings = |text: &str| -> Vec<String> {
        let shown = |problem: &Problem| format!("{}: {}", problem.position.unwrap().line, problem.message);
        accepted(text).warnings.iter().map(shown).collect()
    };
    let methods = ["5: `app.whoami`: no rule uses the method `app`", "8: `auth`: no rule uses the method `b`"];
    assert_eq!(warnings(&text), [methods[0], "6: `voximplant`: no rule answers Voximplant keys", methods[1]]);
    assert_eq!(warnings(&format!("{text}[[allow]]\nvoximplant = \"{{vox}}\"")), [""; 0]);
    assert_eq!(warnings(&format!("{text}[[allow]]\nauth = \"app\"\nvoximplant = \"{{vox}}\"")), [methods[1]]);
    let admin =
        "[pbx]\nurl = \"http://[::1]\"\nadmin = { user = \"sso\", password = { env = \"PBX_ADMIN_PASSWORD\" } }";
    assert_eq!(warnings(&format!("{TOP}{admin}")), ["5: `pbx.admin`: no rule opens PBX sessions"]);
}
