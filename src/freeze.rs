//! Floor 4: accounts and users that the operator has frozen: they get no login, no request with their session passes, and
//! their tunnels end.

mod record;
mod sharing;
mod table;

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

pub(crate) use self::sharing::{FreezeSharing, MembersTold};
use crate::model::account::Role;
use crate::model::freeze_target::FreezeTarget;
use crate::model::mentions::Mention;
use crate::model::ott::VoximplantUser;
use crate::state::{Freeze, KeepError, Store};

/// The freezes in the store. All workers share it, and it outlives every configuration.
#[derive(Debug)]
pub(crate) struct Freezes {
    store: Arc<Store>,
    /// Whether the store may hold one: all that most requests ask.
    any: AtomicBool,
    /// Wakes every [`FreezeGuard`].
    changed: watch::Sender<()>,
}

impl Freezes {
    /// Reads what the store holds.
    #[must_use]
    pub(crate) fn new(store: Arc<Store>) -> Self {
        let freezes = Self { store, any: AtomicBool::new(false), changed: watch::Sender::new(()) };
        freezes.refresh();
        freezes
    }

    /// Freezes a target. When it returns, no login of the target succeeds any more, and no restart forgets it.
    ///
    /// # Errors
    /// When the store cannot keep it.
    pub(crate) async fn freeze(&self, target: &FreezeTarget, freeze: Freeze) -> Result<(), KeepError> {
        let kept = self.store.freeze(&target.to_string(), freeze).await;
        self.refresh();
        kept
    }

    /// Ends a freeze. Returns whether there was one.
    ///
    /// # Errors
    /// When the store cannot keep it.
    pub(crate) async fn thaw(&self, target: &FreezeTarget) -> Result<bool, KeepError> {
        let thawed = self.store.thaw(&target.to_string()).await;
        self.refresh();
        thawed
    }

    /// Freezes or thaws a target as another process does, which keeps that. Nothing is stored here.
    pub(crate) fn follow(&self, whom: &str, freeze: Option<Freeze>) {
        self.store.follow(whom, freeze);
        self.refresh();
    }

    /// Lists the targets that are frozen now.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<(String, Freeze)> {
        self.store.freezes(self.store.now())
    }

    /// Returns whether a role at the PBX is frozen, by itself or with its domain.
    #[must_use]
    pub(crate) fn covers_role(&self, role: &Role) -> bool {
        self.has_any() && self.covers(&FreezeTarget::of(role))
    }

    /// Returns whether a target is frozen, by itself or with its domain.
    #[must_use]
    pub(crate) fn covers(&self, target: &FreezeTarget) -> bool {
        let with_domain = || match target {
            FreezeTarget::Account(account) => self.contains(&FreezeTarget::Domain(account.domain().clone())),
            FreezeTarget::Domain(_) | FreezeTarget::User(_) => false,
        };
        self.contains(target) || with_domain()
    }

    /// Returns whether a Voximplant user is frozen: in its application, or under its name in every application. `default`: the
    /// application of a user that names none.
    #[must_use]
    pub(crate) fn covers_user(&self, user: &VoximplantUser, default: Option<&str>) -> bool {
        let name = user.name();
        let full = user.application().or(default).map(|application| format!("{name}@{application}"));
        let spellings = [Some(name.to_owned()), full].into_iter().flatten().filter_map(|text| text.parse().ok());
        self.has_any() && spellings.map(FreezeTarget::User).any(|target| self.contains(&target))
    }

    /// Returns whether one of the owners is frozen, or may be: an unclear mention counts while an account that it may stand for
    /// is frozen.
    #[must_use]
    pub(crate) fn covers_any(&self, owners: &Owners) -> bool {
        self.has_any()
            && (owners.known.iter().any(|role| self.covers_role(role))
                || owners.named.iter().any(|mention| self.may_cover(mention)))
    }

    fn may_cover(&self, mention: &Mention) -> bool {
        match mention {
            Mention::Account(account) => self.covers(&FreezeTarget::Account(account.clone())),
            Mention::InDomain(domain) => self.list().iter().any(|(name, _)| match name.parse() {
                Ok(FreezeTarget::Account(account)) => account.domain() == domain,
                Ok(FreezeTarget::Domain(frozen)) => frozen == *domain,
                Ok(FreezeTarget::User(_)) | Err(_) => false,
            }),
            Mention::Unknown => self.list().iter().any(|(name, _)| !name.starts_with("user ")),
        }
    }

    fn contains(&self, target: &FreezeTarget) -> bool {
        self.store.is_frozen(&target.to_string(), self.store.now())
    }

    /// Returns whether any target may be frozen.
    #[must_use]
    pub(crate) fn has_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Reads what the store holds now, and wakes the tunnels.
    fn refresh(&self) {
        self.any.store(!self.list().is_empty(), Ordering::Release);
        self.changed.send_replace(());
    }
}

/// The accounts that a request acts for.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    /// The roles that its sessions were opened for.
    pub known: Vec<Role>,
    /// The accounts that it names, or may name.
    pub named: Vec<Mention>,
}

/// Ends a tunnel when an account that it was opened for is frozen.
#[derive(Debug)]
pub(crate) struct FreezeGuard {
    freezes: Arc<Freezes>,
    owners: Owners,
}

impl FreezeGuard {
    /// Guards a tunnel of these owners.
    #[must_use]
    pub(crate) const fn new(freezes: Arc<Freezes>, owners: Owners) -> Self {
        Self { freezes, owners }
    }

    /// Waits until one of the owners is frozen; without an owner, for ever.
    pub(crate) async fn until_frozen(&self) {
        if self.owners.known.is_empty() && self.owners.named.is_empty() {
            return pending().await;
        }
        let mut changed = self.freezes.changed.subscribe();
        while !self.freezes.covers_any(&self.owners) {
            // The sender lives in `freezes`, so this is never an error.
            if changed.changed().await.is_err() {
                return pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::account::Account;

    /// Returns whether a future waits.
    async fn waits(mut future: std::pin::Pin<&mut impl Future>) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }

    #[tokio::test]
    async fn no_spelling_of_a_user_gets_around_a_freeze() {
        for (frozen_as, is_frozen) in [
            ("user ann", [true, true, true]),
            ("user ann@own.acme", [true, true, false]),
            ("user ann@b.acme", [false, false, true]),
        ] {
            let freezes = Freezes::new(Arc::new(Store::in_memory()));
            let freeze =
                Freeze { since: Timestamp::now(), until: None, by: String::new(), why: String::new(), shared: None };
            freezes.freeze(&frozen_as.parse().unwrap(), freeze).await.unwrap();
            for (user, expected) in ["ann", "ann@own.acme", "ann@b.acme"].into_iter().zip(is_frozen) {
                assert_eq!(
                    freezes.covers_user(&user.parse().unwrap(), Some("own.acme")),
                    expected,
                    "{frozen_as}: {user}"
                );
            }
            assert!(!freezes.covers_user(&"bob".parse().unwrap(), Some("own.acme")));
        }
    }

    #[tokio::test]
    async fn a_guard_ends_a_tunnel_by_a_freeze_of_its_account_and_no_other() {
        let freezes = Arc::new(Freezes::new(Arc::new(Store::in_memory())));
        let target = |name: &str| name.parse::<FreezeTarget>().unwrap();
        let owner = Role::User(Account::new("40", "acme.test".parse().unwrap()).unwrap());
        let guard = |known: Vec<Role>, named: Vec<Mention>| FreezeGuard {
            freezes: Arc::clone(&freezes),
            owners: Owners { known, named },
        };
        let (known, unowned) = (guard(vec![owner], Vec::new()), guard(Vec::new(), Vec::new()));
        let unclear = guard(Vec::new(), vec![Mention::InDomain("acme.test".parse().unwrap())]);
        let freeze =
            || Freeze { since: Timestamp::now(), until: None, by: String::new(), why: String::new(), shared: None };
        let mut frozen = Box::pin(known.until_frozen());
        for other in ["account 41@acme.test", "account 40@other.test", "domain other.test", "user ann"] {
            freezes.freeze(&target(other), freeze()).await.unwrap();
            assert!(waits(frozen.as_mut()).await, "{other}");
        }
        freezes.thaw(&target("account 41@acme.test")).await.unwrap();
        assert!(waits(std::pin::pin!(unclear.until_frozen())).await);
        freezes.freeze(&target("domain acme.test"), freeze()).await.unwrap();
        frozen.await;
        unclear.until_frozen().await;
        assert!(waits(std::pin::pin!(unowned.until_frozen())).await);
        assert!(freezes.thaw(&target("domain acme.test")).await.unwrap());
        assert!(!freezes.thaw(&target("domain acme.test")).await.unwrap());
        assert!(waits(std::pin::pin!(known.until_frozen())).await);
    }
}
