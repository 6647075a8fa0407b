//! Challenges of other ACME clients at `redirect_http`: those of a client on this machine, and the PBX's own.

use std::fs;
use std::net::SocketAddr;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::client::status;
use crate::kit::gate::Gate;
use crate::kit::pebble::closed_port;
use crate::kit::upstream::RawUpstream;

/// The body of an answer, or its status.
type Told = Result<String, u16>;

async fn ask(at: SocketAddr, method: &str, host: &str, path: &str) -> Told {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    match status(&answer) {
        200 => Ok(answer.split_once("\r\n\r\n").unwrap().1.to_owned()),
        status => Err(status),
    }
}

fn challenge(token: &str) -> String {
    format!("/.well-known/acme-challenge/{token}")
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 Ok\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn configuration(redirect: &str) -> String {
    format!(
        "redirect_http = {{ listen = \"127.0.0.1:0\", {redirect} }}\n[pbx]\nurl = \"http://127.0.0.1:1\"\n\
         hosts = [\"pbx.test\", \"*.pbx.test\"]\n[app]\nurl = \"http://127.0.0.1:1\"\nhosts = [\"app.test\"]\n"
    )
}

#[tokio::test]
async fn answers_of_another_client_are_read_from_its_webroot() {
    let webroot = TempDir::new().unwrap();
    let folder = webroot.path().join(".well-known/acme-challenge");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("token"), "token.thumb").unwrap();
    fs::write(folder.join("not.a-token"), "no").unwrap();
    fs::write(webroot.path().join("outside"), "no").unwrap();
    let mut gate = Gate::start(&configuration("port = 443")).await;
    let at = gate.redirect.unwrap();
    assert_eq!(ask(at, "GET", "app.test", &challenge("token")).await, Err(308));
    // A reload is enough.
    let with = format!("port = 443, acme_webroot = \"{}\"", webroot.path().display());
    gate.reload(&configuration(&with)).await.unwrap();
    for host in ["app.test", "App.Test:80", "unknown.test"] {
        assert_eq!(ask(at, "GET", host, &challenge("token")).await.as_deref(), Ok("token.thumb"), "{host}");
    }
    assert_eq!(ask(at, "HEAD", "app.test", &challenge("token")).await.as_deref(), Ok(""));
    for path in ["other", "not.a-token", "../../outside", "%2e%2e/token", "./token", "token/", ""] {
        assert_eq!(ask(at, "GET", "app.test", &challenge(path)).await, Err(308), "{path}");
    }
    assert_eq!(ask(at, "POST", "app.test", &challenge("token")).await, Err(308));
    assert_eq!(ask(at, "GET", "evil@app.test", &challenge("other")).await, Err(400));
}

#[tokio::test]
async fn challenges_for_hosts_of_the_pbx_are_passed_on_to_it() {
    let pbx = RawUpstream::answering(ok("token.pbx")).await;
    let webroot = TempDir::new().unwrap();
    let folder = webroot.path().join(".well-known/acme-challenge");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("own"), "own.thumb").unwrap();
    let with = format!("acme_pbx = \"http://{}\", acme_webroot = \"{}\"", pbx.addr, webroot.path().display());
    let gate = Gate::start(&configuration(&with)).await;
    let at = gate.redirect.unwrap();
    for host in ["pbx.test", "Tenant.PBX.test:80"] {
        assert_eq!(ask(at, "GET", host, &challenge("token")).await.as_deref(), Ok("token.pbx"), "{host}");
    }
    assert_eq!(ask(at, "HEAD", "pbx.test", &challenge("token")).await.as_deref(), Ok(""));
    assert_eq!(ask(at, "GET", "pbx.test", &challenge("own")).await.as_deref(), Ok("own.thumb"), "a file comes first");
    let asked = pbx.seen().concat();
    assert_eq!(asked.matches("GET /.well-known/acme-challenge/token HTTP/1.1").count(), 3, "{asked}");
    assert!(asked.contains("host: tenant.pbx.test\r\n"), "{asked}");
    for (method, host, path) in [
        ("GET", "app.test", challenge("token")),
        ("POST", "pbx.test", challenge("token")),
        ("GET", "pbx.test", challenge("a/b")),
        ("GET", "pbx.test", "/rest/system/session".to_owned()),
    ] {
        assert_eq!(ask(at, method, host, &path).await, Err(308), "{method} {host} {path}");
    }
    assert_eq!(pbx.seen().concat(), asked, "nothing else reaches the PBX");
}

#[tokio::test]
async fn a_pbx_without_an_answer_is_an_error_of_that_challenge() {
    let long = "x".repeat(4097);
    let answers = ["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(), ok(&long), "nonsense".to_owned()];
    for (answer, expected) in answers.into_iter().zip([404, 502, 502]) {
        let pbx = RawUpstream::closing(answer).await;
        let gate = Gate::start(&configuration(&format!("acme_pbx = \"http://{}\"", pbx.addr))).await;
        assert_eq!(ask(gate.redirect.unwrap(), "GET", "pbx.test", &challenge("token")).await, Err(expected));
    }
    let (_taken, port) = closed_port();
    let gate = Gate::start(&configuration(&format!("acme_pbx = \"http://127.0.0.1:{port}\""))).await;
    assert_eq!(ask(gate.redirect.unwrap(), "GET", "pbx.test", &challenge("token")).await, Err(502));
    assert!(gate.events().contains("gives no answer to a challenge"), "{}", gate.events());
}

#[tokio::test]
async fn each_node_answers_challenges_of_its_own_hosts() {
    let [north, south] = [RawUpstream::answering(ok("north")).await, RawUpstream::answering(ok("south")).await];
    let node = |name: &str, port: u16| {
        format!("[[pbx]]\nname = \"{name}\"\nurl = \"http://127.0.0.1:{port}\"\nhosts = [\"*.{name}.test\"]\n")
    };
    let gate = Gate::start(&format!(
        "redirect_http = {{ listen = \"127.0.0.1:0\", acme_pbx = {{ north = \"http://{}\", south = \"http://{}\" }} }}\n\
         {}{}{}",
        north.addr,
        south.addr,
        node("north", 1),
        node("south", 2),
        node("west", 3)
    ))
    .await;
    let at = gate.redirect.unwrap();
    for name in ["north", "south"] {
        let told = ask(at, "GET", &format!("a.{name}.test"), &challenge("token")).await;
        assert_eq!(told.as_deref(), Ok(name));
    }
    assert_eq!(ask(at, "GET", "a.west.test", &challenge("token")).await, Err(308));
}
