//! The one builder of HTML pages. It states the security headers once, so that no page can lack one.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use super::reader::Reader;
use super::response::{self, NO_REFERRER};
use crate::config::Logo;
use crate::exchange::Body;
use crate::model::html::escape;
use crate::model::page_text::PageText;

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
/// `Content-Security-Policy` of every page: it loads nothing, and its one style is inline.
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'");
const STYLE: &str = include_str!("page.css");

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
pub(in crate::proxy) struct Page<'p> {
    reader: Reader<'p>,
    status: StatusCode,
    title: PageText,
    /// Markup for `<head>`.
    head: String,
    /// Markup below the title.
    main: String,
    policy: HeaderValue,
    referrer: HeaderValue,
}

impl<'p> Page<'p> {
    /// Begins a page.
    pub(in crate::proxy) fn new(reader: Reader<'p>, title: PageText) -> Self {
        let (head, main) = (String::new(), String::new());
        Self { reader, status: StatusCode::OK, title, head, main, policy: POLICY, referrer: NO_REFERRER }
    }

    /// Sets another status than 200.
    pub(in crate::proxy) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Appends a paragraph.
    pub(in crate::proxy) fn with_text(mut self, text: PageText) -> Self {
        self.main += &format!("<p>{}</p>", self.words(text));
        self
    }

    /// Appends a paragraph with a value at the placeholder of its text.
    pub(in crate::proxy) fn with_text_of(mut self, text: PageText, value: &str) -> Self {
        self.main += &format!("<p>{}</p>", escape(&self.reader.text_with(text, value)));
        self
    }

    /// Appends a link to an address.
    pub(in crate::proxy) fn with_link(mut self, address: &str, text: PageText) -> Self {
        self.main += &format!("<p><a href=\"{}\">{}</a></p>", escape(address), self.words(text));
        self
    }

    /// Appends a list of links: addresses, each with a name.
    pub(in crate::proxy) fn with_choices(mut self, choices: impl IntoIterator<Item = (String, String)>) -> Self {
        let item = |(address, name): (String, String)| {
            format!("<li><a href=\"{}\">{}</a></li>", escape(&address), escape(&name))
        };
        self.main += &format!("<ul>{}</ul>", choices.into_iter().map(item).collect::<String>());
        self
    }

    /// Appends a button that posts to a path of this host.
    ///
    /// Under `no-referrer` the browser would send the form with `Origin: null`, so the page tells its own host, and no
    /// other, where the form comes from (Fetch standard, "append a request `Origin` header").
    pub(in crate::proxy) fn with_button(mut self, path: &str, text: PageText) -> Self {
        self.main +=
            &format!("<form method=\"post\" action=\"{}\"><button>{}</button></form>", escape(path), self.words(text));
        Self { referrer: HeaderValue::from_static("same-origin"), ..self }
    }

    /// Appends what a person can tell the administrator: the number of the request, its status, and the address for help.
    pub(super) fn with_number(mut self, number: &str, status: StatusCode) -> Self {
        self = self.with_text(PageText::Support);
        self.main += &format!("<p><small>{}<br>{}</small></p>", escape(number), escape(&status.to_string()));
        if let Some(contact) = &self.reader.pages.contact {
            let (url, label) = (escape(&contact.url), escape(contact.label()));
            self.main += &format!("<p>{} <a href=\"{url}\">{label}</a></p>", self.words(PageText::Help));
        }
        self
    }

    /// Returns a text for the reader as markup.
    fn words(&self, text: PageText) -> String {
        escape(self.reader.text(text))
    }

    /// Returns the response with the security headers of every page.
    pub(in crate::proxy) fn respond(self) -> Response<Body> {
        let title = self.words(self.title);
        let Self { reader, status, head, main, policy, referrer, .. } = self;
        let lang = reader.language.tag();
        let name = reader.pages.name.as_deref().map(escape);
        let window = name.as_ref().map_or_else(|| title.clone(), |name| format!("{title} – {name}"));
        let banner = banner(reader.pages.logo.as_ref(), name.as_deref());
        let html = format!(
            "<!doctype html><html lang=\"{lang}\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">{head}\
             <title>{window}</title><style>{STYLE}</style></head><body><main>{banner}<h1>{title}</h1>{main}</main></body></html>"
        );
        let policy = if reader.pages.logo.is_some() { with_pictures(&policy) } else { policy };
        let mut response = response::with_body(status, HTML, html);
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
        response.headers_mut().insert(header::REFERRER_POLICY, referrer);
        response
    }
}

/// Returns the markup of what stands above a page. `name`: escaped.
fn banner(logo: Option<&Logo>, name: Option<&str>) -> String {
    match (logo, name) {
        (Some(logo), name) => {
            format!("<p class=\"banner\"><img src=\"{}\" alt=\"{}\"></p>", escape(&logo.url), name.unwrap_or_default())
        }
        (None, Some(name)) => format!("<p class=\"banner\">{name}</p>"),
        (None, None) => String::new(),
    }
}

/// Returns a policy that also permits pictures in the page itself.
fn with_pictures(policy: &HeaderValue) -> HeaderValue {
    let text = format!("{}; img-src data:", policy.to_str().unwrap_or("default-src 'none'"));
    HeaderValue::try_from(text).unwrap_or(POLICY)
}

// === Pages that lead on ===

/// Returns a page that leads the browser on to a path of this host, as a navigation of its own: it carries cookies that
/// are `SameSite=Strict`. A redirect would continue a navigation that another site may have begun. The page leaves no
/// entry in the history.
pub(in crate::proxy) fn continue_to<'p>(reader: Reader<'p>, path: &str) -> Page<'p> {
    let head = format!("<meta http-equiv=\"refresh\" content=\"0; url={}\">", escape(path));
    Page { head, ..Page::new(reader, PageText::OneMoment).with_link(path, PageText::Continue) }
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
pub(in crate::proxy) fn continue_with_fragment<'p>(
    reader: Reader<'p>,
    address: &str,
    fragment: Fragment,
    login: &str,
) -> Page<'p> {
    let (address, login) = (escape(address), escape(login));
    let attribute = if fragment == Fragment::Keep { "keep" } else { "restore" };
    let head = format!("<noscript><meta http-equiv=\"refresh\" content=\"0; url={address}\"></noscript>");
    let page = Page::new(reader, PageText::OneMoment);
    let label = page.words(PageText::Continue);
    let main = format!(
        "<p><a href=\"{address}\" data-{attribute}=\"callgate {login}\">{label}</a></p><script>{SCRIPT}</script>"
    );
    Page { head, main, policy: SCRIPT_POLICY.clone(), ..page }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use http_body_util::BodyExt;

    use super::*;
    use crate::config::PagesConfig;
    use crate::model::page_language::PageLanguage;

    static PAGES: LazyLock<PagesConfig> = LazyLock::new(PagesConfig::default);

    fn page() -> Page<'static> {
        Page::new(Reader::new(&PAGES, None, false), PageText::LogOut)
    }

    #[test]
    fn every_page_carries_the_security_headers() {
        #[track_caller]
        fn check(page: Page<'_>, script: bool, referrer: &str) {
            let response = page.respond();
            let header = |name: &str| response.headers()[name].to_str().unwrap();
            let policy = header("content-security-policy");
            for rule in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"] {
                assert!(policy.contains(rule), "{policy}");
            }
            assert_eq!(policy.contains("script-src 'sha256-"), script, "{policy}");
            assert!(!policy.contains("script-src 'unsafe") && !policy.contains("img-src"), "{policy}");
            assert_eq!(header("referrer-policy"), referrer);
            assert_eq!(header("x-content-type-options"), "nosniff");
            assert_eq!(header("cache-control"), "no-store");
            assert_eq!(header("content-type"), "text/html; charset=utf-8");
        }
        let reader = page().reader;
        check(page(), false, "no-referrer");
        check(page().with_status(StatusCode::FORBIDDEN), false, "no-referrer");
        check(page().with_button("/path", PageText::Continue), false, "same-origin");
        check(continue_to(reader, "/path"), false, "no-referrer");
        check(continue_with_fragment(reader, "https://id.test/", Fragment::Keep, "id"), true, "no-referrer");
        check(continue_with_fragment(reader, "/path", Fragment::Restore, "id"), true, "no-referrer");
    }

    #[tokio::test]
    async fn a_page_bears_the_operators_name_and_logo() {
        let logo = Some(Logo { url: "data:image/png;base64,AAAA".to_owned() });
        let pages = PagesConfig { name: Some("A & B".to_owned()), logo, ..PagesConfig::default() };
        let reader = Reader::new(&pages, Some(PageLanguage::Japanese), false);
        for page in [Page::new(reader, PageText::LogOut), continue_with_fragment(reader, "/", Fragment::Keep, "id")] {
            let response = page.respond();
            let policy = response.headers()["content-security-policy"].to_str().unwrap();
            assert!(policy.ends_with("; img-src data:"), "{policy}");
            let html = response.into_body().collect().await.unwrap().to_bytes();
            let html = String::from_utf8_lossy(&html);
            assert!(html.contains("<html lang=\"ja\">") && html.contains(" – A &amp; B</title>"), "{html}");
            assert!(html.contains("<img src=\"data:image/png;base64,AAAA\" alt=\"A &amp; B\">"), "{html}");
        }
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
        let main = page().with_button("/a?b=\"c", PageText::Continue).with_text_of(PageText::Wait, "<b>").main;
        assert!(main.contains("action=\"/a?b=&quot;c\"") && main.contains("in &lt;b&gt;."), "{main}");
        let main = page().with_choices([("/\"".to_owned(), "<i>".to_owned())]).main;
        assert_eq!(main, "<ul><li><a href=\"/&quot;\">&lt;i&gt;</a></li></ul>");
        let next = continue_to(page().reader, "/a?b=\"><script>");
        assert!(next.main.contains("href=\"/a?b=&quot;&gt;&lt;script&gt;\""), "{}", next.main);
        assert!(next.head.contains("url=/a?b=&quot;&gt;&lt;script&gt;\""), "{}", next.head);
    }
}
