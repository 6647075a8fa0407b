//! The table of freezes and thaws at the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use super::record::{FreezeRecord, KIND, fields};
use crate::members::{EngineDown, EngineScript, SharedEngine};

/// The most freezes and thaws that the engine holds.
const MOST: usize = 20_000;
/// How long the engine keeps the table. Each member renews it, at the latest every few minutes.
const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How many records the engine looks at in one step, so that other questions do not wait.
const STEP: usize = 200;

static PUT: LazyLock<EngineScript> = LazyLock::new(|| EngineScript::new(include_str!("put_record.lua")));
/// Removes a field, unless it has another value meanwhile.
static REMOVE: LazyLock<EngineScript> = LazyLock::new(|| {
    EngineScript::new(
        "if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end return 0",
    )
});

/// The name of a field, and its value.
type TableField = (Vec<u8>, Vec<u8>);

/// What became of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PutOutcome {
    /// The engine holds it, and has told all members.
    Stored,
    /// The engine holds a newer one; nothing: one that this member cannot read.
    Newer(Option<FreezeRecord>),
    /// The table is full.
    Full,
}

/// The records of a table.
#[derive(Debug, Default)]
pub(super) struct FreezeTable {
    pub(super) by_target: BTreeMap<String, FreezeRecord>,
    /// The targets whose records have the name of a key that no longer writes, which will be dropped one day.
    pub(super) under_older_key: BTreeSet<String>,
    /// The fields of records that hold no longer, with their values.
    pub(super) old: Vec<TableField>,
    /// How many records no key of the ring opens.
    pub(super) unreadable: usize,
}

/// Writes a record, unless the engine holds a newer one or one above the version `replaceable`.
///
/// # Errors
/// When the engine does not answer. It may have stored the record.
pub(super) async fn put(
    engine: &SharedEngine,
    record: &FreezeRecord,
    replaceable: u64,
) -> Result<PutOutcome, EngineDown> {
    let value = record.to_value(engine);
    let message = [KIND.as_bytes(), b" ", &value[..]].concat();
    let mut arguments = vec![
        text(record.version),
        text(replaceable),
        value,
        engine.channel().as_str().into(),
        message,
        text(LIFE.as_millis()),
        text(MOST),
    ];
    arguments.extend(fields(engine, &record.whom).iter().map(|field| field.as_str().into()));
    let answer: Vec<Vec<u8>> = engine.run_script(&PUT, &[engine.names().plain("freezes")], &arguments).await?;
    match &answer[..] {
        [stored] if stored == b"stored" => Ok(PutOutcome::Stored),
        [full] if full == b"full" => Ok(PutOutcome::Full),
        [newer, held] if newer == b"newer" => Ok(PutOutcome::Newer(FreezeRecord::of_value(engine, held))),
        _ => Err(EngineDown),
    }
}

/// Reads all records in steps. `is_old` says which of them no member needs any more.
///
/// # Errors
/// When the engine does not answer.
pub(super) async fn read(
    engine: &SharedEngine,
    is_old: impl Fn(&FreezeRecord) -> bool,
) -> Result<FreezeTable, EngineDown> {
    let (mut table, mut cursor, mut seen) = (FreezeTable::default(), 0_u64, 0);
    loop {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(engine.names().plain("freezes").as_str()).arg(cursor).arg("COUNT").arg(STEP);
        let (next, fields): (u64, Vec<TableField>) = engine.ask(&scan).await?;
        seen += fields.len();
        for (field, value) in fields {
            table.add(engine, field, value, &is_old);
        }
        cursor = next;
        // A field may come twice.
        if cursor == 0 || seen > 2 * MOST {
            return Ok(table);
        }
    }
}

/// Lets the engine keep the table, and removes old records.
///
/// # Errors
/// When the engine does not answer.
pub(super) async fn renew(engine: &SharedEngine, table: &FreezeTable) -> Result<(), EngineDown> {
    let key = engine.names().plain("freezes");
    for (field, value) in table.old.iter().take(STEP).cloned() {
        engine.run_script::<u64>(&REMOVE, std::slice::from_ref(&key), &[field, value]).await?;
    }
    engine.ask::<u64>(redis::cmd("PEXPIRE").arg(key.as_str()).arg(LIFE.as_millis() as u64)).await.map(drop)
}

impl FreezeTable {
    fn add(&mut self, engine: &SharedEngine, field: Vec<u8>, value: Vec<u8>, is_old: impl Fn(&FreezeRecord) -> bool) {
        match FreezeRecord::of_value(engine, &value) {
            Some(record) if is_old(&record) => self.old.push((field, value)),
            Some(record) => {
                // In the middle of a rotation of the keys a target may have two fields.
                let is_newer = self.by_target.get(&record.whom).is_none_or(|known| known.version < record.version);
                if is_newer {
                    match field == fields(engine, &record.whom)[0].as_str().as_bytes() {
                        true => self.under_older_key.remove(&record.whom),
                        false => self.under_older_key.insert(record.whom.clone()),
                    };
                    self.by_target.insert(record.whom.clone(), record);
                }
            }
            None => self.unreadable += 1,
        }
    }
}

fn text(number: impl ToString) -> Vec<u8> {
    number.to_string().into_bytes()
}
