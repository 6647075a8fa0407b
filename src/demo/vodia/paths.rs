//! What else rides on the port of a PBX: recordings, uploads, statistics, webhooks, phones, a WebSocket.

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Value, json};

use super::state::State;
use super::{Ask, Faults, Pbx, pages};
use crate::demo::body::{Body, Step};
use crate::demo::server::{self, Answer, lock};

/// The samples of a recording, in bytes: about two minutes at 8 kHz and one byte each.
const RECORDING: u32 = 1024 * 1024;
/// The head of a capture file: little-endian magic, version 2.4, Ethernet.
const PCAP: [u8; 24] = [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];

impl Pbx {
    /// Answers every path beside the session protocol and the pages.
    pub(super) fn other(&self, ask: &Ask, faults: &Faults) -> Response<Body> {
        let path = ask.path();
        match (&ask.head.method, path) {
            (&Method::GET, "/audio.wav") => recording(),
            (&Method::GET, "/rest/system/localization/en") => localization(),
            (&Method::POST, _) if path.starts_with("/recvsms") => server::text(StatusCode::OK, "received"),
            (&Method::GET, _) if path.starts_with("/.well-known/acme-challenge/") => challenge(path),
            (&Method::GET, _) if path.ends_with(".cfg") => self.provision(ask),
            _ if path.starts_with("/rest/") => self.rest(ask, faults),
            _ => pages::error(StatusCode::NOT_FOUND, "not found"),
        }
    }

    fn rest(&self, ask: &Ask, faults: &Faults) -> Response<Body> {
        if !self.is_known(ask) {
            return pages::error(StatusCode::UNAUTHORIZED, "unauthorized");
        }
        match (&ask.head.method, ask.path()) {
            (&Method::POST, "/rest/system/audio") => uploaded(&ask.body),
            (&Method::GET, "/rest/system/pcap") => {
                server::reply(StatusCode::OK, "application/vnd.tcpdump.pcap", capture())
            }
            (&Method::GET, "/rest/system/access") => self.block_list(faults),
            (&Method::GET, "/rest/system/stats") => self.statistics(),
            _ => pages::error(StatusCode::NOT_FOUND, "not found"),
        }
    }

    /// Tells whether a request carries a live session or somebody's Basic credentials.
    fn is_known(&self, ask: &Ask) -> bool {
        let mut state = lock(&self.state);
        state.session(&ask.cookie().unwrap_or_default()).is_some() || basic_is_right(&state, ask)
    }

    fn block_list(&self, faults: &Faults) -> Response<Body> {
        let blocked = lock(&self.state).blocked(faults.block_after);
        let entries: Vec<Value> = blocked.iter().map(|ip| json!({ "ip": ip, "type": "Connection" })).collect();
        server::json(StatusCode::OK, &json!(entries))
    }

    fn statistics(&self) -> Response<Body> {
        let sessions = lock(&self.state).sessions().len();
        server::text(
            StatusCode::OK,
            format!("# TYPE pbx_web_sessions gauge\npbx_web_sessions {sessions}\npbx_calls 0\n"),
        )
    }

    /// Answers a phone that reads its configuration. Of Digest only the presence is looked at.
    fn provision(&self, ask: &Ask) -> Response<Body> {
        let digest = ask.header(header::AUTHORIZATION).is_some_and(|value| value.starts_with("Digest "));
        if digest || basic_is_right(&lock(&self.state), ask) {
            return server::text(StatusCode::OK, "account.1.enable = 1\n");
        }
        let mut response = pages::error(StatusCode::UNAUTHORIZED, "unauthorized");
        let challenge = HeaderValue::from_static("Digest realm=\"pbx\", nonce=\"5f1b\", algorithm=MD5, qop=\"auth\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        response
    }

    /// Opens `/websocket` for a session, given by cookie or, as some builds allow, in the query.
    pub(super) fn websocket(&self, ask: &Ask) -> Answer {
        let id = ask.cookie().or_else(|| server::query(&ask.head, "session")).unwrap_or_default();
        if lock(&self.state).session(&id).is_none() {
            return pages::error(StatusCode::FORBIDDEN, "forbidden").into();
        }
        server::socket(&ask.head, react)
    }
}

/// Answers a text on the WebSocket; what it does not know comes back byte for byte.
fn react(text: &str) -> Option<String> {
    let message: Value = serde_json::from_str(text).unwrap_or_default();
    match message["action"].as_str() {
        Some("avoid-disconnect") => None,
        Some("sip-register") => {
            Some(json!({ "action": "sip-register", "expires": 3600, "add": "sip:127.0.0.1:5060" }).to_string())
        }
        Some(_) | None => Some(text.to_owned()),
    }
}

fn basic_is_right(state: &State, ask: &Ask) -> bool {
    let Some((user, password)) = ask.basic() else { return false };
    if (user.clone(), password.clone()) == state.admin() {
        return true;
    }
    let extension = state.tenant_of_host(ask.host()).and_then(|tenant| tenant.extension(&user));
    extension.is_some_and(|extension| extension.password == password)
}

/// Returns a large recording: a WAV head (8 kHz, mono, 8 bit) and filler.
fn recording() -> Response<Body> {
    let mut head = Vec::with_capacity(44);
    head.extend(b"RIFF");
    head.extend((RECORDING + 36).to_le_bytes());
    head.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    head.extend(8000_u32.to_le_bytes());
    head.extend(8000_u32.to_le_bytes());
    head.extend(b"\x01\0\x08\0data");
    head.extend(RECORDING.to_le_bytes());
    let steps = [Step::Send(head.into()), Step::Fill(RECORDING.into())];
    server::reply(StatusCode::OK, "audio/wav", Body::scripted(steps))
}

fn localization() -> Response<Body> {
    let languages = json!({
        "ivr": ["en", "de", "fr", "sp"],
        "tone": ["us", "de", "fr", "es"],
        "web": ["en", "de", "fr", "sp"],
        "zones": ["America/New_York", "Europe/Berlin", "Europe/Paris"],
    });
    server::json(StatusCode::OK, &languages)
}

fn challenge(path: &str) -> Response<Body> {
    let token = path.rsplit('/').next().unwrap_or_default();
    server::text(StatusCode::OK, format!("{token}.stand-in"))
}

fn uploaded(body: &Bytes) -> Response<Body> {
    let sum = hex::encode(digest::digest(&digest::SHA256, body));
    server::json(StatusCode::OK, &json!({ "received": body.len(), "sha256": sum }))
}

/// Returns every byte there is after the head, in case somebody takes it for text.
fn capture() -> Bytes {
    PCAP.into_iter().chain(0..=u8::MAX).collect()
}
