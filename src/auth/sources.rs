//! What all workers' chains share: fetched keys, identity providers and what works once, and what of it a reload keeps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::jwks::Jwks;
use super::jwt::KeySource;
use super::oidc::Provider;
use crate::config::{Config, JwksConfig, JwtConfig, JwtKeySource, MethodKind};
use crate::observe::metrics::Freshness;
use crate::once::OnceStore;
use crate::seal::SealKey;

/// What the methods of one configuration judge by, shared by all workers.
pub(crate) struct AuthSources {
    key_sets: Vec<KeySet>,
    /// By the names of their methods.
    providers: HashMap<String, ProviderEntry>,
    /// A random key, which seals cookies where neither a `cookie_key` nor a ring of keys is configured.
    seal: Arc<SealKey>,
    once: Arc<OnceStore>,
}

/// A set of keys that is fetched, and the names of the methods that use it.
struct KeySet {
    methods: Vec<String>,
    jwks: Arc<Jwks>,
}

struct ProviderEntry {
    provider: Arc<Provider>,
    /// Seals the cookies of the method.
    key: Arc<SealKey>,
}

impl AuthSources {
    /// Prepares the sources of a configuration. Nothing is fetched before [`AuthSources::tasks`] run.
    ///
    /// # Errors
    /// When the trust roots of a source cannot be used.
    pub(crate) fn new(config: &Config, once: Arc<OnceStore>) -> Result<Self, rustls::Error> {
        let seal = Arc::new(SealKey::random());
        Ok(Self { key_sets: key_sets(config, &[])?, providers: providers(config, &seal)?, seal, once })
    }

    /// Prepares the sources of the next configuration. Keys and providers that it names as this one stay as they are.
    ///
    /// # Errors
    /// As [`AuthSources::new`].
    pub(crate) fn successor(&self, config: &Config, once: Arc<OnceStore>) -> Result<Self, rustls::Error> {
        let seal = Arc::clone(&self.seal);
        let mut providers = providers(config, &seal)?;
        for (name, next) in &mut providers {
            if let Some(known) = self.providers.get(name).filter(|known| known.provider.is_as(&next.provider)) {
                next.provider = Arc::clone(&known.provider);
            }
        }
        Ok(Self { key_sets: key_sets(config, &self.key_sets)?, providers, seal, once })
    }

    /// Returns the tasks that keep keys and providers fresh. They run as long as the configuration is in use.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = BoxFuture<'static, ()>> {
        let jwks = self.key_sets.iter().map(|set| Arc::clone(&set.jwks).keep_fresh().boxed());
        let providers = self.providers.values().map(|entry| Arc::clone(&entry.provider).keep_fresh().boxed());
        jwks.chain(providers)
    }

    /// Returns how fresh the fetched keys are, by the names of the methods that use them.
    #[must_use]
    pub(crate) fn freshness(&self) -> BTreeMap<String, Arc<Freshness>> {
        let of_set = |set: &KeySet| {
            let freshness = set.jwks.freshness();
            set.methods.iter().map(move |name| (name.clone(), Arc::clone(&freshness))).collect::<Vec<_>>()
        };
        let providers = self.providers.iter().map(|(name, entry)| (name.clone(), entry.provider.freshness()));
        self.key_sets.iter().flat_map(of_set).chain(providers).collect()
    }

    pub(super) const fn once(&self) -> &Arc<OnceStore> {
        &self.once
    }

    pub(super) fn keys(&self, source: &JwtKeySource) -> Option<KeySource> {
        match source {
            JwtKeySource::Fixed(keys) => Some(KeySource::Fixed(Arc::clone(keys))),
            JwtKeySource::Fetched(at) => find(&self.key_sets, at).map(|set| KeySource::Fetched(Arc::clone(&set.jwks))),
        }
    }

    pub(super) fn provider(&self, method: &str) -> Option<(Arc<Provider>, Arc<SealKey>)> {
        self.providers.get(method).map(|entry| (Arc::clone(&entry.provider), Arc::clone(&entry.key)))
    }
}

fn find<'s>(sets: &'s [KeySet], at: &JwksConfig) -> Option<&'s KeySet> {
    sets.iter().find(|set| set.jwks.is_at(at))
}

/// Prepares each set of keys that methods name, once. Sets of `before` stay as they are.
fn key_sets(config: &Config, before: &[KeySet]) -> Result<Vec<KeySet>, rustls::Error> {
    let mut sets: Vec<KeySet> = Vec::new();
    for method in &config.methods {
        let MethodKind::Jwt(JwtConfig { keys: JwtKeySource::Fetched(at), .. }) = &method.kind else { continue };
        if let Some(set) = sets.iter_mut().find(|set| set.jwks.is_at(at)) {
            set.methods.push(method.name.clone());
            continue;
        }
        let jwks = match find(before, at) {
            Some(known) => Arc::clone(&known.jwks),
            None => Arc::new(Jwks::new(at)?),
        };
        sets.push(KeySet { methods: vec![method.name.clone()], jwks });
    }
    Ok(sets)
}

fn providers(config: &Config, seal: &Arc<SealKey>) -> Result<HashMap<String, ProviderEntry>, rustls::Error> {
    let mut providers = HashMap::new();
    let ring = config.ring().map(|ring| Arc::new(SealKey::of_ring(ring)));
    for method in &config.methods {
        if let MethodKind::Oidc(settings) = &method.kind {
            let own = settings.cookie_key.as_ref().map(|key| Arc::new(SealKey::of(key.expose())));
            let key = own.or_else(|| ring.clone()).unwrap_or_else(|| Arc::clone(seal));
            let provider = Arc::new(Provider::new(settings)?);
            providers.insert(method.name.clone(), ProviderEntry { provider, key });
        }
    }
    Ok(providers)
}
