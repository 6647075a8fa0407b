//! Freezes: each member is told of all of them, and stores them one after the other.

use super::{DISK, Event, MESSAGES, PART, SECOND, Simulation};

impl Simulation {
    /// A member is told of a freeze. With too many that wait for its disk, it reads the table.
    pub(super) fn tell(&mut self, member: usize) {
        let one = &mut self.members[member];
        if one.reading.is_some() {
            one.missed += 1;
            return;
        }
        one.stored = one.stored.max(self.now) + DISK;
        one.knows += 1;
        if one.stored - self.now > MESSAGES * DISK {
            one.knows -= MESSAGES;
            self.after(0, Event::Read(member));
        } else {
            self.outcome.known = self.outcome.known.max(one.stored);
        }
    }

    /// A member stores what it did not know of a part of the table, and reads on.
    pub(super) fn read_on(&mut self, member: usize, answered: bool) {
        let one = &mut self.members[member];
        let Some(read) = one.reading.filter(|_| answered) else {
            one.reading = None;
            return self.after(SECOND, Event::Read(member));
        };
        let parts_left = self.frozen.saturating_sub(read).div_ceil(PART).max(1);
        let news = self.frozen.saturating_sub(one.knows) / parts_left;
        one.knows += news;
        one.reading = (parts_left > 1).then_some(read + PART);
        if one.reading.is_some() {
            return self.after(news * DISK, Event::ReadOn(member));
        }
        self.outcome.known = self.outcome.known.max(self.now + news * DISK);
        if std::mem::take(&mut one.missed) > MESSAGES {
            self.after(news * DISK, Event::Read(member));
        }
    }
}
