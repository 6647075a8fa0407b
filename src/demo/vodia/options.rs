//! The settings of a PBX: its dialect, its administrator, its tenants.

/// The generation of the session protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VodiaDialect {
    /// Legacy: the minted value is a live session id, for `/welcome.htm?sessId=`.
    A,
    /// Transitional: the minted value is a token, to be exchanged for a cookie.
    B,
    /// Modern: as B, and a mint without a user name is the tenant's administrator.
    C,
}

/// The settings of a PBX.
#[derive(Debug, Clone)]
pub struct VodiaOptions {
    /// The generation of the protocol.
    pub dialect: VodiaDialect,
    /// The system administrator's name.
    pub admin_user: String,
    /// The system administrator's password.
    pub admin_password: String,
    /// The tenants. The one named `localhost` answers for every host name without a tenant.
    pub tenants: Vec<Tenant>,
    /// The `Server` header.
    pub server: String,
}

/// A tenant, which the PBX calls a domain.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its name, which is also its host name.
    pub name: String,
    /// Its extensions.
    pub extensions: Vec<Extension>,
}

/// A user of a tenant.
#[derive(Debug, Clone)]
pub struct Extension {
    /// The account name.
    pub number: String,
    /// The name of the person.
    pub name: String,
    /// The web password.
    pub password: String,
}

impl Default for VodiaOptions {
    fn default() -> Self {
        Self {
            dialect: VodiaDialect::A,
            admin_user: "sso".to_owned(),
            admin_password: "Admin-Passw0rd!".to_owned(),
            tenants: vec![Tenant::with_alice_and_bob("acme.test"), Tenant::with_alice_and_bob("localhost")],
            server: "PBX/70.1".to_owned(),
        }
    }
}

impl Tenant {
    /// Makes a tenant with the extensions 40 (Alice) and 41 (Bob), whose passwords are `Alice-Passw0rd!` and
    /// `Bob-Passw0rd!`.
    #[must_use]
    pub fn with_alice_and_bob(name: &str) -> Self {
        let extension = |number: &str, name: &str, password: &str| Extension {
            number: number.to_owned(),
            name: name.to_owned(),
            password: password.to_owned(),
        };
        let alice = extension("40", "Alice Martin", "Alice-Passw0rd!");
        let bob = extension("41", "Bob Keller", "Bob-Passw0rd!");
        Self { name: name.to_owned(), extensions: vec![alice, bob] }
    }
}
