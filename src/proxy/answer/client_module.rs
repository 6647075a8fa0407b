//! `/auth/callgate/client.js`: a module for web pages that makes each login one line, and its types.

use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};

use super::response;
use crate::exchange::Body;
use crate::proxy::error::Error;

/// A file of the module.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) enum ClientFile {
    /// The module itself.
    Module,
    /// Its types, for TypeScript.
    Types,
}

impl ClientFile {
    /// Answers with the file. A page of any origin may load it: it has no secret.
    ///
    /// # Errors
    /// For any other method than `GET` and `HEAD`.
    pub(in crate::proxy) fn answer(self, method: &Method) -> Result<Response<Body>, Error> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Error::MethodNotAllowed("GET, HEAD"));
        }
        let (media_type, text) = match self {
            Self::Module => ("text/javascript; charset=utf-8", include_str!("client.js")),
            Self::Types => ("application/typescript; charset=utf-8", include_str!("client.d.ts")),
        };
        let mut response = response::empty(StatusCode::OK);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
        *response.body_mut() = Body::own(text);
        Ok(response)
    }
}
