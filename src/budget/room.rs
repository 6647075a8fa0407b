//! Decides how much may be read next, from what is held already. Pure arithmetic.

/// The bytes of one connection that may be under way at full speed. Beyond, each stream has one small piece under way.
pub(super) const POOL: usize = 512 << 10;
/// The size of a small piece, in bytes.
pub(super) const LEAST: usize = 8 << 10;
/// A client that holds less than the budget divided by this is a small client. Small clients are restrained last.
pub(super) const SMALL_CLIENT: usize = 16;
/// A connection that holds fewer bytes than this is a small connection.
const SMALL_CONNECTION: usize = 64 << 10;

/// How much of the budget is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Less than half.
    Low,
    /// Half or more: for clients that hold much, only small pieces are read.
    High,
    /// Three quarters or more: for those clients nothing is read, and the slowest of their connections are closed.
    Tight,
    /// Seven eighths or more: small clients are restrained as well.
    Full,
}

/// How much may be handed over next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Everything that has arrived.
    Plenty,
    /// A small piece, when none is under way.
    Least,
    /// Nothing.
    None,
}

/// How much a connection and its client hold, compared with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UsageClass {
    /// The client holds little.
    SmallClient,
    /// The connection holds little, its client holds much.
    SmallConnection,
    /// The connection and its client hold much.
    Large,
}

impl UsageClass {
    /// Classifies a connection by its bytes and those of its client.
    pub(super) const fn of(connection: usize, client: usize, limit: usize) -> Self {
        match client >= limit / SMALL_CLIENT {
            true if connection >= SMALL_CONNECTION => Self::Large,
            true => Self::SmallConnection,
            false => Self::SmallClient,
        }
    }
}

/// Returns this many eighths of the budget.
pub(super) const fn eighths(limit: usize, count: usize) -> usize {
    limit / 8 * count
}

pub(super) const fn pressure(held: usize, limit: usize) -> Pressure {
    match held {
        _ if held >= eighths(limit, 7) => Pressure::Full,
        _ if held >= eighths(limit, 6) => Pressure::Tight,
        _ if held >= eighths(limit, 4) => Pressure::High,
        _ => Pressure::Low,
    }
}

/// Decides how much a connection may hand over. `under_way` counts its own bytes, `held` those of the process.
pub(super) const fn room(under_way: usize, class: UsageClass, held: usize, limit: usize) -> Room {
    let (plenty, least) = match class {
        UsageClass::SmallClient => (eighths(limit, 7), limit),
        UsageClass::SmallConnection => (eighths(limit, 6), eighths(limit, 7)),
        UsageClass::Large => (eighths(limit, 4), eighths(limit, 6)),
    };
    if held >= least {
        Room::None
    } else if held >= plenty || under_way >= POOL {
        Room::Least
    } else {
        Room::Plenty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[track_caller]
    fn check(class: UsageClass, under_way: usize, held: usize, expected: Room) {
        assert_eq!(room(under_way, class, held, 64 * MIB), expected, "{class:?} {under_way} {held}");
    }

    #[test]
    fn a_connection_with_much_under_way_continues_in_small_pieces() {
        for class in [UsageClass::SmallClient, UsageClass::SmallConnection, UsageClass::Large] {
            check(class, POOL - 1, 0, Room::Plenty);
            check(class, POOL, 0, Room::Least);
            check(class, 100 * POOL, 0, Room::Least);
        }
    }

    #[test]
    fn clients_that_hold_much_are_restrained_first() {
        check(UsageClass::Large, 0, 32 * MIB - 1, Room::Plenty);
        check(UsageClass::Large, 0, 32 * MIB, Room::Least);
        check(UsageClass::Large, 0, 48 * MIB, Room::None);
        check(UsageClass::SmallConnection, 0, 48 * MIB - 1, Room::Plenty);
        check(UsageClass::SmallConnection, 0, 48 * MIB, Room::Least);
        check(UsageClass::SmallConnection, 0, 56 * MIB, Room::None);
        check(UsageClass::SmallClient, 0, 56 * MIB - 1, Room::Plenty);
        check(UsageClass::SmallClient, 0, 56 * MIB, Room::Least);
        check(UsageClass::SmallClient, 0, 64 * MIB, Room::None);
    }
}
