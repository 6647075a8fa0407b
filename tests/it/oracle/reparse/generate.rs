//! A generator of hostile requests: valid by the grammar at first, then bent. The same seed makes the same bytes.

use super::client::Frames;

/// A generator of numbers (SplitMix64).
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    /// Says yes once in `times`.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

// === The words ===

/// Values that a client sends in fields that only the gate may set.
pub const CLAIM: &str = "evil";

const METHODS: &[&str] = &[
    "GET",
    "GET",
    "POST",
    "POST",
    "PUT",
    "HEAD",
    "OPTIONS",
    "DELETE",
    "PATCH",
    "PROPFIND",
    "M-SEARCH",
    "PURGE",
    "FROB",
    "get",
    "Post",
    "A!#$%&'*+-.^_`|~9",
    "CONNECT",
    "TRACE",
    "PRI",
];

const TARGETS: &[&str] = &[
    "/",
    "/a?b=c",
    "/a/../b/./c",
    "/a%2Fb/%2e%2e/c",
    "//x//y",
    "/;p=1;q",
    "/?",
    "/??",
    "/a?x=1?y=/..%00",
    "/a#frag",
    "/a?b#frag",
    "*",
    "http://app.test/abs?x",
    "HTTP://APP.TEST/abs",
    "https://app.test:443/abs",
    "http://other.test/abs",
    "http://evil@app.test/abs",
    "http://app.test",
    "app.test:443",
    "a/b",
    "",
    "/\u{e9}",
    "/\"q\"",
    "/a|b^c`d{e}",
    "/\\back",
    "/<x>",
    "/%zz",
    "/%",
    "/..",
    "/../..",
    "/a\tb",
    "/a b",
    "/auth/pbx/",
    "/~user/!$&'()*+,;=:@",
    "/[::1]",
    "//[x",
];

const VERSIONS: &[&str] = &[
    "HTTP/1.1",
    "HTTP/1.1",
    "HTTP/1.1",
    "HTTP/1.1",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/1.2",
    "HTTP/0.9",
    "HTTP/2.0",
    "HTTP/1.01",
    "http/1.1",
    "HTTP/1",
    "",
];

const HOSTS: &[&str] = &[
    "Host: app.test",
    "Host: app.test",
    "Host: app.test",
    "Host: app.test",
    "Host: App.Test:8443",
    "host:app.test",
    "Host:\tapp.test \t",
    "Host: app.test.",
    "Host: app.test\r\nHost: app.test",
    "Host: app.test\r\nHost: evil",
    "Host: app.test, evil",
    "Host: evil@app.test",
    "Host: app.test:0443x",
    "Host : app.test",
    "Host:",
    "X-None: 1",
    "Host: app.test\r\n evil",
    "Host: app.test/evil",
    "Host: app.test\0.evil",
    "Host_: evil\r\nHost: app.test",
    "Host: [::1]:8443",
];

const FIELDS: &[&str] = &[
    "Accept: */*",
    "User-Agent: x/1 (y; z)",
    "Cookie: a=1; #b=\"2\"",
    "Cookie: c=3",
    "X: \u{e9}\u{ff}\u{80}\u{85}\u{a0}",
    "X:",
    "X: \t ",
    "X:a",
    "x: b",
    "X: a\tb  c",
    "X: \"q\\\"\", ,,;=",
    "X: a: b:c",
    "X_Y: 1",
    "X.Y: 1",
    "X!#$%&'*+-.^_`|~: 1",
    "X: GET /smuggled HTTP/1.1",
    "X: \u{0b}a",
    "X: a\u{0c}",
    "X: a\u{1c}b\u{1d}c\u{1e}",
    "X: a\u{7f}b",
    "X: a\u{1}b",
    "X: a\0b",
    "X: a\rb",
    "X: a\nContent-Length: 5",
    "X: a\r\n b",
    "X: a\r\n\tContent-Length: 5",
    " X: a",
    "X : a",
    "X\t: a",
    ": a",
    "X",
    "X(y): a",
    "\u{e9}: a",
    "X\0: a",
    "X\r: a",
    "Expect: 100-continue",
    "Expect: evil",
    "TE: trailers",
    "TE: gzip, trailers;q=0.5",
    "TE: chunked",
    "Connection: keep-alive",
    "Connection: close",
    "Connection: X, X_Y",
    "Connection: Host",
    "Connection: Content-Length",
    "Connection: Transfer-Encoding",
    "Connection: X-Forwarded-For",
    "Connection: ,,\u{e9}, te",
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13",
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
    "Connection: Upgrade\r\nUpgrade: websocket, h2c",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "Trailer: X-End",
    "Trailer: X-End, X-Forwarded-For, Content-Length, Host",
    "Content-Type: text/plain",
    "Content-Encoding: gzip",
    "Range: bytes=0-1,3-4",
    "Proxy: evil",
    "X-HTTP-Method-Override: DELETE",
    "Content_Length: 5",
    "Transfer_Encoding: chunked",
    "Transfer-Encodin\u{67}_: chunked",
];

/// Fields that only the gate may set, in many spellings.
const IDENTITY: &[&str] = &[
    "X-Forwarded-For",
    "x-forwarded-for",
    "X_Forwarded_For",
    "X.Forwarded.For",
    "X-Forwarded_For",
    "X-FORWARDED-HOST",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Anything",
    "X-Forwarded",
    "Forwarded",
    "forwarded",
    "X-Real-IP",
    "X_REAL_IP",
    "X-Request-Id",
    "x_request_id",
    "X-Request.Id",
    "X-Original-URL",
    "X-Rewrite-URL",
    "Via",
];

const FRAMINGS: &[&str] = &[
    "Content-Length: 5",
    "Content-Length: 5",
    "content-length:5",
    "Content-Length: 5\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: 5, 5",
    "Content-Length: +5",
    "Content-Length: -5",
    "Content-Length: 05",
    "Content-Length: 0x5",
    "Content-Length: 5 5",
    "Content-Length: 5\t",
    "Content-Length: 5\u{0b}",
    "Content-Length: \u{a0}5",
    "Content-Length: 4",
    "Content-Length: 60",
    "Content-Length: 0",
    "Content-Length:",
    "Content-Length: 5;",
    "Content-Length: 5_0",
    "Content-Length: 18446744073709551616",
    "Content-Length: 4294967301",
    "Content-Length : 5",
    "Content-Length\0: 5",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: CHUNKED",
    "Transfer-Encoding:\tchunked\t",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, gzip",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunkedx",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: ,chunked",
    "Transfer-Encoding: \u{0b}chunked",
    "Transfer-Encoding: chun\u{212a}ed",
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding\n: chunked",
    "X: y\r\n Transfer-Encoding: chunked",
    "X: y\rTransfer-Encoding: chunked",
    "X: y\nTransfer-Encoding: chunked",
    "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "Content-Length: 5\r\nTransfer-Encoding: identity",
    "Content-Length: 5\r\nTransfer-Encoding : chunked",
];

const BODIES: &[&str] = &[
    "hello",
    "hello",
    "5\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    "5;name=\"v\";x\r\nhello\r\n0;y\r\n\r\n",
    "5 ;name\r\nhello\r\n0\r\n\r\n",
    "00000005\r\nhello\r\n000\r\n\r\n",
    "00000000000000005\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\nX-End: 1\r\nX-Forwarded-For: evil\r\n\r\n",
    "5\r\nhello\r\n0\r\nContent-Length: 5\r\nHost: evil\r\nTransfer-Encoding: chunked\r\n\r\n",
    "5\r\nhello\r\n0\r\nX-End: a\r\n b\r\n\r\n",
    "A\r\n0\r\n\r\nGET /\r\n0\r\n\r\n",
    "a\r\n\r\n0\r\n\r\nxyz\r\n0\r\n\r\n",
    "0\r\n\r\n",
    "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n",
    "5\nhello\n0\n\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhelloo\r\n0\r\n\r\n",
    "5\rhello\r\n0\r\n\r\n",
    "5;\nx\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "5\u{0b}\r\nhello\r\n0\r\n\r\n",
    "5_\r\nhello\r\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "\r\n5\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n",
    "",
];

/// Bytes that parsers stumble over.
const SHARDS: &[&str] = &[
    "\r", "\n", "\r\n", "\r\n\r\n", "\0", " ", "\t", ":", ",", ";", "\u{0b}", "\u{0c}", "\u{85}", "\u{a0}", "\u{ff}",
    "\u{7f}", "0", "_", "#", "%", "\r\n ", "\n\n", "\r\r\n", "chunked", "5",
];

/// The end of what a client sends: the gate closes the connection behind it, if it comes that far.
const LAST: &str = "GET /last HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";

// === HTTP/1 ===

/// Makes the bytes of one connection: up to three requests, half of the time bent, and a last one.
pub fn http1(dice: &mut Random) -> Vec<u8> {
    let requests: String = (0..=dice.below(3)).map(|_| request(dice)).collect();
    let mut bytes = latin1_bytes(&requests);
    if dice.once_in(2) {
        for _ in 0..=dice.below(3) {
            bend(dice, &mut bytes);
        }
    }
    bytes.extend_from_slice(LAST.as_bytes());
    bytes
}

fn request(dice: &mut Random) -> String {
    // A request that is odd in every part is always refused.
    let plain = !dice.once_in(3);
    let (method, target, version) = if plain {
        (dice.pick(&METHODS[..9]), dice.pick(&TARGETS[..9]), "HTTP/1.1")
    } else {
        (dice.pick(METHODS), dice.pick(TARGETS), dice.pick(VERSIONS))
    };
    let mut lines = vec![dice.pick(if plain { &HOSTS[..4] } else { HOSTS }).to_owned()];
    lines.extend((0..dice.below(5)).map(|_| dice.pick(if plain { &FIELDS[..16] } else { FIELDS }).to_owned()));
    lines.extend((0..dice.below(3)).map(|_| format!("{}: {CLAIM}", dice.pick(IDENTITY))));
    let body = framing(dice, &mut lines, plain);
    if dice.once_in(40) {
        lines.push(format!("X-Long: {}", "x".repeat(dice.below(12_000))));
    }
    shuffle(dice, &mut lines);
    format!("{method} {target} {version}\r\n{}\r\n\r\n{body}", lines.join("\r\n"))
}

/// Adds the fields of a body and returns it, most often one that fits.
fn framing(dice: &mut Random, lines: &mut Vec<String>, plain: bool) -> String {
    match dice.below(if plain { 5 } else { 8 }) {
        0 | 1 => String::new(),
        2 => {
            lines.push("Content-Length: 5".into());
            BODIES[0].into()
        }
        3 | 4 => {
            lines.push("Transfer-Encoding: chunked".into());
            dice.pick(if plain { &BODIES[2..10] } else { &BODIES[2..] }).into()
        }
        _ => {
            lines.push(dice.pick(FRAMINGS).into());
            dice.pick(BODIES).into()
        }
    }
}

fn shuffle(dice: &mut Random, lines: &mut [String]) {
    for at in 1..lines.len() {
        lines.swap(at, dice.below(at + 1));
    }
}

/// Changes one thing in some bytes.
fn bend(dice: &mut Random, bytes: &mut Vec<u8>) {
    let at = dice.below(bytes.len() + 1);
    match dice.below(8) {
        0 if at < bytes.len() => drop(bytes.remove(at)),
        1 if at < bytes.len() => bytes[at] = u8::try_from(dice.below(256)).unwrap(),
        2 if at < bytes.len() => bytes[at] ^= 0x20,
        3 => bytes.truncate(at),
        4 => bend_line_end(dice, bytes),
        5 => {
            // A part of it comes again.
            let end = (at + dice.below(60)).min(bytes.len());
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        _ => drop(bytes.splice(at..at, latin1_bytes(dice.pick(SHARDS)))),
    }
}

fn bend_line_end(dice: &mut Random, bytes: &mut Vec<u8>) {
    let ends: Vec<_> = bytes.windows(2).enumerate().filter(|(_, pair)| *pair == b"\r\n").map(|(at, _)| at).collect();
    if ends.is_empty() {
        return;
    }
    let (at, end) =
        (dice.pick(&ends), dice.pick(&["\n", "\r", "\r\r\n", "\n\r", "\r\n\r\n", "\r\n ", " \r\n", "\0\r\n", ""]));
    bytes.splice(at..at + 2, end.bytes());
}

/// Turns characters into bytes; what is no byte goes as UTF-8.
fn latin1_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for char in text.chars() {
        match u8::try_from(char) {
            Ok(byte) => bytes.push(byte),
            Err(_) => bytes.extend_from_slice(char.to_string().as_bytes()),
        }
    }
    bytes
}

// === HTTP/2 ===

const H2_FIELDS: &[(&str, &str)] = &[
    ("accept", "*/*"),
    ("cookie", "a=1"),
    ("cookie", "b=2"),
    ("x", "\u{e9}\u{ff}"),
    ("x", ""),
    ("x", "a\tb"),
    ("x_y", "1"),
    ("te", "trailers"),
    ("trailer", "x-end"),
    ("expect", "100-continue"),
    ("host", "app.test"),
    ("host", "evil"),
    ("content-length", "5"),
    ("content-length", "4"),
    ("content-length", "+5"),
    ("content-length", "5,5"),
    ("x", " a "),
    ("x", "a\rb"),
    ("x", "a\nb: c"),
    ("x", "a\r\nContent-Length: 5\r\n\r\nGET /smuggled HTTP/1.1\r\n"),
    ("x", "a\0b"),
    ("x", "a\u{7f}"),
    ("x: y\r\nz", "1"),
    ("x y", "1"),
    ("x:", "1"),
    ("X", "1"),
    ("", "1"),
    ("\u{e9}", "1"),
    ("transfer-encoding", "chunked"),
    ("transfer-encoding ", "chunked"),
    ("transfer_encoding", "chunked"),
    ("connection", "x"),
    ("connection", "keep-alive"),
    ("upgrade", "h2c"),
    ("keep-alive", "5"),
    ("proxy-connection", "x"),
    ("te", "gzip"),
    ("http2-settings", "AAMAAABk"),
    (":path", "/again"),
    (":authority", "evil"),
    (":status", "200"),
    (":evil", "1"),
];

const H2_PATHS: &[&str] = &[
    "/ HTTP/1.1\r\nHost: evil\r\n\r\nGET /smuggled",
    "/a b",
    "/a\tb",
    "/a\0b",
    "/a\nb",
    "http://evil/x",
    "evil",
    "*",
    "",
];

/// Makes the frames of one exchange.
pub fn http2(dice: &mut Random) -> Frames {
    let plain = dice.once_in(2);
    let mut head = vec![
        (":method".to_owned(), if plain { dice.pick(&METHODS[..9]) } else { dice.pick(METHODS) }.to_owned()),
        (
            ":scheme".to_owned(),
            if plain { "https" } else { dice.pick(&["https", "http", "ftp", "", "a b"]) }.to_owned(),
        ),
        (":authority".to_owned(), authority(dice, plain).to_owned()),
        (":path".to_owned(), path(dice, plain).to_owned()),
    ];
    if !plain && dice.once_in(10) {
        head.remove(dice.below(head.len()));
    }
    for _ in 0..dice.below(5) {
        let (name, value) = dice.pick(if plain { &H2_FIELDS[..11] } else { H2_FIELDS });
        head.push((name.into(), value.into()));
    }
    for _ in 0..dice.below(3) {
        head.push((dice.pick(IDENTITY).to_ascii_lowercase(), CLAIM.into()));
    }
    if !plain && dice.once_in(10) {
        let (one, other) = (dice.below(head.len()), dice.below(head.len()));
        head.swap(one, other);
    }
    let body: Vec<_> =
        (0..dice.below(3)).map(|_| dice.pick(&["hello", "0\r\n\r\n", "", "GET / HTTP/1.1\r\n\r\n"]).into()).collect();
    let trailers = if body.is_empty() || !dice.once_in(3) {
        Vec::new()
    } else {
        let claim = ("x-forwarded-for".to_owned(), CLAIM.to_owned());
        let (name, value) = dice.pick(H2_FIELDS);
        vec![("x-end".into(), "1".into()), claim, (name.into(), value.into())]
    };
    Frames { head, body, trailers }
}

fn authority(dice: &mut Random, plain: bool) -> &'static str {
    let odd = [
        "app.test",
        "App.test:8443",
        "evil@app.test",
        "app.test\r\nx: y",
        "app.test evil",
        "app.test, evil",
        "",
        "a/b",
    ];
    if plain { "app.test" } else { dice.pick(&odd) }
}

fn path(dice: &mut Random, plain: bool) -> &'static str {
    match (plain, dice.below(3)) {
        (true, _) => dice.pick(&TARGETS[..9]),
        (false, 0) => dice.pick(H2_PATHS),
        (false, _) => dice.pick(TARGETS),
    }
}
