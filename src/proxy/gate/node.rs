//! The PBX node of an account. Its tenant is at one node; where the configuration does not say at which, the login's own host
//! tells it.

use super::Gate;
use super::attempt::Attempt;
use super::audit::Facts;
use crate::config::{Dialect, NodeIndex};
use crate::model::account::Role;
use crate::model::grant::PbxGrant;
use crate::model::principal::Principal;
use crate::proxy::error::Error;

/// The reason of a refusal: neither the domain of the account nor the host of the login tells the node.
const NO_NODE: &str = "neither `domains` nor `hosts` of any [[pbx]] cover the domain of the account";
/// The reason of a refusal: callgate only passes requests through to the node of the account.
const NO_ADMIN: &str = "the [[pbx]] of the account has no `admin` to open sessions";
/// The reason of a refusal: the node would open a session of another level.
const LEGACY: &str = "the [[pbx]] of the account has the legacy dialect, which knows no administrators of the system";
/// The reason of a refusal: the page may ask for sessions of other nodes.
const FOREIGN_PAGE: &str = "the [[pbx]] of the account does not list the origin of the page";

impl Gate {
    /// Finds the node where a session is opened, if one is known. `named`: the node that the login itself names by a host, which
    /// chooses no node for an administrator.
    pub(super) fn node_of(&self, role: &Role, named: Option<NodeIndex>) -> Option<NodeIndex> {
        let named = named.filter(|_| matches!(role, Role::User(_)));
        self.config().pbx.of_domain(role.domain().as_str()).or(named)
    }

    /// Checks that callgate opens a granted session at its node, for the page that asks.
    ///
    /// # Errors
    /// When no node is known, or callgate opens no such session there, or not for this page.
    pub(super) fn check_node(
        &self,
        principal: &Principal,
        grant: &PbxGrant,
        node: Option<NodeIndex>,
        attempt: &Attempt<'_>,
    ) -> Result<NodeIndex, Error> {
        let (role, nodes) = (grant.role(), &self.config().pbx);
        let facts = Facts::of(principal).of_pbx_grant(grant);
        let Some(node) = node else {
            tracing::warn!(account = %role, "no node for a login: add the domain of the account to `domains` of its [[pbx]]");
            self.audit_refusal(attempt, &facts, NO_NODE);
            return Err(Error::Forbidden);
        };
        let (pbx, facts) = (&nodes[node], facts.at_node(nodes.label(node)));
        let is_listed = |origin: &[u8]| self.hosts.origins_of(node).iter().any(|listed| listed.as_bytes() == origin);
        let (reason, error) = match role {
            _ if pbx.admin.is_none() => (NO_ADMIN, Error::Forbidden),
            Role::SystemAdmin(_) if pbx.dialect == Dialect::Legacy => (LEGACY, Error::Forbidden),
            _ if !attempt.listed_origin().is_none_or(is_listed) => (FOREIGN_PAGE, Error::CrossSite),
            _ => return Ok(node),
        };
        self.audit_refusal(attempt, &facts, reason);
        Err(error)
    }
}
