//! Floor 4: the quotas of the login endpoints, in memory of bounded size.

mod distinct_keys;
mod gcra_script;
mod key;
mod limit_rate;
mod limiter;
mod packed;
mod query;
mod races;
mod seeds;
mod seen_credentials;
mod settled;
mod shared_keys;
mod source;
mod table;

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::distinct_keys::{DistinctKeys, Novelty};
pub(crate) use self::key::LimitKey;
pub(crate) use self::limit_rate::LimitRate;
pub(crate) use self::limiter::{Limited, Limiter};
pub(crate) use self::query::LimitQuery;
pub(crate) use self::races::Races;
pub(crate) use self::seen_credentials::SeenCredentials;
use self::settled::SettledLimit;
pub(crate) use self::source::LimitSource;
use crate::config;
use crate::members::SharedEngine;
use crate::memory::{MemoryWriter, ProcessMemory};
use crate::model::account::AdminLevel;

/// How many keys a limiter tells apart before new ones share an entry; about 2.5 MB for each limiter.
const KEYS: usize = 100_000;
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
    pub admin: Arc<Limiter>,
    /// Bad credentials, by [`LimitSource`]: peeked at before a credential is judged, consumed by a bad one.
    pub failures: Arc<Limiter>,
    /// Different cookies that the app does not know, by [`LimitSource`].
    pub stale_cookies: Arc<Limiter>,
    /// Password logins that pass through to the PBX, by [`LimitSource`].
    pub pbx_logins: Arc<Limiter>,
    /// The credentials in `Authorization` that the PBX accepted, at each address.
    pub pbx_accepted: Arc<SeenCredentials>,
    /// The credentials that have logged in at each address.
    pub proven: Arc<SeenCredentials>,
    /// The cookies that the app did not know, at each address.
    pub stale: Arc<SeenCredentials>,
    /// The engine that counts for all members; nothing: this one is alone.
    engine: Option<Arc<SharedEngine>>,
    /// What all members count of `pbx_logins`.
    settled: Option<Arc<SettledLimit>>,
}

impl Limits {
    /// Makes limiters that go on with the counts of a process before, where the rates are the same.
    #[must_use]
    pub(crate) fn new(
        rates: &config::LimitsConfig,
        engine: Option<Arc<SharedEngine>>,
        memory: &mut ProcessMemory,
    ) -> Self {
        let members = members(engine.as_ref());
        // It waits for no engine, so this member counts the whole quota.
        let pbx_logins = Arc::new(Limiter::take_over("pbx_logins", rates.pbx_logins, KEYS, memory));
        let mut limiter =
            |name, rate| Arc::new(Limiter::take_over(name, LimitRate::among(rate, members), KEYS, memory));
        Self {
            client: limiter("client", rates.client),
            caller: limiter("caller", rates.caller),
            account: limiter("account", rates.account),
            admin: limiter("admin", rates.admin),
            failures: limiter("failures", rates.failures),
            stale_cookies: limiter("stale_cookies", rates.stale_cookies),
            settled: settled(engine.as_ref(), &pbx_logins),
            pbx_logins,
            pbx_accepted: Arc::new(SeenCredentials::take_over("pbx_accepted", KEYS, PROVEN, memory)),
            proven: Arc::new(SeenCredentials::take_over("proven", KEYS, PROVEN, memory)),
            stale: Arc::new(SeenCredentials::take_over("stale", KEYS, STALE, memory)),
            engine,
        }
    }

    /// Writes all counts for the next process.
    ///
    /// # Errors
    /// As the writer.
    pub(crate) fn pass_on(&self, writer: &mut MemoryWriter<'_>) -> io::Result<()> {
        let Self { client, caller, account, admin, failures, stale_cookies, pbx_logins, .. } = self;
        for limiter in [client, caller, account, admin, failures, stale_cookies, pbx_logins] {
            limiter.pass_on(writer)?;
        }
        for seen in [&self.pbx_accepted, &self.proven, &self.stale] {
            seen.pass_on(writer)?;
        }
        Ok(())
    }

    /// Returns the limiter of PBX sessions of a level.
    #[must_use]
    pub(crate) fn sessions(&self, level: AdminLevel) -> &Limiter {
        match level {
            AdminLevel::User => &self.account,
            AdminLevel::Domain | AdminLevel::Admin => &self.admin,
        }
    }

    /// Makes limiters for other rates. A limiter whose rate is unchanged keeps its counts.
    #[must_use]
    pub(crate) fn successor(&self, rates: &config::LimitsConfig, engine: Option<Arc<SharedEngine>>) -> Self {
        let members = members(engine.as_ref());
        let next = |before: &Arc<Limiter>, rate| match LimitRate::among(rate, members) {
            rate if before.rate() == rate => Arc::clone(before),
            rate => Arc::new(Limiter::new(before.name(), rate, KEYS)),
        };
        let pbx_logins = match self.pbx_logins.rate().shared == rates.pbx_logins {
            true => Arc::clone(&self.pbx_logins),
            false => Arc::new(Limiter::new("pbx_logins", rates.pbx_logins, KEYS)),
        };
        Self {
            client: next(&self.client, rates.client),
            caller: next(&self.caller, rates.caller),
            account: next(&self.account, rates.account),
            admin: next(&self.admin, rates.admin),
            failures: next(&self.failures, rates.failures),
            stale_cookies: next(&self.stale_cookies, rates.stale_cookies),
            settled: settled(engine.as_ref(), &pbx_logins),
            pbx_logins,
            pbx_accepted: Arc::clone(&self.pbx_accepted),
            proven: Arc::clone(&self.proven),
            stale: Arc::clone(&self.stale),
            engine,
        }
    }

    /// Counts a request that could guess a password of the PBX. It waits for nothing: this member counts it, and tells the
    /// others behind.
    ///
    /// # Errors
    /// When the source has used up its quota.
    pub(crate) fn count_pbx_login(&self, source: &LimitSource) -> Result<(), Limited> {
        self.pbx_logins.admit_source(source)?;
        self.settled.as_ref().map_or(Ok(()), |settled| settled.count(source))
    }

    /// Checks whether [`Limits::count_pbx_login`] would admit a request. Counts nothing.
    ///
    /// # Errors
    /// When it would not.
    pub(crate) fn check_pbx_login(&self, source: &LimitSource) -> Result<(), Limited> {
        self.pbx_logins.peek_source(source)?;
        self.settled.as_ref().map_or(Ok(()), |settled| settled.check(source))
    }

    /// Returns the task that tells the engine, for as long as this configuration is in use.
    pub(crate) fn settle(&self) -> Option<impl Future<Output = ()> + Send + 'static> {
        self.settled.clone().map(SettledLimit::settle)
    }

    /// Asks limits in their order; those behind the first that is used up count nothing.
    ///
    /// # Errors
    /// When a limit is used up.
    pub(crate) async fn ask(&self, queries: &[LimitQuery<'_>]) -> Result<(), Limited> {
        query::answer(self.engine.as_ref(), queries).await
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

/// Settles the limit of password logins among members.
fn settled(engine: Option<&Arc<SharedEngine>>, pbx_logins: &Arc<Limiter>) -> Option<Arc<SettledLimit>> {
    let engine = engine?;
    let alone = LimitRate::among(pbx_logins.rate().shared, engine.config().members);
    let alone = Limiter::new("pbx_logins", alone, KEYS);
    Some(SettledLimit::new(Arc::clone(engine), Arc::clone(pbx_logins), alone))
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
            (&limits.pbx_logins, "pbx_logins", 5),
            (&limits.admin, "admin", 6),
        ];
        for (limiter, name, count) in rows {
            let limited = (0..100).find_map(|_| limiter.admit("key").err()).unwrap();
            assert_eq!((limited.name, limited.limit), (name, count + more));
        }
    }

    #[test]
    fn each_limit_has_its_own_rate_and_name() {
        check_limiters(&Limits::new(&rates(0), None, &mut ProcessMemory::default()), 0);
    }

    #[test]
    fn counts_go_on_where_the_rate_is_the_same() {
        let before = Limits::new(&rates(0), None, &mut ProcessMemory::default());
        let (same, other) = (before.successor(&rates(0), None), before.successor(&rates(10), None));
        let limiters = |limits: &Limits| {
            let Limits { client, caller, account, admin, failures, stale_cookies, pbx_logins, .. } = limits;
            [client, caller, account, admin, failures, stale_cookies, pbx_logins].map(Arc::clone)
        };
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
        };
        let limiters = |limits: &Limits| {
            let Limits { client, caller, account, admin, failures, stale_cookies, pbx_logins, .. } = limits;
            [client, caller, account, admin, failures, stale_cookies, pbx_logins].map(Arc::clone)
        };
        let seen = |limits: &Limits| [&limits.proven, &limits.stale, &limits.pbx_accepted].map(Arc::clone);
        let source = LimitSource::address([192, 0, 2, 1].into());
        let before = Limits::new(&all(1), None, &mut ProcessMemory::default());
        limiters(&before).iter().for_each(|limiter| limiter.admit("key").unwrap());
        seen(&before).iter().for_each(|seen| assert!(seen.note(&source, Instant::now())));
        let mut bytes = Vec::new();
        let mut writer = MemoryWriter::begin(&mut bytes).unwrap();
        before.pass_on(&mut writer).unwrap();
        writer.end().unwrap();
        // One rate differs.
        let rates = config::LimitsConfig { account: per_day(2), ..all(1) };
        let next = Limits::new(&rates, None, &mut ProcessMemory::read(&*bytes).unwrap());
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
        let (limits, start) = (Limits::new(&rates(0), None, &mut ProcessMemory::default()), Instant::now());
        let source = LimitSource::address([192, 0, 2, 1].into());
        for (memory, minutes) in [(&limits.proven, 1440), (&limits.pbx_accepted, 1440), (&limits.stale, 15)] {
            let end = start + Duration::from_secs(minutes * 60);
            memory.note(&source, start);
            assert!(memory.has(&source, end - Duration::from_nanos(1)), "{minutes} minutes");
            assert!(!memory.has(&source, end), "{minutes} minutes");
        }
    }
}
