//! Floor 5: who is calling?
//!
//! A method looks for its own kind of credential. None there: it abstains. One there: it admits or refuses, and a
//! refusal is final, because a bad credential must never be outvoted by another.

mod app;
mod key;

use std::rc::Rc;

use http::{HeaderMap, HeaderValue};

pub use self::app::{App, AppError};
pub use self::key::Key;
use crate::message::origin::Origin;
use crate::model::grant::Wish;
use crate::model::principal::Principal;
use crate::observe::metrics::{self, Tally};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A session of the PBX.
    Pbx,
    /// An answer to a Voximplant key.
    Ott,
}

/// What a method may look at.
#[derive(Debug)]
pub struct Ask<'a> {
    /// What the caller wants.
    pub act: Act,
    /// The request's fields, before anything was taken from them.
    pub headers: &'a HeaderMap,
    /// The authority the request is for.
    pub host: &'a HeaderValue,
    /// Who the request is from.
    pub origin: &'a Origin,
    /// The request's id, told to the app.
    pub id: HeaderValue,
}

/// What a method says of a caller.
#[derive(Debug)]
pub enum Verdict {
    /// The credential is good.
    Admit(Proof),
    /// The credential is bad: why, for the audit log alone.
    Refuse(&'static str),
    /// The app knows nobody by the credential that came along: whoever sent it may not have meant to log in.
    Stranger,
    /// There is no credential of this kind.
    Abstain,
}

/// A proven caller, and how the proof lets it choose.
#[derive(Debug)]
pub struct Proof {
    principal: Principal,
    /// A key may name accounts within its lists.
    key: Option<Rc<Key>>,
}

impl Proof {
    /// Vouches for a caller whose claims are already all.
    #[must_use]
    pub const fn of(principal: Principal) -> Self {
        Self { principal, key: None }
    }

    /// Returns the caller without what it chose.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Tells whether the credential travels by itself with whatever request a browser makes: then other pages must be kept out.
    #[must_use]
    pub const fn is_ambient(&self) -> bool {
        self.key.is_none()
    }

    /// Returns the caller with the claims that its own choice makes, or nothing if it chose what it may not.
    #[must_use]
    pub fn choose(self, wish: &Wish) -> Option<Principal> {
        match self.key {
            Some(key) => key.choose(self.principal, wish),
            None => Some(self.principal),
        }
    }
}

/// One configured method.
#[derive(Debug)]
pub enum Method {
    /// The app is asked.
    App(App),
    /// A key of ours is compared.
    Key(Rc<Key>),
}

/// The methods in the order they are asked.
#[derive(Debug)]
pub struct Chain {
    methods: Vec<Method>,
    tally: Tally,
}

impl Chain {
    /// Makes a chain of methods.
    #[must_use]
    pub const fn new(methods: Vec<Method>, tally: Tally) -> Self {
        Self { methods, tally }
    }

    /// Asks who is calling.
    ///
    /// All keys are one kind of credential: the key that was shown fits one of them or none. Each app method is a kind of its own.
    ///
    /// # Errors
    /// When the app that must be asked gives no answer.
    pub async fn ask(&self, ask: &Ask<'_>) -> Result<Verdict, AppError> {
        let apps: Vec<_> = self.apps().filter(|app| app.finds_credential(ask.headers)).collect();
        let shown = key::shown(ask.headers).filter(|_| self.keys().next().is_some());
        let (method, verdict) = match (apps.as_slice(), shown) {
            ([], None) => (metrics::Method::None, Ok(Verdict::Abstain)),
            ([], Some(shown)) => (metrics::Method::Key, Ok(key::judge(self.keys(), shown, ask))),
            ([app], None) => (metrics::Method::App, app.ask(ask).await),
            _ => (metrics::Method::Several, Ok(Verdict::Refuse("more than one credential"))),
        };
        self.tally.verdict(method, counted(&verdict));
        verdict
    }

    fn apps(&self) -> impl Iterator<Item = &App> {
        self.methods.iter().filter_map(|method| match method {
            Method::App(app) => Some(app),
            Method::Key(_) => None,
        })
    }

    fn keys(&self) -> impl Iterator<Item = &Rc<Key>> {
        self.methods.iter().filter_map(|method| match method {
            Method::Key(key) => Some(key),
            Method::App(_) => None,
        })
    }
}

const fn counted(verdict: &Result<Verdict, AppError>) -> metrics::Verdict {
    match verdict {
        Ok(Verdict::Admit(_)) => metrics::Verdict::Admit,
        Ok(Verdict::Refuse(_)) => metrics::Verdict::Refuse,
        Ok(Verdict::Stranger) => metrics::Verdict::Stranger,
        Ok(Verdict::Abstain) => metrics::Verdict::Abstain,
        Err(_) => metrics::Verdict::Error,
    }
}
