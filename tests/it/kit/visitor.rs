//! A browser in small: it follows redirects and pages that lead on, keeps cookies by host, and counts its requests.

use std::collections::BTreeMap;

use crate::kit::client::Answer;
use crate::kit::gate::Gate;

/// More requests than any login takes.
const PATIENCE: usize = 20;

/// A person's browser before a gate.
pub struct Visitor<'g> {
    gate: &'g Gate,
    /// The cookies of each host, by name.
    pub cookies: BTreeMap<(String, String), String>,
    /// The names of cookies that it does not keep: all that begin so.
    pub drops: Option<&'static str>,
    /// Where its requests come from: the value of `Sec-Fetch-Site` of the next one.
    pub site: &'static str,
    /// All addresses that it has asked for.
    pub asked: Vec<String>,
}

impl<'g> Visitor<'g> {
    pub fn new(gate: &'g Gate) -> Self {
        Self { gate, cookies: BTreeMap::new(), drops: None, site: "none", asked: Vec::new() }
    }

    /// Has a cookie, as `name=value`.
    pub fn has(mut self, host: &str, cookie: &str) -> Self {
        self.keep(host, cookie);
        self
    }

    /// Keeps no cookies whose names begin so; `""`: none at all.
    pub fn dropping(mut self, names: &'static str) -> Self {
        self.drops = Some(names);
        self
    }

    /// Clicks on a page of another site.
    pub fn clicking_elsewhere(mut self) -> Self {
        self.site = "cross-site";
        self
    }

    fn keep(&mut self, host: &str, line: &str) {
        let mut parts = line.split(';');
        let (name, value) = parts.next().unwrap().split_once('=').unwrap();
        let key = (host.to_owned(), name.trim().to_owned());
        let is_strict = line.contains("SameSite=Strict");
        match parts.any(|part| part.trim().eq_ignore_ascii_case("max-age=0")) {
            true => drop(self.cookies.remove(&key)),
            false if self.drops.is_some_and(|names| name.starts_with(names)) => {}
            false => drop(self.cookies.insert(key, format!("{}{value}", if is_strict { "!" } else { "" }))),
        }
    }

    fn sent(&self, host: &str) -> String {
        let of_host = self.cookies.iter().filter(|((at, _), _)| at == host);
        let sent = of_host.filter_map(|((_, name), value)| match value.strip_prefix('!') {
            // The chain of this request began on another site.
            Some(_) if self.site == "cross-site" => None,
            Some(value) => Some(format!("{name}={value}")),
            None => Some(format!("{name}={value}")),
        });
        sent.collect::<Vec<_>>().join("; ")
    }

    /// Opens an address and goes wherever it is led. Returns the page at the end, and its address.
    pub async fn open(&mut self, address: &str) -> (String, Answer) {
        let mut address = address.to_owned();
        for _ in 0..PATIENCE {
            let answer = self.ask(&address).await;
            let Some(next) = self.led_to(&answer) else { return (address, answer) };
            address = resolved(&next, &address);
        }
        panic!("the browser goes round and round: {:#?}", self.asked);
    }

    /// Sends one request of a window.
    pub async fn ask(&mut self, address: &str) -> Answer {
        self.asked.push(address.to_owned());
        let (host, path) = split(address);
        let asking = self.gate.get(path).host(host).header("accept", "text/html,*/*;q=0.8");
        let asking = asking.header("sec-fetch-mode", "navigate").header("sec-fetch-dest", "document");
        let asking = asking.header("sec-fetch-site", self.site);
        let cookies = self.sent(host);
        let answer = if cookies.is_empty() { asking } else { asking.cookie(&cookies) }.send().await;
        for line in answer.headers.get_all("set-cookie") {
            self.keep(host, line.to_str().unwrap());
        }
        answer
    }

    fn led_to(&mut self, answer: &Answer) -> Option<String> {
        if answer.status.is_redirection() && answer.headers.contains_key("location") {
            return Some(answer.header("location").to_owned());
        }
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let (_, rest) = text.split_once("<meta http-equiv=\"refresh\" content=\"0; url=")?;
        // A page leads on by itself: this is a navigation of its own.
        self.site = "same-origin";
        Some(rest.split_once('"').unwrap().0.replace("&amp;", "&"))
    }
}

fn resolved(reference: &str, base: &str) -> String {
    if reference.starts_with("https://") {
        return reference.to_owned();
    }
    assert!(reference.starts_with('/') && !reference.starts_with("//"), "{reference}");
    format!("https://{}{reference}", split(base).0)
}

/// Splits an address into its host and its path.
pub fn split(address: &str) -> (&str, &str) {
    let rest = address.strip_prefix("https://").unwrap();
    rest.split_at(rest.find('/').unwrap())
}
