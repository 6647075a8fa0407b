//! The page of `/status`. It loads nothing: its style and its script are inline, and the policy names their hashes.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderName, Response};
use http_body_util::Full;
use jiff::Timestamp;
use serde_json::Value;

use super::chart::{Chart, ChartLine};
use super::{PartStatus, StatusReport};
use crate::model::html::escape;
use crate::observe::history::HistoryStep;
use crate::observe::metrics::{DurationCounts, Percentiles};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Names the one style and the one script by their hashes. The script may ask this listener alone.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |text: &str| BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// What stands in the place of something that the reader may not see.
const UNSEEN: &str = "<p>Only root and the user that callgate runs as see this.</p>";

/// Returns the page.
pub(in crate::server::admin) fn status_page(report: &StatusReport, steps: &[HistoryStep]) -> Response<Full<Bytes>> {
    let member = report.member.as_ref().map(|member| format!(" {}", escape(member))).unwrap_or_default();
    let body = [
        section("summary", "State", &summary(report)),
        section("charts", "The last hour", &charts(steps, report.now)),
        section("parts", "Parts", &parts(&report.parts)),
        section("upstreams", "Upstreams", &upstreams(report)),
        section("breakers", "Breaker", &breakers(report)),
        section("certificates", "Certificates", &certificates(report)),
        section("limits", "Limits", &limits(report)),
        section("caps", "Bounds", &caps(report)),
        section("sessions", "Who is in", &sessions(report)),
        section("refusals", "Latest refusals", &refusals(report)),
        section("configuration", "Configuration", &configuration(report)),
    ]
    .concat();
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <link rel=\"icon\" href=\"data:,\"><title>callgate{member}: status</title><style>{STYLE}</style></head><body>\
         <header><h1>callgate{member}</h1><p><a href=\"/status\">Refresh</a> <button type=\"button\" id=\"pause\" hidden>Pause</button> \
         <span id=\"said\" role=\"status\"></span></p></header><main>{body}</main>\
         <dialog id=\"ask\" aria-labelledby=\"question\"><p id=\"question\"></p><p><button type=\"button\" id=\"yes\">End it</button> \
         <button type=\"button\" id=\"no\">Cancel</button></p></dialog><script>{SCRIPT}</script></body></html>"
    );
    let mut response = Response::new(Full::from(html));
    for (name, value) in fields() {
        response.headers_mut().insert(name, value);
    }
    response
}

fn fields() -> [(HeaderName, HeaderValue); 7] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        // The page's own orders carry its origin.
        (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
        // A page that opens this one in a window gets no handle on it.
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    ]
}

/// Returns a part of the page. The script replaces its content every few seconds.
fn section(id: &str, title: &str, content: &str) -> String {
    format!(
        "<section aria-labelledby=\"{id}-title\"><h2 id=\"{id}-title\" tabindex=\"-1\">{title}</h2><div id=\"{id}\" data-live>{content}</div></section>"
    )
}

/// Returns a table, or a sentence in its place where it has no rows. Cells are markup.
fn table<const N: usize>(heads: [&str; N], rows: Vec<[String; N]>, none: &str) -> String {
    if rows.is_empty() {
        return format!("<p>{none}</p>");
    }
    let head: String = heads.iter().map(|head| format!("<th scope=\"col\">{head}</th>")).collect();
    let row = |cells: [String; N]| {
        let cells = cells.iter().zip(heads).map(|(cell, head)| format!("<td data-head=\"{head}\">{cell}</td>"));
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let rows: String = rows.into_iter().map(row).collect();
    format!("<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
}

/// Returns a word that a colour stresses: `ok` or `bad`.
fn mark(is_good: bool, word: &str) -> String {
    format!("<strong class=\"{}\">{}</strong>", if is_good { "ok" } else { "bad" }, escape(word))
}

/// Writes a time in seconds, as people read it.
fn time(at: Timestamp) -> String {
    let text = format!("{at:.0}");
    format!("<time datetime=\"{text}\">{}</time>", text.replace('T', " ").replace('Z', " UTC"))
}

/// Writes a duration with its two largest units.
fn span(seconds: i64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

// === Sections ===

fn summary(report: &StatusReport) -> String {
    let state = match report.ready {
        true => mark(true, "ready"),
        false => mark(false, "not ready"),
    };
    let connections = &report.connections;
    let durations = |times: Option<Percentiles>| {
        times.map_or_else(
            || "none yet".to_owned(),
            |times| format!("{:.1} ms, {:.1} ms, {:.1} ms", times.p50_ms, times.p90_ms, times.p99_ms),
        )
    };
    let shared = report.shared.as_ref().map_or_else(
        || "none: this member is alone".to_owned(),
        |shared| format!("{}, {} members", escape(&shared.nodes.join(", ")), shared.members),
    );
    let old = report.old_processes.iter().map(|old| {
        format!(
            "process {} with {} tunnels",
            old.pid,
            old.tunnels.map_or_else(|| "unknown".to_owned(), |tunnels| tunnels.to_string())
        )
    });
    let old = old.collect::<Vec<_>>();
    let rows = [
        ("State", state),
        ("Version", escape(report.version)),
        ("Started", format!("{}, {} ago", time(report.started), span(report.uptime_seconds))),
        ("Configuration", format!("{}, read {}", escape(&report.config.file), time(report.config.loaded))),
        ("Time of these figures", time(report.now)),
        (
            "Logins since the start",
            format!(
                "{} granted, {} with a ticket, {} refused",
                report.logins.granted, report.logins.ticket, report.logins.refused
            ),
        ),
        ("Exchanges", format!("{} since the start, {} in flight", report.exchanges, report.exchanges_in_flight)),
        (
            "Connections",
            format!("{} HTTP/1, {} HTTP/2, {} passed on", connections.h1, connections.h2, connections.passthrough),
        ),
        ("Tunnels open", report.tunnels.to_string()),
        ("Time to answer: 50, 90, 99 %", durations(report.answers.times)),
        ("Time of the PBX for a session: 50, 90, 99 %", durations(report.mints.times)),
        ("Shared engine", shared),
        ("Old processes", if old.is_empty() { "none".to_owned() } else { old.join(", ") }),
    ];
    let rows: String = rows.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{value}</dd>")).collect();
    format!("<dl>{rows}</dl>")
}

fn charts(steps: &[HistoryStep], now: Timestamp) -> String {
    let per = |seconds: f64, count: fn(&HistoryStep) -> u64| {
        move |step: &HistoryStep| Some(count(step) as f64 / step.seconds * seconds)
    };
    let times = |of: fn(&HistoryStep) -> &DurationCounts| {
        let line = move |name, pick: fn(&Percentiles) -> f64| {
            ChartLine::new(name, move |step: &HistoryStep| of(step).percentiles().map(|times| pick(&times)))
        };
        vec![line("50 %", |times| times.p50_ms), line("90 %", |times| times.p90_ms), line("99 %", |times| times.p99_ms)]
    };
    let charts = [
        Chart {
            title: "Logins per minute",
            unit: "",
            lines: vec![
                ChartLine::new("granted", per(60.0, |step| step.counts.logins.granted)),
                ChartLine::new("with a ticket", per(60.0, |step| step.counts.logins.ticket)),
                ChartLine::new("refused", per(60.0, |step| step.counts.logins.refused)),
            ],
        },
        Chart {
            title: "Exchanges per second",
            unit: "",
            lines: vec![ChartLine::new("exchanges", per(1.0, |step| step.counts.exchanges))],
        },
        Chart { title: "Time to answer", unit: "ms", lines: times(|step| &step.counts.answers) },
        Chart {
            title: "Tunnels open",
            unit: "",
            lines: vec![ChartLine::new("tunnels", |step| Some(step.counts.tunnels as f64))],
        },
        Chart { title: "Time of the PBX for a session", unit: "ms", lines: times(|step| &step.counts.mints) },
    ];
    let drawn: String = charts.iter().map(|chart| chart.draw(steps, now)).collect();
    let wait = if steps.is_empty() { "<p>The charts begin 10 s after the start.</p>" } else { "" };
    format!("{wait}<div class=\"charts\">{drawn}</div>")
}

fn parts(parts: &[PartStatus]) -> String {
    let row = |part: &PartStatus| {
        let state = match &part.problem {
            None => mark(true, part.detail.as_deref().unwrap_or("ok")),
            Some(problem) => mark(false, problem),
        };
        let needed = if part.needed { "yes" } else { "no" };
        [escape(&part.name), state, needed.to_owned()]
    };
    table(["Part", "State", "Needed"], parts.iter().map(row).collect(), "")
}

fn upstreams(report: &StatusReport) -> String {
    let rows = report.upstreams.iter().flat_map(|upstream| {
        let name = match &upstream.pbx {
            Some(node) => format!("{} {}", upstream.name, escape(node)),
            None => upstream.name.to_owned(),
        };
        let row = move |url: &str, health: String, exchanges: String| [name.clone(), escape(url), health, exchanges];
        // With one url, its part says whether it can be reached.
        let alone = upstream.urls.iter().filter(|_| upstream.load.is_empty());
        let alone = alone.map(|url| row(url, report.reach_of(upstream.name), String::new()));
        let several = upstream.load.iter().map(|url| {
            let health = if url.healthy { mark(true, "ok") } else { mark(false, "cannot be reached") };
            row(&url.url, health, url.exchanges.to_string())
        });
        alone.chain(several).collect::<Vec<_>>()
    });
    table(["Upstream", "Address", "State", "Exchanges in flight"], rows.collect(), "There is no upstream.")
}

impl StatusReport {
    /// Returns whether the part of an upstream with one url is ready.
    fn reach_of(&self, name: &str) -> String {
        match self.parts.iter().find(|part| part.name == name).and_then(|part| part.problem.as_deref()) {
            None => mark(true, "ok"),
            Some(problem) => mark(false, problem),
        }
    }
}

/// Describes the breaker of each PBX node: whether callgate asks for sessions there.
fn breakers(report: &StatusReport) -> String {
    let row = |breaker: &super::BreakerStatus| {
        let state = mark(breaker.state == "closed", &breaker.state.replace('_', " "));
        let at = |at: Option<Timestamp>| at.map(time).unwrap_or_default();
        let node = breaker.pbx.as_deref().map_or_else(|| "pbx".to_owned(), |node| format!("pbx {}", escape(node)));
        [node, state, breaker.refusals.to_string(), at(breaker.since), at(breaker.next_try)]
    };
    let heads = ["PBX", "State", "Refusals in a row", "Since", "Next try"];
    table(heads, report.breakers.iter().map(row).collect(), "There is no PBX.")
}

/// Returns the configuration as `callgate config dump` prints it.
fn configuration(report: &StatusReport) -> String {
    let Some(configuration) = &report.configuration else { return UNSEEN.to_owned() };
    let text = escape(configuration.to_string().trim_end());
    format!(
        "<pre id=\"effective\" tabindex=\"0\" role=\"region\" aria-label=\"The configuration that takes effect\">{text}</pre>"
    )
}

fn certificates(report: &StatusReport) -> String {
    let row = |one: &super::CertificateStatus| {
        let left = match one.days_left {
            days @ 21.. => days.to_string(),
            days => mark(false, &days.to_string()),
        };
        [escape(&one.names.join(", ")), time(one.expires), left]
    };
    let rows = report.certificates.iter().map(row).collect();
    table(["Names", "Expires", "Days left"], rows, "There is no certificate.")
}

fn limits(report: &StatusReport) -> String {
    let rows = report.limit_usage.iter().map(|usage| {
        let name = match &usage.pbx {
            Some(node) => format!("{} of {}", usage.limit, escape(node)),
            None => usage.limit.to_owned(),
        };
        let keys = format!("{} of {}", usage.keys, usage.most_keys);
        [name, escape(&usage.rate), meter(usage.fullest_percent), keys]
    });
    let heads = ["Limit", "Quota", "Used by the busiest", "Counted apart"];
    table(heads, rows.collect(), "The limits are measured every 10 s.")
}

fn caps(report: &StatusReport) -> String {
    let row =
        |cap: &super::Cap| [cap.name.to_owned(), cap.used.to_string(), cap.most.to_string(), meter(cap.percent())];
    table(["What", "Used", "Most", "Part"], report.caps.iter().map(row).collect(), "")
}

/// Returns a percentage, which is stressed from 90 on.
fn meter(percent: u64) -> String {
    let text = format!("{percent} %");
    if percent >= 90 { mark(false, &text) } else { text }
}

fn sessions(report: &StatusReport) -> String {
    let Some(sessions) = &report.sessions else { return UNSEEN.to_owned() };
    let row = |session: &Value| {
        let text = |key: &str| session[key].as_str().map(escape).unwrap_or_default();
        let (number, account) = (session["number"].as_u64().unwrap_or_default(), text("account"));
        let since = session["since"].as_str().and_then(|at| at.parse().ok()).map(time).unwrap_or_default();
        // Without a script there is no button: a form would not say which page it comes from in all browsers.
        let end = format!(
            "<button type=\"button\" hidden id=\"end-{number}\" data-end=\"{number}\" data-of=\"{account}\" \
             aria-label=\"End session {number} of {account}\">End</button>"
        );
        [
            number.to_string(),
            account,
            text("level"),
            since,
            text("method"),
            text("subject"),
            text("rule"),
            text("client"),
            end,
        ]
    };
    let heads = ["Number", "Account", "Level", "Since", "Method", "Caller", "Rule", "Client", "Order"];
    let mut shown = table(heads, sessions.iter().map(row).collect(), "No session that callgate opened is known.");
    if report.sessions_open.is_some_and(|open| open > sessions.len()) {
        shown += "<p>These are the youngest. <code>callgate sessions list</code> has all.</p>";
    }
    shown
}

fn refusals(report: &StatusReport) -> String {
    let Some(refusals) = &report.refusals else { return UNSEEN.to_owned() };
    let row = |one: &crate::observe::refusals::Refusal| {
        let text = |field: &Option<String>| field.as_deref().map(escape).unwrap_or_default();
        let who = one.account.as_ref().or(one.subject.as_ref()).map(|who| escape(who)).unwrap_or_default();
        [
            time(one.time),
            text(&one.reason),
            text(&one.rule),
            text(&one.method),
            who,
            escape(&one.client),
            one.act.to_owned(),
            escape(&one.id),
        ]
    };
    let heads = ["Time", "Reason", "Rule", "Method", "Account or caller", "Client", "Attempt", "Request"];
    table(heads, refusals.iter().map(row).collect(), "No login was refused since the start.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_the_style_and_the_script_alone() {
        let policy = POLICY.to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(
            !policy.contains("unsafe") && policy.contains("; form-action 'none'; frame-ancestors 'none'"),
            "{policy}"
        );
        assert!(!STYLE.contains("</") && !SCRIPT.contains("</"), "neither ends its element");
    }

    #[test]
    fn cells_have_their_heads_for_narrow_windows() {
        let row = ["<b>".to_owned(), "2".to_owned()];
        let shown = table(["A", "B"], vec![row.map(|cell| escape(&cell))], "none");
        assert!(shown.contains("<td data-head=\"A\">&lt;b&gt;</td><td data-head=\"B\">2</td>"), "{shown}");
        assert_eq!(table(["A"], Vec::new(), "none"), "<p>none</p>");
    }

    #[test]
    fn durations_have_two_units() {
        assert_eq!([59, 61, 3661, 90_061].map(span), ["59 s", "1 min", "1 h 1 min", "1 d 1 h"]);
    }
}
