//! A gate that is built and not started: all that `run` makes of a configuration before it opens a file or a port.

use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::Config;
use crate::memory::ProcessMemory;
use crate::observe::Logs;
use crate::observe::metrics::Tally;
use crate::proxy::{Proxy, SharedState};
use crate::state::Store;
use crate::tls::current::CurrentPolicies;
use crate::tls::server::TlsPolicies;

pub(super) struct UnstartedGate {
    pub(super) shared: Arc<SharedState>,
    pub(super) tls: Arc<TlsPolicies>,
    pub(super) proxy: Proxy,
}

impl UnstartedGate {
    /// Builds the gate of a configuration.
    ///
    /// # Errors
    /// When a part of the configuration cannot be used, such as a certificate.
    pub(super) fn build(config: Arc<Config>) -> Result<Self, Box<dyn Error>> {
        // The state file belongs to the running gate, so used links and tokens are unknown here.
        let shared = Arc::new(SharedState::new(&config, Arc::new(Store::in_memory()), &mut ProcessMemory::default())?);
        let tls = TlsPolicies::new(&config, &Arc::default())?;
        let logs = Logs::discarding(config.log.format)?;
        let current = Rc::new(CurrentPolicies::new(Arc::clone(&tls)));
        let proxy = Proxy::new(config, current, &shared, logs, None, Tally::default())?;
        Ok(Self { shared, tls, proxy })
    }
}
