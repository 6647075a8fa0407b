//! What the gate tells: access lines, audit lines, events.
