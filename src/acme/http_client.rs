//! The requests to an ACME server, over the same TLS and the same proxy as all others.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use crate::config::{AcmeConfig, Trust};
use crate::upstream::Fetcher;

/// How long a request may take, with the opening of the connection.
const DEADLINE: Duration = Duration::from_secs(30);

/// The connection to an ACME server. Cheap to clone.
#[derive(Clone)]
pub(super) struct AcmeHttp {
    fetcher: Fetcher,
    /// The pause that the last answer asked for.
    retry_after: Arc<Mutex<Option<Duration>>>,
}

impl AcmeHttp {
    pub(super) fn new(config: &AcmeConfig) -> Result<Self, rustls::Error> {
        let fetcher = Fetcher::new(&Trust::roots(config.ca.clone()), DEADLINE, config.outbound_proxy.clone())?;
        Ok(Self { fetcher, retry_after: Arc::default() })
    }

    /// Returns the pause that a refusal asked for (RFC 8555 §6.6), once.
    pub(super) fn take_retry_after(&self) -> Option<Duration> {
        self.retry_after.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, fields: &HeaderMap) {
        let seconds = fields.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = seconds.map(Duration::from_secs);
    }
}

impl HttpClient for AcmeHttp {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let request = Request::from_parts(head, body.to_bytes());
            let answer = this.fetcher.fetch(request).await.map_err(|error| Error::Other(Box::new(error)))?;
            let (parts, body) = answer.into_parts();
            if parts.status.is_client_error() || parts.status.is_server_error() {
                this.note(&parts.headers);
            }
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}
