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

/// What a login itself says about the node of its session.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::proxy) struct WantedNode {
    /// The node that the login names by a host. It chooses no node for an administrator.
    pub(in crate::proxy) named: Option<NodeIndex>,
    /// The nodes to which the login is bound, by the host of its request and by the page that it leads back to.
    pub(in crate::proxy) bounds: [Option<NodeIndex>; 2],
}

/// Why no session is opened for a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NodeRefusal {
    /// Neither the domain of the account nor the host of the login tells the node.
    #[error("neither `domains` nor `hosts` of any [[pbx]] cover the domain of the account")]
    NoNode,
    /// callgate only passes requests through to the node of the account.
    #[error("the [[pbx]] of the account has no `admin` to open sessions")]
    NoAdmin,
    /// The node would open a session of another level.
    #[error("the [[pbx]] of the account has the legacy dialect, which knows no administrators of the system")]
    Legacy,
    /// The page may ask for sessions of other nodes.
    #[error("the [[pbx]] of the account does not list the origin of the page")]
    ForeignPage,
    /// The login is bound to another node.
    #[error("the account is at another [[pbx]] than the host of the login")]
    OtherNode,
}

impl Gate {
    /// Finds the node where a session is opened, if one is known.
    fn node_of(&self, role: &Role, wanted: WantedNode) -> Option<NodeIndex> {
        let named = wanted.named.filter(|_| matches!(role, Role::User(_)));
        self.config().pbx.of_domain(role.domain().as_str()).or(named)
    }

    /// Finds the node where callgate opens a session, for the page that asks.
    ///
    /// # Errors
    /// When no node is known, or callgate opens no such session there, or not for this login.
    pub(super) fn judge_node(
        &self,
        role: &Role,
        wanted: WantedNode,
        attempt: &Attempt<'_>,
    ) -> Result<NodeIndex, NodeRefusal> {
        let node = self.node_of(role, wanted).ok_or(NodeRefusal::NoNode)?;
        let pbx = &self.config().pbx[node];
        let is_listed = |origin: &[u8]| self.hosts.origins_of(node).iter().any(|listed| listed.as_bytes() == origin);
        match role {
            _ if pbx.admin.is_none() => Err(NodeRefusal::NoAdmin),
            Role::SystemAdmin(_) if pbx.dialect == Dialect::Legacy => Err(NodeRefusal::Legacy),
            _ if !attempt.listed_origin().is_none_or(is_listed) => Err(NodeRefusal::ForeignPage),
            _ if wanted.bounds.into_iter().flatten().any(|bound| bound != node) => Err(NodeRefusal::OtherNode),
            _ => Ok(node),
        }
    }

    /// Refuses a grant because of its node, and audits that.
    pub(super) fn refuse_node(
        &self,
        refusal: NodeRefusal,
        (principal, grant): (&Principal, &PbxGrant),
        wanted: WantedNode,
        attempt: &Attempt<'_>,
    ) -> Error {
        let role = grant.role();
        if refusal == NodeRefusal::NoNode {
            tracing::warn!(account = %role, "no node for a login: add the domain of the account to `domains` of its [[pbx]]");
        }
        let name = self.node_of(role, wanted).and_then(|node| self.config().pbx.label(node));
        let facts = Facts::of(principal).of_pbx_grant(grant).at_node(name);
        self.audit_refusal(attempt, &facts, &refusal.to_string());
        match refusal {
            NodeRefusal::ForeignPage => Error::CrossSite,
            NodeRefusal::NoNode | NodeRefusal::NoAdmin | NodeRefusal::Legacy | NodeRefusal::OtherNode => {
                Error::Forbidden
            }
        }
    }
}
