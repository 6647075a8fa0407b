//! The recipe of docs/trusted-header.md: nginx before callgate asks a login service about every request.

use std::path::Path;
use std::process::{Child, Command};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::kit::client::status;
use crate::kit::gate::secret;
use crate::kit::programs::are_here;
use crate::kit::stage::{Plan, Stage, until};
use crate::kit::upstream::RawUpstream;

const SECRET: &str = "a-secret-of-the-proxy-0123456789";

/// Returns a block of the recipe.
fn block(kind: &str) -> String {
    let text = std::fs::read_to_string("docs/trusted-header.md").unwrap();
    let (_, block) = text.split_once(&format!("```{kind}\n")).unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// A login service that knows one person, by a cookie of its own.
async fn login_service() -> RawUpstream {
    RawUpstream::serving(|mut line| async move {
        while let Some(request) = line.request().await {
            let fields = "X-Auth-Request-User: alice\r\nX-Auth-Request-Email: 40@acme.test\r\nX-Auth-Request-Groups: staff,phone\r\n";
            let (status, fields) = if request.contains("sso=alice") { ("202 Accepted", fields) } else { ("401 No", "") };
            line.say(format!("HTTP/1.1 {status}\r\n{fields}Content-Length: 0\r\n\r\n")).await;
        }
    })
    .await
}

struct Nginx {
    dir: TempDir,
    child: Child,
}

impl Nginx {
    /// Starts it as the recipe says, but for where things are.
    async fn start(stage: &Stage, login: &RawUpstream) -> Self {
        let dir = TempDir::new().unwrap();
        secret(&dir, "callgate-secret", &format!("proxy_set_header X-SSO-Secret \"{SECRET}\";"));
        std::fs::copy(stage.gate.dir.path().join("ca.pem"), dir.path().join("callgate-ca.pem")).unwrap();
        let mut server = block("nginx");
        for (shown, real) in [
            ("listen 443 ssl;", "listen unix:nginx.sock;"),
            ("ssl_certificate /etc/nginx/fullchain.pem;", ""),
            ("ssl_certificate_key /etc/nginx/privkey.pem;", ""),
            ("portal.example.com", "app.test"),
            ("127.0.0.1:4180", &login.addr.to_string()),
            ("192.0.2.20", &stage.gate.addr.to_string()),
            ("/etc/nginx/", &format!("{}/", dir.path().display())),
        ] {
            assert!(server.contains(shown), "the recipe no longer says {shown}");
            server = server.replace(shown, real);
        }
        let configuration = format!(
            "daemon off; master_process off; pid nginx.pid; error_log error.log; events {{}}
            http {{ access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u;
            scgi_temp_path s; {server} }}"
        );
        std::fs::write(dir.path().join("nginx.conf"), configuration).unwrap();
        let path = dir.path().display().to_string();
        let mut command = Command::new("nginx");
        command.current_dir(&dir).args(["-e", "error.log", "-p", &path, "-c", "nginx.conf"]);
        let child = command.spawn().unwrap();
        let nginx = Self { dir, child };
        let socket = nginx.socket();
        until("nginx listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
        nginx
    }

    fn socket(&self) -> std::path::PathBuf {
        Path::new(self.dir.path()).join("nginx.sock")
    }

    /// Asks as a browser would.
    async fn get(&self, path: &str, fields: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A gate that is configured as the recipe says, for an nginx at 127.0.0.1.
async fn stage(keys: &TempDir) -> Stage {
    secret(keys, "sso-secret", SECRET);
    let recipe = block("toml").replace("192.0.2.10", "127.0.0.1");
    let recipe = recipe.replace("/etc/callgate", &keys.path().display().to_string());
    let stage = Plan { rules: &recipe, ..Plan::default() }.start().await;
    stage.gate.canary(SECRET);
    stage
}

#[tokio::test]
async fn the_recipe_for_nginx_logs_in_only_callers_that_are_logged_in_there() {
    if !are_here(&["nginx"]) {
        return;
    }
    let keys = TempDir::new().unwrap();
    let (stage, login) = (stage(&keys).await, login_service().await);
    let nginx = Nginx::start(&stage, &login).await;
    let cookies = format!("Cookie: sso=alice; {}\r\n", stage.app.log_in("bob"));
    let answer = nginx.get("/auth/pbx", &cookies).await;
    assert_eq!(status(&answer), 303, "{answer}");
    // Identity fields of a browser are replaced, in every spelling.
    let forged = "Remote-User: bob\r\nRemote-Email: 41@acme.test\r\nremote_email: 41@acme.test\r\nX-SSO-Secret: x\r\n";
    let answer = nginx.get("/auth/pbx", &format!("{cookies}{forged}")).await;
    assert_eq!(status(&answer), 303, "{answer}");
    // A caller without a login is sent to the login page, and does not reach callgate.
    let answer = nginx.get("/auth/pbx", forged).await;
    assert!(status(&answer) == 302 && answer.contains("/oauth2/sign_in?rd="), "{answer}");
    assert_eq!(stage.minted(), ["40@acme.test", "40@acme.test"]);
    // The app hears the same, once, and not the secret.
    let heard = nginx.get("/echo", &format!("{cookies}{forged}")).await;
    assert!(
        heard.contains(r#"["remote-user","alice"]"#) && heard.contains(r#"["remote-groups","staff,phone"]"#),
        "{heard}"
    );
    assert!(
        !heard.contains(r#"["remote-user","bob"]"#) && !heard.contains("41@") && !heard.contains("sso-secret"),
        "{heard}"
    );
    stage.gate.line(&["audit grant", "method=sso", "subject=alice"]).await;
}

#[tokio::test]
async fn no_request_gets_past_the_nginx_of_the_recipe() {
    let keys = TempDir::new().unwrap();
    let stage = stage(&keys).await;
    // From nginx's own address, but without its secret.
    let asking = stage.gate.get("/auth/pbx").header("remote-user", "alice").header("remote-email", "40@acme.test");
    asking.send().await.expect(401);
    let asking = stage.gate.get("/auth/pbx").from("127.0.0.8").header("remote-user", "alice");
    asking.header("remote-email", "40@acme.test").header("x-sso-secret", SECRET).send().await.expect(401);
    assert!(stage.minted().is_empty());
}
