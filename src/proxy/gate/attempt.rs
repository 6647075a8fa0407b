//! One try at a login, as the limits know it.
//!
//! `failures` counts guesses by the client that guesses. Whoever shows nothing guesses nothing. A credential that let
//! somebody in at this address before has failures of its own, so that its neighbours can neither use up its quota nor
//! it theirs. What another site's page makes a browser do uses up nothing but a quota for such.

use http::header::HeaderMap;
use http::{Method, request};
use tokio::time::Instant;

use crate::auth::Credential;
use crate::limit::Source;
use crate::model::digest::Digest;
use crate::model::grant::Requested;
use crate::model::login::LoginKind;
use crate::model::principal::Principal;
use crate::proxy::browser::trigger::{self, Trigger};
use crate::proxy::error::Error;
use crate::proxy::{Caller, Proxy, gate};

/// What is known of a try before its credential is judged.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Attempt {
    trigger: Trigger,
    /// What the request shows.
    credential: Option<Credential>,
    /// Whether that let somebody in at this address before.
    is_proven: bool,
    /// Whether a browser tells about its request.
    is_browser: bool,
}

impl Attempt {
    /// Returns whose requests it counts among.
    fn source(&self, caller: &Caller) -> Source {
        match (self.trigger, self.credential) {
            (_, Some(credential)) if self.is_proven => Source::credential(caller.origin.client, credential.digest),
            (Trigger::Navigation, _) => Source::elsewhere(caller.origin.client),
            (Trigger::Own | Trigger::ForeignPage, _) => Source::address(caller.origin.client),
        }
    }

    /// Returns whose guesses it counts among.
    fn guesser(&self, caller: &Caller) -> Source {
        match self.credential.filter(|_| self.is_proven) {
            Some(credential) => Source::credential(caller.origin.client, credential.digest),
            None => Source::address(caller.origin.client),
        }
    }
}

impl Caller {
    /// Tells whether a page of another origin sent the caller's window here.
    pub(in crate::proxy) fn is_sent(&self) -> bool {
        self.attempt.get().is_some_and(|attempt| attempt.trigger == Trigger::Navigation)
    }
}

impl Proxy {
    /// Refuses what a page of another origin does unseen, then counts the request: before anything else is done for it.
    pub(in crate::proxy) fn admit(&self, act: LoginKind, head: &request::Parts, caller: &Caller) -> Result<(), Error> {
        self.admit_fields(act, (&head.method, &head.headers, head.uri.query()), caller)
    }

    /// As [`Proxy::admit`].
    pub(in crate::proxy) fn admit_fields(
        &self,
        act: LoginKind,
        (method, headers, query): (&Method, &HeaderMap, Option<&str>),
        caller: &Caller,
    ) -> Result<(), Error> {
        let credential = self.chain.credential(&gate::asking(act, headers, query, caller));
        self.begin(method, headers, credential, caller)?;
        self.check_audit()?;
        self.look_at_failures(caller)?;
        self.count_request(caller)
    }

    /// Refuses what a page of another origin does unseen, then counts a request that shows no credential.
    pub(in crate::proxy) fn admit_visit(
        &self,
        method: &Method,
        headers: &HeaderMap,
        caller: &Caller,
    ) -> Result<(), Error> {
        self.begin(method, headers, None, caller)?;
        self.check_audit()?;
        self.count_request(caller)
    }

    /// Refuses logins while no audit line could tell of them.
    fn check_audit(&self) -> Result<(), Error> {
        self.logs.check_audit().map_err(Error::NotAudited)
    }

    /// Refuses what a page of another origin does unseen, then looks whether a credential may be judged. Nothing counts it.
    pub(in crate::proxy) fn admit_credential(
        &self,
        method: &Method,
        headers: &HeaderMap,
        digest: Digest,
        caller: &Caller,
    ) -> Result<(), Error> {
        self.begin(method, headers, Some(Credential { digest, is_cookie: false }), caller)?;
        self.look_at_failures(caller)
    }

    fn begin(
        &self,
        method: &Method,
        headers: &HeaderMap,
        credential: Option<Credential>,
        caller: &Caller,
    ) -> Result<(), Error> {
        let trigger = match trigger::of(method, headers, &caller.authority, self.origins()) {
            _ if self.chain.shows_a_field_beyond_pages(headers) => Trigger::Own,
            Trigger::ForeignPage => return Err(Error::CrossSite),
            trigger => trigger,
        };
        let is_proven = credential.is_some_and(|credential| {
            let source = Source::credential(caller.origin.client, credential.digest);
            self.shared.limits.proven.has(&source, Instant::now())
        });
        let is_browser = headers.contains_key("sec-fetch-site");
        caller.attempt.set(Some(Attempt { trigger, credential, is_proven, is_browser }));
        Ok(())
    }

    fn count_request(&self, caller: &Caller) -> Result<(), Error> {
        let Some(attempt) = caller.attempt.get() else { return Ok(()) };
        self.within(self.shared.limits.client.admit_source(&attempt.source(caller)))
    }

    /// Looks whether this client has guessed too often for a credential to be judged. To be called once more when there
    /// is a verdict, right before that is told: of many tries at once, no more are told than may fail.
    pub(in crate::proxy) fn look_at_failures(&self, caller: &Caller) -> Result<(), Error> {
        let Some(attempt) = caller.attempt.get().filter(|attempt| attempt.credential.is_some()) else { return Ok(()) };
        let (limits, guesser) = (&self.shared.limits, attempt.guesser(caller));
        self.within(limits.failures.peek_source(&guesser))?;
        if attempt.trigger == Trigger::Navigation && !attempt.is_proven {
            self.within(limits.stale_cookies.peek_source(&attempt.source(caller)))?;
        }
        let is_cookie = attempt.credential.is_some_and(|credential| credential.is_cookie);
        if is_cookie { self.within(limits.stale_cookies.peek_source(&guesser)) } else { Ok(()) }
    }

    /// Counts a wrong guess, before its answer tells that it is wrong. A page of another origin makes whole windows come
    /// with a link of its own: that is no guess of its visitor's.
    pub(in crate::proxy) fn count_guess(&self, caller: &Caller) -> Result<(), Error> {
        let Some(attempt) = caller.attempt.get() else { return Ok(()) };
        if attempt.trigger != Trigger::Own {
            return self.count_sent(&attempt, caller);
        }
        self.within(self.shared.limits.failures.admit_source(&attempt.guesser(caller)))
    }

    /// Counts a cookie that is good no more, or never was: the same one counts once for a while.
    pub(in crate::proxy) fn count_stale(&self, caller: &Caller) -> Result<(), Error> {
        let Some(attempt) = caller.attempt.get() else { return Ok(()) };
        if attempt.trigger != Trigger::Own {
            return self.count_sent(&attempt, caller);
        }
        let Some(credential) = attempt.credential else { return Ok(()) };
        let (limits, client) = (&self.shared.limits, caller.origin.client);
        let cookie = Source::credential(client, credential.digest);
        limits.proven.forget(&cookie);
        if !limits.stale.note(&cookie, Instant::now()) {
            return Ok(());
        }
        self.within(limits.stale_cookies.admit_source(&Source::address(client)))
    }

    /// Counts what is wrong in a window that another page sent here, apart and loosely: a program may say that it is one,
    /// and would guess without end. The same credential counts once for a while.
    fn count_sent(&self, attempt: &Attempt, caller: &Caller) -> Result<(), Error> {
        let Some(credential) = attempt.credential else { return Ok(()) };
        let (limits, client) = (&self.shared.limits, caller.origin.client);
        if !limits.stale.note(&Source::credential(client, credential.digest), Instant::now()) {
            return Ok(());
        }
        self.within(limits.stale_cookies.admit_source(&Source::elsewhere(client)))
    }

    /// Looks whether a caller has asked for others' accounts too often to ask for one by name.
    pub(in crate::proxy) fn look_at_wishes(&self, principal: &Principal, wish: &Requested) -> Result<(), Error> {
        if *wish == Requested::default() {
            return Ok(());
        }
        self.within(self.shared.limits.failures.peek(&wisher(principal)))
    }

    /// Counts an account that the caller named and may not have: for the caller, and for the address of a program, which
    /// may have many callers' credentials.
    pub(in crate::proxy) fn count_wish(&self, principal: &Principal, caller: &Caller) -> Result<(), Error> {
        let failures = &self.shared.limits.failures;
        if caller.attempt.get().is_some_and(|attempt| !attempt.is_browser && !attempt.is_proven) {
            self.within(failures.admit_source(&Source::address(caller.origin.client)))?;
        }
        self.within(failures.admit(&wisher(principal)))
    }

    /// Remembers a credential that let somebody in.
    pub(in crate::proxy) fn note_proven(&self, credential: Option<Digest>, caller: &Caller) {
        if let Some(credential) = credential {
            self.shared.limits.proven.note(&Source::credential(caller.origin.client, credential), Instant::now());
        }
    }

    /// Remembers what let the caller in.
    pub(in crate::proxy) fn note_let_in(&self, caller: &Caller) {
        let credential = caller.attempt.get().and_then(|attempt| attempt.credential);
        self.note_proven(credential.map(|credential| credential.digest), caller);
    }
}

fn wisher(principal: &Principal) -> (&'static str, &str, &str) {
    ("account", &principal.method, &principal.subject)
}
