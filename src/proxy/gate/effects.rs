//! What the decision about a login does beside deciding. A login counts events, marks credentials as used and writes the
//! audit log. `callgate explain` takes the same decision, changes nothing, and writes down what it met.

use std::cell::{Cell, RefCell};

use tokio::time::Instant;

use crate::auth::SingleUse;
use crate::limit::{LimitQuery, LimitSource, Limited, Limits, SeenCredentials};
use crate::model::grant::SkippedRule;
use crate::model::limit_set::LimitSet;
use crate::model::principal::Principal;
use crate::once::OnceStore;
use crate::state::MarkError;

/// The effects of a decision.
#[derive(Clone, Copy)]
pub(in crate::proxy) enum Effects<'n> {
    /// A login: limits count it, the store marks its credential, the audit log tells of it.
    Live,
    /// `callgate explain`: limits and marks are looked up and written down. A limit that is used up stops nothing, so that
    /// the operator sees the steps behind it.
    Dry(&'n Notes),
}

/// The findings of a dry decision, while it is taken.
#[derive(Default)]
pub(in crate::proxy) struct Notes(RefCell<Findings>);

/// The findings of a dry decision.
#[derive(Default)]
pub(in crate::proxy) struct Findings {
    /// The caller, with the claims of its choice.
    pub(in crate::proxy) principal: Option<Principal>,
    /// The rules that do not apply, each with its reason.
    pub(in crate::proxy) skipped: Vec<(String, String)>,
    /// Whether the credential works once.
    pub(in crate::proxy) works_once: bool,
    /// Whether a page with a button comes before the session.
    pub(in crate::proxy) confirms: bool,
    /// The reason of a refusal.
    pub(in crate::proxy) refusal: Option<RefusalReason>,
    /// The limits that are used up, each once.
    pub(in crate::proxy) limits: Vec<UsedUpLimit>,
}

/// A limit that is used up.
pub(in crate::proxy) struct UsedUpLimit {
    pub(in crate::proxy) limited: Limited,
    /// Whether it is in shadow, and refuses nothing.
    pub(in crate::proxy) is_in_shadow: bool,
}

/// The reason of a refusal, as the audit log tells it.
pub(in crate::proxy) struct RefusalReason {
    /// The method whose credential is bad.
    pub(in crate::proxy) method: Option<String>,
    /// The reason, which no client is told.
    pub(in crate::proxy) reason: String,
}

impl Findings {
    fn add_limit(&mut self, limit: UsedUpLimit) {
        if self.limits.iter().all(|known| known.limited.name != limit.limited.name) {
            self.limits.push(limit);
        }
    }
}

impl Notes {
    /// Returns what was met.
    pub(in crate::proxy) fn into_findings(self) -> Findings {
        self.0.into_inner()
    }

    fn write(&self, change: impl FnOnce(&mut Findings)) {
        change(&mut self.0.borrow_mut());
    }
}

impl Effects<'_> {
    /// Tells whether nothing changes.
    pub(super) const fn are_dry(self) -> bool {
        matches!(self, Self::Dry(_))
    }

    // === Limits ===

    /// Asks limits in their order; `refusers` gets those in shadow that would have refused. A dry decision counts nothing,
    /// writes down each limit that is used up, and goes on.
    pub(super) async fn ask(
        self,
        limits: &Limits,
        queries: Vec<LimitQuery<'_>>,
        refusers: &Cell<LimitSet>,
    ) -> Result<(), Limited> {
        let Self::Dry(notes) = self else { return limits.ask(&queries, refusers).await };
        for query in queries {
            let is_in_shadow = limits.is_in_shadow(&query);
            if let Err(limited) = limits.look(query).await {
                notes.write(|findings| findings.add_limit(UsedUpLimit { limited, is_in_shadow }));
            }
        }
        Ok(())
    }

    // === Memories ===

    /// Remembers a source. Returns whether it was unknown.
    pub(super) fn remember(self, memory: &SeenCredentials, source: &LimitSource) -> bool {
        match self {
            Self::Live => memory.note(source, Instant::now()),
            Self::Dry(_) => !memory.has(source, Instant::now()),
        }
    }

    /// Forgets a source.
    pub(super) fn forget(self, memory: &SeenCredentials, source: &LimitSource) {
        if let Self::Live = self {
            memory.forget(source);
        }
    }

    /// Marks a credential as used.
    ///
    /// # Errors
    /// When it was used before, or the mark cannot be kept.
    pub(super) async fn mark(self, store: &OnceStore, once: &SingleUse) -> Result<(), MarkError> {
        match self {
            Self::Live => store.mark(&once.scope, &once.id, once.until).await,
            Self::Dry(notes) => {
                notes.write(|findings| findings.works_once = true);
                if store.is_marked(&once.scope, &once.id).await { Err(MarkError::AlreadyUsed) } else { Ok(()) }
            }
        }
    }

    // === Notes for an explanation ===

    /// Tells whether to answer with the page that a person confirms on. An explanation goes past it.
    pub(in crate::proxy) fn stop_to_confirm(self) -> bool {
        match self {
            Self::Live => true,
            Self::Dry(notes) => {
                notes.write(|findings| findings.confirms = true);
                false
            }
        }
    }

    /// Tells whether to answer with a page that tries again. An explanation goes past it.
    pub(in crate::proxy) const fn stop_to_try_again(self) -> bool {
        matches!(self, Self::Live)
    }

    /// Writes down the caller.
    pub(super) fn note_principal(self, principal: &Principal) {
        if let Self::Dry(notes) = self {
            notes.write(|findings| findings.principal = Some(principal.clone()));
        }
    }

    /// Writes down the rules that do not apply.
    pub(super) fn note_skipped(self, rules: &[SkippedRule<'_>]) {
        if let Self::Dry(notes) = self {
            let skipped = rules.iter().map(|one| (one.rule.to_owned(), one.why.to_string())).collect();
            notes.write(|findings| findings.skipped = skipped);
        }
    }

    /// Writes down the reason of a refusal.
    pub(in crate::proxy) fn note_refusal(self, method: Option<&str>, reason: &str) {
        if let Self::Dry(notes) = self {
            let refusal = RefusalReason { method: method.map(str::to_owned), reason: reason.to_owned() };
            notes.write(|findings| findings.refusal = Some(refusal));
        }
    }
}
