//! An exchange through the gate equals a direct one, except for the differences that docs/transparency.md lists.
//!
//! The test reads the tables there. It fails for a row that no exchange needs, and for a difference that no row allows.

mod cases;
mod talk;

use std::collections::BTreeSet;
use std::fs;

use tokio::io::AsyncWriteExt;

use self::cases::{Case, Client};
use self::talk::{Exchanges, Observed, Route};
use crate::kit::client::{read_head, status};
use crate::kit::gate::Gate;
use crate::kit::rfc9112::{self, Framing, Message};
use crate::kit::upstream::RawUpstream;

/// A rule of the tables: it removes its difference from the direct and the proxied message.
struct Row {
    says: &'static str,
    reconcile: fn(&mut Difference),
}

/// The direct message and the proxied one.
struct Difference {
    direct: Vec<Message>,
    gate: Vec<Message>,
    about: ExchangeFacts,
}

impl Difference {
    fn all(&mut self) -> impl Iterator<Item = &mut Message> {
        self.direct.iter_mut().chain(&mut self.gate)
    }
}

/// The parts of an exchange that a rule needs.
#[derive(Debug, Clone, Copy)]
struct ExchangeFacts {
    way: Route,
    /// The version in which the gate answers.
    version: &'static str,
    /// The client says `TE: trailers`.
    wants_trailers: bool,
}

static REQUESTS: [Row; 12] = [
    Row { says: "version", reconcile: |told| versions(&mut told.direct, "HTTP/1.1") },
    Row { says: "absolute target", reconcile: |told| told.direct.iter_mut().for_each(make_origin_form) },
    Row { says: "field names", reconcile: field_names },
    Row { says: "order of fields", reconcile: order },
    Row { says: "hop-by-hop fields", reconcile: hop_by_hop },
    Row { says: "identity fields of the client", reconcile: |told| without(&mut told.direct, is_identity) },
    Row { says: "`Expect`", reconcile: expectations },
    Row { says: "identity fields of callgate", reconcile: |told| told.gate.iter_mut().for_each(take_identity) },
    Row { says: "`Via`", reconcile: via },
    Row { says: "cookies", reconcile: cookies },
    Row { says: "framing", reconcile: framing },
    Row { says: "trailers", reconcile: trailers_of_requests },
];

static ANSWERS: [Row; 11] = [
    Row { says: "status 1xx", reconcile: interim },
    Row { says: "version", reconcile: |told| versions(&mut told.direct, told.about.version) },
    Row { says: "reason phrase", reconcile: reasons },
    Row { says: "field names", reconcile: field_names },
    Row { says: "order of fields", reconcile: order },
    Row { says: "hop-by-hop fields", reconcile: hop_by_hop },
    Row {
        says: "`PBX-Account`, `PBX-Domain`, `PBX-Lang`, `PBX-Logout`",
        reconcile: |told| without(&mut told.direct, is_for_the_gate),
    },
    Row { says: "length of nothing", reconcile: length_of_nothing },
    Row { says: "`Date`", reconcile: dates },
    Row { says: "framing", reconcile: framing },
    Row { says: "trailers", reconcile: trailers_of_answers },
];

// === The rules ===

fn is(name: &str, wanted: &str) -> bool {
    name.eq_ignore_ascii_case(wanted)
}

fn without(messages: &mut [Message], unwanted: impl Fn(&str) -> bool) {
    for message in messages {
        message.fields.retain(|(name, _)| !unwanted(name));
    }
}

/// Returns what the lines of a field list.
fn listed(message: &Message, name: &str) -> BTreeSet<String> {
    message.all(name).flat_map(|line| line.split(',')).map(|item| item.trim().to_ascii_lowercase()).collect()
}

/// The gate speaks its own version, whatever the other side does.
fn versions(direct: &mut [Message], ours: &str) {
    for message in direct {
        let own = |word| if str::starts_with(word, "HTTP/1.") { ours } else { word };
        message.start = message.start.split(' ').map(own).collect::<Vec<_>>().join(" ");
    }
}

fn reasons(told: &mut Difference) {
    for message in told.direct.iter_mut().filter(|message| !message.start.is_ascii()) {
        message.start = format!("{} ", message.words()[..2].join(" "));
    }
    if told.about.way == Route::Gate2 {
        for message in told.all() {
            message.start = message.start.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
        }
    }
}

fn make_origin_form(message: &mut Message) {
    message.start = message.start.replacen("http://app.test", "", 1);
}

fn field_names(told: &mut Difference) {
    for message in &mut told.direct {
        message.fields.iter_mut().chain(&mut message.trailers).for_each(|(name, _)| name.make_ascii_lowercase());
    }
}

/// Lines of one name stand together, HTTP/2 has no `Host` in front, and HTTP/1 says last that there is nothing.
fn order(told: &mut Difference) {
    for message in &mut told.direct {
        for fields in [&mut message.fields, &mut message.trailers] {
            let names: Vec<_> = fields.iter().map(|(name, _)| name.clone()).collect();
            fields.sort_by_key(|(name, _)| names.iter().position(|known| is(known, name)));
        }
    }
    for message in told.gate.iter_mut().filter(|_| told.about.way == Route::Gate2) {
        message.fields.sort_by_key(|(name, _)| name != "host");
    }
    for message in told.all() {
        message.fields.sort_by_key(|(name, value)| is(name, "content-length") && value == "0");
    }
}

/// Of what is meant for one hop, the wish for trailers is passed on, and that for a WebSocket. What the gate says of its
/// own connections is its own affair.
fn hop_by_hop(told: &mut Difference) {
    for message in &mut told.direct {
        let asks_or_grants = message.start.starts_with("GET ") || message.words()[1] == "101";
        let websocket = asks_or_grants && listed(message, "upgrade").contains("websocket");
        let trailers = listed(message, "te").contains("trailers");
        let mut gone = listed(message, "connection");
        gone.extend(
            ["connection", "keep-alive", "proxy-connection", "te", "upgrade", "http2-settings"].map(String::from),
        );
        message.fields.retain_mut(|(name, value)| {
            let kept = [(websocket, "upgrade", "websocket"), (trailers, "te", "trailers")];
            match kept.iter().find(|(kept, known, _)| *kept && is(name, known)) {
                Some((_, _, passed_on)) => {
                    *value = (*passed_on).to_owned();
                    true
                }
                None => !gone.contains(&name.to_ascii_lowercase()),
            }
        });
    }
    without(&mut told.gate, |name| is(name, "connection"));
}

fn is_identity(name: &str) -> bool {
    callgate::model::identity::is_identity(name)
}

/// An expectation that the gate meets itself is not passed on.
fn expectations(told: &mut Difference) {
    for message in &mut told.direct {
        message.fields.retain(|(name, value)| !is(name, "expect") || !is(value, "100-continue"));
    }
}

fn is_for_the_gate(name: &str) -> bool {
    ["pbx-account", "pbx-domain", "pbx-lang"].iter().any(|known| is(name, known))
}

/// Takes each field of the gate once, if it says what it must.
fn take_identity(message: &mut Message) {
    let host = message.all("host").next().unwrap_or_default().to_owned();
    for (name, value) in [("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", "https"), ("x-forwarded-host", &host)]
    {
        take(message, name, |told| told == value);
    }
    take(message, "forwarded", |told| told.replace('"', "") == format!("for=127.0.0.1;host={host};proto=https"));
    take(message, "x-request-id", |id| id.len() == 32);
}

fn via(told: &mut Difference) {
    let hop = told.about.version.replace("HTTP/", "").replace('2', "2.0") + " callgate";
    told.gate.iter_mut().for_each(|message| take(message, "via", |via| via == hop));
}

fn take(message: &mut Message, name: &str, is_ours: impl Fn(&str) -> bool) {
    if let Some(at) = message.fields.iter().position(|(known, value)| known == name && is_ours(value)) {
        message.fields.remove(at);
    }
}

/// Crumbs are one cookie again.
fn cookies(told: &mut Difference) {
    for message in told.direct.iter_mut().filter(|_| told.about.way == Route::Gate2) {
        let crumbs: Vec<_> = message.all("cookie").map(str::to_owned).collect();
        if let Some(at) = message.fields.iter().position(|(name, _)| is(name, "cookie")) {
            let cookie = (message.fields[at].0.clone(), crumbs.join("; "));
            without(std::slice::from_mut(message), |name| is(name, "cookie"));
            message.fields.insert(at, cookie);
        }
    }
}

/// Chunks, frames and the end of a connection are one; so are equal lengths.
fn framing(told: &mut Difference) {
    for message in told.all() {
        message.framing = Framing::None;
        let mut lengths = 0;
        message.fields.retain(|(name, _)| {
            lengths += usize::from(is(name, "content-length"));
            !is(name, "transfer-encoding") && (!is(name, "content-length") || lengths == 1)
        });
    }
}

fn interim(told: &mut Difference) {
    let is_1_1 = told.about.version == "HTTP/1.1";
    told.gate.retain(|message| message.words()[1] != "100");
    told.direct.retain(|message| match message.words()[1] {
        "100" => false,
        "101" => true,
        status => is_1_1 || !status.starts_with('1'),
    });
}

fn length_of_nothing(told: &mut Difference) {
    for message in &mut told.direct {
        let status = message.words()[1];
        if status == "204" {
            without(std::slice::from_mut(message), |name| is(name, "content-length"));
        }
    }
}

/// The gate says when it was, where the upstream does not.
fn dates(told: &mut Difference) {
    for (direct, gate) in told.direct.iter().zip(&mut told.gate) {
        if direct.all("date").next().is_none() {
            take(gate, "date", |date| date.ends_with(" GMT"));
        }
    }
}

fn trailers_of_requests(told: &mut Difference) {
    for message in &mut told.direct {
        let announced = listed(message, "trailer");
        message.trailers.retain(|(name, _)| announced.contains(&name.to_ascii_lowercase()) && !is_identity(name));
    }
}

/// HTTP/2 takes them all, HTTP/1 what was announced and wanted (RFC 9110 §6.5.1).
fn trailers_of_answers(told: &mut Difference) {
    for message in told.direct.iter_mut().filter(|_| told.about.way == Route::Gate) {
        let announced = listed(message, "trailer");
        let kept = |name: &str| told.about.wants_trailers && announced.contains(&name.to_ascii_lowercase());
        message.trailers.retain(|(name, _)| kept(name));
    }
}

// === The oracle ===

/// The same exchange, with and without the gate.
struct Pair {
    name: String,
    direct: Observed,
    gate: Observed,
    about: ExchangeFacts,
}

impl Pair {
    /// Tells what differs when all rows but one are granted.
    fn difference(&self, without: Option<&Row>) -> Option<String> {
        let granted = |row: &&Row| without.is_none_or(|without| !std::ptr::eq(*row, without));
        let reconciled = |rows: &'static [Row], direct: &[Message], gate: &[Message]| {
            let mut told = Difference { direct: direct.to_vec(), gate: gate.to_vec(), about: self.about };
            rows.iter().filter(granted).for_each(|row| (row.reconcile)(&mut told));
            (told.direct, told.gate)
        };
        let requests = reconciled(&REQUESTS, &self.direct.requests, &self.gate.requests);
        let answers = reconciled(&ANSWERS, &self.direct.answers, &self.gate.answers);
        let shown = |messages: &[Message]| format!("{messages:?}").chars().take(1500).collect::<String>();
        let lines = [requests, answers].into_iter().filter(|(direct, gate)| direct != gate);
        let lines: String =
            lines.map(|(direct, gate)| format!("\n  direct: {}\n  gate:   {}", shown(&direct), shown(&gate))).collect();
        (!lines.is_empty()).then(|| format!("{}{lines}", self.name))
    }
}

/// How many exchanges take place at once.
const LANES: usize = 4;

async fn pairs(theatre: &Exchanges, case: &Case) -> Vec<Pair> {
    let ways = if matches!(case.client, Client::Asks(_)) { &[Route::Gate, Route::Gate2][..] } else { &[Route::Gate] };
    let direct = theatre.play(case, Route::Direct).await;
    let wants_trailers = direct.requests.iter().any(|request| listed(request, "te").contains("trailers"));
    let mut pairs = Vec::new();
    for way in ways.iter().copied() {
        let version = match direct.requests[0].words()[2] {
            _ if way == Route::Gate2 => "HTTP/2",
            "HTTP/1.0" => "HTTP/1.0",
            _ => "HTTP/1.1",
        };
        let about = ExchangeFacts { way, version, wants_trailers };
        let gate = theatre.play(case, way).await;
        pairs.push(Pair { name: format!("{} ({way:?})", case.name), direct: direct.clone(), gate, about });
    }
    pairs
}

async fn lane(cases: &[Case]) -> Vec<Pair> {
    let theatre = Exchanges::open().await;
    let mut all = Vec::new();
    for case in cases {
        all.extend(pairs(&theatre, case).await);
    }
    all
}

#[tokio::test]
async fn direct_equals_proxied_minus_what_the_documents_list() {
    let cases = cases::all();
    let lanes = cases.chunks(cases.len().div_ceil(LANES)).map(lane);
    let pairs: Vec<_> = futures_util::future::join_all(lanes).await.into_iter().flatten().collect();
    assert!((250..=290).contains(&pairs.len()), "the documents say some 270 exchanges: {}", pairs.len());
    let differences: Vec<_> = pairs.iter().filter_map(|pair| pair.difference(None)).collect();
    assert!(differences.is_empty(), "{} of {} differ:\n{}", differences.len(), pairs.len(), differences.join("\n"));
    let is_needed = |row: &&Row| pairs.iter().any(|pair| pair.difference(Some(row)).is_some());
    let needless: Vec<_> = REQUESTS.iter().chain(&ANSWERS).filter(|row| !is_needed(row)).map(|row| row.says).collect();
    assert!(needless.is_empty(), "no exchange needs these rows: {needless:?}");
    let says = |rows: &[Row]| rows.iter().map(|row| row.says.to_owned()).collect::<Vec<_>>();
    assert_eq!(documented("## Requests, as the upstream sees them"), says(&REQUESTS));
    assert_eq!(documented("## Answers, as the client sees them"), says(&ANSWERS));
}

fn documented(heading: &str) -> Vec<String> {
    table(heading).into_iter().map(|(what, _)| what).collect()
}

/// Returns the two columns of the table below a heading.
fn table(heading: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string("docs/transparency.md").unwrap();
    let section = text.split_once(heading).unwrap().1;
    let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let columns = |line: &str| {
        let (what, text) = line.trim_matches('|').split_once('|').unwrap();
        (what.trim().to_owned(), text.trim().to_owned())
    };
    rows.take_while(|line| line.starts_with('|')).map(columns).collect()
}

/// Requests that are refused, by the rows that say so.
fn refused() -> Vec<(&'static str, Vec<String>)> {
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
    let fields = |lines: &[&str]| lines.iter().map(|line| get("/", &format!("{line}\r\n"))).collect::<Vec<_>>();
    let targets = |targets: &[&str]| targets.iter().map(|target| get(target, "")).collect::<Vec<_>>();
    let line_and_host = |(line, host): &(&str, &str)| format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let lines = |lines: &[(&str, &str)]| lines.iter().map(line_and_host).collect();
    let long = |length: usize| "x".repeat(length);
    let mut hosts = fields(&["Host: app.test", "Host: other.test"]);
    hosts.extend(["GET / HTTP/1.1\r\n\r\n", "GET http://a.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n"].map(String::from));
    let framing =
        ["Transfer-Encoding: gzip", "Content-Length: 5, 6", "Content-Length: 5\r\nContent-Length: 6", "X : y"];
    let protected = [
        "Host",
        "Content-Length",
        "Content-Type",
        "Cookie",
        "Set-Cookie",
        "Authorization",
        "Origin",
        "Cache-Control",
        "Via",
        "x-real-ip",
    ]
    .map(|name| format!("Connection: {name}"));
    vec![
        ("no `Host`, two, or one that differs from the target", hosts),
        ("`Connection` that names a protected field", fields(&protected.each_ref().map(String::as_str))),
        ("a message that is not written by the letter", fields(&framing)),
        ("another major version", vec!["GET / HTTP/2.0\r\nHost: app.test\r\n\r\n".into()]),
        (
            "a target with bytes that no URI has",
            targets(&["/a<b", "/a>b", "/a`b", "/a?\"b\"", "/a?<b>", "/a#b", "/a\tb", "/a b", "/a\u{1}", "/a\u{ff}"]),
        ),
        ("another spelling of a login path", targets(&["/auth//pbx", "/%61uth/pbx"])),
        ("`CONNECT`, `TRACE`", lines(&[("CONNECT app.test:443", "app.test:443"), ("TRACE /", "app.test")])),
        ("`OPTIONS *`", lines(&[("OPTIONS *", "app.test")])),
        ("a host that no upstream serves", vec!["GET / HTTP/1.1\r\nHost: other.test\r\n\r\n".into()]),
        ("a target longer than 16 KiB", targets(&[&format!("/{}", long(16 << 10))])),
        ("a head larger than 64 KiB", fields(&[&format!("X: {}", long(64 << 10))])),
        ("more than 100 fields", vec![get("/", &"X: y\r\n".repeat(100))]),
    ]
}

#[tokio::test]
async fn requests_that_the_documents_refuse_are_refused() {
    let upstream = RawUpstream::ok().await;
    let gate = Gate::before_with(upstream.addr, "hosts = [\"app.test\"]", "").await;
    let (rows, refused) = (table("## Refused here, and never seen by the upstream"), refused());
    let whats = |rows: &[(String, String)]| rows.iter().map(|(what, _)| what.clone()).collect::<Vec<_>>();
    assert_eq!(whats(&rows), refused.iter().map(|(what, _)| *what).collect::<Vec<_>>());
    for ((what, answer), (_, requests)) in rows.iter().zip(refused) {
        for request in requests {
            let mut tls = gate.raw("app.test", "http/1.1").await;
            tls.write_all(&rfc9112::bytes(&request)).await.unwrap();
            let head = read_head(&mut tls).await;
            assert_eq!(status(&head).to_string(), answer[..3], "{what}: {:?}", &request[..request.len().min(200)]);
        }
    }
    assert_eq!(upstream.seen(), [""; 0]);
}
