//! What the rules cost that each request or each login meets. All are pure: no sockets, no clock.
//!
//! `cargo bench` runs them, `cargo bench -- path` those with `path` in their name.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says where")]

use std::hint::black_box;
use std::net::Ipv4Addr;

use callgate::limit::{KEYS, LimitSource, Limiter};
use callgate::message::forwarded;
use callgate::message::forwarded_chain::ForwardedChain;
use callgate::message::guard::Guard;
use callgate::message::hop::{self, Protocol};
use callgate::model::condition::When;
use callgate::model::grant::{self, PbxTemplate, Requested, Rule};
use callgate::model::landing::{self, BaseUrl};
use callgate::model::ott::{Ha1, OneTimeKey, login_token};
use callgate::model::path;
use callgate::model::principal::Principal;
use callgate::model::rate::Rate;
use callgate::model::template::{Template, Values};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;

/// The head that Chromium sends for a page.
const HEAD: &str = "GET /app/calls?page=2 HTTP/1.1\r\nHost: portal.example.com\r\nConnection: keep-alive\r\n\
    sec-ch-ua: \"Chromium\";v=\"156\", \"Not=A?Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\n\
    Upgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/156.0.0.0 Safari/537.36\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n\
    Cookie: portal_session=9f86d081884c7d659a2feaa0c55ad015\r\n\r\n";

fn fields() -> HeaderMap {
    let line = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?))
    };
    HEAD.lines().filter_map(line).collect()
}

fn http(c: &mut Criterion) {
    c.bench_function("guard: a head", |b| {
        b.iter_batched(
            || HEAD.as_bytes().to_vec(),
            |mut head| Guard::default().scan(&mut head).0,
            BatchSize::SmallInput,
        );
    });
    let strip = |mut fields: HeaderMap| {
        hop::strip(&mut fields, Protocol::Stays, forwarded::is_identity).unwrap();
        fields
    };
    c.bench_function("hop: strip the fields of a head", |b| b.iter_batched(fields, strip, BatchSize::SmallInput));
    let origin = ForwardedChain::direct("192.0.2.7".parse().unwrap());
    let host = HeaderValue::from_static("portal.example.com");
    let assert = |mut fields: HeaderMap| {
        forwarded::assert(&mut fields, &origin, &host, HeaderValue::from_static("9f86d081884c7d659a2feaa0c55ad015"));
        fields
    };
    c.bench_function("forwarded: add the fields", |b| b.iter_batched(fields, assert, BatchSize::SmallInput));
    c.bench_function("path: canonical already", |b| {
        b.iter(|| path::canonical(black_box("/app/calls/2026/november")).len())
    });
    c.bench_function("path: made canonical", |b| {
        b.iter(|| path::canonical(black_box("/app//calls/%2e%2E/a/./%61uth%2Fpbx;x")).len());
    });
}

fn rule(nth: usize) -> Rule {
    let text = |text: &str| text.parse::<Template>().unwrap();
    Rule {
        name: format!("rule {nth}"),
        methods: Some(vec![if nth == 9 { "app".to_owned() } else { "other".to_owned() }]),
        when: When::default(),
        table: None,
        choose: None,
        pbx: Some(PbxTemplate::User { domain: text("{tenant|lower}.example.com"), account: text("{ext}") }),
        voximplant: Some(text("{email|before:@}")),
        languages: None,
    }
}

fn login(c: &mut Criterion) {
    let key = OneTimeKey::new("8a1b9c7d2e3f4a5b6c7d8e9f0a1b2c3d", 64).unwrap();
    let ha1 = Ha1::of("alice", "secret");
    c.bench_function("token: answer a one-time key", |b| b.iter(|| login_token(black_box(&key), &ha1)));
    let claims = [("ext", "40"), ("tenant", "Acme"), ("email", "alice@example.com")];
    let claims = claims.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
    let alice = Principal { method: "app".to_owned(), subject: "alice".to_owned(), claims };
    let template: Template = "{tenant|lower}.example.com".parse().unwrap();
    c.bench_function("template: render", |b| {
        b.iter(|| template.render(&Values::of(black_box(&alice.claims))).unwrap())
    });
    let (rules, requested, now) = ((0..10).map(rule).collect::<Vec<_>>(), Requested::default(), Timestamp::UNIX_EPOCH);
    c.bench_function("grant: the last of ten rules", |b| {
        b.iter(|| drop(black_box(grant::pbx(&rules, black_box(&alice), &requested, now))));
    });
    let session = "g7lsrphhrkim1jkvbt88".parse().unwrap();
    let is_pbx_host = |host: &str| host == "pbx.example.com";
    let base = BaseUrl { host: "portal.example.com", port: None, path: "/calls", is_pbx_host: &is_pbx_host };
    let location = "https://pbx.example.com/welcome.htm?lang=de&from=calls";
    c.bench_function("landing: add a session to a redirect", |b| {
        b.iter(|| {
            black_box(landing::target(black_box(location), &["/welcome.htm"], &base));
            landing::with_session(location, &session, None)
        });
    });
}

/// Returns the source of the `nth` of many addresses that lie in no order.
fn source(nth: u32) -> LimitSource {
    LimitSource::address(Ipv4Addr::from_bits(nth.wrapping_mul(2_654_435_761)).into())
}

/// Counts events of many keys in turn. Those for which the table has no room count with their neighbours.
fn limiter(c: &mut Criterion) {
    for keys in [10, 1_000, 1_000_000] {
        // Nothing is refused or forgotten meanwhile.
        let limiter = Limiter::new("client", "1/min burst 50000000".parse::<Rate>().unwrap(), KEYS);
        let count = |nth: u32| limiter.admit_source(&source(nth));
        (0..keys).for_each(|nth| drop(count(nth)));
        let mut nth = 0;
        c.bench_function(&format!("limiter: one of {keys} keys"), |b| {
            b.iter(|| {
                nth = (nth + 1) % keys;
                count(black_box(nth))
            });
        });
    }
}

criterion_group!(benches, http, login, limiter);
criterion_main!(benches);
