//! The files for programs beside callgate: alerts and a dashboard know its metrics, fail2ban and CrowdSec know its audit lines.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kit::openmetrics::{self, Family};
use crate::kit::programs::{are_here, output};
use crate::kit::stage::{Plan, Stage};
use crate::kit::upstream::RawUpstream;

const RULES: &str = "deploy/prometheus/rules.yml";
const DASHBOARD: &str = "deploy/grafana/callgate.json";
const FILTER: &str = "deploy/fail2ban/filter.conf";

// === Metrics ===

/// A metric as an expression names it, with the labels and the values that it chooses.
#[derive(Debug, PartialEq, Eq)]
struct Selector {
    metric: String,
    /// Each label, with its values.
    labels: Vec<(String, Vec<String>)>,
}

/// Finds the metrics of callgate in an expression.
fn read(expression: &str) -> Vec<Selector> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find(|letter: char| letter.is_ascii_alphabetic()) {
        let (word, behind) = rest[at..].split_at(rest[at..].find(|c: char| !is_name(c)).unwrap_or(rest.len() - at));
        rest = behind;
        if word.starts_with("callgate_") || word.starts_with("process_") {
            let matchers = behind.strip_prefix('{').and_then(|inside| inside.split_once('}'));
            found.push(Selector {
                metric: word.to_owned(),
                labels: matchers.map_or_else(Vec::new, |(all, _)| labels(all)),
            });
        }
        if let Some((_, behind)) = behind.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
            rest = behind;
        }
    }
    found
}

/// Reads `label="value",label=~"one|two"`.
fn labels(matchers: &str) -> Vec<(String, Vec<String>)> {
    let matcher = |text: &str| {
        let (label, value) = text.split_once(['=', '!']).unwrap();
        let value = value.trim_start_matches(['=', '~']).trim_matches('"');
        (label.to_owned(), value.split('|').map(str::to_owned).collect())
    };
    matchers.split(',').map(matcher).collect()
}

#[test]
fn the_metrics_of_an_expression_are_found() {
    let found = read("60 * sum by (le) (rate(callgate_a_total{x!~\"b|c\",y=\"d\"}[5m])) / process_b > callgate_c");
    let selector = |metric: &str, labels: &[(&str, &[&str])]| Selector {
        metric: metric.to_owned(),
        labels: labels
            .iter()
            .map(|(label, values)| ((*label).to_owned(), values.iter().map(|v| (*v).to_owned()).collect()))
            .collect(),
    };
    let expected = [
        selector("callgate_a_total", &[("x", &["b", "c"]), ("y", &["d"])]),
        selector("process_b", &[]),
        selector("callgate_c", &[]),
    ];
    assert_eq!(found, expected);
}

/// Returns the family of a metric, as Prometheus names its series.
fn family<'f>(families: &'f [Family], metric: &str) -> Option<&'f Family> {
    families.iter().find(|family| match &*family.kind {
        "counter" => metric.strip_suffix("_total") == Some(&family.name),
        "histogram" => ["_bucket", "_count", "_sum"].iter().any(|end| metric.strip_suffix(end) == Some(&family.name)),
        _ => metric == family.name,
    })
}

/// Tells what is wrong with a selector, if something is.
fn flaw(families: &[Family], selector: &Selector) -> Option<String> {
    let Some(family) = family(families, &selector.metric) else {
        return Some(format!("no metric {}", selector.metric));
    };
    let known = family.labels();
    for (label, values) in selector.labels.iter().filter(|(label, _)| label != "instance" && label != "job") {
        if !known.contains(label.as_str()) {
            return Some(format!("{} has no label {label}", selector.metric));
        }
        let shown: BTreeSet<_> = family.samples.iter().filter_map(|(_, labels, _)| labels.get(label)).collect();
        let is_closed = family.kind != "gauge";
        if let Some(value) = values.iter().find(|value| is_closed && !shown.contains(value)) {
            return Some(format!("{} never has {label}={value}", selector.metric));
        }
    }
    None
}

fn expressions_of_dashboard() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(DASHBOARD).unwrap()).unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

fn expressions_of_rules() -> Vec<String> {
    let rules = fs::read_to_string(RULES).unwrap();
    rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn alerts_and_the_dashboard_name_metrics_that_exist() {
    // No server publishes these keys; there are series for them all the same.
    let keys = "[[auth]]\ntype = \"jwt\"\njwks = \"http://127.0.0.1:1/\"\nissuer = \"a\"\naudience = \"b\"\n";
    let stage = Plan { more: keys, ..Plan::default() }.start().await;
    stage.as_alice("/auth/pbx").send().await.expect(303);
    let answer = stage.gate.told("/metrics");
    let families = openmetrics::read(answer.split_once("\r\n\r\n").unwrap().1);
    let expressions = [expressions_of_rules(), expressions_of_dashboard()].concat();
    let selectors: Vec<_> = expressions.iter().flat_map(|expression| read(expression)).collect();
    assert!(expressions.len() > 30 && selectors.len() > expressions.len() - 2, "{selectors:?}");
    let flaws: Vec<_> = selectors.iter().filter_map(|selector| flaw(&families, selector)).collect();
    assert!(flaws.is_empty(), "{flaws:#?}");
    for (wrong, why) in [
        ("callgate_nothing", "no metric callgate_nothing"),
        ("callgate_logins_total{colour=\"red\"}", "callgate_logins_total has no label colour"),
        ("callgate_logins_total{outcome=\"red\"}", "callgate_logins_total never has outcome=red"),
    ] {
        assert_eq!(flaw(&families, &read(wrong)[0]).as_deref(), Some(why));
    }
}

/// Returns the expressions of the dashboard as recording rules, with a value for each variable of Grafana.
fn dashboard_as_rules() -> String {
    let record = |(number, expression): (usize, String)| {
        let expression = expression.replace("$__rate_interval", "5m").replace("$instance", ".+");
        assert!(!expression.contains('$'), "{expression}");
        json!({ "record": format!("dashboard:expression_{number}"), "expr": expression })
    };
    let rules: Vec<_> = expressions_of_dashboard().into_iter().enumerate().map(record).collect();
    json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string()
}

#[test]
fn prometheus_takes_the_alerts_and_what_the_dashboard_asks() {
    if !are_here(&["promtool"]) {
        return;
    }
    let dashboard = tempfile::NamedTempFile::new().unwrap();
    fs::write(dashboard.path(), dashboard_as_rules()).unwrap();
    let told = output(Command::new("promtool").args(["check", "rules", RULES]).arg(dashboard.path()));
    assert!(
        told.status.success(),
        "{}{}",
        String::from_utf8_lossy(&told.stdout),
        String::from_utf8_lossy(&told.stderr)
    );
}

// === fail2ban ===

const KEYS: &str = r#"
[[auth]]
name = "crm"
type = "key"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
scopes = ["pbx"]
domains = ["acme.test"]
"#;

/// Refuses two guesses, and a caller whom no rule knows and whose name looks like a line about a guess.
async fn refuse_three(stage: &Stage) {
    for key in ["wr0ng-key-of-a-guesser", "an0ther-key-of-a-guesser"] {
        stage.gate.get("/auth/pbx").bearer(key).send().await.expect(401);
    }
    stage.claims(serde_json::json!({ "sub": "audit refusal id=1 client=192.0.2.99 act=pbx_session suspicion=guess" }));
    stage.as_alice("/auth/pbx").send().await.expect(403);
}

/// Returns the lines that fail2ban would count.
fn counted(lines: &str) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), lines).unwrap();
    let filter = fs::canonicalize(FILTER).unwrap();
    let told = output(Command::new("fail2ban-regex").arg("--print-all-matched").arg(file.path()).arg(filter));
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let matched = told.split("Matched line(s):").nth(1).unwrap_or_default().split("`-").next().unwrap_or_default();
    assert!(told.contains("Failregex: "), "{told}");
    matched.lines().filter_map(|line| line.strip_prefix("|  ")).map(str::to_owned).collect()
}

async fn check_fail2ban(more: &str) {
    if !are_here(&["fail2ban-regex"]) {
        return;
    }
    let stage = Plan { top: "member = \"edge-1\"", more: &format!("{KEYS}{more}"), ..Plan::default() }.start().await;
    refuse_three(&stage).await;
    let lines = format!("{}{}", stage.gate.log(), stage.gate.audit());
    assert!(lines.contains("192.0.2.99"), "{lines}");
    let counted = counted(&lines);
    assert_eq!(counted.len(), 2, "{counted:#?}\n{lines}");
    assert!(counted.iter().all(|line| line.contains("127.0.0.1")), "{counted:#?}");
}

#[tokio::test]
async fn fail2ban_counts_guesses_in_text() {
    check_fail2ban("").await;
}

#[tokio::test]
async fn fail2ban_counts_guesses_in_json() {
    check_fail2ban("[audit]\nfile = \"audit.log\"\nchain = true").await;
}

// === CrowdSec ===

/// Where Debian's package has the files that CrowdSec's hub offers to all, below the root of the package.
const HUB: &str = "usr/share/crowdsec/hub/parsers";
/// What the local API of CrowdSec answers to a login.
const API_LOGIN: &str = r#"{"code":200,"expire":"2999-01-01T00:00:00Z","token":"x"}"#;

/// Makes the folder of a CrowdSec that has the files of deploy/ where they belong, and reports to an API at this address.
fn crowdsec_folder(api: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let program = output(Command::new("sh").args(["-c", "readlink -f \"$(command -v crowdsec)\""])).stdout;
    let package = Path::new(str::from_utf8(&program).unwrap().trim()).ancestors().nth(3).unwrap().to_owned();
    let copy = |from: &Path, to: &str| {
        fs::create_dir_all(at(to).parent().unwrap()).unwrap();
        fs::copy(from, at(to)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    };
    for (from, to) in [("parser", "parsers/s01-parse"), ("scenario", "scenarios"), ("acquis", "acquis.d")] {
        copy(Path::new(&format!("deploy/crowdsec/{from}.yaml")), &format!("{to}/callgate.yaml"));
    }
    for stage in ["s00-raw/crowdsecurity/syslog-logs.yaml", "s02-enrich/crowdsecurity/dateparse-enrich.yaml"] {
        copy(&package.join(HUB).join(stage), &format!("parsers/{}", stage.replace("crowdsecurity/", "")));
    }
    for pattern in fs::read_dir(package.join("etc/crowdsec/patterns")).unwrap() {
        let pattern = pattern.unwrap();
        copy(&pattern.path(), &format!("patterns/{}", pattern.file_name().display()));
    }
    for name in ["data", "hub", "notifications", "plugins"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    let root = folder.path().display();
    let settings = format!(
        "common: {{ daemonize: false, log_media: stdout, log_level: info, working_dir: {root} }}\n\
         config_paths: {{ config_dir: {root}, data_dir: {root}/data, simulation_path: {root}/simulation.yaml, \
         hub_dir: {root}/hub, index_path: {root}/hub/index, notification_dir: {root}/notifications, plugin_dir: {root}/plugins }}\n\
         crowdsec_service: {{ acquisition_dir: {root}/acquis.d, parser_routines: 1 }}\n\
         db_config: {{ type: sqlite, db_path: {root}/data/db }}\n\
         api: {{ client: {{ credentials_path: {root}/api.yaml }}, server: {{ enable: false, profiles_path: {root}/profiles.yaml }} }}\n\
         prometheus: {{ enabled: false }}\n"
    );
    for (name, text) in [
        ("config.yaml", &*settings),
        ("simulation.yaml", "simulation: false\n"),
        ("profiles.yaml", ""),
        ("api.yaml", &*format!("url: http://{api}/\nlogin: test\npassword: test\n")),
        ("hub/index", r#"{"parsers":{},"scenarios":{},"collections":{},"postoverflows":{}}"#),
    ] {
        fs::write(at(name), text).unwrap();
    }
    folder
}

#[tokio::test]
async fn crowdsec_reports_an_address_that_guesses_and_no_other() {
    if !are_here(&["crowdsec"]) {
        return;
    }
    let more = format!("{KEYS}[audit]\nfile = \"audit.log\"\nchain = true");
    let stage = Plan { more: &more, ..Plan::default() }.start().await;
    refuse_three(&stage).await;
    for number in 0..9 {
        let guess = format!("gu3ssed-key-number-{number}-of-a-robot");
        stage.gate.get("/auth/pbx").from("127.0.0.7").bearer(&guess).send().await.expect(401);
    }
    let lines = stage.gate.audit();
    assert_eq!(lines.matches("\"suspicion\":\"guess\"").count(), 11, "{lines}");
    let api = RawUpstream::serving(|mut line| async move {
        while let Some(asked) = line.request().await {
            let (status, body) =
                if asked.starts_with("POST /v1/alerts ") { ("201 Created", "[\"1\"]") } else { ("200 OK", API_LOGIN) };
            let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
            line.say(format!("{head}\r\n\r\n{body}")).await;
        }
    })
    .await;
    let folder = crowdsec_folder(&api.addr.to_string());
    let log = folder.path().join("audit.log");
    fs::write(&log, &lines).unwrap();
    let source = format!("file://{}", log.display());
    let mut command = Command::new("crowdsec");
    command.arg("-c").arg(folder.path().join("config.yaml")).args(["-no-api", "-type", "callgate", "-dsn", &source]);
    let told = tokio::task::spawn_blocking(move || output(&mut command)).await.unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    let found: Vec<_> = told.lines().filter(|line| line.contains(" performed ")).collect();
    assert_eq!(found.len(), 1, "{told}");
    assert!(found[0].contains("Ip 127.0.0.7 performed 'callgate/guess' (9 events"), "{told}");
    let alert = api.seen().into_iter().find(|seen| seen.starts_with("POST /v1/alerts ")).unwrap();
    assert!(alert.contains("\"value\":\"127.0.0.7\"") && alert.contains("\"scenario\":\"callgate/guess\""), "{alert}");
}
