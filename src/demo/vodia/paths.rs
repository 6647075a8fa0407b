//! The other paths of a PBX: recordings, uploads, statistics, webhooks, phone provisioning, a WebSocket.

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Value, json};

use super::state::VodiaState;
use super::{PbxRequest, VodiaPbx, answers};
use crate::demo::server::{self, DemoBody, Reply, lock};

/// The length of the samples of a recording, in bytes: about two minutes at 8 kHz and one byte each.
const RECORDING: u32 = 1024 * 1024;
/// The head of a capture file: little-endian magic, version 2.4, Ethernet.
const PCAP: [u8; 24] = [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];

impl VodiaPbx {
    /// Answers all paths but the session protocol and the pages.
    pub(super) fn other(&self, request: &PbxRequest) -> Response<DemoBody> {
        let path = request.path();
        match (&request.head.method, path) {
            (&Method::GET, "/audio.wav") => recording(),
            (&Method::GET, "/rest/system/localization/en") => localization(),
            (&Method::POST, _) if path.starts_with("/recvsms") => server::text(StatusCode::OK, "received"),
            (&Method::GET, _) if path.starts_with("/.well-known/acme-challenge/") => challenge(path),
            (&Method::GET, _) if path.ends_with(".cfg") => self.provision(request),
            _ if path.starts_with("/rest/") => self.rest(request),
            _ => answers::error(StatusCode::NOT_FOUND, "not found"),
        }
    }

    fn rest(&self, request: &PbxRequest) -> Response<DemoBody> {
        if !self.is_known(request) {
            return answers::error(StatusCode::UNAUTHORIZED, "unauthorized");
        }
        match (&request.head.method, request.path()) {
            (&Method::POST, "/rest/system/audio") => uploaded(&request.body),
            (&Method::GET, "/rest/system/pcap") => {
                server::reply(StatusCode::OK, "application/vnd.tcpdump.pcap", capture())
            }
            (&Method::GET, "/rest/system/domains") => self.domains(request),
            (&Method::GET, "/rest/system/access") => self.block_list(),
            (&Method::GET, "/rest/system/stats") => self.statistics(),
            _ => answers::error(StatusCode::NOT_FOUND, "not found"),
        }
    }

    /// Tells whether a request has a live session or right Basic credentials.
    fn is_known(&self, request: &PbxRequest) -> bool {
        let mut state = lock(&self.state);
        state.session(&request.cookie().unwrap_or_default()).is_some() || basic_is_right(&state, request)
    }

    /// Lists the tenants, for an administrator of the system.
    fn domains(&self, request: &PbxRequest) -> Response<DemoBody> {
        let state = lock(&self.state);
        if request.basic() != Some(state.admin()) {
            return answers::error(StatusCode::FORBIDDEN, "forbidden");
        }
        let tenants = state.options().tenants.iter().enumerate();
        let domains: Vec<_> =
            tenants.map(|(id, tenant)| json!({ "id": id + 1, "name": tenant.name, "alias": [tenant.name] })).collect();
        server::json(StatusCode::OK, &json!(domains))
    }

    fn block_list(&self) -> Response<DemoBody> {
        let blocked = lock(&self.state).blocked();
        let entries: Vec<Value> = blocked.iter().map(|ip| json!({ "ip": ip, "type": "Connection" })).collect();
        server::json(StatusCode::OK, &json!(entries))
    }

    fn statistics(&self) -> Response<DemoBody> {
        let sessions = lock(&self.state).sessions().len();
        server::text(
            StatusCode::OK,
            format!("# TYPE pbx_web_sessions gauge\npbx_web_sessions {sessions}\npbx_calls 0\n"),
        )
    }

    /// Answers a phone that reads its configuration. Any Digest credentials are accepted.
    fn provision(&self, request: &PbxRequest) -> Response<DemoBody> {
        let digest = request.header(header::AUTHORIZATION).is_some_and(|value| value.starts_with("Digest "));
        if digest || basic_is_right(&lock(&self.state), request) {
            return server::text(StatusCode::OK, "account.1.enable = 1\n");
        }
        let mut response = answers::error(StatusCode::UNAUTHORIZED, "unauthorized");
        let challenge = HeaderValue::from_static("Digest realm=\"pbx\", nonce=\"5f1b\", algorithm=MD5, qop=\"auth\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        response
    }

    /// Opens `/websocket` for a session. Its id is in the cookie or, as some builds allow, in the query.
    pub(super) fn websocket(&self, request: &PbxRequest) -> Reply {
        let id = request.cookie().or_else(|| server::query(&request.head, "session")).unwrap_or_default();
        if lock(&self.state).session(&id).is_none() {
            return answers::error(StatusCode::FORBIDDEN, "forbidden").into();
        }
        server::websocket(&request.head, react)
    }
}

/// Answers a text message of the WebSocket. An unknown message is echoed byte for byte.
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

fn basic_is_right(state: &VodiaState, request: &PbxRequest) -> bool {
    let Some((user, password)) = request.basic() else { return false };
    if (user.clone(), password.clone()) == state.admin() {
        return true;
    }
    let extension = state.tenant_of_host(request.host()).and_then(|tenant| tenant.extension(&user));
    extension.is_some_and(|extension| extension.password == password)
}

/// Returns a large recording: a WAV header (8 kHz, mono, 8 bit) and dots for samples.
fn recording() -> Response<DemoBody> {
    let mut recording = Vec::with_capacity(44 + RECORDING as usize);
    recording.extend(b"RIFF");
    recording.extend((RECORDING + 36).to_le_bytes());
    recording.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    recording.extend(8000_u32.to_le_bytes());
    recording.extend(8000_u32.to_le_bytes());
    recording.extend(b"\x01\0\x08\0data");
    recording.extend(RECORDING.to_le_bytes());
    recording.resize(recording.len() + RECORDING as usize, b'.');
    server::reply(StatusCode::OK, "audio/wav", recording)
}

fn localization() -> Response<DemoBody> {
    let languages = json!({
        "ivr": ["en", "de", "fr", "sp"],
        "tone": ["us", "de", "fr", "es"],
        "web": ["en", "de", "fr", "sp"],
        "zones": ["America/New_York", "Europe/Berlin", "Europe/Paris"],
    });
    server::json(StatusCode::OK, &languages)
}

fn challenge(path: &str) -> Response<DemoBody> {
    let token = path.rsplit('/').next().unwrap_or_default();
    server::text(StatusCode::OK, format!("{token}.stand-in"))
}

fn uploaded(body: &Bytes) -> Response<DemoBody> {
    let sum = hex::encode(digest::digest(&digest::SHA256, body));
    server::json(StatusCode::OK, &json!({ "received": body.len(), "sha256": sum }))
}

/// Returns a capture with every byte value, which is not valid UTF-8.
fn capture() -> Bytes {
    PCAP.into_iter().chain(0..=u8::MAX).collect()
}
