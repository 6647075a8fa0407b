//! Asks a gate that runs on this machine, at its admin listener.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{EX_CONFIG, EX_UNAVAILABLE, refuse, run};
use crate::config::{self, Listen};

/// How long an answer may take: a little longer than the gate gives itself.
const PATIENCE: Duration = Duration::from_secs(12);
/// The longest answer, in bytes.
const MAX_ANSWER: usize = 4 << 20;

/// Gives an order to the gate that runs with a configuration, and returns what it says; complains when it does not do it.
pub(super) fn order(config: &Path, path: &str, order: &Value) -> Result<Value, ExitCode> {
    let body = Bytes::from(order.to_string());
    let request = Request::builder().method(Method::POST).header(header::CONTENT_TYPE, "application/json");
    let request = request.uri(path).body(Full::new(body)).expect("the path is one of ours");
    ask(config, request)
}

/// Asks the gate that runs with a configuration.
fn ask(config: &Path, mut request: Request<Full<Bytes>>) -> Result<Value, ExitCode> {
    let listen = config::admin(config).map_err(|problems| refuse(&problems))?;
    let Some(listen) = listen else {
        eprintln!("{}: `admin.listen` is missing: no running gate can be asked", config.display());
        return Err(ExitCode::from(EX_CONFIG));
    };
    request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("localhost"));
    let answered = run::runtime()?.block_on(async { timeout(PATIENCE, send(&listen, request)).await });
    let complain = |what: &dyn std::fmt::Display| {
        eprintln!("callgate: the gate at {listen}: {what}");
        ExitCode::from(EX_UNAVAILABLE)
    };
    match answered {
        Err(_) => Err(complain(&"no answer in time")),
        Ok(Err(error)) => Err(complain(&super::causes(&*error))),
        Ok(Ok((status, answer))) if status.is_success() => Ok(answer),
        Ok(Ok((status, answer))) => {
            let message = answer["message"].as_str().unwrap_or("no order that it knows: is it another version?");
            Err(complain(&format_args!("{status}: {message}")))
        }
    }
}

type Reply = Result<(StatusCode, Value), Box<dyn Error + Send + Sync>>;

async fn send(listen: &Listen, request: Request<Full<Bytes>>) -> Reply {
    match listen {
        Listen::Tcp(address) => exchange(TcpStream::connect(address).await?, request).await,
        Listen::Unix(path) => exchange(UnixStream::connect(path).await?, request).await,
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Reply
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
        Ok((head.status, serde_json::from_slice(&body).unwrap_or_default()))
    };
    tokio::select! {
        biased;
        answer = answer => answer,
        // It ends before the answer does only when it fails.
        ended = connection => Err(ended.err().map_or_else(|| "it closed the connection".into(), Into::into)),
    }
}
