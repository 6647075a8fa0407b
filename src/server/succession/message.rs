//! The messages between the newest process and the old ones: one JSON object on a line. Another version of callgate may send
//! members and orders that this one does not know.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::pbx::EndOrder;
use crate::state::Freeze;

/// What the newest process orders an old one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(in crate::server) enum SuccessionOrder {
    /// Freeze a target: its tunnels end.
    Freeze {
        /// The target, as in the state.
        whom: String,
        /// The freeze.
        freeze: Freeze,
    },
    /// Thaw a target.
    Thaw {
        /// The target, as in the state.
        whom: String,
    },
    /// End sessions, with their tunnels.
    EndSessions(EndOrder),
    /// Open the log files again.
    Reopen,
    /// End, and give the tunnels the time of `drain`.
    Drain,
    /// Report, and do nothing else.
    Status,
    /// An order of another version.
    #[serde(other)]
    Unknown,
}

/// An order, with the number that its answer repeats.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NumberedOrder {
    pub(super) number: u64,
    #[serde(flatten)]
    pub(super) order: SuccessionOrder,
}

/// The answer of an old process to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::server) struct OldProcessReport {
    /// The number of the order.
    pub(super) number: u64,
    /// Whether it has carried the order out.
    pub(in crate::server) obeyed: bool,
    /// When it handed over.
    pub(in crate::server) since: Timestamp,
    /// How many tunnels it still has.
    pub(in crate::server) tunnels: u64,
    /// How many sessions it has ended.
    #[serde(default)]
    pub(in crate::server) ended: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::credential_mark::CredentialMark;
    use crate::model::session::EndReason;
    use crate::pbx::{LoginFilter, SessionEnd, SessionFilter};

    fn order(filter: SessionFilter, end: SessionEnd<'_>) -> EndOrder {
        EndOrder::all(filter, end, &[]).remove(0)
    }

    #[test]
    fn an_order_of_another_version_is_unknown_and_breaks_nothing() {
        for (text, expected) in [
            (r#"{"number":1,"order":"status","more":true}"#, SuccessionOrder::Status),
            (r#"{"number":1,"order":"reboot","when":"now"}"#, SuccessionOrder::Unknown),
            (
                r#"{"number":1,"order":"end_sessions","filter":{"by":"moon","phase":[1]},"reason":"lunar","by":null,"is_told":false}"#,
                SuccessionOrder::EndSessions(order(SessionFilter::Unknown, EndReason::Operator.into())),
            ),
            (r#"{"number":1,"order":"thaw","whom":"user ann"}"#, SuccessionOrder::Thaw { whom: "user ann".into() }),
        ] {
            let read: NumberedOrder = serde_json::from_str(text).unwrap();
            assert_eq!((read.number, read.order), (1, expected), "{text}");
        }
        let text = r#"{"number":1,"obeyed":true,"since":"2026-11-29T00:00:00Z","tunnels":2,"more":[]}"#;
        assert_eq!(serde_json::from_str::<OldProcessReport>(text).unwrap().tunnels, 2);
    }

    #[test]
    fn an_order_is_read_as_it_was_written() {
        let written = |order: SuccessionOrder| {
            let text = serde_json::to_string(&NumberedOrder { number: u64::MAX, order: order.clone() }).unwrap();
            assert!(!text.contains('\n'), "{text}");
            let read: NumberedOrder = serde_json::from_str(&text).unwrap();
            assert_eq!((read.number, read.order), (u64::MAX, order), "{text}");
            text
        };
        let freeze = Freeze {
            since: Timestamp::UNIX_EPOCH,
            until: None,
            by: "uid 0".into(),
            why: "a\n\"b\"".into(),
            shared: None,
        };
        written(SuccessionOrder::Freeze { whom: "account 40@acme.test".into(), freeze });
        let marks = [CredentialMark::named(b"sid", b"s3cret-c00kie"), CredentialMark::whole([&b"s3cret-c00kie"[..]])];
        let login = LoginFilter::new(vec!["oidc".into()], Some("s3cret-c00kie"), Some("Ann"));
        for filter in [
            SessionFilter::All,
            SessionFilter::number(u64::MAX),
            SessionFilter::id("s3cret-c00kie"),
            SessionFilter::Target { whom: "account 40@acme.test".parse().unwrap() },
            SessionFilter::Login { login },
            SessionFilter::Credential { marks: marks.to_vec() },
        ] {
            for reason in EndReason::ALL {
                let end = SessionEnd { reason, by: Some("uid 0") };
                let text = written(SuccessionOrder::EndSessions(order(filter.clone(), end)));
                assert!(!text.contains("s3cret"), "{text}");
            }
        }
    }
}
