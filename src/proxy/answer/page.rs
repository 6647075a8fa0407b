//! The one builder of HTML pages. It states the security headers once, so that no page can lack one.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use super::response::{self, NO_REFERRER};
use crate::exchange::Body;
use crate::model::html::escape;

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
/// `Content-Security-Policy` of every page: it loads nothing, and its one style is inline.
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'");
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;color:#1f2933;background:#f5f7fa;margin:0;display:grid;place-items:center;\
min-height:100vh}main{background:#fff;border-radius:12px;box-shadow:0 1px 4px #0002;padding:2rem 2.5rem;max-width:28rem}\
h1{font-size:1.25rem;margin:0 0 .5rem}p:last-child{margin:0}button{font:inherit;padding:.5rem 1.25rem;border:0;border-radius:8px;background:#2f5bea;color:#fff}a{color:#2f5bea}small{color:#52606d}";

/// The one script: it keeps the fragment of this page's address, or appends the kept one to the link. Only a text that
/// begins with `#` is appended.
const SCRIPT: &str = "let a=document.querySelector(\"a\"),d=a.dataset,s,f=\"\";\
try{s=sessionStorage;if(d.keep){s.setItem(d.keep,location.hash)}else{f=s.getItem(d.restore)||\"\";s.removeItem(d.restore)}}catch{}\
location.replace(a.href+(f[0]===\"#\"?f:\"\"))";

/// [`POLICY`], which also permits [`SCRIPT`] by its hash.
static SCRIPT_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = BASE64_STANDARD.encode(digest(&SHA256, SCRIPT.as_bytes()));
    let policy = format!("{}; script-src 'sha256-{hash}'", POLICY.to_str().unwrap_or("default-src 'none'"));
    HeaderValue::try_from(policy).unwrap_or(POLICY)
});

/// A page in the making. [`Page::respond`] is the only way to an HTML response.
#[derive(Debug)]
#[must_use]
pub(in crate::proxy) struct Page {
    status: StatusCode,
    /// Escaped.
    title: String,
    /// Markup for `<head>`.
    head: String,
    /// Markup below the title.
    main: String,
    policy: HeaderValue,
    referrer: HeaderValue,
}

impl Page {
    /// Begins a page: `title` is text, `main` is markup.
    pub(in crate::proxy) fn new(title: &str, main: impl Into<String>) -> Self {
        let (title, main) = (escape(title), main.into());
        Self { status: StatusCode::OK, title, head: String::new(), main, policy: POLICY, referrer: NO_REFERRER }
    }

    /// Sets another status than 200.
    pub(in crate::proxy) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Appends a form that posts to a path of this host. `button` is markup.
    ///
    /// Under `no-referrer` the browser would send the form with `Origin: null`, so the page tells its own host, and no
    /// other, where the form comes from (Fetch standard, "append a request `Origin` header").
    pub(in crate::proxy) fn with_form(mut self, path: &str, button: &str) -> Self {
        self.main += &format!("<form method=\"post\" action=\"{}\">{button}</form>", escape(path));
        Self { referrer: HeaderValue::from_static("same-origin"), ..self }
    }

    /// Returns the response with the security headers of every page.
    pub(in crate::proxy) fn respond(self) -> Response<Body> {
        let Self { status, title, head, main, policy, referrer } = self;
        let html = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">{head}\
             <title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>{main}</main></body></html>"
        );
        let mut response = response::with_body(status, HTML, html);
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
        response.headers_mut().insert(header::REFERRER_POLICY, referrer);
        response
    }
}

// === Pages that lead on ===

const ONE_MOMENT: &str = "One moment …";

/// Returns a page that leads the browser on to a path of this host, as a navigation of its own: it carries cookies that
/// are `SameSite=Strict`. A redirect would continue a navigation that another site may have begun. The page leaves no
/// entry in the history.
pub(in crate::proxy) fn continue_to(path: &str) -> Page {
    let path = escape(path);
    let head = format!("<meta http-equiv=\"refresh\" content=\"0; url={path}\">");
    Page { head, ..Page::new(ONE_MOMENT, format!("<p><a href=\"{path}\">Continue</a></p>")) }
}

/// What becomes of an address's fragment during a login at an identity provider. No server ever receives a fragment, so
/// only the browser's window can keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Fragment {
    /// The window keeps it.
    Keep,
    /// The window appends the kept one to the address.
    Restore,
}

/// Returns a page that leads the browser on to an address and keeps or restores the fragment under the id of a login.
/// Without scripts the browser goes on too, and the fragment is lost.
pub(in crate::proxy) fn continue_with_fragment(address: &str, fragment: Fragment, login: &str) -> Page {
    let (address, login) = (escape(address), escape(login));
    let attribute = if fragment == Fragment::Keep { "keep" } else { "restore" };
    let head = format!("<noscript><meta http-equiv=\"refresh\" content=\"0; url={address}\"></noscript>");
    let main = format!(
        "<p><a href=\"{address}\" data-{attribute}=\"callgate {login}\">Continue</a></p><script>{SCRIPT}</script>"
    );
    Page { head, policy: SCRIPT_POLICY.clone(), ..Page::new(ONE_MOMENT, main) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn every_page_carries_the_security_headers() {
        #[track_caller]
        fn check(page: Page, script: bool, referrer: &str) {
            let response = page.respond();
            let header = |name: &str| response.headers()[name].to_str().unwrap();
            let policy = header("content-security-policy");
            for rule in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"] {
                assert!(policy.contains(rule), "{policy}");
            }
            assert_eq!(policy.contains("script-src 'sha256-"), script, "{policy}");
            assert!(!policy.contains("script-src 'unsafe"), "{policy}");
            assert_eq!(header("referrer-policy"), referrer);
            assert_eq!(header("x-content-type-options"), "nosniff");
            assert_eq!(header("cache-control"), "no-store");
            assert_eq!(header("content-type"), "text/html; charset=utf-8");
        }
        check(Page::new("Title", ""), false, "no-referrer");
        check(Page::new("Title", "").with_status(StatusCode::FORBIDDEN), false, "no-referrer");
        check(Page::new("Title", "").with_form("/path", "<button>Go</button>"), false, "same-origin");
        check(continue_to("/path"), false, "no-referrer");
        check(continue_with_fragment("https://id.test/", Fragment::Keep, "id"), true, "no-referrer");
        check(continue_with_fragment("/path", Fragment::Restore, "id"), true, "no-referrer");
    }

    /// A page that does not come from [`Page::respond`] needs the media type.
    #[test]
    fn no_other_file_of_the_proxy_writes_html() {
        fn sources(folder: &Path) -> Vec<PathBuf> {
            let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
        }
        let files = sources(Path::new("src/proxy"));
        assert!(files.len() > 20, "{files:?}");
        for path in files.iter().filter(|path| !path.ends_with("answer/page.rs")) {
            let source = fs::read_to_string(path).unwrap();
            assert!(!source.contains("\"text/html;") && !source.contains("<!doctype"), "{}", path.display());
        }
    }

    #[test]
    fn texts_cannot_become_markup() {
        let page = Page::new("<b>", "").with_form("/a?b=\"c", "");
        assert_eq!((page.title.as_str(), page.main.contains("action=\"/a?b=&quot;c\"")), ("&lt;b&gt;", true));
        assert!(continue_to("/a?b=\"><script>").main.contains("href=\"/a?b=&quot;&gt;&lt;script&gt;\""));
    }
}
