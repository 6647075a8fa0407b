//! The Voximplant stand-in, with keys that are hard to forward.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use callgate::demo::server::{self, Handler, Reply, StandIn, serve};
use callgate::demo::voximplant::VoximplantCloud;
use http::Request;
use hyper::body::Incoming;
use serde_json::Value;

/// A key whose letters a program loses when it splits the body without decoding it.
const TRICKY: &str = "k+x/=&%2F;+ y ";

/// A running cloud, which ends when this is dropped.
pub struct Voximplant {
    /// Where it listens.
    pub addr: SocketAddr,
    running: StandIn<TrickyCloud>,
}

impl Voximplant {
    /// Starts a cloud with these users, by name and password.
    pub async fn start<const N: usize>(users: [(&str, &str); N]) -> Self {
        let running =
            serve(TrickyCloud { cloud: VoximplantCloud::new(users), is_tricky: AtomicBool::new(false) }).await;
        Self { addr: running.addr, running }
    }

    /// Sets whether further keys contain a space and `+ & = % ; /`.
    pub fn set_tricky_keys(&self, is_tricky: bool) {
        self.running.handler.is_tricky.store(is_tricky, Ordering::Relaxed);
    }
}

struct TrickyCloud {
    cloud: VoximplantCloud,
    is_tricky: AtomicBool,
}

impl Handler for TrickyCloud {
    async fn answer(&self, request: Request<Incoming>, _peer: IpAddr) -> Reply {
        let (head, body) = match server::collect(request).await {
            Ok(collected) => collected,
            Err(refusal) => return refusal.into(),
        };
        if head.uri.path() == "/_key" && self.is_tricky.load(Ordering::Relaxed) {
            let asked: Value = serde_json::from_slice(&body).unwrap();
            let key = format!("{TRICKY}{}", server::random(b"0123456789abcdef", 32));
            let user = asked["user"].as_str().unwrap().split('@').next().unwrap();
            return self.cloud.issue(user, key).into();
        }
        self.cloud.reply(&head, &body).into()
    }
}

#[tokio::test]
async fn tricky_keys_have_every_letter_that_forms_lose() {
    let cloud = Voximplant::start([("myuser", "mypass")]).await;
    cloud.set_tricky_keys(true);
    let key = super::raw_client::ask(cloud.addr, "POST /_key", "", br#"{"user":"myuser"}"#).await.json();
    assert!("+&=%;/ ".chars().all(|letter| key["key"].as_str().unwrap().contains(letter)), "{key}");
}
