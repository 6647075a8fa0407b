//! The page between a link and its session. Programs that look at links before a person does stop there: they follow
//! links and do not press buttons.

use http::{HeaderMap, Method, Request, Response};

use crate::auth::Proof;
use crate::config::Confirm;
use crate::exchange::Body;
use crate::model::login::LoginKind;
use crate::model::path::CONFIRM_PATH;
use crate::proxy::answer::page::Page;
use crate::proxy::browser::cors::{self, Initiator};
use crate::proxy::browser::fetch_metadata;
use crate::proxy::error::Error;
use crate::proxy::form::{self, BodyFormat, Fields};
use crate::proxy::login::pbx::{Selectors, Wanted};
use crate::proxy::{Caller, Proxy};
use crate::upstream::RequestBody;

/// Tells whether the page comes first.
pub(in crate::proxy) fn is_needed(proof: &Proof, headers: &HeaderMap) -> bool {
    match proof.confirm() {
        Confirm::Never => false,
        Confirm::Auto => !fetch_metadata::is_by_a_person(headers),
        Confirm::Always => true,
    }
}

/// Shows the page. The link is not used by that.
pub(in crate::proxy) fn page(query: &str) -> Response<Body> {
    let main = "<p>This link logs you in. It works once.</p>";
    Page::new("Open the telephone", main)
        .with_form(&format!("{CONFIRM_PATH}?{query}"), "<button autofocus>Continue</button>")
        .respond()
}

impl Proxy {
    /// Answers the page's button: the link that the page was shown for is used now.
    pub(in crate::proxy) async fn answer_confirm(
        &self,
        request: Request<RequestBody>,
        caller: &Caller,
    ) -> Result<Response<Body>, Error> {
        let pbx = self.pbx_side().ok_or(Error::NotFound)?;
        if *request.method() != Method::POST {
            return Err(Error::MethodNotAllowed("POST"));
        }
        let (head, body) = request.into_parts();
        // No other page presses our button, whatever link it has.
        let initiator = cors::initiator(&head.headers, &caller.authority, &[]);
        if initiator != Initiator::Own {
            return Err(Error::CrossSite);
        }
        self.admit(LoginKind::Pbx, &head, caller)?;
        let format = form::format(&head.headers, Some(BodyFormat::Urlencoded))?;
        form::read(body, format, self.config.server.timeouts.header).await?;
        let selectors = Selectors::read(Fields::of_form(head.uri.query().unwrap_or_default().as_bytes())?)?;
        let verdict = self.ask(LoginKind::Pbx, &head.headers, head.uri.query(), caller).await?;
        let proof = self.judge(verdict, &initiator, LoginKind::Pbx, caller)?;
        if proof.spends().is_none() {
            // Somebody is proven by something else than a link: there is no such page for that.
            return Err(Error::NotFound);
        }
        let minted = self.mint(proof, selectors, Wanted::Address, pbx, caller).await?;
        self.hand_over(minted, pbx, &head.headers, caller).await
    }
}
