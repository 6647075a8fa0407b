//! The names of the two upstreams.

/// One of the two upstreams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamName {
    /// The app.
    App,
    /// The PBX.
    Pbx,
}

impl UpstreamName {
    /// Returns the name of its table in the configuration, which logs and metrics use, too.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Pbx => "pbx",
        }
    }
}
