//! `[[auth]]` of type `oidc`.

use super::*;

/// A method of type `oidc` whose line 11 is `line`.
fn oidc(line: &str) -> String {
    format!(
        "[[auth]]\ntype = \"oidc\"\nissuer = \"https://id.test\"\nclient_id = \"a\"\n{line}\n[[allow]]\nauth = \"oidc\""
    ) + "\nvoximplant = \"{sub}\""
}

#[test]
fn a_provider_is_named_as_it_names_itself() {
    for (issuer, problem) in [
        ("http://id.test", "not an https:// address, or one of this machine"),
        ("https://a:b@id.test", "not an https:// address, or one of this machine"),
        ("id.test", "not an https:// address, or one of this machine"),
        ("https://id.test/?a", "has a query or a fragment"),
        ("https://id.test/.well-known/openid-configuration", "is the address of its document"),
    ] {
        let text = oidc("").replace("https://id.test", issuer);
        check_beside(&text, &format!("9:10: `auth.issuer`: {problem}"));
    }
    for issuer in ["https://id.test/realms/a/", "http://127.0.0.1:8080", "http://localhost:1"] {
        accepted(&format!("{TOP}{BOTH}{}", oidc("").replace("https://id.test", issuer)));
    }
}

#[test]
fn a_login_at_a_provider_is_configured_safely() {
    for (line, problem) in [
        ("name = \"a/b\"", "8: `auth.name`: cannot be the end of /auth/callgate/oidc/…"),
        ("scopes = [\"email\"]", "10: `auth.scopes`: lacks \"openid\""),
        ("scopes = [\"openid\", \"a b\"]", "21: `auth.scopes`: not a scope"),
        ("remember = \"31d\"", "12: `auth.remember`: is out of bounds"),
        ("remember = \"1500ms\"", "12: `auth.remember`: is out of bounds"),
        ("cookie_key = { file = \"secrets/short\" }", "14: `auth.cookie_key`: is shorter than 32 bytes"),
        ("client_secret = \"a\"", "17: `auth.client_secret`: a secret must not be written in this file"),
        ("host = \"https://a.test\"", "8: `auth.host`: not a host name"),
        ("after_logout = \"/bye\"", "16: `auth.after_logout`: not an https:// address"),
        ("after_logout = \"http://a.test\"", "16: `auth.after_logout`: not an https:// address"),
        ("ignore_cookies = true", "1: unknown key `auth.ignore_cookies`"),
    ] {
        let problems = refused(&format!("{TOP}{BOTH}{}", oidc(line)));
        let found = problems.to_string();
        assert!(found.contains(&format!("proxy.toml:11:{problem}")), "{line}: {found}");
    }
}

#[test]
fn a_rule_for_administrators_behind_one_for_everybody_is_noted() {
    let all = "[[allow]]\npbx = { domain = \"{tenant}.test\", account = \"{ext}\" }\n";
    let few = all.replace("[[allow]]", "[[allow]]\nwhen = { groups = \"staff\" }");
    let level = "[[allow]]\nauth = \"app\"\npbx = { level = \"domain\", domain = \"{tenant}.test\" }\n";
    let warned = |rules: &[&str]| {
        let text = "[app]\nurl = \"http://a\"\nwhoami = \"/me\"\n[pbx]\nurl = \"http://[::1]\"\nhosts = [\"p.test\"]\n\
                    admin = { user = \"sso\", password = { env = \"PBX_ADMIN_PASSWORD\" } }\n";
        let config = accepted(&format!("{TOP}{text}{}", rules.concat()));
        config.warnings.iter().any(|warning| warning.message.contains("the rule `rule 1` before it fits"))
    };
    assert!(warned(&[all, level]));
    assert!(!warned(&[level, all]));
    assert!(!warned(&[&few, level]));
}
