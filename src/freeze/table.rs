//! The table of freezes and thaws at the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::LazyLock;
use std::time::Duration;

use super::record::{FreezeRecord, KIND, fields};
use crate::members::{EngineDown, EngineKey, EngineScript, SharedEngine};

/// The most freezes and thaws that the engine holds.
const MOST: usize = 20_000;
/// How long the engine keeps the table. Each member renews it, at the latest every few minutes.
const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The longest value that is read, in bytes: the longest record is shorter.
const LONGEST: usize = 8 << 10;
/// How often an order replaces a value that no member wrote, and that another program writes again.
const TRIES: usize = 3;
/// How many records the engine looks at in one step, so that other questions do not wait.
const STEP: usize = 200;

static PUT: LazyLock<EngineScript> = LazyLock::new(|| EngineScript::new(include_str!("put_record.lua")));
static READ: LazyLock<EngineScript> = LazyLock::new(|| EngineScript::new(include_str!("read_page.lua")));
static PEEK: LazyLock<EngineScript> = LazyLock::new(|| EngineScript::new(include_str!("peek.lua")));
/// Removes a field, unless it has another value meanwhile.
static REMOVE: LazyLock<EngineScript> = LazyLock::new(|| {
    EngineScript::new(
        "local held = redis.call('HGET', KEYS[1], ARGV[1]) \
         if held and (held == ARGV[2] or redis.sha1hex(held) == ARGV[2]) then redis.call('HDEL', KEYS[1], ARGV[1]) end return 0",
    )
});

/// The name of a field, and its value.
type TableField = (Vec<u8>, Vec<u8>);

/// What became of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PutOutcome {
    /// The engine holds it, and has told all members.
    Stored,
    /// The engine holds a newer one.
    Newer(FreezeRecord),
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
    /// How many values no key of the ring opens.
    pub(super) unreadable: usize,
    /// The field of one of them.
    pub(super) unreadable_field: Vec<u8>,
}

/// Writes a record, unless the engine holds a newer one or one above the version `replaceable`. A value that no member wrote
/// is replaced.
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
        text(LONGEST),
    ];
    arguments.extend(fields(engine, &record.whom).iter().map(|field| field.as_str().into()));
    for _ in 0..TRIES {
        let answer: Vec<Vec<u8>> = engine.run_script(&PUT, &[key(engine)], &arguments).await?;
        match &answer[..] {
            [stored] if stored == b"stored" => return Ok(PutOutcome::Stored),
            [full] if full == b"full" => return Ok(PutOutcome::Full),
            [newer, held, field, sha1] if newer == b"newer" => match FreezeRecord::of_value(engine, held) {
                Some(record) => return Ok(PutOutcome::Newer(record)),
                None => remove_unreadable(engine, &record.whom, field, sha1).await?,
            },
            _ => return Err(EngineDown),
        }
    }
    Err(EngineDown)
}

/// Removes the values of a target that no key of the ring opens. Returns whether there was one.
///
/// # Errors
/// When the engine does not answer.
pub(super) async fn clear(engine: &SharedEngine, whom: &str) -> Result<bool, EngineDown> {
    let fields = fields(engine, whom).into_iter().map(|field| field.as_str().as_bytes().to_vec());
    let arguments: Vec<_> = [text(LONGEST)].into_iter().chain(fields).collect();
    let found: Vec<Vec<u8>> = engine.run_script(&PEEK, &[key(engine)], &arguments).await?;
    let mut is_cleared = false;
    for [field, held, sha1] in found.as_chunks().0 {
        if FreezeRecord::of_value(engine, held).is_none() {
            remove_unreadable(engine, whom, field, sha1).await?;
            is_cleared = true;
        }
    }
    Ok(is_cleared)
}

async fn remove_unreadable(engine: &SharedEngine, whom: &str, field: &[u8], sha1: &[u8]) -> Result<(), EngineDown> {
    tracing::warn!(whom, "a value in the shared engine that no key of this member opens is removed");
    engine.run_script::<u64>(&REMOVE, &[key(engine)], &[field.to_vec(), sha1.to_vec()]).await.map(drop)
}

/// Reads all records in steps. `is_old` says which of them no member needs any more.
///
/// # Errors
/// When the engine does not answer.
pub(super) async fn read(
    engine: &SharedEngine,
    is_old: impl Fn(&FreezeRecord) -> bool,
) -> Result<FreezeTable, EngineDown> {
    let (mut table, mut cursor, mut seen) = (FreezeTable::default(), text(0), 0);
    loop {
        let arguments = [cursor, text(STEP), text(LONGEST)];
        let mut page: Vec<Vec<u8>> = engine.run_script(&READ, &[key(engine)], &arguments).await?;
        cursor = page.drain(..1.min(page.len())).next().ok_or(EngineDown)?;
        seen += page.len() / 2;
        for [field, value] in page.as_chunks_mut().0 {
            table.add(engine, mem::take(field), mem::take(value), &is_old);
        }
        // A field may come twice.
        if cursor == b"0" || seen > 2 * MOST {
            return Ok(table);
        }
    }
}

/// Lets the engine keep the table, and removes old records.
///
/// # Errors
/// When the engine does not answer.
pub(super) async fn renew(engine: &SharedEngine, table: &FreezeTable) -> Result<(), EngineDown> {
    let key = key(engine);
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
            None => {
                self.unreadable += 1;
                self.unreadable_field = field;
            }
        }
    }
}

fn key(engine: &SharedEngine) -> EngineKey {
    engine.names().plain("freezes")
}

fn text(number: impl ToString) -> Vec<u8> {
    number.to_string().into_bytes()
}
