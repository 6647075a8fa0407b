//! Sends orders to the gate that runs on this machine, at its admin listener.

use std::error::Error;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{EX_CONFIG, EX_UNAVAILABLE, print_remark, report_problems, run};
use crate::config::{self, Listen};
use crate::observe::causes;
use crate::upstream::send_once;

/// How long an answer may take: a little longer than the gate's own deadline.
const PATIENCE: Duration = Duration::from_secs(12);
/// The longest answer, in bytes.
const MAX_ANSWER: usize = 4 << 20;

/// The reply of a running gate, or the fact that none runs.
pub(super) enum GateReply {
    /// The gate carried out the order and answered this.
    Answer(Value),
    /// The configuration names no admin listener, or no process listens there.
    NotRunning,
}

/// Sends an order to the gate that runs with a configuration, and returns its answer.
///
/// # Errors
/// The exit code, after a report, when no gate runs or the gate refuses.
pub(super) fn ask_running(config: &Path, path: &str, order: &Value) -> Result<Value, ExitCode> {
    let listen = named_listener(config)?;
    send_order(&listen, path, order)?.map_err(|gone| report_gone(&listen, &gone))
}

/// Fetches a page of the gate that runs with a configuration: its status, and its text.
///
/// # Errors
/// The exit code, after a report, when no gate runs.
pub(super) fn fetch(config: &Path, path: &str) -> Result<(StatusCode, String), ExitCode> {
    let listen = named_listener(config)?;
    let request = Request::get(path).header(header::HOST, "localhost").body(Bytes::new());
    let answer = exchange(&listen, request.expect("the path is one of ours"))?;
    let answer = answer.map_err(|gone| report_gone(&listen, &gone))?;
    Ok((answer.status(), String::from_utf8_lossy(answer.body()).into_owned()))
}

/// Returns the admin listener that a configuration names.
fn named_listener(config: &Path) -> Result<Listen, ExitCode> {
    admin_listener(config)?.ok_or_else(|| {
        let name = config.display();
        print_remark(&format_args!(
            "{name}: `admin.listen` is missing: a running gate cannot be asked\n    add [admin] with `listen = \"unix:/run/callgate/admin.sock\"`, and start the gate again"
        ));
        ExitCode::from(EX_CONFIG)
    })
}

fn report_gone(listen: &Listen, gone: &io::Error) -> ExitCode {
    report(
        listen,
        &format_args!("no process listens there: does the gate run, with this configuration? ({})", causes(gone)),
    )
}

/// Does the same as [`ask_running`], but a gate that does not run is a reply, not an error.
pub(super) fn ask_if_running(config: &Path, path: &str, order: &Value) -> Result<GateReply, ExitCode> {
    let Some(listen) = admin_listener(config)? else { return Ok(GateReply::NotRunning) };
    Ok(send_order(&listen, path, order)?.map_or(GateReply::NotRunning, GateReply::Answer))
}

fn admin_listener(config: &Path) -> Result<Option<Listen>, ExitCode> {
    config::admin(config).map_err(|problems| report_problems(&problems))
}

/// Sends an order and returns the answer. The inner error means that no process listens there.
fn send_order(listen: &Listen, path: &str, order: &Value) -> Result<Result<Value, io::Error>, ExitCode> {
    let (status, answer) = match send_json(listen, path, order)? {
        Ok(answer) => answer,
        Err(gone) => return Ok(Err(gone)),
    };
    if status.is_success() {
        return Ok(Ok(answer));
    }
    Err(report_refusal(listen, status, &answer))
}

/// Sends an order to the gate that runs with a configuration, and returns its answer, also that of a refusal with this
/// status.
///
/// # Errors
/// As [`ask_running`], but not for this status.
pub(super) fn ask_or(
    config: &Path,
    path: &str,
    order: &Value,
    status: StatusCode,
) -> Result<Result<Value, Value>, ExitCode> {
    let listen = named_listener(config)?;
    let (answered, answer) = send_json(&listen, path, order)?.map_err(|gone| report_gone(&listen, &gone))?;
    match answered {
        answered if answered.is_success() => Ok(Ok(answer)),
        answered if answered == status => Ok(Err(answer)),
        answered => Err(report_refusal(&listen, answered, &answer)),
    }
}

fn report_refusal(listen: &Listen, status: StatusCode, answer: &Value) -> ExitCode {
    let message = answer["message"].as_str().unwrap_or("the gate does not know this order: is it another version?");
    report(listen, &format_args!("{status}: {message}"))
}

/// Sends JSON and returns the status and the JSON of the answer. The inner error means that no process listens there.
fn send_json(listen: &Listen, path: &str, order: &Value) -> Result<Result<(StatusCode, Value), io::Error>, ExitCode> {
    let body = Bytes::from(order.to_string());
    let request = Request::builder().method(Method::POST).header(header::CONTENT_TYPE, "application/json");
    let request = request.header(header::HOST, "localhost").uri(path);
    let request = request.body(body).expect("the path is one of ours");
    let answer = exchange(listen, request)?;
    Ok(answer.map(|answer| (answer.status(), serde_json::from_slice(answer.body()).unwrap_or_default())))
}

/// Sends a request and returns the answer. The inner error means that no process listens there.
fn exchange(listen: &Listen, request: Request<Bytes>) -> Result<Result<Response<Bytes>, io::Error>, ExitCode> {
    match run::runtime()?.block_on(async { timeout(PATIENCE, send(listen, request)).await }) {
        Err(_) => Err(report(listen, &"no answer in time")),
        Ok(Err(SendError::Unreachable(error))) => Ok(Err(error)),
        Ok(Err(SendError::Broken(error))) => Err(report(listen, &causes(&*error))),
        Ok(Ok(answer)) => Ok(Ok(answer)),
    }
}

fn report(listen: &Listen, what: &dyn std::fmt::Display) -> ExitCode {
    print_remark(&format_args!("callgate: the gate at {listen}: {what}"));
    ExitCode::from(EX_UNAVAILABLE)
}

/// Why an order has no answer.
enum SendError {
    /// No process listens there.
    Unreachable(io::Error),
    /// The connection or the answer broke.
    Broken(Box<dyn Error + Send + Sync>),
}

fn connect_error(error: io::Error) -> SendError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => SendError::Unreachable(error),
        _ => SendError::Broken(error.into()),
    }
}

async fn send(listen: &Listen, request: Request<Bytes>) -> Result<Response<Bytes>, SendError> {
    let answer = match listen {
        Listen::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(connect_error)?;
            send_once(stream, request, MAX_ANSWER).await
        }
        Listen::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(connect_error)?;
            send_once(stream, request, MAX_ANSWER).await
        }
    };
    answer.map_err(|error| SendError::Broken(error.into()))
}
