//! `/auth/callgate/client.js`: a module for web pages that makes each login one line, and its types.

use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};

use super::response;
use crate::exchange::Body;
use crate::proxy::error::Error;

const MODULE: &str = include_str!("client.js");
const TYPES: &str = include_str!("client.d.ts");

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
            Self::Module => ("text/javascript; charset=utf-8", MODULE),
            Self::Types => ("application/typescript; charset=utf-8", TYPES),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Returns the names of the functions and classes that a file exports.
    fn exports(file: &str) -> BTreeSet<&str> {
        let exported = file.lines().filter_map(|line| line.strip_prefix("export "));
        let declared = exported.map(|line| line.strip_prefix("async ").unwrap_or(line));
        let named = declared.filter_map(|line| ["class ", "function "].iter().find_map(|kind| line.strip_prefix(kind)));
        named.filter_map(|name| name.split(|letter: char| !letter.is_alphanumeric()).next()).collect()
    }

    #[test]
    fn the_types_name_what_the_module_exports() {
        assert_eq!(exports(MODULE), exports(TYPES));
        assert_eq!(exports(MODULE).len(), MODULE.matches("\nexport ").count(), "all exports are read");
    }
}
