//! Eight foreign parsers read alike all that the gate sends upstream, whatever clients send. No field that only the gate
//! may set has a value of a client.
//!
//! The readers need nginx, Node and Python's parsers, so `cargo test` skips them, and `tests/run` runs them.
//! `ORACLE_SEEDS=5000` tries more; `ORACLE_FIRST=123 ORACLE_SEEDS=1` tries one again.

mod client;
mod corpus;
mod generate;
mod readers;
mod recorder;

use std::collections::HashSet;

use self::client::ClientBytes;
use self::generate::{CLAIM, Random};
use self::readers::{ReadMessage, Request1, SENTINEL, excuse, read_all, sentinel, shown_by, tally};
use self::recorder::Recorder;
use crate::kit::gate::Gate;
use crate::kit::rfc9112::{self, Reading, latin1};

/// How many clients speak at once, each to a gate of its own.
const LANES: usize = 8;
/// How many of the generator's connections are tried.
const SEEDS: u64 = 2000;

/// The bytes that the gate sent on one upstream connection, and the client that caused them.
#[derive(Debug, Clone)]
struct Sent {
    cause: String,
    bytes: Vec<u8>,
}

impl Sent {
    /// Returns the request, if it is whole and nothing follows.
    fn request(&self) -> Result<Option<Request1>, String> {
        match rfc9112::request(&self.bytes) {
            Reading::Whole(message, end) if end == self.bytes.len() => Ok(Some(Request1::of(&message))),
            Reading::Whole(_, end) => Err(format!("something follows the request: {:?}", latin1(&self.bytes[end..]))),
            Reading::Partial => Ok(None),
            Reading::Wrong(why) => Err(why),
        }
    }

    /// Returns what the readers read: a request is followed by another, so that its end shows.
    fn stream(&self) -> Vec<u8> {
        let mut stream = self.bytes.clone();
        if let Ok(Some(request)) = self.request()
            && !switches(&request)
        {
            stream.extend_from_slice(SENTINEL.as_bytes());
        }
        stream
    }
}

/// Tells whether something else than HTTP may follow a request.
fn switches(request: &Request1) -> bool {
    request.fields.iter().any(|(name, _)| name == "upgrade")
}

#[tokio::test]
#[ignore = "needs nginx, Node and Python's parsers: tests/run"]
async fn eight_parsers_read_what_is_sent_upstream_alike() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse::<u64>().unwrap());
    let (first, seeds) = (number("ORACLE_FIRST", 1), number("ORACLE_SEEDS", SEEDS));
    let mut said = corpus::all();
    said.extend((first..first + seeds).map(|seed| (format!("seed {seed}"), generated(seed))));
    let sent = send(said.clone()).await;
    let sights = read_all(&sent.iter().map(Sent::stream).collect::<Vec<_>>()).await;
    println!("{} connections, {} requests upstream; read, refused: {:?}", said.len(), sent.len(), tally(&sights));
    let complaints: Vec<_> = sent
        .iter()
        .zip(&sights)
        .filter_map(|(sent, sights)| Some(format!("{}: {}", sent.cause, judge(sent, sights).err()?)))
        .collect();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
    // A client whose requests are all refused proves nothing.
    assert!(sent.len() * 2 > said.len(), "only {} requests were passed on", sent.len());
}

/// Makes what the client of a seed says: two in three speak HTTP/1.
fn generated(seed: u64) -> ClientBytes {
    let mut dice = Random::new(seed);
    if seed.is_multiple_of(3) {
        ClientBytes::Http2(generate::http2(&mut dice))
    } else {
        ClientBytes::Http1(generate::http1(&mut dice))
    }
}

/// Lets clients speak and returns what reached the upstreams of it.
async fn send(said: Vec<(String, ClientBytes)>) -> Vec<Sent> {
    let share = said.len().div_ceil(LANES).max(1);
    let lanes: Vec<_> = said.chunks(share).map(|lane| tokio::spawn(send_lane(lane.to_vec()))).collect();
    let mut sent = Vec::new();
    for lane in lanes {
        sent.extend(lane.await.unwrap());
    }
    sent
}

async fn send_lane(said: Vec<(String, ClientBytes)>) -> Vec<Sent> {
    let upstream = Recorder::start().await;
    let gate = Gate::before(upstream.addr).await;
    let mut sent = Vec::new();
    for (cause, words) in said {
        words.say(&gate).await;
        let records = upstream.settled().await;
        sent.extend(records.into_iter().map(|record| Sent { cause: cause.clone(), bytes: record.bytes }));
    }
    sent
}

// === The judge ===

/// Says what is wrong with a request that was sent upstream, as these readers read it.
fn judge(sent: &Sent, sights: &[ReadMessage]) -> Result<(), String> {
    let shown = || format!("\n    sent: {:?}", latin1(&sent.bytes));
    let Some(request) = sent.request().map_err(|why| why + &shown())? else {
        return judge_partial(sights).map_err(|why| why + &shown());
    };
    check_assertions(&request).map_err(|why| why + &shown())?;
    let mut readers = HashSet::new();
    for sight in sights {
        if judge_sight(&request, sight).map_err(|why| why + &shown())? {
            readers.insert(&sight.reader);
        }
    }
    // Few odd methods and targets pass, but never none.
    let ordinary = sights.iter().all(|sight| excuse(&sight.reader, &request).is_none());
    let enough = if ordinary { 8 } else { 3 };
    if readers.len() < enough { Err(format!("only {readers:?} read it{}", shown())) } else { Ok(()) }
}

/// A request that breaks off is a request to no reader.
fn judge_partial(sights: &[ReadMessage]) -> Result<(), String> {
    match sights.iter().find(|sight| !sight.requests.is_empty()) {
        Some(sight) => Err(format!("it broke off, but {} reads {:?}", sight.reader, sight.requests)),
        None => Ok(()),
    }
}

/// Tells whether a reader has read the request; fails when it read it otherwise, or refused without a reason.
fn judge_sight(request: &Request1, sight: &ReadMessage) -> Result<bool, String> {
    let ReadMessage { reader, requests, refused } = sight;
    if requests.is_empty() && excuse(reader, request).is_some() {
        return Ok(false);
    }
    let mut expected = vec![request.clone()];
    if !switches(request) {
        expected.push(sentinel());
    }
    let as_shown = |requests: &[Request1]| requests.iter().map(|request| shown(reader, request)).collect::<Vec<_>>();
    let tells_trailers = requests.iter().all(|request| request.trailers.is_some());
    if !tells_trailers {
        expected.iter_mut().for_each(|request| request.trailers = None);
    }
    if as_shown(requests) == as_shown(&expected) {
        return Ok(true);
    }
    Err(format!("{reader} reads {requests:?}, and refuses {refused:?}"))
}

fn shown(reader: &str, request: &Request1) -> Request1 {
    Request1 { fields: shown_by(reader, &request.fields), ..request.clone() }
}

/// Checks that the gate's fields are there once, whatever their spelling, and that they are the gate's.
fn check_assertions(request: &Request1) -> Result<(), String> {
    let fold = |name: &str| name.replace(['_', '.'], "-");
    let all = |wanted: &str| -> Vec<&str> {
        let found = request.fields.iter().chain(request.trailers.iter().flatten());
        found.filter(|(name, _)| fold(name) == wanted).map(|(_, value)| value.as_str()).collect()
    };
    let host = all("host");
    let is = |name: &str, wanted: &[&str]| {
        if all(name) == wanted { Ok(()) } else { Err(format!("{name} is {:?}, not {wanted:?}", all(name))) }
    };
    is("x-forwarded-for", &["127.0.0.1"])?;
    is("x-forwarded-proto", &["https"])?;
    is("x-forwarded-host", &host)?;
    let told = all("forwarded").concat().replace('"', "");
    if !host.iter().any(|host| told == format!("for=127.0.0.1;host={host};proto=https")) {
        return Err(format!("forwarded is {told:?}"));
    }
    let is_claim = |name: &str| {
        let asserted = ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"];
        let prefixes = [
            "x-forwarded",
            "forwarded",
            "x-real-ip",
            "x-original-",
            "x-rewrite-",
            "client-cert",
            "x-client-cert",
            "ssl-client-",
            "x-ssl-client-",
        ];
        prefixes.iter().any(|prefix| name.starts_with(prefix)) && !asserted.contains(&name)
    };
    if let Some(claim) = request.fields.iter().find(|(name, _)| is_claim(&fold(name))) {
        return Err(format!("a client's claim: {claim:?}"));
    }
    match (host.as_slice(), all("x-request-id").as_slice(), all("via").last()) {
        ([host], [id], Some(via)) if !host.contains(CLAIM) && id.len() == 32 && via.ends_with(" callgate") => Ok(()),
        odd => Err(format!("host, request id, via: {odd:?}")),
    }
}

// === The oracle itself ===

#[test]
fn a_second_reading_is_seen() {
    let sent = Sent { cause: String::new(), bytes: passed_on("", "") };
    let request = sent.request().unwrap().unwrap();
    let sight = |requests: &[Request1], refused: Option<&str>| ReadMessage {
        reader: "h11".into(),
        requests: requests.to_vec(),
        refused: refused.map(str::to_owned),
    };
    let (good, smuggled) = (sight(&[request.clone(), sentinel()], None), sentinel());
    let enough = |odd: &ReadMessage| {
        let readers =
            ["a", "b", "c", "d", "e", "f", "g"].map(|reader| ReadMessage { reader: reader.into(), ..good.clone() });
        judge(&sent, &[&readers[..], std::slice::from_ref(odd)].concat())
    };
    enough(&good).unwrap();
    for odd in [
        sight(&[], None),
        sight(&[], Some("no reason")),
        sight(std::slice::from_ref(&request), None),
        sight(&[request.clone(), smuggled.clone(), smuggled], None),
        sight(&[Request1 { method: "POST".into(), ..request.clone() }, sentinel()], None),
        sight(&[Request1 { target: "/b".into(), ..request.clone() }, sentinel()], None),
        sight(&[Request1 { body: "x".into(), ..request.clone() }, sentinel()], None),
        sight(&[Request1 { fields: request.fields[1..].to_vec(), ..request.clone() }, sentinel()], None),
        sight(&[Request1 { trailers: Some(vec![("x".into(), "1".into())]), ..request }, sentinel()], None),
    ] {
        enough(&odd).unwrap_err();
    }
}

#[test]
fn a_claim_in_the_gates_name_is_seen() {
    let check = |fields: &str| {
        let sent = Sent { cause: String::new(), bytes: passed_on(fields, "") };
        check_assertions(&sent.request().unwrap().unwrap())
    };
    check("via: evil\r\n").unwrap_err();
    for fields in [
        "host: app.test\r\n",
        "x-forwarded-for: 127.0.0.1\r\n",
        "x_forwarded_for: 127.0.0.1\r\n",
        "x-real-ip: 127.0.0.1\r\n",
        "forwarded: for=127.0.0.1;host=app.test;proto=https\r\n",
        "client-cert: :evil:\r\n",
        "x.request.id: 1\r\n",
        "x-forwarded-user: evil\r\n",
    ] {
        check(fields).unwrap_err();
    }
    check("x: 1\r\n").unwrap();
}

/// Returns a request as the gate would send it, with more fields.
fn passed_on(fields: &str, body: &str) -> Vec<u8> {
    let id = "0".repeat(32);
    format!(
        "GET /a HTTP/1.1\r\nhost: app.test\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: https\r\n\
         x-forwarded-host: app.test\r\n\
         forwarded: for=127.0.0.1;host=app.test;proto=https\r\nx-request-id: {id}\r\nvia: 1.1 callgate\r\n{fields}\r\n{body}"
    )
    .into_bytes()
}

#[tokio::test]
#[ignore = "needs nginx, Node and Python's parsers: tests/run"]
async fn the_parsers_do_not_read_alike_what_smuggles() {
    let (chunk, smuggled) = ("5\r\nhello\r\n0\r\n\r\n", "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n");
    let known: Vec<_> = [
        ("content-length: 15\r\ntransfer-encoding: chunked\r\n", chunk),
        ("transfer-encoding: chunked\r\ncontent-length: 46\r\n", smuggled),
        ("content-length: 5\r\nx: y\ncontent-length: 0\r\n", "hello"),
        ("x: y\rz\r\n", ""),
    ]
    .into_iter()
    .map(|(fields, body)| passed_on(fields, body))
    .collect();
    for (bytes, sights) in known.iter().zip(read_all(&known).await) {
        let readings: HashSet<_> = sights.iter().map(|sight| format!("{:?}", sight.requests)).collect();
        assert!(readings.len() > 1, "all read alike {:?}", latin1(bytes));
        judge(&Sent { cause: String::new(), bytes: bytes.clone() }, &sights).unwrap_err();
    }
}
