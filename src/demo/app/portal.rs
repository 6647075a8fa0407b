//! The paths of the portal: login, the redirect to the PBX, the web phone, and `/api/me`.

use std::error::Error;
use std::net::SocketAddr;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use super::{COOKIE, PortalApp, PortalUser, SameSite, USERS};
use crate::demo::server::{DemoBody, lock};
use crate::demo::{page, server};

impl PortalApp {
    // === Login ===

    pub(super) fn home(&self, head: &Parts) -> Response<DemoBody> {
        match self.user(head) {
            Some(user) => server::html(StatusCode::OK, self.fill(include_str!("../pages/portal.html"), user)),
            None => login_page(StatusCode::OK, ""),
        }
    }

    pub(super) fn login(&self, body: &[u8]) -> Response<DemoBody> {
        let name = server::field(body, "user").unwrap_or_default();
        let known = USERS.iter().find(|user| user.name == name);
        let password = server::field(body, "password");
        let Some(user) = known.filter(|user| password.as_deref() == Some(user.name)) else {
            return login_page(StatusCode::UNAUTHORIZED, "The name or the password is wrong.");
        };
        let same_site = match self.options.cookie_same_site {
            SameSite::Lax => "Lax",
            SameSite::Strict => "Strict",
        };
        home_with_cookie(&format!("{COOKIE}={}; HttpOnly; SameSite={same_site}; Path=/", self.open_login(user)))
    }

    /// Logs a user out, and tells the proxy, which ends the sessions of the PBX.
    pub(super) fn logout(&self, head: &Parts) -> Response<DemoBody> {
        if let Some(id) = server::cookie(&head.headers, COOKIE) {
            lock(&self.logins).remove(&id);
        }
        let response = home_with_cookie(&format!("{COOKIE}=; HttpOnly; Path=/; Max-Age=0"));
        with_grant(response, [("logout", Some("1"))])
    }

    // === The PBX and the phone ===

    /// Redirects to the PBX and names the account in headers; the proxy adds a session to the redirect.
    pub(super) fn open_pbx(&self, head: &Parts) -> Response<DemoBody> {
        let Some(user) = self.user(head) else { return login_page(StatusCode::UNAUTHORIZED, "") };
        let lang = server::query(head, "lang").unwrap_or_else(|| "en".to_owned());
        let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("lang", &lang).finish();
        let location = format!("{}/welcome.htm?{query}", self.options.pbx_origin);
        let named = [("account", Some(user.ext)), ("domain", Some(&*self.options.tenant)), ("lang", Some(&*lang))];
        with_grant(server::redirect(StatusCode::FOUND, &location), named)
    }

    pub(super) fn phone(&self, head: &Parts) -> Response<DemoBody> {
        match self.user(head) {
            Some(user) => server::html(StatusCode::OK, self.fill(include_str!("../pages/phone.html"), user)),
            None => server::redirect(StatusCode::SEE_OTHER, "/"),
        }
    }

    fn fill(&self, page: &str, user: &PortalUser) -> String {
        let initials: String = user.full_name.split(' ').filter_map(|word| word.chars().next()).collect();
        page::fill(
            page,
            &[
                ("user", user.name),
                ("name", user.full_name),
                ("first", user.full_name.split(' ').next().unwrap_or(user.full_name)),
                ("initials", &initials),
                ("ext", user.ext),
                ("vox", user.vox),
                ("tenant", &self.options.tenant),
                ("pbx_origin", &self.options.pbx_origin),
            ],
        )
    }

    /// Forwards a request of the page to the cloud, so that the demo needs one origin only.
    pub(super) async fn forward_to_cloud(&self, path: &str, body: &[u8]) -> Response<DemoBody> {
        let Some(addr) = self.options.voximplant else { return super::not_found() };
        match ask_cloud(addr, path, Bytes::copy_from_slice(body)).await {
            Ok(answer) => answer,
            Err(_) => server::json(StatusCode::BAD_GATEWAY, &json!({ "error": "the cloud does not answer" })),
        }
    }

    // === Whoami ===

    /// Answers `/api/me`: the claims of the user who is logged in, or 401.
    pub(super) fn whoami(&self, head: &Parts) -> Response<DemoBody> {
        let Some(user) = self.user(head) else {
            return server::json(StatusCode::UNAUTHORIZED, &json!({ "error": "not logged in" }));
        };
        let tenant = &self.options.tenant;
        let me =
            json!({ "user": user.name, "name": user.full_name, "ext": user.ext, "tenant": tenant, "vox": user.vox });
        server::json(StatusCode::OK, &me)
    }
}

/// Adds the headers by which an app grants an account or ends a login, such as `pbx-account`. Skips values that no header
/// can hold.
///
/// # Panics
/// When a field is not made of lower-case letters.
#[must_use]
pub fn with_grant<const N: usize>(
    mut response: Response<DemoBody>,
    named: [(&'static str, Option<&str>); N],
) -> Response<DemoBody> {
    for (field, value) in named {
        let name = HeaderName::try_from(format!("pbx-{field}")).expect("a field is lower-case letters");
        if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn login_page(status: StatusCode, problem: &str) -> Response<DemoBody> {
    server::html(status, page::fill(include_str!("../pages/login.html"), &[("problem", problem)]))
}

fn home_with_cookie(cookie: &str) -> Response<DemoBody> {
    let mut response = server::redirect(StatusCode::SEE_OTHER, "/");
    let cookie = HeaderValue::from_str(cookie).expect("a cookie of ours is plain text");
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}

async fn ask_cloud(
    addr: SocketAddr,
    path: &str,
    body: Bytes,
) -> Result<Response<DemoBody>, Box<dyn Error + Send + Sync>> {
    let request = Request::post(path).header(header::HOST, addr.to_string()).body(Full::new(body))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(TcpStream::connect(addr).await?)).await?;
    // The connection ends once the sender is dropped.
    let question = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok::<_, hyper::Error>((head.status, body.collect().await?.to_bytes()))
    };
    let (answer, _closed) = tokio::join!(question, connection);
    let (status, body) = answer?;
    Ok(server::reply(status, "application/json", body))
}
