//! Asks a gate that runs on this machine, at its admin listener.

use std::error::Error;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{EX_CONFIG, EX_UNAVAILABLE, refuse, remark, run};
use crate::config::{self, Listen};
use crate::observe::causes;
use crate::upstream::send_once;

/// How long an answer may take: a little longer than the gate gives itself.
const PATIENCE: Duration = Duration::from_secs(12);
/// The longest answer, in bytes.
const MAX_ANSWER: usize = 4 << 20;

/// What came of telling a gate something.
pub(super) enum Told {
    /// It did it, and says so.
    Answer(Value),
    /// None runs that could be told.
    Nobody,
}

/// Gives an order to the gate that runs with a configuration, and returns what it says; complains when it does not do it.
pub(super) fn order(config: &Path, path: &str, order: &Value) -> Result<Value, ExitCode> {
    let Some(listen) = listen(config)? else {
        let name = config.display();
        remark(&format_args!(
            "{name}: `admin.listen` is missing: no running gate can be asked\n    add [admin] with `listen`, and start the gate again"
        ));
        return Err(ExitCode::from(EX_CONFIG));
    };
    ask(&listen, path, order)?.map_err(|gone| {
        let what = format_args!("nobody listens there: does it run, with this configuration? ({})", causes(&gone));
        complain(&listen, &what)
    })
}

/// As [`order`], where it is no mistake that no gate runs.
pub(super) fn tell(config: &Path, path: &str, order: &Value) -> Result<Told, ExitCode> {
    let Some(listen) = listen(config)? else { return Ok(Told::Nobody) };
    Ok(ask(&listen, path, order)?.map_or(Told::Nobody, Told::Answer))
}

fn listen(config: &Path) -> Result<Option<Listen>, ExitCode> {
    config::admin(config).map_err(|problems| refuse(&problems))
}

/// Asks a gate. The inner error is that nobody listens there.
fn ask(listen: &Listen, path: &str, order: &Value) -> Result<Result<Value, io::Error>, ExitCode> {
    let body = Bytes::from(order.to_string());
    let request = Request::builder().method(Method::POST).header(header::CONTENT_TYPE, "application/json");
    let request = request.header(header::HOST, "localhost").uri(path);
    let request = request.body(body).expect("the path is one of ours");
    match run::runtime()?.block_on(async { timeout(PATIENCE, send(listen, request)).await }) {
        Err(_) => Err(complain(listen, &"no answer in time")),
        Ok(Err(Failed::Gone(error))) => Ok(Err(error)),
        Ok(Err(Failed::Broken(error))) => Err(complain(listen, &causes(&*error))),
        Ok(Ok(answer)) => {
            let (status, answer) =
                (answer.status(), serde_json::from_slice::<Value>(answer.body()).unwrap_or_default());
            if status.is_success() {
                return Ok(Ok(answer));
            }
            let message = answer["message"].as_str().unwrap_or("no order that it knows: is it another version?");
            Err(complain(listen, &format_args!("{status}: {message}")))
        }
    }
}

fn complain(listen: &Listen, what: &dyn std::fmt::Display) -> ExitCode {
    remark(&format_args!("callgate: the gate at {listen}: {what}"));
    ExitCode::from(EX_UNAVAILABLE)
}

/// Why there is no answer.
enum Failed {
    /// Nobody listens there.
    Gone(io::Error),
    Broken(Box<dyn Error + Send + Sync>),
}

fn connecting(error: io::Error) -> Failed {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Failed::Gone(error),
        _ => Failed::Broken(error.into()),
    }
}

async fn send(listen: &Listen, request: Request<Bytes>) -> Result<Response<Bytes>, Failed> {
    let answer = match listen {
        Listen::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(connecting)?;
            send_once(stream, request, MAX_ANSWER).await
        }
        Listen::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(connecting)?;
            send_once(stream, request, MAX_ANSWER).await
        }
    };
    answer.map_err(|error| Failed::Broken(error.into()))
}
