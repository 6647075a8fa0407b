//! Answers that several paths of the PBX share.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::VodiaDialect;
use crate::demo::server::{self, DemoBody};

/// Makes a JSON error of the REST interface.
pub(super) fn error(status: StatusCode, message: &str) -> Response<DemoBody> {
    server::json(status, &json!({ "error": message, "code": status.as_u16() }))
}

/// Makes the answer to a failed login: 200 with `false`.
pub(super) fn refusal() -> Response<DemoBody> {
    truth(false)
}

/// Makes an answer of `true` or `false`.
pub(super) fn truth(value: bool) -> Response<DemoBody> {
    server::json(StatusCode::OK, &json!(value))
}

/// Sets the session cookie, with the attributes of the dialect.
pub(super) fn with_cookie(mut response: Response<DemoBody>, id: &str, dialect: VodiaDialect) -> Response<DemoBody> {
    let attributes = match dialect {
        VodiaDialect::A => "Path=/",
        VodiaDialect::B | VodiaDialect::C => "Path=/; SameSite=Strict; Secure; HttpOnly",
    };
    let cookie = HeaderValue::from_str(&format!("session={id}; {attributes}")).expect("an id is letters and digits");
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}
