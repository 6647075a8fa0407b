//! The schema of proxy.toml: each configuration that is shown validates against it, and it has the keys of the readers.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use callgate::config;
use serde_json::{Map, Value, json};

use crate::blocks::{Kind, all_blocks, split};
use crate::recipes::recipes;

/// Returns why a value does not fit a schema: the path of keys, and the rule. Knows the words that callgate's schema uses.
fn faults(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (word, rule) in schema.as_object().unwrap() {
        let fits = match word.as_str() {
            "$schema" | "title" | "description" | "default" | "items" | "properties" | "additionalProperties" => true,
            "type" => is_of_type(value, rule.as_str().unwrap()),
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => rule == value,
            "anyOf" => {
                let all: Vec<_> = rule.as_array().unwrap().iter().map(|one| faults(one, value, path)).collect();
                let closest = all.into_iter().min_by_key(Vec::len).unwrap();
                found.extend(closest);
                true
            }
            "required" => rule.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some()),
            "minProperties" => value.as_object().is_none_or(|fields| !fields.is_empty() && rule == 1),
            "maxProperties" => value.as_object().is_none_or(|fields| fields.len() <= 1 && rule == 1),
            word => panic!("{path}: the schema uses {word}"),
        };
        if !fits {
            found.push(format!("{path}: {word} {rule}"));
        }
    }
    if let (Some(fields), Some(known)) = (value.as_object(), schema.get("properties")) {
        for (key, value) in fields {
            match known.get(key) {
                Some(schema) => found.extend(faults(schema, value, &format!("{path}.{key}"))),
                None if schema["additionalProperties"] == false => found.push(format!("{path}.{key}: unknown")),
                None => {}
            }
        }
    }
    if let (Some(items), Some(schema)) = (value.as_array(), schema.get("items")) {
        found.extend(items.iter().flat_map(|item| faults(schema, item, &format!("{path}[]"))));
    }
    found
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "boolean" => value.is_boolean(),
        name => panic!("the schema uses the type {name}"),
    }
}

fn parsed(text: &str) -> Value {
    toml::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn each_configuration_that_is_shown_validates_against_the_schema() {
    let schema = config::schema();
    let of_recipes = recipes().into_iter().flat_map(|path| split(&path).1).filter(|block| block.kind == Kind::Toml);
    let blocks = all_blocks(Kind::Toml).into_iter().chain(of_recipes).map(|block| (block.place, block.text));
    let files = ["proxy.toml", "deploy/proxy.toml", "deploy/container.toml"];
    let files = files.map(|file| (file.to_owned(), fs::read_to_string(file).unwrap()));
    let mut count = 0;
    for (place, text) in blocks.chain(files) {
        // A fragment lacks the keys that are required above the first table, and tables of other fragments.
        let found = faults(&schema, &parsed(&text), "");
        let found: Vec<_> =
            found.into_iter().filter(|fault| !fault.contains("required [\"listen\",\"tls\"]")).collect();
        let is_complete = |fault: &String| !fault.contains(": required") || text.starts_with("listen");
        let found: Vec<_> = found.into_iter().filter(is_complete).collect();
        assert_eq!(found, [""; 0], "{place}\n{text}");
        count += 1;
    }
    assert!(count > 60, "{count}");
}

/// The commented lines of proxy.toml, each in its table.
#[test]
fn each_default_and_example_of_the_shown_file_validates() {
    let schema = config::schema();
    let mut table = String::new();
    let mut count = 0;
    for line in fs::read_to_string("proxy.toml").unwrap().lines() {
        let line = line.strip_prefix("# or ").or_else(|| line.strip_prefix('#')).unwrap_or(line);
        if line.starts_with('[') {
            line.clone_into(&mut table);
            continue;
        }
        let is_key = line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) || line.starts_with("listen ");
        if !is_key || table.starts_with("[[auth]]") {
            continue;
        }
        let found = faults(&schema, &parsed(&format!("{table}\n{line}\n")), "");
        let found: Vec<_> = found.into_iter().filter(|fault| !fault.contains(": required")).collect();
        assert_eq!(found, [""; 0], "{table} {line}");
        count += 1;
    }
    assert!(count > 100, "{count}");
}

#[test]
fn a_wrong_key_or_value_does_not_validate() {
    let schema = config::schema();
    let whole = "listen = \"0.0.0.0:443\"\ntls = { cert = \"a\", key = \"b\" }\n";
    assert_eq!(faults(&schema, &parsed(whole), ""), [""; 0]);
    for (more, fault) in [
        ("hots = 1", ".hots: unknown"),
        ("[app]\nurl = \"http://a\"\nhots = 1", ".app.hots: unknown"),
        ("[app]\nwhoami = \"/me\"", ".app: required [\"url\"]"),
        ("[server]\ntimeouts = { idel = \"1s\" }", ".server.timeouts.idel: unknown"),
        ("[pbx]\nurl = \"http://a\"\nadmin = { user = \"a\", pasword = 1 }", ".pbx.admin.pasword: unknown"),
        ("[pbx]\nurl = \"http://a\"\nhandoff = \"coockie\"", ".pbx.handoff: enum [\"link\",\"cookie\"]"),
        ("[server]\nmax_connections = \"9\"", ".server.max_connections: type \"integer\""),
        ("[voximplant]\nusers = { file = \"a\", env = \"b\" }", ".voximplant.users: maxProperties 1"),
        ("[[auth]]\nname = \"a\"", ".auth[]: required [\"type\",\"whoami\"]"),
        ("[[auth]]\ntype = \"key\"\nsha256 = \"a\"\nscopes = []\nwhoami = \"/me\"", ".auth[].whoami: unknown"),
        ("[[auth]]\ntype = \"key\"\nsha256 = \"a\"\nscopes = []\nttl = \"1s\"", ".auth[].ttl: unknown"),
    ] {
        let found = faults(&schema, &parsed(&format!("{whole}{more}\n")), "");
        assert!(found.iter().any(|one| one == fault), "{more}: {found:?}");
    }
}

/// Returns the keys that a reader knows: it lists them when it finds one that no key resembles. `at`: what leads to the table,
/// in which `…` stands for its contents.
fn read_keys(at: &str) -> BTreeSet<String> {
    let text = at.replace('…', "zzzzzzzz = 1");
    let problems = config::parse(&text, Path::new("."), &|_| None).unwrap_err();
    let unknown = problems.as_slice().iter().find(|one| one.message.contains("zzzzzzzz"));
    let hint = unknown.unwrap_or_else(|| panic!("{at}: {problems}")).hint.clone().unwrap();
    let known = hint.strip_prefix("known here: ").unwrap_or_else(|| panic!("{at}: {hint}"));
    known.split(", ").map(str::to_owned).collect()
}

fn shown_keys(schema: &Value) -> BTreeSet<String> {
    schema["properties"].as_object().into_iter().flat_map(Map::keys).cloned().collect()
}

#[test]
fn the_schema_has_the_keys_that_the_readers_know() {
    let schema = config::schema();
    let of = |path: &str| schema.pointer(path).unwrap_or_else(|| panic!("{path}")).clone();
    for (at, path) in [
        ("…", ""),
        ("tls = { … }", "/properties/tls"),
        ("tls = { certificates = [{ … }] }", "/properties/tls/properties/certificates/items"),
        ("redirect_http = { … }", "/properties/redirect_http/anyOf/1"),
        ("[app]\n…", "/properties/app"),
        ("[app]\ntimeouts = { … }", "/properties/app/properties/timeouts"),
        ("[pbx]\n…", "/properties/pbx/anyOf/0"),
        ("[pbx]\nadmin = { … }", "/properties/pbx/anyOf/0/properties/admin"),
        ("[pbx]\nadmin = { password = { … } }", "/properties/pbx/anyOf/0/properties/admin/properties/password"),
        ("[pbx]\nshield = { … }", "/properties/pbx/anyOf/0/properties/shield"),
        ("[pbx]\nlimits = { … }", "/properties/pbx/anyOf/0/properties/limits"),
        ("[[passthrough]]\n…", "/properties/passthrough/items"),
        ("[voximplant]\n…", "/properties/voximplant"),
        ("[voximplant]\nmanagement = { … }", "/properties/voximplant/properties/management"),
        ("[[voximplant.applications]]\n…", "/properties/voximplant/properties/applications/items"),
        ("[[allow]]\n…", "/properties/allow/items"),
        ("[[allow]]\ntable = { … }", "/properties/allow/items/properties/table"),
        ("[[allow]]\npbx = { … }", "/properties/allow/items/properties/pbx"),
        ("[server]\n…", "/properties/server"),
        ("[server]\ntimeouts = { … }", "/properties/server/properties/timeouts"),
        ("[limits]\n…", "/properties/limits"),
        ("[pages]\n…", "/properties/pages"),
        ("[log]\n…", "/properties/log"),
        ("[audit]\n…", "/properties/audit"),
        ("[audit]\nsyslog = { … }", "/properties/audit/properties/syslog/anyOf/1"),
        ("[admin]\n…", "/properties/admin"),
        ("[state]\n…", "/properties/state"),
        ("[shared]\n…", "/properties/shared"),
    ] {
        assert_eq!(shown_keys(&of(path)), read_keys(at), "{at}");
    }
    for variant in schema.pointer("/properties/auth/items/anyOf").unwrap().as_array().unwrap() {
        let name = variant["properties"]["type"]["const"].as_str().unwrap();
        let at = format!("[[auth]]\ntype = \"{name}\"\n…");
        let (shown, read) = (shown_keys(variant), read_keys(&at));
        // The readers ask for these only beside certain values of other keys.
        let with_others = ["ignore_cookies", "team", "host", "realm", "tenant"];
        let surplus: Vec<_> = shown.difference(&read).filter(|key| !with_others.contains(&key.as_str())).collect();
        assert_eq!((surplus, read.difference(&shown).collect()), (vec![], Vec::<&String>::new()), "{at}");
    }
    assert_ne!(schema.pointer("/properties/auth/items/anyOf").unwrap(), &json!([]));
}
