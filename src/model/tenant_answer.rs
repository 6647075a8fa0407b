//! What is known of a host name that may be a tenant's.

/// What the PBX says about a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantAnswer {
    /// It is a tenant's.
    Known,
    /// The PBX has no such tenant, or no PBX has the host.
    Unknown,
    /// The PBX gave no list a short time ago.
    NoAnswer,
    /// The PBX must be asked.
    Unasked,
}
