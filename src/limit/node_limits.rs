//! The limits that one PBX node counts apart from the others.

use std::io;
use std::sync::Arc;

use super::Limiter;
use super::settled::SettledLimit;
use crate::memory::MemoryWriter;

/// The limiters of a node; `None`: it has no rate of its own, and counts with the others.
pub(super) struct NodeLimiters {
    /// The name of the node.
    pub(super) node: String,
    pub(super) pbx_logins: Option<PbxLoginLimit>,
    pub(super) account: Option<Arc<Limiter>>,
    pub(super) admin: Option<Arc<Limiter>>,
}

/// The limit of password logins that pass through.
#[derive(Clone)]
pub(super) struct PbxLoginLimit {
    pub(super) limiter: Arc<Limiter>,
    /// What all members count of it.
    pub(super) settled: Option<Arc<SettledLimit>>,
}

impl NodeLimiters {
    /// Returns those that there are.
    pub(super) fn limiters(&self) -> impl Iterator<Item = &Arc<Limiter>> {
        let pbx_logins = self.pbx_logins.as_ref().map(|limit| &limit.limiter);
        self.account.iter().chain(&self.admin).chain(pbx_logins)
    }

    /// Writes all counts for the next process.
    ///
    /// # Errors
    /// As the writer.
    pub(super) fn pass_on(&self, writer: &mut MemoryWriter<'_>) -> io::Result<()> {
        self.limiters().try_for_each(|limiter| limiter.pass_on(writer))
    }
}
