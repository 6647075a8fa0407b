//! `redirect_http`: every request over plain HTTP is redirected to HTTPS, but for the challenges of ACME servers.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;

use super::admission::{self, AdmissionPermit};
use super::client_io::ClientStream;
use super::foreign_challenges;
use super::snapshot::Snapshot;
use super::worker::{HttpsPort, Worker};
use crate::message::framing;
use crate::message::target;

/// How long a whole connection may take: one request, one answer.
const LIFE: Duration = Duration::from_secs(10);

impl HttpsPort {
    /// Finds the port for a request that named a port, or none, which means 80. A request to 80 where `redirect_http` listens
    /// on another port shows that ports are mapped on the way; then HTTPS is expected at 443.
    fn behind(self, named: Option<u16>) -> u16 {
        let came_to = named.unwrap_or(HTTP);
        let is_mapped = came_to == HTTP && self.plain != HTTP;
        self.configured.unwrap_or(if is_mapped { HTTPS } else { self.tls })
    }
}

const HTTP: u16 = 80;
const HTTPS: u16 = 443;

/// Answers one request of a plain connection.
pub(super) async fn serve(mut stream: ClientStream, address: SocketAddr, _permit: AdmissionPermit, worker: Rc<Worker>) {
    let handle = worker.redirects.add();
    // A connection without an answer in time is closed, and that is no error of callgate's.
    handle.until_evicted(answer_one(&mut stream, address, &worker)).await;
}

async fn answer_one(stream: &mut ClientStream, address: SocketAddr, worker: &Worker) {
    let snapshot = worker.snapshot();
    let admitted = admission::admit(stream, address, &snapshot.config.server, &worker.limits).await;
    let Some(client) = admitted else { return };
    let (snapshot, from) = (&snapshot, client.address);
    let service =
        service_fn(move |request| async move { Ok::<_, Infallible>(answer(&request, from, worker, snapshot).await) });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .half_close(true)
        .max_buf_size(framing::MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    drop(timeout(LIFE, connection).await);
}

async fn answer(
    request: &Request<Incoming>,
    client: IpAddr,
    worker: &Worker,
    snapshot: &Snapshot,
) -> Response<Full<Bytes>> {
    if let Some(answer) = challenge_answer(request, client, worker, snapshot).await {
        return answer;
    }
    let mut response = Response::new(Full::default());
    match location(request, worker.https_port).map(HeaderValue::try_from) {
        Some(Ok(location)) => {
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            response.headers_mut().insert(header::LOCATION, location);
        }
        Some(Err(_)) | None => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}

/// Answers a challenge: one of this member or another, or one of another client. A challenge of an unknown client is redirected like
/// everything else, because ACME servers follow (RFC 8555 §8.3).
async fn challenge_answer(
    request: &Request<Incoming>,
    client: IpAddr,
    worker: &Worker,
    snapshot: &Snapshot,
) -> Option<Response<Full<Bytes>>> {
    let token = foreign_challenges::token(request)?;
    let mut response = if let Some(answer) = snapshot.acme().issued().http_answer(token) {
        Response::new(Full::from(answer))
    } else {
        let authority = target::authority(request.version(), request.uri(), request.headers()).ok()?;
        match snapshot.member_answer(client, &authority.host, token).await {
            Some(answer) => Response::new(Full::from(answer)),
            None => worker.foreign_challenges.answer(&snapshot.config, &authority.host, token).await?,
        }
    };
    if response.status() == StatusCode::OK {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    }
    Some(response)
}

fn location(request: &Request<Incoming>, https: HttpsPort) -> Option<String> {
    let authority = target::authority(request.version(), request.uri(), request.headers()).ok()?;
    let path = request.uri().path_and_query().filter(|path| path.as_str().starts_with('/'))?;
    let (host, port) = (authority.host, https.behind(authority.port));
    Some(if port == HTTPS { format!("https://{host}{path}") } else { format!("https://{host}:{port}{path}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(configured: Option<u16>, tls: u16, plain: u16, named: Option<u16>, expected: u16) {
        assert_eq!(HttpsPort { configured, tls, plain }.behind(named), expected);
    }

    #[test]
    fn unmapped_ports_are_those_listened_on() {
        check(None, 443, 80, None, 443);
        check(None, 8443, 80, None, 8443);
        check(None, 8443, 8080, Some(8080), 8443);
    }

    #[test]
    fn a_mapped_port_80_stands_beside_443() {
        check(None, 8443, 8080, None, 443);
        check(None, 8443, 8080, Some(80), 443);
    }

    #[test]
    fn the_configured_port_wins() {
        for named in [None, Some(80), Some(8080), Some(9000)] {
            check(Some(443), 8443, 80, named, 443);
            check(Some(9443), 443, 8080, named, 9443);
        }
    }
}
