//! Floor 4: who is frozen: no login for him, no request with a session that went out to him, and an end to his tunnels.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::model::account::Role;
use crate::model::freeze_target::FreezeTarget;
use crate::model::mentions::Mention;
use crate::model::ott::VoximplantUser;
use crate::state::{Freeze, KeepError, Store};

/// The freezes of the store, and whoever waits for one. All workers share it, and every configuration.
#[derive(Debug)]
pub struct Frozen {
    store: Arc<Store>,
    /// Whether there may be any: all that most requests ask.
    any: AtomicBool,
    changed: watch::Sender<()>,
}

impl Frozen {
    /// Takes up what the store has kept.
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        let frozen = Self { store, any: AtomicBool::new(false), changed: watch::Sender::new(()) };
        frozen.look();
        frozen
    }

    /// Freezes somebody. When it returns, there are no more logins, and no restart forgets it.
    ///
    /// # Errors
    /// When that cannot be kept.
    pub async fn freeze(&self, whom: &FreezeTarget, freeze: Freeze) -> Result<(), KeepError> {
        let kept = self.store.freeze(&whom.to_string(), freeze).await;
        self.look();
        kept
    }

    /// Ends a freeze. Tells whether there was one.
    ///
    /// # Errors
    /// When that cannot be kept.
    pub async fn thaw(&self, whom: &FreezeTarget) -> Result<bool, KeepError> {
        let thawed = self.store.thaw(&whom.to_string()).await;
        self.look();
        thawed
    }

    /// Lists who is frozen now.
    #[must_use]
    pub fn list(&self) -> Vec<(String, Freeze)> {
        self.store.freezes(self.store.now())
    }

    /// Tells whether whom a session is for is frozen, by itself or with its domain.
    #[must_use]
    pub fn has(&self, role: &Role) -> bool {
        self.is_any() && self.has_whom(&FreezeTarget::of(role))
    }

    /// As [`Frozen::has`].
    #[must_use]
    pub fn has_whom(&self, whom: &FreezeTarget) -> bool {
        let with_domain = || match whom {
            FreezeTarget::Account(account) => self.lists(&FreezeTarget::Domain(account.domain().clone())),
            FreezeTarget::Domain(_) | FreezeTarget::User(_) => false,
        };
        self.lists(whom) || with_domain()
    }

    /// Tells whether a Voximplant user is frozen: in its application, or under its name wherever it is. `own`: the
    /// application that goes without saying.
    #[must_use]
    pub fn has_user(&self, user: &VoximplantUser, own: Option<&str>) -> bool {
        let name = user.name();
        let full = user.application().or(own).map(|application| format!("{name}@{application}"));
        let spellings = [Some(name.to_owned()), full].into_iter().flatten().filter_map(|text| text.parse().ok());
        self.is_any() && spellings.map(FreezeTarget::User).any(|whom| self.lists(&whom))
    }

    /// Tells whether a request is somebody's who is frozen. What is unclear is, while somebody is frozen whom it may mean.
    #[must_use]
    pub fn has_owner(&self, owners: &Owners) -> bool {
        self.is_any()
            && (owners.known.iter().any(|role| self.has(role)) || owners.named.iter().any(|one| self.may_mean(one)))
    }

    fn may_mean(&self, meant: &Mention) -> bool {
        match meant {
            Mention::Account(account) => self.has_whom(&FreezeTarget::Account(account.clone())),
            Mention::Somebody(domain) => self.list().iter().any(|(name, _)| match name.parse() {
                Ok(FreezeTarget::Account(account)) => account.domain() == domain,
                Ok(FreezeTarget::Domain(frozen)) => frozen == *domain,
                Ok(FreezeTarget::User(_)) | Err(_) => false,
            }),
            Mention::Anybody => self.list().iter().any(|(name, _)| !name.starts_with("user ")),
        }
    }

    fn lists(&self, whom: &FreezeTarget) -> bool {
        self.store.is_frozen(&whom.to_string(), self.store.now())
    }

    /// Tells whether anybody may be frozen.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Takes note of what the store says now, and wakes the tunnels.
    fn look(&self) {
        self.any.store(!self.list().is_empty(), Ordering::Release);
        self.changed.send_replace(());
    }
}

/// Whose a request is: the accounts that its sessions went out to, and everybody whom it may name.
#[derive(Debug, Default)]
pub struct Owners {
    /// The accounts.
    pub known: Vec<Role>,
    /// Everybody else.
    pub named: Vec<Mention>,
}

/// What holds a tunnel to the accounts it was opened for.
#[derive(Debug)]
pub struct Leash {
    frozen: Arc<Frozen>,
    owners: Owners,
}

impl Leash {
    /// Binds a tunnel to those it is for.
    #[must_use]
    pub const fn new(frozen: Arc<Frozen>, owners: Owners) -> Self {
        Self { frozen, owners }
    }

    /// Waits until one of the accounts is frozen; for ever where nobody knows whose tunnel it is.
    pub async fn cut(&self) {
        if self.owners.known.is_empty() && self.owners.named.is_empty() {
            return pending().await;
        }
        let mut changed = self.frozen.changed.subscribe();
        while !self.frozen.has_owner(&self.owners) {
            // It changes for as long as there is a leash.
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

    /// Tells whether a future waits.
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
            let frozen = Frozen::new(Arc::new(Store::in_memory()));
            let freeze = Freeze { since: Timestamp::now(), until: None, by: String::new(), why: String::new() };
            frozen.freeze(&frozen_as.parse().unwrap(), freeze).await.unwrap();
            for (user, expected) in ["ann", "ann@own.acme", "ann@b.acme"].into_iter().zip(is_frozen) {
                assert_eq!(frozen.has_user(&user.parse().unwrap(), Some("own.acme")), expected, "{frozen_as}: {user}");
            }
            assert!(!frozen.has_user(&"bob".parse().unwrap(), Some("own.acme")));
        }
    }

    #[tokio::test]
    async fn a_leash_is_cut_by_what_freezes_its_account_and_nothing_else() {
        let frozen = Arc::new(Frozen::new(Arc::new(Store::in_memory())));
        let account = |name: &str| name.parse::<FreezeTarget>().unwrap();
        let owner = Role::User(Account::new("40", "acme.test".parse().unwrap()).unwrap());
        let leash = |known: Vec<Role>, named: Vec<Mention>| Leash {
            frozen: Arc::clone(&frozen),
            owners: Owners { known, named },
        };
        let (his, nobodys) = (leash(vec![owner], Vec::new()), leash(Vec::new(), Vec::new()));
        let unclear = leash(Vec::new(), vec![Mention::Somebody("acme.test".parse().unwrap())]);
        let freeze = || Freeze { since: Timestamp::now(), until: None, by: String::new(), why: String::new() };
        let mut cut = Box::pin(his.cut());
        for other in ["account 41@acme.test", "account 40@other.test", "domain other.test", "user ann"] {
            frozen.freeze(&account(other), freeze()).await.unwrap();
            assert!(waits(cut.as_mut()).await, "{other}");
        }
        frozen.thaw(&account("account 41@acme.test")).await.unwrap();
        assert!(waits(std::pin::pin!(unclear.cut())).await);
        frozen.freeze(&account("domain acme.test"), freeze()).await.unwrap();
        cut.await;
        unclear.cut().await;
        assert!(waits(std::pin::pin!(nobodys.cut())).await);
        assert!(frozen.thaw(&account("domain acme.test")).await.unwrap());
        assert!(!frozen.thaw(&account("domain acme.test")).await.unwrap());
        assert!(waits(std::pin::pin!(his.cut())).await);
    }
}
