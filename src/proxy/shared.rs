//! The state that all workers of one configuration share, and the part of it that the next configuration keeps.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::hosts::app_upstream;
use crate::auth::AuthSources;
use crate::config::{Config, NodeIndex, PbxConfig, PerNode, UpstreamConfig, UpstreamUrl, VoximplantConfig};
use crate::freeze::{FreezeSharing, Freezes, MembersTold};
use crate::limit::{DistinctKeys, LimitReport, LimitUsage, Limiter, Limits, Races};
use crate::members::SharedEngine;
use crate::memory::{MemoryWriter, ProcessMemory};
use crate::model::freeze_target::FreezeTarget;
use crate::model::upstream_name::UpstreamName;
use crate::observe::health::ReadinessParts;
use crate::observe::metrics::Freshness;
use crate::once::OnceStore;
use crate::pbx::{self, Breaker, BreakerReport, IssuedSessions, SessionChecks, Tenants};
use crate::seal::SealKey;
use crate::state::{Freeze, KeepError, Store};
use crate::tickets::Tickets;
use crate::upstream::{Connector, EndpointReport};
use crate::voximplant::{Newcomers, Phones};

/// The life of a ticket of the two-host hand-over. Each hop of the browser has a ticket of its own.
const TICKET_LIFE: Duration = Duration::from_secs(30);
/// The interval at which the store is swept. A sweep also tries again to write a file that could not be written.
const SWEEP: Duration = Duration::from_secs(10);

/// The state that all workers of one configuration share.
pub(crate) struct SharedState {
    pub(super) login: Arc<LoginState>,
    pub(super) pbx: Arc<PbxState>,
    pub(super) connectors: Connectors,
    pub(super) auth: Arc<AuthSources>,
    /// The engine that members share; nothing: this one is alone.
    engine: Option<Arc<SharedEngine>>,
}

/// The state behind logins: limits, marks, freezes.
pub(super) struct LoginState {
    pub(super) limits: Limits,
    pub(super) store: Arc<Store>,
    /// What works once and what has ended, here and at all members.
    pub(super) once: Arc<OnceStore>,
    pub(super) freezes: Arc<Freezes>,
    freeze_sharing: Arc<FreezeSharing>,
    pub(super) voximplant: VoximplantState,
}

/// The state of users at Voximplant. Phones and newcomers outlive every configuration.
pub(super) struct VoximplantState {
    /// The phones of frozen users.
    pub(super) phones: Arc<Phones>,
    /// The users that were added at their first login.
    pub(super) newcomers: Arc<Newcomers>,
    /// How many users are added in this way.
    pub(super) new_users: Arc<Limiter>,
    /// The one-time keys that were answered.
    pub(super) distinct_keys: Option<Arc<DistinctKeys>>,
    /// The clients that came with one key.
    pub(super) races: Arc<Races>,
}

/// The state of all PBX nodes together: their sessions, the tickets for them.
pub(super) struct PbxState {
    pub(super) nodes: PerNode<NodeState>,
    /// The sessions that went out. They outlive every configuration.
    pub(super) issued: Arc<IssuedSessions>,
    pub(super) tickets: Tickets,
    /// The key of the places that automatic logins lead back to: of all members, or as old as the process.
    pub(super) seal: Arc<SealKey>,
}

/// The state of one PBX node.
#[derive(Clone)]
pub(super) struct NodeState {
    pub(super) breaker: Arc<Breaker>,
    /// What the PBX said about the sessions of browsers.
    pub(super) checks: SessionChecks,
}

/// The connectors of the upstreams.
pub(super) struct Connectors {
    pub(super) app: Option<Connector>,
    pub(super) pbx: PerNode<Connector>,
}

impl Connectors {
    fn new(config: &Config) -> Result<Self, rustls::Error> {
        let pbx = config.pbx.iter().map(|pbx| Connector::new(&pbx.upstream, UpstreamName::Pbx));
        Ok(Self {
            app: app_upstream(config).map(|app| Connector::new(app, UpstreamName::App)).transpose()?,
            pbx: pbx.collect::<Result<_, _>>()?,
        })
    }

    /// Prepares those of another configuration. An upstream that is configured as `before` keeps its own; a PBX node is known
    /// by its name.
    fn successor(&self, before: &Config, config: &Config) -> Result<Self, rustls::Error> {
        let next = |known: Option<(&Connector, &UpstreamConfig)>, upstream: &UpstreamConfig, name| match known {
            Some((connector, known)) if is_same((before, known), (config, upstream)) => Ok(connector.clone()),
            Some((connector, _)) => connector.successor(upstream, name),
            None => Connector::new(upstream, name),
        };
        let app =
            app_upstream(config).map(|app| next(self.app.as_ref().zip(app_upstream(before)), app, UpstreamName::App));
        let pbx = config.pbx.iter().map(|pbx| {
            let known = before.pbx.named(&pbx.name).map(|node| (&self.pbx[node], &before.pbx[node].upstream));
            next(known, &pbx.upstream, UpstreamName::Pbx)
        });
        Ok(Self { app: app.transpose()?, pbx: pbx.collect::<Result<_, _>>()? })
    }
}

impl SharedState {
    /// Prepares the state for the first configuration, with what a process before remembered.
    ///
    /// # Errors
    /// When the trust roots of an upstream cannot be used.
    pub(crate) fn new(config: &Config, store: Arc<Store>, memory: &mut ProcessMemory) -> Result<Self, rustls::Error> {
        let engine = config.shared.clone().map(SharedEngine::new);
        let issued = Arc::new(IssuedSessions::take_over(memory));
        issued.share(engine.clone());
        let freezes = Arc::new(Freezes::new(Arc::clone(&store)));
        let once = OnceStore::new(Arc::clone(&store), engine.clone());
        Ok(Self {
            auth: Arc::new(AuthSources::new(config, Arc::clone(&once))?),
            pbx: Arc::new(PbxState {
                nodes: config.pbx.iter().map(|pbx| NodeState::new(pbx, engine.as_ref())).collect(),
                issued,
                tickets: Tickets::new(Arc::clone(&once), TICKET_LIFE),
                seal: seal(config),
            }),
            login: Arc::new(LoginState {
                limits: Limits::new(&config.limits, &config.pbx, engine.clone(), memory),
                freeze_sharing: Arc::new(FreezeSharing::new(Arc::clone(&freezes))),
                freezes,
                voximplant: VoximplantState::new(config, &store, memory),
                store,
                once,
            }),
            connectors: Connectors::new(config)?,
            engine,
        })
    }

    /// Prepares the same for another configuration. What is configured as `before` goes on: counts, marks, breaker.
    ///
    /// # Errors
    /// As [`SharedState::new`].
    pub(crate) fn successor(&self, before: &Config, config: &Config) -> Result<Self, rustls::Error> {
        let engine = match before.shared == config.shared {
            true => self.engine.clone(),
            false => config.shared.clone().map(SharedEngine::new),
        };
        let login = Arc::new(self.login.successor(before, config, engine.clone()));
        Ok(Self {
            pbx: Arc::new(self.pbx.successor(before, config, engine.as_ref(), &login.once)),
            connectors: self.connectors.successor(before, config)?,
            auth: Arc::new(self.auth.successor(config, Arc::clone(&login.once))?),
            login,
            engine,
        })
    }

    /// Writes what the next process is to remember.
    ///
    /// # Errors
    /// As the writer.
    pub(crate) fn pass_on(&self, writer: &mut MemoryWriter<'_>) -> io::Result<()> {
        self.login.pass_on(writer)?;
        self.sessions().pass_on(writer)
    }

    /// Returns the freezes.
    #[must_use]
    pub(crate) fn freezes(&self) -> &Arc<Freezes> {
        &self.login.freezes
    }

    /// Freezes a target, on all workers and members.
    ///
    /// # Errors
    /// When the store cannot keep it.
    pub(crate) async fn freeze(&self, target: &FreezeTarget, freeze: Freeze) -> Result<MembersTold, KeepError> {
        match &self.engine {
            Some(engine) => self.login.freeze_sharing.freeze(engine, target, freeze).await,
            None => self.login.freezes.freeze(target, freeze).await.map(|()| MembersTold::Alone),
        }
    }

    /// Thaws a target, on all workers and members. Returns nothing if it was not frozen.
    ///
    /// # Errors
    /// When the store cannot keep it.
    pub(crate) async fn thaw(&self, target: &FreezeTarget) -> Result<Option<MembersTold>, KeepError> {
        match &self.engine {
            Some(engine) => self.login.freeze_sharing.thaw(engine, target).await,
            None => self.login.freezes.thaw(target).await.map(|thawed| thawed.then_some(MembersTold::Alone)),
        }
    }

    /// Returns the task that follows the freezes of other members. `on_change` is told of each.
    #[must_use]
    pub(crate) fn follow_freezes(
        &self,
        on_change: impl Fn(&FreezeTarget, Option<&Freeze>) + Send + Sync + 'static,
    ) -> Option<BoxFuture<'static, ()>> {
        let engine = self.engine.clone()?;
        let sharing = Arc::clone(&self.login.freeze_sharing);
        Some(sharing.follow(engine, on_change).map(|never| match never {}).boxed())
    }

    /// Returns the phones of frozen users.
    #[must_use]
    pub(crate) fn phones(&self) -> &Arc<Phones> {
        &self.login.voximplant.phones
    }

    /// Returns the sessions that callgate opened at the PBX.
    #[must_use]
    pub(crate) fn sessions(&self) -> &Arc<IssuedSessions> {
        &self.pbx.issued
    }

    /// Describes all limits, and what those in shadow have measured.
    #[must_use]
    pub(crate) fn limits(&self) -> Vec<LimitReport> {
        self.login.limits.report()
    }

    /// Returns how much of each limit is used, by what this member knows.
    #[must_use]
    pub(crate) fn limit_usage(&self) -> Vec<LimitUsage> {
        self.login.limits.usage()
    }

    /// Returns how fresh the keys are, by the names of their methods.
    #[must_use]
    pub(crate) fn freshness(&self) -> BTreeMap<String, Arc<Freshness>> {
        self.auth.freshness()
    }

    /// Returns what is known about each `url` of the app; nothing for fewer than two.
    #[must_use]
    pub(crate) fn urls_of_app(&self) -> Vec<EndpointReport> {
        self.connectors.app.as_ref().map(Connector::reports).unwrap_or_default()
    }

    /// Returns what is known about each `url` of a PBX node; nothing for fewer than two.
    #[must_use]
    pub(crate) fn urls_of_pbx(&self, node: NodeIndex) -> Vec<EndpointReport> {
        self.connectors.pbx[node].reports()
    }

    /// Returns the engine that members share; nothing: this one is alone.
    #[must_use]
    pub(crate) const fn engine(&self) -> Option<&Arc<SharedEngine>> {
        self.engine.as_ref()
    }

    /// Returns the tasks that run for as long as this configuration is in use.
    #[must_use]
    pub(crate) fn chores(&self, config: &Config) -> Vec<BoxFuture<'static, ()>> {
        self.sessions().share(self.engine.clone());
        let sweep = sweep(Arc::clone(&self.login.store)).boxed();
        let engine = self.engine.clone().map(|engine| engine.run().boxed());
        let informed = self.engine.as_ref().map(|_| Arc::clone(&self.login.once).keep_engine_informed().boxed());
        let engine = engine.into_iter().chain(informed).chain(self.login.limits.settle().map(FutureExt::boxed));
        let breakers = self
            .pbx
            .nodes
            .iter()
            .filter(|_| self.engine.is_some())
            .map(|node| pbx::follow_breaker(Arc::clone(&node.breaker)).map(|never| match never {}).boxed());
        self.auth.tasks().chain([sweep]).chain(self.session_ends(config)).chain(engine).chain(breakers).collect()
    }

    /// Returns what asks the PBX for its tenants.
    #[must_use]
    pub(crate) fn tenants(&self, config: &Config) -> Tenants {
        let breakers = self.pbx.nodes.iter().map(|node| Arc::clone(&node.breaker));
        Tenants::new(&config.pbx, self.connectors.pbx.iter().cloned().zip(breakers))
    }

    /// Returns the task that ends sessions at the PBX, which runs for as long as a tunnel of one may end.
    #[must_use]
    pub(crate) fn session_ends(&self, config: &Config) -> Option<BoxFuture<'static, ()>> {
        if config.pbx.is_empty() {
            return None;
        }
        let ends = pbx::end_sessions(Arc::clone(self.sessions()), config.pbx.clone(), self.connectors.pbx.clone());
        Some(ends.map(|never| match never {}).boxed())
    }

    /// Describes the breaker of each PBX node, with its name where there are several.
    pub(crate) fn breakers<'c>(&self, config: &'c Config) -> impl Iterator<Item = (Option<&'c str>, BreakerReport)> {
        let nodes = config.pbx.indexed();
        nodes.map(|(node, _)| (config.pbx.label(node), self.pbx.nodes[node].breaker.report(Instant::now())))
    }

    /// Returns the parts that must be ready.
    #[must_use]
    pub(crate) fn parts(&self, config: &Config) -> ReadinessParts {
        let mut parts = ReadinessParts::default();
        let providers = self.freshness();
        for (method, provider) in providers.clone() {
            // The other methods do not need it.
            parts.add_described(format!("provider/{method}"), move || provider.check(Timestamp::now()));
        }
        if !providers.is_empty() && providers.len() == config.methods.len() {
            parts.add("provider", move || check_any(&providers));
        }
        if let Some(app) = self.connectors.app.clone() {
            parts.add("app", move || app.check());
        }
        for (node, pbx) in self.connectors.pbx.indexed() {
            let (pbx, breaker) = (pbx.clone(), Arc::clone(&self.pbx.nodes[node].breaker));
            let (reachable, permitted) = (move || pbx.check(), move || breaker.check(Instant::now()));
            match config.pbx.label(node) {
                // Without one of several nodes, the gate serves the others.
                Some(name) => {
                    parts.add_unneeded(format!("pbx/{name}"), reachable);
                    parts.add_unneeded(format!("breaker/{name}"), permitted);
                }
                None => {
                    parts.add("pbx", reachable);
                    parts.add("breaker", permitted);
                }
            }
        }
        if config.pbx.are_several() {
            let nodes = self.connectors.pbx.clone();
            let is_away = |node: &Connector| node.check().is_err();
            parts.add("pbx", move || match nodes.iter().all(is_away) {
                true => Err("no node can be reached".to_owned()),
                false => Ok(()),
            });
        }
        if let Some(engine) = self.engine.clone() {
            parts.add_unneeded("shared", move || engine.problem().or_else(|| engine.complaint()).map_or(Ok(()), Err));
        }
        let store = Arc::clone(&self.login.store);
        parts.add("state", move || store.check());
        parts
    }
}

impl LoginState {
    fn pass_on(&self, writer: &mut MemoryWriter<'_>) -> io::Result<()> {
        self.limits.pass_on(writer)?;
        self.voximplant.pass_on(writer)
    }

    fn successor(&self, before: &Config, config: &Config, engine: Option<Arc<SharedEngine>>) -> Self {
        let once = self.once.successor(engine.as_ref());
        Self {
            limits: self.limits.successor(&config.limits, &config.pbx, engine),
            store: Arc::clone(&self.store),
            once,
            freezes: Arc::clone(&self.freezes),
            freeze_sharing: Arc::clone(&self.freeze_sharing),
            voximplant: self.voximplant.successor(before, config),
        }
    }
}

impl VoximplantState {
    fn new(config: &Config, store: &Arc<Store>, memory: &mut ProcessMemory) -> Self {
        let phones = Arc::new(Phones::new(Arc::clone(store)));
        let newcomers = Arc::new(Newcomers::new(Arc::clone(phones.counts())));
        Self {
            phones,
            newcomers,
            new_users: new_users(config, memory),
            distinct_keys: distinct_keys(config, memory),
            races: Arc::new(Races::take_over(memory)),
        }
    }

    fn pass_on(&self, writer: &mut MemoryWriter<'_>) -> io::Result<()> {
        if let Some(keys) = &self.distinct_keys {
            keys.pass_on(writer)?;
        }
        self.races.pass_on(writer)?;
        self.new_users.pass_on(writer)
    }

    fn successor(&self, before: &Config, config: &Config) -> Self {
        self.newcomers.adopt(config.voximplant.as_ref());
        let next = new_users(config, &mut ProcessMemory::default());
        let is_same_rate = self.new_users.rate() == next.rate();
        let keys = |config: &Config| config.voximplant.as_ref().map(|voximplant| voximplant.distinct_keys);
        let distinct_keys = match keys(before) == keys(config) {
            true => self.distinct_keys.clone(),
            false => distinct_keys(config, &mut ProcessMemory::default()),
        };
        Self {
            phones: Arc::clone(&self.phones),
            newcomers: Arc::clone(&self.newcomers),
            new_users: if is_same_rate { Arc::clone(&self.new_users) } else { next },
            distinct_keys,
            races: Arc::clone(&self.races),
        }
    }
}

impl PbxState {
    fn successor(
        &self,
        before: &Config,
        config: &Config,
        engine: Option<&Arc<SharedEngine>>,
        once: &Arc<OnceStore>,
    ) -> Self {
        let is_same_ring = before.ring() == config.ring();
        let is_same_engine = before.shared == config.shared;
        let nodes = config.pbx.iter().map(|pbx| {
            // With other credentials, or another PBX, what the breaker knows says nothing.
            let asks_the_same =
                |known: &PbxConfig| known.upstream.urls == pbx.upstream.urls && known.admin == pbx.admin;
            let known = before.pbx.named(&pbx.name).filter(|known| asks_the_same(&before.pbx[*known]));
            let fresh = || NodeState::new(pbx, engine);
            match known {
                None => fresh(),
                Some(known) => NodeState {
                    breaker: match is_same_engine {
                        true => Arc::clone(&self.nodes[known].breaker),
                        false => fresh().breaker,
                    },
                    // With other markers, the same answer means something else.
                    checks: match before.pbx[known].auto == pbx.auto {
                        true => self.nodes[known].checks.clone(),
                        false => SessionChecks::default(),
                    },
                },
            }
        });
        Self {
            nodes: nodes.collect(),
            issued: Arc::clone(&self.issued),
            tickets: self.tickets.successor(Arc::clone(once)),
            seal: if is_same_ring { Arc::clone(&self.seal) } else { seal(config) },
        }
    }
}

impl NodeState {
    fn new(pbx: &PbxConfig, engine: Option<&Arc<SharedEngine>>) -> Self {
        Self { breaker: Arc::new(breaker(pbx, engine)), checks: SessionChecks::default() }
    }
}

/// Makes the breaker of a PBX, which members share if they ask the same PBX as the same administrator.
fn breaker(pbx: &PbxConfig, engine: Option<&Arc<SharedEngine>>) -> Breaker {
    let Some((admin, engine)) = pbx.admin.as_ref().zip(engine) else { return Breaker::default() };
    let urls = pbx.upstream.urls.iter().map(UpstreamUrl::text).collect::<Vec<_>>().join(" ");
    let of = [urls.as_bytes(), admin.user.as_bytes(), admin.password.expose().as_bytes()];
    Breaker::shared(Arc::clone(engine), &of)
}

fn seal(config: &Config) -> Arc<SealKey> {
    Arc::new(config.ring().map_or_else(SealKey::random, SealKey::of_ring))
}

/// Checks that keys of a provider have been fetched, by the names of the methods that use them.
fn check_any(providers: &BTreeMap<String, Arc<Freshness>>) -> Result<(), String> {
    if providers.values().any(|provider| provider.is_loaded()) {
        return Ok(());
    }
    let problem = |(method, provider): (&String, &Arc<Freshness>)| {
        provider.check(Timestamp::now()).err().map(|problem| format!("{method}: {problem}"))
    };
    Err(providers.iter().filter_map(problem).collect::<Vec<_>>().join("; "))
}

/// Removes expired entries from the store, for ever.
async fn sweep(store: Arc<Store>) {
    loop {
        sleep(SWEEP).await;
        store.sweep().await;
    }
}

fn new_users(config: &Config, memory: &mut ProcessMemory) -> Arc<Limiter> {
    let rate =
        config.voximplant.as_ref().map_or_else(VoximplantConfig::default_new_users, |voximplant| voximplant.new_users);
    Arc::new(Limiter::take_over("new_users", None, rate, 1, memory))
}

fn distinct_keys(config: &Config, memory: &mut ProcessMemory) -> Option<Arc<DistinctKeys>> {
    let rate = config.voximplant.as_ref()?.distinct_keys;
    Some(Arc::new(DistinctKeys::take_over(rate, memory)))
}

/// Tells whether two configurations may share connections to an upstream.
pub(super) fn is_same(before: (&Config, &UpstreamConfig), next: (&Config, &UpstreamConfig)) -> bool {
    before.1 == next.1 && before.0.server.timeouts.body_idle == next.0.server.timeouts.body_idle
}
