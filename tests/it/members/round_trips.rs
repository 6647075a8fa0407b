//! How often a login asks the engine.

use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::net::UnixStream;

use crate::kit::client::RequestBuilder;
use crate::kit::engine::Engine;
use crate::kit::stage::{Plan, STAFF};
use crate::members::quotas::{LIMITS, reached};

const FORM: &str = "application/x-www-form-urlencoded";
const KEY: &str = "a-key-of-another-server-0123456789";

/// The commands that an engine gets.
struct Monitor<'e> {
    engine: &'e Engine,
    lines: Lines<BufReader<UnixStream>>,
}

impl<'e> Monitor<'e> {
    fn start(engine: &'e Engine) -> Self {
        let mut socket = UnixStream::connect(engine.folder.path().join("engine.sock")).unwrap();
        socket.write_all(b"MONITOR\r\n").unwrap();
        Self { engine, lines: BufReader::new(socket).lines() }
    }

    /// Returns the kinds of the keys that members have asked for since the last call.
    fn kinds(&mut self) -> String {
        self.engine.tell(&["ECHO", "until here"]);
        let lines = self.lines.by_ref().map(Result::unwrap).take_while(|line| !line.ends_with("\"until here\""));
        // What a script does is no question of its own, and a member renews its key of the generation at its own times.
        let asked = lines.filter(|line| !line.contains(" lua] ") && !line.contains("\"callgate:generation\""));
        let kind = |line: String| line.split_once("\"callgate:")?.1.split(':').next().map(str::to_owned);
        asked.filter_map(kind).collect::<Vec<_>>().join(" ")
    }

    /// Sends a request twice, and returns what the second one asked for. After the first one the engine knows the scripts.
    async fn asked<'m>(&mut self, request: impl Fn() -> RequestBuilder<'m>, status: u16) -> String {
        request().send().await.expect(status);
        self.kinds();
        request().send().await.expect(status);
        self.kinds()
    }
}

#[tokio::test]
async fn a_login_asks_for_its_limits_three_times_and_a_request_that_passes_through_does_not() {
    let Some(engine) = Engine::start().await else { return };
    let digest = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, KEY.as_bytes()));
    let rules = format!(
        "[[auth]]\ntype = \"key\"\nsha256 = \"{digest}\"\nscopes = [\"pbx\"]\ndomains = [\"acme.test\"]\n\
         [[allow]]\nauth = \"key\"\npbx = {{ domain = \"{{domain}}\", account = \"{{account}}\" }}\n{STAFF}"
    );
    let shared = engine.shared("deadline = \"5s\"");
    let member = Plan { rules: &rules, limits: LIMITS, more: &shared, ..Plan::default() }.start().await;
    member.gate.logins.are_not_explained();
    reached(&member).await;
    let (alice, key) = (|path| member.as_alice(path), format!("Bearer {KEY}"));
    let server = || {
        let body = "account=40&domain=acme.test".to_owned();
        member.gate.post("/auth/pbx", FORM, body).header("authorization", &key)
    };
    let token = || member.alice_posts("/auth/ott", FORM, "key=k1");
    let mut monitor = Monitor::start(&engine);
    let session = "limit limit limit breaker session";
    assert_eq!(monitor.asked(|| alice("/auth/pbx"), 303).await, session);
    assert_eq!(monitor.asked(|| alice("/auth/pbx?account=40"), 303).await, session);
    assert_eq!(monitor.asked(server, 200).await, session);
    assert_eq!(monitor.asked(|| alice("/auth/pbx?account=41"), 403).await, "limit limit limit");
    assert_eq!(monitor.asked(token, 200).await, "limit limit limit distinct_keys");
    assert_eq!(monitor.asked(|| alice("/"), 200).await, "");
}
