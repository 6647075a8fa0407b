//! Floor 4: the quotas of the login endpoints, in memory of bounded size.

mod backlog;
mod distinct_keys;
mod gcra_script;
mod key;
mod limit_rate;
mod limiter;
mod node_limits;
mod packed;
mod query;
mod races;
mod seeds;
mod seen_credentials;
mod settled;
mod shadow;
mod shared_keys;
mod source;
mod table;
mod usage;

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::distinct_keys::{DistinctKeys, Novelty};
pub(crate) use self::key::LimitKey;
pub use self::limit_rate::LimitRate;
pub use self::limiter::{Limited, Limiter};
use self::node_limits::{NodeLimiters, PbxLoginLimit};
pub(crate) use self::query::LimitQuery;
pub(crate) use self::races::Races;
pub(crate) use self::seen_credentials::SeenCredentials;
use self::settled::SettledLimit;
pub(crate) use self::shadow::LimitReport;
use self::shadow::ShadowLimit;
pub use self::source::LimitSource;
pub(crate) use self::usage::LimitUsage;
use crate::config::{self, NodeIndex, PbxConfig, PbxNodes, PerNode};
use crate::members::SharedEngine;
use crate::memory::{MemoryWriter, ProcessMemory};
use crate::model::account::AdminLevel;
use crate::model::limit_set::LimitSet;
use crate::model::rate::Rate;

/// How many keys a limiter tells apart before new ones share an entry; about 2.6 MB for each limiter.
pub const KEYS: usize = 100_000;
/// How long a credential that has logged in is exempt from `failures` of its address, and one that the PBX accepted from
/// `pbx_logins`.
const PROVEN: Duration = Duration::from_secs(24 * 3600);
/// How long a cookie that the app does not know is remembered, so that it counts once.
const STALE: Duration = Duration::from_secs(15 * 60);

/// The limiters of `[limits]`, shared by all workers.
pub(crate) struct Limits {
    /// Requests to the login endpoints, by [`LimitSource`].
    pub client: Arc<Limiter>,
    /// Requests to the login endpoints, by proven caller.
    pub caller: Arc<Limiter>,
    /// Grants, by account or Voximplant user.
    pub account: Arc<Limiter>,
    /// Grants of administrators' sessions, by level and domain.
    admin: Arc<Limiter>,
    /// Bad credentials, by [`LimitSource`]: peeked at before a credential is judged, consumed by a bad one.
    pub failures: Arc<Limiter>,
    /// Different cookies that the app does not know, by [`LimitSource`].
    pub stale_cookies: Arc<Limiter>,
    /// Password logins that pass through to the PBX, by [`LimitSource`].
    pbx_logins: PbxLoginLimit,
    /// What each PBX node counts apart.
    nodes: PerNode<NodeLimiters>,
    /// The credentials in `Authorization` that the PBX accepted, at each address.
    pub pbx_accepted: Arc<SeenCredentials>,
    /// The credentials that have logged in at each address.
    pub proven: Arc<SeenCredentials>,
    /// The cookies that the app did not know, at each address.
    pub stale: Arc<SeenCredentials>,
    /// The engine that counts for all members; nothing: this one is alone.
    engine: Option<Arc<SharedEngine>>,
    /// The limits in shadow.
    shadows: Vec<Arc<ShadowLimit>>,
}

impl Limits {
    /// Makes limiters that go on with the counts of a process before, where the rates are the same.
    #[must_use]
    pub(crate) fn new(
        rates: &config::LimitsConfig,
        pbx: &PbxNodes,
        engine: Option<Arc<SharedEngine>>,
        memory: &mut ProcessMemory,
    ) -> Self {
        let parts = QuotaParts::of(rates, engine.as_ref());
        let nodes = nodes(pbx, engine.as_ref(), rates.shadow, |name, node, rate| {
            Arc::new(Limiter::take_over(name, Some(node), parts.rate(name, rate), KEYS, memory))
        });
        let mut limiter = |name, rate| Arc::new(Limiter::take_over(name, None, parts.rate(name, rate), KEYS, memory));
        let pbx_logins = limiter("pbx_logins", rates.pbx_logins);
        Self {
            client: limiter("client", rates.client),
            caller: limiter("caller", rates.caller),
            account: limiter("account", rates.account),
            admin: limiter("admin", rates.admin),
            failures: limiter("failures", rates.failures),
            stale_cookies: limiter("stale_cookies", rates.stale_cookies),
            pbx_logins: pbx_login_limit(engine.as_ref(), pbx_logins, rates.shadow),
            nodes,
            pbx_accepted: Arc::new(SeenCredentials::take_over("pbx_accepted", KEYS, PROVEN, memory)),
            proven: Arc::new(SeenCredentials::take_over("proven", KEYS, PROVEN, memory)),
            stale: Arc::new(SeenCredentials::take_over("stale", KEYS, STALE, memory)),
            engine,
            shadows: Vec::new(),
        }
        .with_shadows(rates.shadow, &[])
    }

    /// Measures the limits in shadow, and goes on where these were measured before.
    fn with_shadows(self, shadow: LimitSet, before: &[Arc<ShadowLimit>]) -> Self {
        let limiters = self.all().filter(|limiter| shadow.has(limiter.name()));
        let shadows = limiters.map(|limiter| {
            let same = before.iter().find(|before| Arc::ptr_eq(&before.limiter, limiter));
            same.map_or_else(|| Arc::new(ShadowLimit::begin(Arc::clone(limiter), KEYS)), Arc::clone)
        });
        let shadows = shadows.collect();
        Self { shadows, ..self }
    }

    /// Returns the limiters, in the order of `[limits]`.
    const fn limiters(&self) -> [&Arc<Limiter>; 7] {
        let Self { client, caller, account, admin, failures, stale_cookies, pbx_logins, .. } = self;
        [client, caller, account, admin, failures, stale_cookies, &pbx_logins.limiter]
    }

    /// Returns these, and behind them those of nodes.
    fn all(&self) -> impl Iterator<Item = &Arc<Limiter>> {
        self.limiters().into_iter().chain(self.nodes.iter().flat_map(NodeLimiters::limiters))
    }

    /// Writes all counts for the next process.
    ///
    /// # Errors
    /// As the writer.
    pub(crate) fn pass_on(&self, writer: &mut MemoryWriter<'_>) -> io::Result<()> {
        for limiter in self.limiters() {
            limiter.pass_on(writer)?;
        }
        for node in &self.nodes {
            node.pass_on(writer)?;
        }
        for seen in [&self.pbx_accepted, &self.proven, &self.stale] {
            seen.pass_on(writer)?;
        }
        Ok(())
    }

    /// Returns the limiter of sessions of a level at a PBX node.
    #[must_use]
    pub(crate) fn sessions(&self, level: AdminLevel, node: NodeIndex) -> &Limiter {
        let own = &self.nodes[node];
        match level {
            AdminLevel::User => own.account.as_ref().unwrap_or(&self.account),
            AdminLevel::Domain | AdminLevel::Admin => own.admin.as_ref().unwrap_or(&self.admin),
        }
    }

    /// Makes limiters for other rates. A limiter whose rate is unchanged keeps its counts.
    #[must_use]
    pub(crate) fn successor(
        &self,
        rates: &config::LimitsConfig,
        pbx: &PbxNodes,
        engine: Option<Arc<SharedEngine>>,
    ) -> Self {
        let parts = QuotaParts::of(rates, engine.as_ref());
        let next = |before: &Arc<Limiter>, rate| match parts.rate(before.name(), rate) {
            rate if before.rate() == rate => Arc::clone(before),
            rate => Arc::new(Limiter::new(before.name(), rate, KEYS)),
        };
        let nodes = nodes(pbx, engine.as_ref(), rates.shadow, |name, node, rate| {
            let rate = parts.rate(name, rate);
            let known = self.nodes.iter().filter(|known| known.node == node).flat_map(NodeLimiters::limiters);
            let mut same = known.filter(|limiter| limiter.name() == name && limiter.rate() == rate);
            same.next().map_or_else(|| Arc::new(Limiter::new(name, rate, KEYS).of_node(node)), Arc::clone)
        });
        let pbx_logins = next(&self.pbx_logins.limiter, rates.pbx_logins);
        Self {
            client: next(&self.client, rates.client),
            caller: next(&self.caller, rates.caller),
            account: next(&self.account, rates.account),
            admin: next(&self.admin, rates.admin),
            failures: next(&self.failures, rates.failures),
            stale_cookies: next(&self.stale_cookies, rates.stale_cookies),
            pbx_logins: pbx_login_limit(engine.as_ref(), pbx_logins, rates.shadow),
            nodes,
            pbx_accepted: Arc::clone(&self.pbx_accepted),
            proven: Arc::clone(&self.proven),
            stale: Arc::clone(&self.stale),
            engine,
            shadows: Vec::new(),
        }
        .with_shadows(rates.shadow, &self.shadows)
    }

    /// Counts a request that could guess a password of the PBX. It waits for nothing: this member counts it, and tells the
    /// others behind. `refusers`: as for [`Limits::ask`].
    ///
    /// # Errors
    /// When the source has used up its quota.
    pub(crate) fn count_pbx_login(
        &self,
        node: NodeIndex,
        source: &LimitSource,
        refusers: &Cell<LimitSet>,
    ) -> Result<(), Limited> {
        let PbxLoginLimit { limiter, settled } = self.pbx_logins(node);
        if let Some(shadow) = self.shadow(limiter) {
            shadow.meet(&LimitQuery::count(limiter, source), refusers);
            return Ok(());
        }
        limiter.admit_source(source)?;
        settled.as_ref().map_or(Ok(()), |settled| settled.count(source))
    }

    /// Checks whether [`Limits::count_pbx_login`] would admit a request. Counts nothing.
    ///
    /// # Errors
    /// When it would not.
    pub(crate) fn check_pbx_login(
        &self,
        node: NodeIndex,
        source: &LimitSource,
        refusers: &Cell<LimitSet>,
    ) -> Result<(), Limited> {
        let PbxLoginLimit { limiter, settled } = self.pbx_logins(node);
        if let Some(shadow) = self.shadow(limiter) {
            shadow.meet(&LimitQuery::look(limiter, source), refusers);
            return Ok(());
        }
        limiter.peek_source(source)?;
        settled.as_ref().map_or(Ok(()), |settled| settled.check(source))
    }

    fn pbx_logins(&self, node: NodeIndex) -> &PbxLoginLimit {
        self.nodes[node].pbx_logins.as_ref().unwrap_or(&self.pbx_logins)
    }

    /// Returns the tasks that tell the engine, for as long as this configuration is in use.
    pub(crate) fn settle(&self) -> impl Iterator<Item = impl Future<Output = ()> + Send + 'static> {
        let of_nodes = self.nodes.iter().filter_map(|node| node.pbx_logins.as_ref());
        let all = [&self.pbx_logins].into_iter().chain(of_nodes);
        all.filter_map(|limit| limit.settled.clone()).map(SettledLimit::settle)
    }

    /// Asks limits in their order; those behind the first that is used up count nothing. Limits in shadow take note, by the
    /// memory of this member alone, and each that would have refused the request is added to `refusers`.
    ///
    /// # Errors
    /// When a limit is used up that is not in shadow.
    pub(crate) async fn ask(&self, queries: &[LimitQuery<'_>], refusers: &Cell<LimitSet>) -> Result<(), Limited> {
        if self.shadows.is_empty() {
            return query::answer(self.engine.as_ref(), queries).await;
        }
        let in_force: Vec<_> = queries.iter().filter(|query| !self.is_in_shadow(query)).cloned().collect();
        let answer = query::answer(self.engine.as_ref(), &in_force).await;
        let refuser = answer.as_ref().err().map(|limited| limited.name);
        for query in queries.iter().take_while(|query| Some(query.limit()) != refuser) {
            if let Some(shadow) = self.shadow(query.limiter()) {
                shadow.meet(query, refusers);
            }
        }
        answer
    }

    /// Looks whether a limit is used up, in shadow or not. Counts nothing.
    ///
    /// # Errors
    /// When it is.
    pub(crate) async fn look(&self, query: LimitQuery<'_>) -> Result<(), Limited> {
        let query = query.without_count();
        if self.is_in_shadow(&query) {
            return query.answer_here();
        }
        query::answer(self.engine.as_ref(), &[query]).await
    }

    // === Shadow ===

    /// Returns whether the limit of a question is in shadow.
    pub(crate) fn is_in_shadow(&self, query: &LimitQuery<'_>) -> bool {
        self.shadow(query.limiter()).is_some()
    }

    fn shadow(&self, limiter: &Limiter) -> Option<&ShadowLimit> {
        self.shadows.iter().find(|shadow| std::ptr::eq(&*shadow.limiter, limiter)).map(|shadow| &**shadow)
    }

    /// Describes all limits, and what those in shadow have measured.
    pub(crate) fn report(&self) -> Vec<LimitReport> {
        self.all().map(|limiter| LimitReport::of(limiter, self.shadow(limiter))).collect()
    }

    /// Returns how much of each limit is used.
    pub(crate) fn usage(&self) -> Vec<LimitUsage> {
        self.all().map(|limiter| limiter.usage()).collect()
    }

    /// Counts a one-time key of a known user, unless it is counted already in this period.
    ///
    /// # Errors
    /// When the user has had as many different keys in this period as the rate permits, at all members together.
    pub(crate) async fn admit_key(
        &self,
        keys: &DistinctKeys,
        user: &str,
        key_id: [u8; 32],
    ) -> Result<Novelty, Limited> {
        shared_keys::admit(self.engine.as_ref(), keys, user, key_id).await
    }
}

/// The part of each quota that this member has.
struct QuotaParts {
    members: NonZeroU32,
    /// What counts without the engine: this member counts the whole quota.
    whole: LimitSet,
}

impl QuotaParts {
    fn of(rates: &config::LimitsConfig, engine: Option<&Arc<SharedEngine>>) -> Self {
        Self { members: members(engine), whole: rates.shadow.with("pbx_logins") }
    }

    fn rate(&self, name: &str, rate: Rate) -> LimitRate {
        if self.whole.has(name) { rate.into() } else { LimitRate::among(rate, self.members) }
    }
}

/// Settles the limit of password logins among members, unless it is in shadow.
fn pbx_login_limit(engine: Option<&Arc<SharedEngine>>, limiter: Arc<Limiter>, shadow: LimitSet) -> PbxLoginLimit {
    let settled = engine.filter(|_| !shadow.has(limiter.name())).map(|engine| {
        let alone = LimitRate::among(limiter.rate().shared, engine.config().members);
        let alone = Limiter::new("pbx_logins", alone, KEYS);
        SettledLimit::new(Arc::clone(engine), Arc::clone(&limiter), alone)
    });
    PbxLoginLimit { limiter, settled }
}

/// Makes the limiters of the nodes. `limiter`: makes one, by its name, its node and its rate.
fn nodes(
    pbx: &PbxNodes,
    engine: Option<&Arc<SharedEngine>>,
    shadow: LimitSet,
    mut limiter: impl FnMut(&'static str, &str, Rate) -> Arc<Limiter>,
) -> PerNode<NodeLimiters> {
    let of_node = |PbxConfig { name, limits, .. }: &PbxConfig| {
        let mut own = |limit, rate: Option<Rate>| rate.map(|rate| limiter(limit, name, rate));
        NodeLimiters {
            pbx_logins: own("pbx_logins", limits.pbx_logins).map(|own| pbx_login_limit(engine, own, shadow)),
            account: own("account", limits.account),
            admin: own("admin", limits.admin),
            node: name.clone(),
        }
    };
    pbx.iter().map(of_node).collect()
}

/// Returns how many members share a quota.
pub(crate) fn members(engine: Option<&Arc<SharedEngine>>) -> NonZeroU32 {
    engine.map_or(NonZeroU32::MIN, |engine| engine.config().members)
}

/// Returns the address that counts as one client: an IPv4 address, or the /64 network of an IPv6 address.
///
/// An IPv4-mapped IPv6 address (`::ffff:192.0.2.1`) is that IPv4 address.
#[must_use]
pub(crate) fn client_key(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const NODE: NodeIndex = NodeIndex::FIRST_TWO[0];

    fn one_node() -> PbxNodes {
        [PbxConfig::for_test("pbx", &[])].into_iter().collect()
    }

    #[track_caller]
    fn check(ip: &str, expected: &str) {
        assert_eq!(client_key(ip.parse().unwrap()).to_string(), expected, "{ip}");
    }

    #[test]
    fn an_ipv4_address_is_one_client() {
        check("192.0.2.1", "192.0.2.1");
        check("192.0.2.2", "192.0.2.2");
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_the_same_client() {
        check("::ffff:192.0.2.1", "192.0.2.1");
        check("::ffff:c000:201", "192.0.2.1");
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
        check("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::");
        check("2001:db8:1:3::1", "2001:db8:1:3::");
        check("::1", "::");
    }

    #[test]
    fn limits_serve_all_workers() {
        fn shared<T: Send + Sync>() {}
        shared::<Limits>();
        shared::<DistinctKeys>();
    }

    /// Rates that all differ.
    fn rates(more: u32) -> config::LimitsConfig {
        let rate = |count: u32| format!("{}/s", count + more).parse().unwrap();
        config::LimitsConfig {
            client: rate(1),
            caller: rate(2),
            account: rate(3),
            failures: rate(4),
            stale_cookies: rate(7),
            pbx_logins: rate(5),
            admin: rate(6),
            shadow: LimitSet::default(),
        }
    }

    /// Compares the name and the rate of each limiter with the expected ones.
    #[track_caller]
    fn check_limiters(limits: &Limits, more: u32) {
        let rows = [
            (&limits.client, "client", 1),
            (&limits.caller, "caller", 2),
            (&limits.account, "account", 3),
            (&limits.failures, "failures", 4),
            (&limits.stale_cookies, "stale_cookies", 7),
            (&limits.pbx_logins.limiter, "pbx_logins", 5),
            (&limits.admin, "admin", 6),
        ];
        for (limiter, name, count) in rows {
            let limited = (0..100).find_map(|_| limiter.admit("key").err()).unwrap();
            assert_eq!((limited.name, limited.limit), (name, count + more));
        }
    }

    #[test]
    fn each_limit_has_its_own_rate_and_name() {
        check_limiters(&Limits::new(&rates(0), &PbxNodes::default(), None, &mut ProcessMemory::default()), 0);
    }

    #[test]
    fn counts_go_on_where_the_rate_is_the_same() {
        let before = Limits::new(&rates(0), &PbxNodes::default(), None, &mut ProcessMemory::default());
        let (same, other) = (
            before.successor(&rates(0), &PbxNodes::default(), None),
            before.successor(&rates(10), &PbxNodes::default(), None),
        );
        let limiters = |limits: &Limits| limits.limiters().map(Arc::clone);
        for (before, (same, other)) in limiters(&before).iter().zip(limiters(&same).iter().zip(&limiters(&other))) {
            assert!(Arc::ptr_eq(before, same), "{}", before.name());
            assert!(!Arc::ptr_eq(before, other), "{}", before.name());
        }
        check_limiters(&other, 10);
        for next in [&same, &other] {
            assert!(Arc::ptr_eq(&before.proven, &next.proven) && Arc::ptr_eq(&before.stale, &next.stale));
            assert!(Arc::ptr_eq(&before.pbx_accepted, &next.pbx_accepted));
        }
    }

    /// Rates of one event a day, with limits in shadow.
    fn once(shadow: &[&str]) -> config::LimitsConfig {
        let once = "1/24h".parse().unwrap();
        let shadow = shadow.iter().fold(LimitSet::default(), |shadow, name| shadow.with(name));
        config::LimitsConfig {
            client: once,
            caller: once,
            account: once,
            failures: once,
            stale_cookies: once,
            pbx_logins: once,
            admin: once,
            shadow,
        }
    }

    fn events(limits: &Limits, name: &str) -> Option<u64> {
        let report = limits.report().into_iter().map(|limit| serde_json::json!(limit));
        report.filter(|limit| limit["limit"] == name).find_map(|limit| limit["events"].as_u64())
    }

    #[tokio::test]
    async fn a_limit_in_shadow_refuses_nothing_and_the_others_do() {
        let limits = Limits::new(&once(&["client", "pbx_logins"]), &one_node(), None, &mut ProcessMemory::default());
        let key = || LimitKey::of(&[b"key"]);
        let ask = async |names: &[&str], refusers: &Cell<LimitSet>| {
            let limiter = |name: &str| limits.limiters().into_iter().find(|limiter| limiter.name() == name).unwrap();
            let limiters: Vec<_> = names.iter().map(|name| limiter(name)).collect();
            let queries: Vec<_> = limiters.iter().map(|limiter| LimitQuery::count(limiter, key())).collect();
            limits.ask(&queries, refusers).await.map_err(|limited| limited.name)
        };
        let refusers = Cell::default();
        assert_eq!(ask(&["client", "caller"], &refusers).await, Ok(()));
        assert!(refusers.get().is_empty());
        // The limits before the one that refuses take note, and those behind it do not.
        assert_eq!(ask(&["client", "caller"], &refusers).await, Err("caller"));
        assert_eq!(refusers.get(), LimitSet::default().with("client"));
        assert_eq!(events(&limits, "client"), Some(2));
        assert_eq!(ask(&["caller", "client"], &refusers).await, Err("caller"));
        assert_eq!(events(&limits, "client"), Some(2));
        assert_eq!(events(&limits, "caller"), None);
        let (refusers, source) = (Cell::default(), LimitSource::address([192, 0, 2, 1].into()));
        assert!(limits.count_pbx_login(NODE, &source, &refusers).is_ok() && refusers.get().is_empty());
        assert!(limits.check_pbx_login(NODE, &source, &refusers).is_ok());
        assert_eq!(refusers.get(), LimitSet::default().with("pbx_logins"));
        assert!(limits.count_pbx_login(NODE, &source, &refusers).is_ok());
        assert_eq!(events(&limits, "pbx_logins"), Some(2));
    }

    /// Two nodes, of which the first has limits of its own.
    fn two_nodes(own: &str) -> PbxNodes {
        let rate = own.parse().ok();
        let mut north = PbxConfig::for_test("north", &["a.test"]);
        north.limits = config::NodeLimits { pbx_logins: rate, account: rate, admin: rate };
        [north, PbxConfig::for_test("south", &["b.test"])].into_iter().collect()
    }

    #[tokio::test]
    async fn a_node_with_a_rate_of_its_own_counts_apart_and_goes_on_under_its_name() {
        let [north, south] = NodeIndex::FIRST_TWO;
        let limits = Limits::new(&once(&[]), &two_nodes("2/24h"), None, &mut ProcessMemory::default());
        let admits = |limits: &Limits, node| limits.sessions(AdminLevel::User, node).admit("key").is_ok();
        assert_eq!([admits(&limits, north), admits(&limits, south), admits(&limits, south)], [true, true, false]);
        let source = LimitSource::address([192, 0, 2, 1].into());
        let log_in = |limits: &Limits, node| limits.count_pbx_login(node, &source, &Cell::default()).is_ok();
        assert_eq!([log_in(&limits, north), log_in(&limits, south), log_in(&limits, south)], [true, true, false]);
        let (same, other) = (
            limits.successor(&once(&[]), &two_nodes("2/24h"), None),
            limits.successor(&once(&[]), &two_nodes("3/24h"), None),
        );
        let mut bytes = Vec::new();
        let mut writer = MemoryWriter::begin(&mut bytes).unwrap();
        same.pass_on(&mut writer).unwrap();
        writer.end().unwrap();
        let mut memory = ProcessMemory::read(&*bytes).unwrap();
        let next = Limits::new(&once(&[]), &two_nodes("2/24h"), None, &mut memory);
        for (limits, left) in [(&next, 1), (&same, 1), (&other, 3)] {
            let admitted = (0..5).filter(|_| admits(limits, north)).count();
            let logins = (0..5).filter(|_| log_in(limits, north)).count();
            assert_eq!((admitted, logins, admits(limits, south)), (left, left, false));
        }
    }

    #[tokio::test]
    async fn shadow_is_of_the_limits_of_nodes_too_and_measures_each_alone() {
        let [north, south] = NodeIndex::FIRST_TWO;
        let limits = Limits::new(&once(&["account"]), &two_nodes("2/24h"), None, &mut ProcessMemory::default());
        for node in [north, north, north, south] {
            let query = LimitQuery::count(limits.sessions(AdminLevel::User, node), LimitKey::of(&[b"key"]));
            limits.ask(&[query], &Cell::default()).await.unwrap();
        }
        let report = limits.report().into_iter().map(|limit| serde_json::json!(limit));
        let accounts: Vec<_> = report
            .filter(|limit| limit["limit"] == "account")
            .map(|limit| (limit["pbx"].clone(), limit["events"].clone(), limit["would_refuse"].clone()))
            .collect();
        assert_eq!(serde_json::json!(accounts), serde_json::json!([[null, 1, 0], ["north", 3, 1]]));
    }

    #[tokio::test]
    async fn members_count_the_limits_of_each_node_apart() {
        let Some(server) = crate::members::TestEngine::start() else { return };
        let [north, south] = NodeIndex::FIRST_TWO;
        let member = async || {
            let engine = Some(server.reach().await);
            Limits::new(&once(&[]), &two_nodes("1/24h"), engine, &mut ProcessMemory::default())
        };
        let (one, other) = (member().await, member().await);
        let ask = async |limits: &Limits, node| {
            let query = LimitQuery::count(limits.sessions(AdminLevel::User, node), LimitKey::of(&[b"key"]));
            limits.ask(&[query], &Cell::default()).await.is_ok()
        };
        assert_eq!([ask(&one, north).await, ask(&other, north).await], [true, false]);
        assert_eq!([ask(&other, south).await, ask(&one, south).await], [true, false]);
    }

    #[tokio::test]
    async fn a_limit_comes_out_of_shadow_with_its_counts() {
        let before = Limits::new(&once(&["client"]), &PbxNodes::default(), None, &mut ProcessMemory::default());
        let query = |limits| LimitQuery::count(limits, LimitKey::of(&[b"key"]));
        before.ask(&[query(&before.client)], &Cell::default()).await.unwrap();
        let same = before.successor(&once(&["client", "caller"]), &PbxNodes::default(), None);
        assert_eq!((events(&same, "client"), events(&same, "caller")), (Some(1), Some(0)), "what is measured goes on");
        assert!(same.look(query(&same.client)).await.is_err());
        let next = same.successor(&once(&[]), &PbxNodes::default(), None);
        assert!(next.ask(&[query(&next.client)], &Cell::default()).await.is_err());
        assert_eq!(events(&next, "client"), None);
    }

    #[tokio::test]
    async fn a_limit_in_shadow_asks_no_engine_and_counts_the_whole_quota() {
        let Some(server) = crate::members::TestEngine::start() else { return };
        let limits = Limits::new(
            &once(&["client"]),
            &PbxNodes::default(),
            Some(server.reach().await),
            &mut ProcessMemory::default(),
        );
        drop(server);
        let query = LimitQuery::count(&limits.client, LimitKey::of(&[b"key"]));
        for _ in 0..3 {
            limits.ask(std::slice::from_ref(&query), &Cell::default()).await.unwrap();
        }
        assert_eq!((events(&limits, "client"), limits.client.rate()), (Some(3), once(&[]).client.into()));
    }

    #[test]
    fn the_next_process_counts_on_where_the_rate_is_the_same() {
        let per_day = |count: u32| format!("{count}/24h").parse().unwrap();
        let all = |count| config::LimitsConfig {
            client: per_day(count),
            caller: per_day(count),
            account: per_day(count),
            failures: per_day(count),
            stale_cookies: per_day(count),
            pbx_logins: per_day(count),
            admin: per_day(count),
            shadow: LimitSet::default(),
        };
        let limiters = |limits: &Limits| limits.limiters().map(Arc::clone);
        let seen = |limits: &Limits| [&limits.proven, &limits.stale, &limits.pbx_accepted].map(Arc::clone);
        let source = LimitSource::address([192, 0, 2, 1].into());
        let before = Limits::new(&all(1), &PbxNodes::default(), None, &mut ProcessMemory::default());
        limiters(&before).iter().for_each(|limiter| limiter.admit("key").unwrap());
        seen(&before).iter().for_each(|seen| assert!(seen.note(&source, Instant::now())));
        let mut bytes = Vec::new();
        let mut writer = MemoryWriter::begin(&mut bytes).unwrap();
        before.pass_on(&mut writer).unwrap();
        writer.end().unwrap();
        // One rate differs.
        let rates = config::LimitsConfig { account: per_day(2), ..all(1) };
        let next = Limits::new(&rates, &PbxNodes::default(), None, &mut ProcessMemory::read(&*bytes).unwrap());
        for limiter in limiters(&next) {
            assert_eq!(limiter.admit("key").is_ok(), limiter.name() == "account", "{}", limiter.name());
        }
        for seen in seen(&next) {
            assert!(seen.has(&source, Instant::now()));
        }
    }

    #[test]
    fn full_tables_take_35_mb_of_a_memory() {
        let seen = SeenCredentials::new("seen", KEYS, PROVEN);
        let now = Instant::now();
        for number in 0..2 * KEYS as u32 {
            seen.note(&LimitSource::address(number.to_be_bytes().into()), now);
        }
        let mut bytes = Vec::new();
        let mut writer = MemoryWriter::begin(&mut bytes).unwrap();
        seen.pass_on(&mut writer).unwrap();
        writer.end().unwrap();
        // Seven limits and three of these, each with as many entries of the same size.
        let all = 10 * bytes.len();
        assert!((30_000_000..35_000_000).contains(&all), "{all}");
    }

    #[test]
    fn a_proven_credential_lives_a_day_and_a_stale_cookie_a_quarter_of_an_hour() {
        let (limits, start) =
            (Limits::new(&rates(0), &PbxNodes::default(), None, &mut ProcessMemory::default()), Instant::now());
        let source = LimitSource::address([192, 0, 2, 1].into());
        for (memory, minutes) in [(&limits.proven, 1440), (&limits.pbx_accepted, 1440), (&limits.stale, 15)] {
            let end = start + Duration::from_secs(minutes * 60);
            memory.note(&source, start);
            assert!(memory.has(&source, end - Duration::from_nanos(1)), "{minutes} minutes");
            assert!(!memory.has(&source, end), "{minutes} minutes");
        }
    }
}
