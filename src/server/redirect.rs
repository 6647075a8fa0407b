//! `redirect_http`: plain HTTP is answered with the way to HTTPS, and nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;

use super::connection;
use super::crowd::Place;
use super::io::Stream;
use super::worker::Worker;
use crate::message::framing;
use crate::message::target;

/// How long a whole connection may take: one question, one answer.
const LIFE: Duration = Duration::from_secs(10);

/// Answers one request of a plain connection.
pub(super) async fn serve(mut stream: Stream, address: SocketAddr, _place: Place, worker: Rc<Worker>) {
    let Some(_client) = connection::admit(&mut stream, address, &worker).await else { return };
    let port = worker.port;
    let service = service_fn(move |request| async move { Ok::<_, Infallible>(answer(&request, port)) });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(framing::MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // Whether it came to an answer in time is the client's concern.
    drop(timeout(LIFE, connection).await);
}

fn answer(request: &Request<Incoming>, port: u16) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    match location(request, port).map(HeaderValue::try_from) {
        Some(Ok(location)) => {
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            response.headers_mut().insert(header::LOCATION, location);
        }
        Some(Err(_)) | None => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}

fn location(request: &Request<Incoming>, port: u16) -> Option<String> {
    let authority = target::authority(request.version(), request.uri(), request.headers()).ok()?;
    let path = request.uri().path_and_query().filter(|path| path.as_str().starts_with('/'))?;
    let host = authority.host;
    Some(if port == 443 { format!("https://{host}{path}") } else { format!("https://{host}:{port}{path}") })
}
