//! Several PBX nodes, `[[pbx]]`.

use super::*;
use crate::config::PbxNodes;

const ADMIN: &str = "admin = { user = \"sso\", password = { env = \"PBX_ADMIN_PASSWORD\" } }\n";

/// Writes a node of five lines.
fn node(hosts: &str, more: &str) -> String {
    let letters: String = hosts.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("[[pbx]]\nurl = \"unix:/run/{letters}.sock\"\nhosts = {hosts}\n{more}\n")
}

fn nodes(text: &str) -> PbxNodes {
    accepted(&format!("{TOP}{text}")).pbx
}

#[track_caller]
fn refuses(text: &str, expected: &[&str]) {
    check_text(&format!("{TOP}{text}"), expected);
}

#[test]
fn one_table_of_a_list_is_the_one_pbx() {
    let nodes = nodes(&node("[\"a.test\"]", ""));
    let only = nodes.only().unwrap();
    assert_eq!((only.name.as_str(), nodes.are_several()), ("pbx", false));
    refuses("[[pbx]]\n[[pbx]]\nhosts = [\"a.test\"]", &["3:1: `pbx.url` is missing", "4:1: `pbx.url` is missing"]);
    check("pbx = []", "3:7: `pbx`: is an empty list");
    check("pbx = 1", "3:7: `pbx`: must be a table");
}

#[test]
fn a_node_is_named_for_its_first_host_unless_it_has_a_name() {
    let names = |text: &str| nodes(text).iter().map(|node| node.name.clone()).collect::<Vec<_>>();
    let text = node("[\"*.a.test\", \"b.test\", \"c.test\"]", "") + &node("[\"*.d.test\"]", "name = \"north.1_x-y\"");
    assert_eq!(names(&text), ["b.test", "north.1_x-y"]);
    let other = node("[\"b.test\"]", "");
    for (name, expected) in [
        ("", "8:1: `pbx`: has no name: its `hosts` are wildcards alone"),
        ("name = \"\"", "11:8: `pbx.name`: is empty"),
        ("name = \"a b\"", "11:8: `pbx.name`: not 1 to 63 letters, digits and . _ -, with a letter or digit first"),
        ("name = \"-\"", "11:8: `pbx.name`: not 1 to 63 letters, digits and . _ -, with a letter or digit first"),
        ("name = \"..\"", "11:8: `pbx.name`: not 1 to 63 letters, digits and . _ -, with a letter or digit first"),
        ("name = \"b.test\"", "11:8: `pbx.name`: another [[pbx]] is called `b.test`"),
        ("name = \"B.Test\"", "11:8: `pbx.name`: another [[pbx]] is called `b.test`"),
    ] {
        refuses(&(other.clone() + "\n" + &node("[\"*.d.test\"]", name)), &[expected]);
    }
}

#[test]
fn no_node_is_called_like_a_host_of_another() {
    let two = |one: &str, other: &str| {
        node("[\"a.test\", \"b.test\"]", &format!("name = \"{one}\""))
            + &node("[\"c.test\"]", &format!("name = \"{other}\""))
    };
    refuses(&two("north", "B.test"), &["10:8: `pbx.name`: `B.test` is a host of the node `north`"]);
    refuses(&two("c.test", "south"), &["10:8: `pbx.name`: the node `c.test` is called like a host of this one"]);
    assert!(nodes(&two("b.test", "c.test")).are_several(), "each is called like a host of its own");
}

#[test]
fn a_rule_names_a_domain_of_a_node() {
    let app = "[app]\nurl = \"http://127.0.0.1\"\nhosts = [\"app.test\"]\nwhoami = \"/me\"\n";
    let with = |nodes: &str, domain: &str, more: &str| {
        format!("{app}{nodes}[[allow]]\nauth = \"app\"\npbx = {{ domain = \"{domain}\", {more} }}\n")
    };
    let several =
        node("[\"a.test\", \"*.b.test\"]", ADMIN) + &node("[\"c.test\"]", &format!("{ADMIN}domains = [\"d.test\"]"));
    let user = "account = \"{ext}\"";
    let warnings = |text: &str| {
        let config = accepted(&format!("{TOP}{text}"));
        config.warnings.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>()
    };
    for domain in ["a.test", "A.Test", "x.b.test", "d.test", "{tenant}", "{tenant}.test"] {
        assert_eq!(warnings(&with(&several, domain, user)), [""; 0], "{domain}");
        assert_eq!(warnings(&with(&several, domain, "level = \"domain\"")), [""; 0], "{domain}");
    }
    assert_eq!(
        warnings(&with(&several, "c.test", user)),
        ["`allow.pbx.domain`: no [[pbx]] has the domain `c.test`: its users log in only at a host of their node"]
    );
    let refused = "19:18: `allow.pbx.domain`: no [[pbx]] has the domain `c.test`";
    refuses(&with(&several, "c.test", "level = \"domain\""), &[refused]);
    // One PBX has all tenants.
    assert_eq!(warnings(&with(&node("[\"a.test\"]", ADMIN), "c.test", "level = \"domain\"")), [""; 0]);
}

#[test]
fn each_host_and_each_tenant_is_at_one_node() {
    let two = |hosts: &str, more: &str| node("[\"a.test\", \"*.b.test\"]", "") + "\n" + &node(hosts, more);
    for (hosts, more, expected) in [
        ("[\"c.test\", \"a.test\"]", "", "10:9: `pbx.hosts`: a.test is a host of the node `a.test`, too"),
        ("[\"*.b.test\", \"c.test\"]", "", "10:9: `pbx.hosts`: *.b.test is a host of the node `a.test`, too"),
        (
            "[\"c.test\"]",
            "domains = [\"*.b.test\"]",
            "11:11: `pbx.domains`: *.b.test is a domain of the node `a.test`, too",
        ),
        ("[\"c.test\"]", "domains = []", "11:11: `pbx.domains`: is an empty list"),
        ("[\"c.test\"]", "domains = [\"x:1\"]", "11:12: `pbx.domains`: not a host name"),
    ] {
        refuses(&two(hosts, more), &[expected]);
    }
    let url = "10:7: `pbx.url`: unix:/run/atest.sock is also the node `a.test`";
    refuses(&(node("[\"a.test\"]", "") + "\n\n[[pbx]]\nurl = \"unix:/run/atest.sock\"\nhosts = [\"b.test\"]"), &[url]);
    let without =
        node("[\"a.test\"]", "") + "\n[[pbx]]\nname = \"b\"\nurl = \"http://127.0.0.1\"\npaths = [\"/rest/\"]";
    refuses(&without, &["8:1: `pbx`: has no `hosts`, by which the nodes are told apart"]);
    // Wildcards that overlap are told apart by their length.
    let nodes = nodes(&two("[\"c.b.test\", \"*.d.b.test\"]", ""));
    let at = |host: &str| nodes.at_host(host).map(|node| nodes[node].name.as_str());
    assert_eq!(
        [at("x.b.test"), at("c.b.test"), at("x.d.b.test")],
        [Some("a.test"), Some("c.b.test"), Some("c.b.test")]
    );
}

#[test]
fn a_path_of_callgate_is_of_one_kind() {
    let two = |one: &str, other: &str| {
        node("[\"a.test\"]", &format!("{ADMIN}{one}")) + &node("[\"b.test\"]", &format!("{ADMIN}{other}"))
    };
    let same = nodes(&two("aliases = [\"/x.php\"]\nsocket = \"/s\"", "aliases = [\"/x.php\"]\nsocket = \"/s\""));
    assert!(same.are_several());
    refuses(
        &two("aliases = [\"/x\"]", "socket = \"/X\""),
        &["12:10: `pbx.socket`: is also named by `aliases` of the node `a.test`"],
    );
    refuses(
        &two("socket = \"/x\"", "aliases = [\"/X\"]"),
        &["12:11: `pbx.aliases`: is also named by `socket` of the node `a.test`"],
    );
}

#[test]
fn limits_of_a_node_are_rates() {
    let limits = |text: &str| nodes(&node("[\"a.test\"]", text)).only().unwrap().limits;
    let NodeLimits { pbx_logins, account, admin } = limits("limits = { account = \"7/min\", pbx_logins = \"9/h\" }");
    assert_eq!((account, pbx_logins, admin), ("7/min".parse().ok(), "9/h".parse().ok(), None));
    for (written, expected) in [
        ("{ account = 5 }", "6:22: `pbx.limits.account`: must be a string in quotes"),
        ("{ client = \"5/min\" }", "6:12: unknown key `pbx.limits.client`"),
        ("5", "6:10: `pbx.limits`: must be a table"),
    ] {
        refuses(&node("[\"a.test\"]", &format!("limits = {written}")), &[expected]);
    }
}

#[test]
fn keys_that_tell_nodes_apart_have_no_effect_for_one() {
    let warnings = |more: &str| {
        let config = accepted(&format!("{TOP}{}", node("[\"a.test\"]", more)));
        config.warnings.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>()
    };
    assert_eq!(warnings("name = \"north\""), ["`pbx.name`: has no effect: there is one PBX"]);
    assert_eq!(warnings("domains = [\"a.test\"]"), ["`pbx.domains`: has no effect: all tenants are at the one PBX"]);
}

#[test]
fn a_rule_for_administrators_of_the_system_needs_a_node_that_knows_them() {
    let rule = "[[allow]]\nauth = \"app\"\npbx = { domain = \"a.test\", level = \"admin\" }\n";
    let text = |dialect: &str| {
        let app = "[app]\nurl = \"http://127.0.0.1\"\nhosts = [\"app.test\"]\nwhoami = \"/me\"\n";
        format!("{app}{}{}{rule}", node("[\"a.test\"]", ADMIN), node("[\"b.test\"]", &format!("{ADMIN}{dialect}")))
    };
    assert!(nodes(&text("dialect = \"modern\"")).are_several());
    refuses(&text(""), &["19:36: `allow.pbx.level`: the legacy dialect has no login for administrators of the system"]);
}
