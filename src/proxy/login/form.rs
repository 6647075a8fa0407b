//! The parameters of a login request: in the query, or in a small body as a form or as JSON.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use tokio::time::timeout;

use crate::model::json::Json;
use crate::proxy::error::Error;
use crate::upstream::RequestBody;

/// The longest body, in bytes.
const MAX: usize = 4096;

/// Named values. Each name stands once.
#[derive(Debug)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads a query or a form.
    ///
    /// # Errors
    /// When a name stands twice.
    pub(super) fn of_form(text: &[u8]) -> Result<Self, Error> {
        let pairs = form_urlencoded::parse(text).map(|(name, value)| (name.into_owned(), value.into_owned()));
        Self::unique(pairs.collect())
    }

    fn of_json(text: &[u8]) -> Result<Self, Error> {
        let Ok(Json::Object(members)) = Json::read(text) else {
            return Err(Error::Malformed("the body is not a JSON object"));
        };
        let mut pairs = Vec::new();
        for (name, value) in members {
            match value {
                Json::Text(text) => pairs.push((name, text)),
                Json::Null => {}
                _ => return Err(Error::Malformed("a member of the JSON object is not a string")),
            }
        }
        Self::unique(pairs)
    }

    fn unique(mut pairs: Vec<(String, String)>) -> Result<Self, Error> {
        pairs.sort();
        let doubled = pairs.windows(2).any(|pair| pair[0].0 == pair[1].0);
        if doubled { Err(Error::Malformed("a parameter is given twice")) } else { Ok(Self(pairs)) }
    }

    /// Removes and returns the value of a name.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }
}

/// The format of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFormat {
    /// `application/x-www-form-urlencoded`
    Urlencoded,
    /// `application/json`
    Json,
    /// Without `Content-Type`: JSON, or an empty body, which names no parameters.
    Untyped,
}

/// Finds the format of a body by its `Content-Type`. Without one, or as `text/plain`, it is `fallback`.
///
/// # Errors
/// When it is another media type, or there are two.
pub(super) fn format(headers: &HeaderMap, fallback: Option<BodyFormat>) -> Result<BodyFormat, Error> {
    let mut lines = headers.get_all(header::CONTENT_TYPE).into_iter();
    let named =
        lines.next().map(|line| line.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii());
    match named {
        _ if lines.next().is_some() => Err(Error::UnsupportedMediaType),
        Some(named) if named.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") => Ok(BodyFormat::Urlencoded),
        Some(named) if named.eq_ignore_ascii_case(b"application/json") => Ok(BodyFormat::Json),
        Some(named) if !named.eq_ignore_ascii_case(b"text/plain") => Err(Error::UnsupportedMediaType),
        _ => fallback.ok_or(Error::UnsupportedMediaType),
    }
}

/// Reads the parameters of a body before the deadline.
///
/// # Errors
/// When the body is longer than [`MAX`], late, incomplete, or not in its format.
pub(super) async fn read(body: RequestBody, format: BodyFormat, deadline: Duration) -> Result<Fields, Error> {
    read_within(body, MAX, format, deadline).await
}

/// Reads the parameters of a body of up to `max` bytes before the deadline.
///
/// # Errors
/// As [`read`].
pub(super) async fn read_within(
    body: RequestBody,
    max: usize,
    format: BodyFormat,
    deadline: Duration,
) -> Result<Fields, Error> {
    if body.size_hint().lower() > max as u64 {
        return Err(Error::ContentTooLarge);
    }
    let collected = timeout(deadline, Limited::new(body, max).collect()).await.map_err(|_| Error::RequestTimeout)?;
    let bytes = collected.map_err(|error| match error.is::<LengthLimitError>() {
        true => Error::ContentTooLarge,
        false => Error::Malformed("the body broke off"),
    })?;
    parse(&bytes.to_bytes(), format)
}

fn parse(bytes: &Bytes, format: BodyFormat) -> Result<Fields, Error> {
    match format {
        // Some programs send a `Content-Type` without a body.
        _ if bytes.is_empty() => Ok(Fields(Vec::new())),
        // `curl -d` sends JSON so. Read as a form, it would name no parameters.
        BodyFormat::Urlencoded if bytes.trim_ascii_start().starts_with(b"{") => {
            Err(Error::Malformed("the body looks like JSON: send it with Content-Type: application/json"))
        }
        BodyFormat::Urlencoded => Fields::of_form(bytes),
        BodyFormat::Json | BodyFormat::Untyped => Fields::of_json(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_forms_as_browsers_write_them() {
        let mut fields = Fields::of_form(b"key=a+b%2Bc%252Fd&appUser=ann").unwrap();
        assert_eq!(fields.take("key").as_deref(), Some("a b+c%2Fd"));
        assert_eq!(fields.take("appUser").as_deref(), Some("ann"));
        assert_eq!(fields.take("key"), None);
    }

    #[test]
    fn refuses_two_values_of_one_name() {
        assert!(Fields::of_form(b"key=a&key=b").is_err());
    }

    #[test]
    fn an_empty_body_names_nothing() {
        for format in [BodyFormat::Untyped, BodyFormat::Urlencoded, BodyFormat::Json] {
            assert_eq!(parse(&Bytes::new(), format).unwrap().take("account"), None);
        }
        assert!(parse(&Bytes::from_static(b" "), BodyFormat::Untyped).is_err());
    }

    #[test]
    fn json_is_not_read_as_a_form() {
        for text in ["{\"account\":\"40\"}", "\n {}"] {
            assert!(parse(&Bytes::from_static(text.as_bytes()), BodyFormat::Urlencoded).is_err(), "{text}");
        }
        assert!(parse(&Bytes::from_static(b"account=%7B40"), BodyFormat::Urlencoded).is_ok());
    }

    #[test]
    fn reads_json_objects_of_strings() {
        let mut fields = Fields::of_json(br#"{"key":"a+b","appUser":null}"#).unwrap();
        assert_eq!(fields.take("key").as_deref(), Some("a+b"));
        assert_eq!(fields.take("appUser"), None);
        for text in
            ["", "[]", "\"key\"", "{\"key\":1}", "{\"key\":[\"a\"]}", "{\"key\":\"a\"", "{\"key\":\"a\",\"key\":\"b\"}"]
        {
            assert!(Fields::of_json(text.as_bytes()).is_err(), "{text}");
        }
    }
}
