//! `callgate run` as a process before the stand-ins for app and PBX, for what a process does and a gate within a test cannot.

use std::fs;
use std::process::Output;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::kit::app::{App, AppOptions, SameSite};
use crate::kit::client::read_head;
use crate::kit::commands::{Running, callgate, run};
use crate::kit::gate::secret;
use crate::kit::program::{Program, written};
use crate::kit::stage::until;
use crate::kit::vodia::{Options, Tenant, Vodia};

pub type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// A program before an app and a PBX. Its admin listener is `admin.sock`, its access log `access.log`.
pub struct Office {
    pub app: App,
    pub pbx: Vodia,
    pub program: Program,
}

impl Office {
    /// Starts all three. `pbx`: lines for `[pbx]`; `more`: tables.
    pub async fn open(pbx_keys: &str, more: &str) -> Self {
        let tenants = vec![Tenant::with_alice_and_bob("acme.test")];
        let pbx = Vodia::start(Options { tenants, ..Options::default() }).await;
        let app = App::start(AppOptions {
            pbx_origin: "https://pbx.test".into(),
            tenant: "acme.test".into(),
            voximplant: None,
            cookie_same_site: SameSite::Lax,
        })
        .await;
        let at = pbx.addr;
        let more = format!(
            "[pbx]\nurl = \"http://{at}\"\nhosts = [\"pbx.test\"]\n\
             admin = {{ user = \"sso\", password = {{ env = \"PBX_ADMIN\" }} }}\n{pbx_keys}\n\
             [[allow]]\nname = \"staff\"\npbx = {{ domain = \"{{tenant}}\", account = \"{{ext}}\" }}\n\
             [admin]\nlisten = \"unix:admin.sock\"\n{more}"
        );
        let (dir, roots) = written(app.addr, "listen = \"127.0.0.1:0\"\nworkers = 2", &more);
        let text = fs::read_to_string(dir.path().join("proxy.toml")).unwrap();
        let text = text.replace("[log]\naccess = \"off\"", "whoami = \"/api/me\"\n[log]\naccess = \"access.log\"");
        secret(&dir, "proxy.toml", &text);
        let mut command = callgate(&["run", "--config"]);
        command.arg(dir.path().join("proxy.toml")).env("PBX_ADMIN", Options::default().admin_password);
        let mut running = Running::start(command);
        let line = running.listening().await.unwrap();
        let addr = line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        until("the admin listener", || dir.path().join("admin.sock").exists()).await;
        Self { app, pbx, program: Program { dir, running, addr, roots } }
    }

    /// Asks for a path, and returns the head of the answer.
    pub async fn ask(&self, host: &str, path: &str, cookie: &str) -> String {
        self.send("GET", host, path, cookie).await
    }

    /// Sends a request as a page of its host does, and returns the head of the answer.
    pub async fn send(&self, method: &str, host: &str, path: &str, cookie: &str) -> String {
        let mut tls = self.program.connect().await;
        let origin = if method == "GET" { String::new() } else { format!("Origin: https://{host}\r\n") };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n{origin}Connection: close\r\n\r\n"
        );
        tls.write_all(head.as_bytes()).await.unwrap();
        read_head(&mut tls).await
    }

    /// Logs a caller in at the PBX, and returns the session.
    pub async fn log_in(&self, name: &str) -> String {
        self.log_in_with(&self.app.log_in(name)).await
    }

    /// Logs the caller with a cookie of the app in at the PBX, and returns the session.
    pub async fn log_in_with(&self, cookie: &str) -> String {
        let head = self.ask("app.test", "/auth/pbx", cookie).await;
        let after = head.split_once("sessId=").unwrap_or_else(|| panic!("{head}")).1;
        let session = after.split(['&', '\r']).next().unwrap().to_owned();
        assert_eq!(self.pbx.last_minted().as_deref(), Some(session.as_str()));
        session
    }

    /// Opens the PBX's WebSocket with a session.
    pub async fn socket(&self, query: &str, session: &str) -> Option<Socket> {
        let request = format!("wss://pbx.test/websocket?{query}").into_client_request().unwrap();
        self.websocket(request, &format!("session={session}")).await
    }

    /// Opens a WebSocket for a page of the app, of which callgate keeps the session to itself.
    pub async fn phone(&self, cookie: &str) -> Option<Socket> {
        let mut request = "wss://app.test/auth/pbx/socket".into_client_request().unwrap();
        request.headers_mut().insert("origin", "https://app.test".parse().unwrap());
        self.websocket(request, cookie).await
    }

    async fn websocket(&self, mut request: http::Request<()>, cookie: &str) -> Option<Socket> {
        request.headers_mut().insert("cookie", cookie.parse().unwrap());
        let tls = self.program.connect().await;
        tokio_tungstenite::client_async(request, tls).await.ok().map(|(socket, _)| socket)
    }

    /// Runs a command of callgate in the folder of the program.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        let mut command = callgate(arguments);
        command.env("PBX_ADMIN", "x").current_dir(self.program.dir.path());
        run(command).await
    }
}
