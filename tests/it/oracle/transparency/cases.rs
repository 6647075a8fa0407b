//! Valid exchanges of every kind.

use crate::kit::rfc9112::{Field, bytes};

pub struct Case {
    pub name: &'static str,
    pub client: Client,
    pub upstream: Vec<Step>,
}

/// The next step of one side.
#[derive(Debug, Clone)]
pub enum Step {
    Say(Vec<u8>),
    /// Waits for a text behind the one it last waited for.
    Hear(&'static str),
    /// Waits until the client has seen the first event of a stream.
    AwaitClient,
}

pub enum Client {
    /// One request, in HTTP/1 and in HTTP/2.
    Asks(Ask),
    /// One request with fields that HTTP/2 does not have.
    Asks1(Ask),
    /// Whatever it says in HTTP/1, until it has heard so many answers.
    Follows(Vec<Step>, usize),
}

pub struct Ask {
    pub method: &'static str,
    pub target: String,
    pub fields: Vec<Field>,
    pub body: Body,
}

pub enum Body {
    None,
    Sized(String),
    /// Chunks or frames, and trailers.
    Chunks(Vec<String>, Vec<Field>),
}

impl Client {
    /// Returns what it does in HTTP/1, and how many answers it waits for.
    pub fn script(&self) -> (Vec<Step>, usize) {
        match self {
            Self::Asks(ask) | Self::Asks1(ask) => (vec![Step::Say(bytes(&ask.to_string()))], 1),
            Self::Follows(script, answers) => (script.clone(), *answers),
        }
    }

    pub fn asks_head(&self) -> bool {
        matches!(self, Self::Asks(ask) | Self::Asks1(ask) if ask.method == "HEAD")
    }
}

impl std::fmt::Display for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} HTTP/1.1\r\nHost: app.test\r\n", self.method, self.target)?;
        lines(f, &self.fields)?;
        match &self.body {
            Body::None => write!(f, "\r\n"),
            Body::Sized(body) => write!(f, "Content-Length: {}\r\n\r\n{body}", body.chars().count()),
            Body::Chunks(chunks, trailers) => {
                write!(f, "Transfer-Encoding: chunked\r\n\r\n")?;
                for chunk in chunks {
                    write!(f, "{:x}\r\n{chunk}\r\n", chunk.chars().count())?;
                }
                write!(f, "0\r\n")?;
                lines(f, trailers)?;
                write!(f, "\r\n")
            }
        }
    }
}

fn lines(f: &mut std::fmt::Formatter<'_>, fields: &[Field]) -> std::fmt::Result {
    fields.iter().try_for_each(|(name, value)| write!(f, "{name}: {value}\r\n"))
}

// === Making them ===

fn ask(method: &'static str, target: &str, fields: &[(&str, &str)], body: Body) -> Ask {
    Ask { method, target: target.into(), fields: pairs(fields), body }
}

fn pairs(fields: &[(&str, &str)]) -> Vec<Field> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn get(fields: &[(&str, &str)]) -> Ask {
    ask("GET", "/a", fields, Body::None)
}

fn sized(body: &str) -> Body {
    Body::Sized(body.into())
}

fn chunks(chunks: &[&str], trailers: &[(&str, &str)]) -> Body {
    Body::Chunks(chunks.iter().map(|chunk| (*chunk).to_owned()).collect(), pairs(trailers))
}

/// An upstream that answers when it has heard a text.
fn answering(heard: &'static str, answer: &str) -> Vec<Step> {
    vec![Step::Hear(heard), Step::Say(bytes(answer))]
}

fn both(name: &'static str, ask: Ask, upstream: Vec<Step>) -> Case {
    Case { name, client: Client::Asks(ask), upstream }
}

fn http1(name: &'static str, ask: Ask, upstream: Vec<Step>) -> Case {
    Case { name, client: Client::Asks1(ask), upstream }
}

/// An answer to an ordinary question.
fn answer(name: &'static str, answer: &str) -> Case {
    both(name, get(&[]), answering(END, answer))
}

fn script(name: &'static str, says: Vec<Step>, answers: usize, upstream: Vec<Step>) -> Case {
    Case { name, client: Client::Follows(says, answers), upstream }
}

fn say(text: &str) -> Step {
    Step::Say(bytes(text))
}

const END: &str = "\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 2\r\n\r\nok";

// === All of them ===

pub fn all() -> Vec<Case> {
    [
        methods(),
        targets(),
        request_fields(),
        request_bodies(),
        statuses(),
        answer_fields(),
        answer_bodies(),
        turns(),
        websockets(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn methods() -> Vec<Case> {
    let bare = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "M-SEARCH", "X-CUSTOM", "get"];
    let mut cases: Vec<_> =
        bare.map(|method| both("a method", ask(method, "/a", &[], Body::None), answering(END, OK))).into();
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n";
    cases.push(both("HEAD with a length", ask("HEAD", "/a", &[], Body::None), answering(END, head)));
    let head = "HTTP/1.1 200 OK\r\nETag: \"a\"\r\n\r\n";
    cases.push(both("HEAD without a length", ask("HEAD", "/a", &[], Body::None), answering(END, head)));
    let head = "HTTP/1.1 200 OK\r\nX: 1\r\nTransfer-Encoding: chunked\r\nY: 2\r\n\r\n";
    cases.push(both("HEAD with chunks", ask("HEAD", "/a", &[], Body::None), answering(END, head)));
    for method in ["GET", "DELETE", "OPTIONS"] {
        cases.push(both("a body that is seldom there", ask(method, "/a", &[], sized("hello")), answering("hello", OK)));
    }
    cases
}

fn targets() -> Vec<Case> {
    let odd = [
        "/a?b=c&d=%20+%2B",
        "/?",
        "/a??b?",
        "/a?b=/../c",
        "/a%2Fb/%2e%2e/c",
        "/a/../b/./c",
        "//a//b/",
        "/a;p=1;q?",
        "/~!$&'()*+,;=:@/",
        "/%",
        "/%zz",
        "/a|b^c{d}",
        "/a?q={y}`|^",
        "/a\\b",
    ];
    let mut cases: Vec<_> =
        odd.map(|target| both("a target", ask("GET", target, &[], Body::None), answering(END, OK))).into();
    cases.push(both(
        "a long target",
        ask("GET", &format!("/{}", "x".repeat(8000)), &[], Body::None),
        answering(END, OK),
    ));
    cases.push(http1("an absolute target", ask("GET", "http://app.test/a?b", &[], Body::None), answering(END, OK)));
    cases
}

fn request_fields() -> Vec<Case> {
    let pass = |name, fields: &[(&str, &str)]| both(name, get(fields), answering(END, OK));
    let pass1 = |name, fields: &[(&str, &str)]| http1(name, get(fields), answering(END, OK));
    vec![
        pass("names with capitals", &[("User-Agent", "x/1"), ("X-CamelCase", "1"), ("accept", "*/*")]),
        pass("equal names in order", &[("X", "2"), ("Y", "0"), ("x", "1"), ("X", "3")]),
        pass("odd values", &[("X", ""), ("Y", "caf\u{e9} \u{80}\u{ff}"), ("Z", "a\tb  c"), ("Q", "\"\\\"(;,")]),
        pass("odd names", &[("X_Y", "1"), ("x.y", "2"), ("X!#$%&'*+-^`|~", "3")]),
        pass(
            "credentials",
            &[("Authorization", "Basic YTpi"), ("Proxy-Authorization", "Basic YTpi"), ("Origin", "https://a")],
        ),
        pass1("two cookies of HTTP/1", &[("Cookie", "a=1; #b=\"2 3\""), ("Cookie", ";; c=\u{e9}=;d")]),
        pass("crumbs of a cookie", &[("Cookie", "a=1; #b=\"2 3\""), ("Accept", "*/*"), ("Cookie", "c=\u{e9}=;d")]),
        pass("conditions", &[("Range", "bytes=0-1,4-5"), ("If-Range", "\"a\""), ("If-None-Match", "W/\"a\", \"b\"")]),
        pass("codings", &[("Accept-Encoding", "gzip, br;q=0.5"), ("Content-Type", "text/plain; charset=\"utf-8\"")]),
        pass("who it is from", &[("X-Forwarded-For", "192.0.2.1"), ("X_Real_IP", "192.0.2.1"), ("Forwarded", "for=x")]),
        pass("whom it went through", &[("Via", "1.0 a, 1.1 b")]),
        pass("trailers wanted", &[("TE", "trailers")]),
        pass1(
            "fields of one hop",
            &[("Connection", "X-Hop, keep-alive"), ("X-Hop", "1"), ("Keep-Alive", "5"), ("X", "1")],
        ),
        pass1(
            "another protocol",
            &[("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AA")],
        ),
        pass1(
            "an order",
            &[
                ("B", "1"),
                ("Connection", "X-Hop"),
                ("A", "2"),
                ("X-Hop", "1"),
                ("X-Real-IP", "1"),
                ("C", "3"),
                ("TE", "trailers"),
                ("A", "4"),
            ],
        ),
        pass("an expectation", &[("A", "1"), ("Expect", "gold"), ("B", "2")]),
        pass("sixty fields", &[("X-Many", "1"); 60]),
    ]
}

fn request_bodies() -> Vec<Case> {
    let post = |body| ask("POST", "/a", &[("Content-Type", "text/plain")], body);
    let large = "0123456789abcdef".repeat(1 << 14);
    let sums = |body| ask("POST", "/a", &[("Trailer", "X-Sum, X-Forwarded-For"), ("X", "1")], body);
    let named = "POST /a HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: Chunked\r\n\r\n\
        003;a=\"b\"\r\nhel\r\n2\r\nlo\r\n0;c\r\n\r\n";
    vec![
        both("an empty body", post(sized("")), answering(END, OK)),
        both("a body of a given length", post(sized("hello\0\r\n\r\n\u{ff}")), answering("\r\n\r\nhello", OK)),
        both("a body in chunks", post(chunks(&["hel", "lo"], &[])), answering("0\r\n\r\n", OK)),
        // Over HTTP/2 the end is known before the request goes on, and no chunks are needed to say it.
        both("no chunks at all", post(chunks(&[], &[])), answering(END, OK)),
        both("GET in chunks", ask("GET", "/a", &[], chunks(&["hello"], &[])), answering("0\r\n\r\n", OK)),
        both("a large body", post(Body::Sized(format!("{large}last"))), answering("last", OK)),
        both(
            "a large body in chunks",
            post(Body::Chunks(vec![large, "last".into()], vec![])),
            answering("0\r\n\r\n", OK),
        ),
        both("trailers", sums(chunks(&["hello"], &[("X-Sum", "9")])), answering("9\r\n\r\n", OK)),
        both(
            "trailers that are not the client's to say",
            sums(chunks(&["hello"], &[("X-Forwarded-For", "192.0.2.1"), ("X-Sum", "9")])),
            answering("9\r\n\r\n", OK),
        ),
        both(
            "trailers that nobody announced",
            post(chunks(&["hello"], &[("X-Sum", "9"), ("X-More", "8")])),
            // Behind the last chunk there is a line at least: an answer before that would be an early one.
            vec![Step::Hear("\r\n0\r\n"), Step::Hear("\r\n"), Step::Say(bytes(OK))],
        ),
        script("chunks with extensions", vec![say(named)], 1, answering("0", OK)),
        script(
            "Expect, and it is granted",
            vec![
                say("PUT /a HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"),
                Step::Hear("HTTP/1.1 100 "),
                say("hello"),
            ],
            1,
            vec![Step::Hear(END), say("HTTP/1.1 100 Continue\r\n\r\n"), Step::Hear("hello"), say(OK)],
        ),
        script(
            "Expect, and it is refused",
            vec![
                say("PUT /a HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"),
                Step::Hear(END),
            ],
            1,
            answering(END, "HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"),
        ),
    ]
}

fn statuses() -> Vec<Case> {
    let mut cases: Vec<_> = [
        "200 OK",
        "200 Fine, thank you",
        "200 OK\tor not!",
        "200 caf\u{e9}",
        "200 ",
        "201 Created",
        "202 Accepted",
        "203 x",
        "205 Reset Content",
        "226 IM Used",
        "299 Odd",
        "300 x",
        "401 Unauthorized",
        "403 Forbidden",
        "404 Not Found",
        "405 x",
        "409 Conflict",
        "410 Gone",
        "418 I'm a teapot",
        "429 x",
        "451 x",
        "499 x",
        "500 x",
        "502 Bad Gateway",
        "503 x",
        "504 x",
        "599 x",
    ]
    .map(|status| answer("a status", &format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nRetry-After: 5\r\n\r\n")))
    .into();
    cases.extend(["301", "302", "303", "307", "308"].map(|status| {
        let location = "Location: /b?c=%2F&d=\u{e9}#e";
        answer("a redirect", &format!("HTTP/1.1 {status} Moved\r\n{location}\r\nContent-Length: 2\r\n\r\nok"))
    }));
    cases.extend([
        answer("204", "HTTP/1.1 204 No Content\r\nETag: \"a\"\r\n\r\n"),
        answer("204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
        answer("304", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nCache-Control: max-age=5\r\n\r\n"),
        answer("304 with a length", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 9\r\n\r\n"),
        answer(
            "206",
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/9\r\nAccept-Ranges: bytes\r\nContent-Length: 2\r\n\r\nok",
        ),
        answer(
            "206 in parts",
            "HTTP/1.1 206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=X\r\nContent-Length: 72\r\n\r\n\
             --X\r\nContent-Range: bytes 0-0/9\r\n\r\na\r\n--X\r\nContent-Range: bytes 8-8/9\r\n\r\ni\r\n--X--",
        ),
        answer("416", "HTTP/1.1 416 x\r\nContent-Range: bytes */9\r\nContent-Length: 0\r\n\r\n"),
        answer("Early Hints", "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        answer("Processing", "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ]);
    cases
}

fn answer_fields() -> Vec<Case> {
    let with =
        |name, fields: &str| answer(name, &format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: 2\r\n\r\nok"));
    vec![
        with("cookies", "Set-Cookie: a=1; Path=/\r\nX: 1\r\nset-cookie: #b=\"2, 3\"; HttpOnly\r\nSet-Cookie: c=\u{e9}"),
        with("a date of its own", "Date: Sun, 06 Nov 1994 08:49:37 GMT"),
        with("no date", "X: 1"),
        with("a server", "Server: x/1 (y)\r\nX-Powered-By: z\r\nVia: 1.1 inner"),
        with(
            "security",
            "Content-Security-Policy: default-src 'self'\r\nStrict-Transport-Security: max-age=1\r\nX-Frame-Options: DENY",
        ),
        with("values", "X:\r\nY: caf\u{e9} \u{80}\u{ff}\r\nZ: a\tb  c\r\nQ: \"\\\"(;,"),
        with("equal names in order", "X: 2\r\nY: 0\r\nx: 1\r\nX: 3"),
        with("names", "X_Y: 1\r\nx.y: 2\r\nX!#$%&'*+-^`|~: 3"),
        with("who asked", "X-Request-Id: 1\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=x"),
        with(
            "caching",
            "ETag: W/\"a\"\r\nLast-Modified: x\r\nExpires: 0\r\nAge: 5\r\nVary: *\r\nCache-Control: no-store, private",
        ),
        with("for the gate alone", "PBX-Account: 40\r\nPBX-Domain: a\r\nPBX-Lang: en"),
        with(
            "an order",
            "B: 1\r\nConnection: X-Hop\r\nA: 2\r\nX-Hop: 1\r\nC: 3\r\nKeep-Alive: 5\r\nPBX-Lang: en\r\nServer: x\r\nA: 4",
        ),
        with("one hop", "Connection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nUpgrade: h2c"),
        with("a length said twice", "Content-Length: 2"),
        with(
            "who may ask",
            "WWW-Authenticate: Basic realm=\"a\"\r\nWWW-Authenticate: Digest nonce=\"b\"\r\nAlt-Svc: h3=\":443\"",
        ),
    ]
}

fn answer_bodies() -> Vec<Case> {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n";
    let large = "0123456789abcdef".repeat(1 << 14);
    let sum = format!("{chunked}Trailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 9\r\nX-More: 8\r\n\r\n");
    vec![
        answer("in chunks", &format!("{chunked}\r\n2;a\r\nok\r\n1\r\n!\r\n0\r\n\r\n")),
        answer("no chunks at all", &format!("{chunked}\r\n0\r\n\r\n")),
        answer("until the end", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"),
        answer("HTTP/1.0 until the end", "HTTP/1.0 200 OK\r\nX: 1\r\n\r\nok"),
        answer("HTTP/1.0 with a length", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        answer("HTTP/1.0 that stays", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"),
        answer(
            "compressed",
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 6\r\n\r\n\u{1f}\u{8b}\u{8}\0\r\n",
        ),
        answer("large", &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{large}", large.len())),
        answer("large, in chunks", &format!("{chunked}\r\n{:x}\r\n{large}\r\n0\r\n\r\n", large.len())),
        both(
            "cut off",
            get(&[]),
            vec![Step::Hear(END), say("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\ndata: 1\n\n"), Step::AwaitClient],
        ),
        both(
            "chunks cut off",
            get(&[]),
            vec![Step::Hear(END), say(&format!("{chunked}\r\n9\r\ndata: 1\n\n\r\n")), Step::AwaitClient],
        ),
        answer("trailers that nobody wants", &sum),
        both("trailers that are wanted", get(&[("TE", "trailers")]), answering(END, &sum)),
        both(
            "events, one by one",
            get(&[("Accept", "text/event-stream")]),
            vec![
                Step::Hear(END),
                say(&format!("{chunked}Content-Type: text/event-stream\r\n\r\n9\r\ndata: 1\n\n\r\n")),
                Step::AwaitClient,
                say("9\r\ndata: 2\n\n\r\n0\r\n\r\n"),
            ],
        ),
        both(
            "an answer before the body's end",
            ask("POST", "/a", &[], sized("hello")),
            vec![Step::Hear(END), say(OK), Step::Hear("hello")],
        ),
    ]
}

fn turns() -> Vec<Case> {
    let (one, two) = (
        "POST /1 HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nxy",
        "GET /2 HTTP/1.1\r\nHost: app.test\r\n\r\n",
    );
    let served = vec![Step::Hear("xy"), say(OK), Step::Hear(END), say(OK)];
    let old = "GET /a HTTP/1.0\r\nHost: app.test\r\n\r\n";
    let old_stays = "GET /a HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\n\r\n";
    vec![
        script("one after the other", vec![say(one), Step::Hear("ok"), say(two)], 2, served.clone()),
        script("two at once", vec![say(&format!("{one}{two}"))], 2, served),
        script("a client of HTTP/1.0", vec![say(old)], 1, answering(END, OK)),
        script("a client of HTTP/1.0 that stays", vec![say(old_stays)], 1, answering(END, OK)),
        script(
            "a client of HTTP/1.0 and an answer without a length",
            vec![say(old)],
            1,
            answering(END, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"),
        ),
        script(
            "a client that says close",
            vec![say("GET /a HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n")],
            1,
            answering(END, OK),
        ),
    ]
}

fn websockets() -> Vec<Case> {
    let offer = "GET /ws?x HTTP/1.1\r\nHost: app.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: https://app.test\r\n\
        Sec-WebSocket-Protocol: sip, xmpp\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
        Cookie: a=1\r\n\r\n";
    let accept = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: sip\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\nSet-Cookie: b=2\r\n\r\n";
    let (ask, reply) = ("\u{c1}\u{87}\u{1}\u{2}\u{3}\u{4}\u{f3}Jask\0\0", "\u{c1}\u{5}reply");
    let close =
        |code: u16| format!("\u{88}\u{5}{}{}bye", char::from(code.to_be_bytes()[0]), char::from(code.to_be_bytes()[1]));
    let mut cases: Vec<_> = [1000, 1001, 1011, 3000, 4999]
        .map(|code| {
            let served =
                vec![Step::Hear(END), say(accept), say(reply), Step::Hear("ask"), say(&close(code)), Step::Hear("bye")];
            let says = vec![say(offer), Step::Hear("reply"), say(ask), Step::Hear("bye"), say(&close(code))];
            script("a WebSocket", says, 1, served)
        })
        .into();
    let refusal = "HTTP/1.1 403 Forbidden\r\nX: 1\r\nContent-Length: 2\r\n\r\nno";
    cases.push(script("a WebSocket that is refused", vec![say(offer)], 1, answering(END, refusal)));
    let old =
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n";
    cases.push(script("a WebSocket of another version", vec![say(offer)], 1, answering(END, old)));
    cases
}
