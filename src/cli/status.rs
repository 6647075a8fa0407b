//! `callgate status`: what the running gate is, serves and has done.

use std::fmt::{self, Display, Write};
use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::Value;

use super::{CommandResult, EX_UNAVAILABLE, JsonArguments, admin_client, print_line, print_remark};

/// The width of the column of titles.
const TITLES: usize = 15;

/// Prints the state of the gate. The exit code says whether it is ready.
pub(super) fn run(arguments: &JsonArguments) -> CommandResult {
    let (_, answer) = admin_client::fetch(arguments.config.path(), "/status")?;
    let Ok(status) = serde_json::from_str::<Value>(&answer) else {
        print_remark(&"callgate: the gate does not describe itself: is it another version?");
        return Err(ExitCode::from(EX_UNAVAILABLE));
    };
    match arguments.json {
        true => print_line(&answer.trim_end())?,
        false => print_line(&StatusText { status: &status, now: Timestamp::now() })?,
    }
    if status["ready"] == true { Ok(()) } else { Err(ExitCode::FAILURE) }
}

/// The state of a gate, for people.
struct StatusText<'v> {
    status: &'v Value,
    now: Timestamp,
}

impl Display for StatusText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status;
        let member = status["member"].as_str().map(|name| format!(", member {name}")).unwrap_or_default();
        let up = status["uptime_seconds"].as_i64().map(length).unwrap_or_default();
        write!(f, "callgate {}{member}, since {} ({up})", word(&status["version"]), second(&status["started"]))?;
        let config = &status["config"];
        row(f, "configuration", &format_args!("{}, loaded {}", word(&config["file"]), second(&config["loaded"])))?;
        self.ready(f)?;
        self.certificates(f)?;
        self.traffic(f)?;
        for upstream in list(&status["upstreams"]) {
            row(f, "upstream", &upstream_line(upstream))?;
        }
        self.members(f)
    }
}

impl StatusText<'_> {
    /// Writes whether the gate is ready, and each part that is not.
    fn ready(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(f, "ready", &if self.status["ready"] == true { "yes" } else { "no" })?;
        let parts = list(&self.status["parts"]);
        let good: Vec<_> = parts.iter().filter(|part| part["ready"] == true).map(|part| word(&part["name"])).collect();
        row(f, "works", &good.join(", "))?;
        for part in parts.iter().filter(|part| part["ready"] != true) {
            let needed = if part["needed"] == true { "" } else { " (requests are served all the same)" };
            row(f, "does not work", &format_args!("{}: {}{needed}", word(&part["name"]), word(&part["problem"])))?;
        }
        Ok(())
    }

    fn certificates(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for certificate in list(&self.status["certificates"]) {
            let names: Vec<_> = list(&certificate["names"]).iter().map(word).collect();
            row(f, "certificate", &format_args!("{}: {}", names.join(", "), self.left(&certificate["expires"])))?;
        }
        Ok(())
    }

    /// Returns how long a certificate is valid.
    fn left(&self, expires: &Value) -> String {
        let Some(at) = expires.as_str().and_then(|at| at.parse::<Timestamp>().ok()) else { return word(expires) };
        let seconds = at.as_second() - self.now.as_second();
        match seconds / DAY {
            _ if seconds < 0 => format!("expired at {at:.0}"),
            1 => format!("1 day left, until {at:.0}"),
            days => format!("{days} days left, until {at:.0}"),
        }
    }

    fn traffic(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, open) = (self.status, &self.status["connections"]);
        let (h1, h2, passed) = (&open["h1"], &open["h2"], &open["passthrough"]);
        row(f, "connections", &format_args!("{h1} over HTTP/1, {h2} over HTTP/2, {passed} passed through"))?;
        let (exchanges, tunnels) = (&status["exchanges_in_flight"], &status["tunnels"]);
        row(f, "under way", &format_args!("exchanges: {exchanges}, tunnels: {tunnels}"))?;
        if let Some(logins) = status["logins"].as_object() {
            let counts: Vec<_> = logins.iter().map(|(outcome, count)| format!("{outcome}: {count}")).collect();
            row(f, "logins", &counts.join(", "))?;
        }
        match status["sessions_open"].as_u64() {
            Some(sessions) => row(f, "sessions", &sessions),
            None => Ok(()),
        }
    }

    fn members(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.status["shared"];
        if shared.is_object() {
            let nodes: Vec<_> = list(&shared["nodes"]).iter().map(word).collect();
            row(f, "shared engine", &format_args!("{}, members: {}", nodes.join(", "), shared["members"]))?;
        }
        for old in list(&self.status["old_processes"]) {
            let tunnels = if old["tunnels"].is_null() {
                "it does not answer".to_owned()
            } else {
                format!("tunnels: {}", old["tunnels"])
            };
            row(f, "old process", &format_args!("{}, {tunnels}", old["pid"]))?;
        }
        Ok(())
    }
}

const DAY: i64 = 24 * 60 * 60;

fn row(f: &mut fmt::Formatter<'_>, title: &str, text: &dyn Display) -> fmt::Result {
    write!(f, "\n{title:TITLES$}{text}")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Returns a text on one line: a problem may quote what a server said.
fn word(value: &Value) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    value.as_str().unwrap_or("?").chars().map(shown).collect()
}

/// Returns a time without the parts of its second.
fn second(value: &Value) -> String {
    let time = value.as_str().and_then(|at| at.parse::<Timestamp>().ok());
    time.map_or_else(|| word(value), |at| format!("{at:.0}"))
}

/// Returns how long something has lasted, in its two largest units.
fn length(seconds: i64) -> String {
    let units = [("d", DAY), ("h", 60 * 60), ("min", 60), ("s", 1)];
    let first = units.iter().position(|(_, unit)| seconds >= *unit).unwrap_or(units.len() - 1);
    let (mut text, mut rest) = (String::new(), seconds);
    for (name, unit) in &units[first..units.len().min(first + 2)] {
        let space = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{space}{} {name}", rest / unit);
        rest %= unit;
    }
    text
}

fn upstream_line(upstream: &Value) -> String {
    let node = upstream["pbx"].as_str().map(|node| format!(" {node}")).unwrap_or_default();
    let name = format!("{}{node}", word(&upstream["name"]));
    let load = list(&upstream["load"]);
    if load.is_empty() {
        let urls: Vec<_> = list(&upstream["urls"]).iter().map(word).collect();
        return format!("{name}: {}", urls.join(", "));
    }
    let urls = load.iter().map(|one| {
        let health = if one["healthy"] == true { "healthy" } else { "not healthy" };
        format!("{} ({health}, exchanges: {})", word(&one["url"]), one["exchanges"])
    });
    format!("{name}: {}", urls.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_length_has_its_two_largest_units() {
        for (seconds, text) in [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7_260, "2 h 1 min"), (90_061, "1 d 1 h")]
        {
            assert_eq!(length(seconds), text);
        }
    }

    #[test]
    fn a_gate_is_described() {
        let status = json!({
            "version": "1.2.3", "member": "edge-1", "started": "2026-11-29T08:00:00.5Z", "uptime_seconds": 61, "ready": false,
            "parts": [{ "name": "app", "ready": true, "needed": true },
                      { "name": "breaker", "ready": false, "needed": true, "problem": "no\nlogin" },
                      { "name": "syslog", "ready": false, "needed": false, "problem": "stuck" }],
            "connections": { "h1": 1, "h2": 2, "passthrough": 3 }, "exchanges_in_flight": 4, "tunnels": 5,
            "old_processes": [{ "pid": 7, "obeyed": true, "tunnels": 2 }, { "pid": 8, "obeyed": false }],
            "config": { "file": "proxy.toml", "loaded": "2026-11-29T08:00:01Z" },
            "certificates": [{ "names": ["a.test", "b.test"], "expires": "2026-12-09T08:00:00Z" },
                             { "names": ["c.test"], "expires": "2026-11-28T08:00:00Z" }],
            "upstreams": [{ "name": "app", "urls": ["http://a"] },
                          { "name": "pbx", "pbx": "north", "urls": ["http://b"],
                            "load": [{ "url": "http://b", "healthy": false, "exchanges": 0 }] }],
            "logins": { "granted": 9, "refused": 1 }, "sessions_open": 3,
            "shared": { "nodes": ["redis:6379"], "members": 2 },
        });
        let now = "2026-11-29T08:01:01Z".parse().unwrap();
        let expected = "\
callgate 1.2.3, member edge-1, since 2026-11-29T08:00:00Z (1 min 1 s)
configuration  proxy.toml, loaded 2026-11-29T08:00:01Z
ready          no
works          app
does not work  breaker: no login
does not work  syslog: stuck (requests are served all the same)
certificate    a.test, b.test: 9 days left, until 2026-12-09T08:00:00Z
certificate    c.test: expired at 2026-11-28T08:00:00Z
connections    1 over HTTP/1, 2 over HTTP/2, 3 passed through
under way      exchanges: 4, tunnels: 5
logins         granted: 9, refused: 1
sessions       3
upstream       app: http://a
upstream       pbx north: http://b (not healthy, exchanges: 0)
shared engine  redis:6379, members: 2
old process    7, tunnels: 2
old process    8, it does not answer";
        assert_eq!(StatusText { status: &status, now }.to_string(), expected);
    }
}
