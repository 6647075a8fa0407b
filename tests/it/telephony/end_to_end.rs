//! The main purpose, end to end: a proven caller is logged in to the PBX and to Voximplant; others are not.

use serde_json::json;

use crate::kit::gate::VOX_PASSWORD;
use crate::kit::stage::Stage;
use crate::kit::voximplant::Voximplant;

#[tokio::test]
async fn a_link_logs_its_caller_in_to_the_pbx() {
    let stage = Stage::new().await;
    let answer = stage.as_alice("/auth/pbx?lang=fr").send().await.expect(303);
    let session = stage.pbx.last_session().unwrap();
    assert_eq!(answer.header("location"), format!("https://pbx.test/welcome.htm?sessId={session}&lang=fr"));
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(stage.minted(), ["40@acme.test"]);
    let landing = stage.gate.get(&format!("/welcome.htm?sessId={session}&lang=fr")).host("pbx.test").send().await;
    assert!(landing.expect(200).text().contains("Bienvenue"));
}

#[tokio::test]
async fn the_answer_to_a_key_logs_its_caller_in_to_voximplant() {
    let stage = Stage::new().await;
    let cloud = Voximplant::start([("alice", VOX_PASSWORD)]).await;
    cloud.set_tricky_keys(true);
    let key = ask_cloud(&cloud, "/_key", json!({ "user": "alice" })).await["key"].as_str().unwrap().to_owned();
    let form = form_urlencoded::Serializer::new(String::new()).append_pair("key", &key).finish();
    let answer = stage.alice_posts("/auth/ott", "application/x-www-form-urlencoded", form).send().await.expect(200);
    let login = ask_cloud(&cloud, "/_login", json!({ "user": "alice", "token": answer.text() })).await;
    assert_eq!(login["displayName"], "Alice");
}

#[tokio::test]
async fn a_request_without_a_valid_credential_gets_no_session() {
    let stage = Stage::new().await;
    stage.gate.get("/auth/pbx").send().await.expect(401);
    stage.gate.get("/auth/pbx").cookie("demo_app=wrong").send().await.expect(401);
    let form = "application/x-www-form-urlencoded";
    stage.gate.post("/auth/ott", form, "key=k").send().await.expect(401);
    stage.gate.post("/auth/ott", form, "key=k").cookie("demo_app=wrong").send().await.expect(401);
    assert!(stage.minted().is_empty());
}

async fn ask_cloud(cloud: &Voximplant, path: &str, body: serde_json::Value) -> serde_json::Value {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: cloud\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut socket = tokio::net::TcpStream::connect(cloud.addr).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}
