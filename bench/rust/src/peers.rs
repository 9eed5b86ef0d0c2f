//! The peers: what a Rust program would otherwise keep its state in.

use std::path::Path;
use std::sync::Mutex;

use heed::byteorder::BigEndian;
use heed::types::{Bytes, U32};
use heed::{EnvFlags, EnvOpenOptions, WithoutTls};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use rusqlite::{Connection, OptionalExtension};

use crate::engine::{CHANGE, Change, Commit, Read, initial};
use crate::race::Res;

const GONE: &str = "a value vanished";
/// Values a transaction while loading.
const CHUNK: u32 = 10_000;

/// Up to 4 KiB, the largest value here, changed in a buffer as a user would.
fn changed(old: &[u8], change: Change, data: &[u8; CHANGE]) -> ([u8; 4096], usize) {
    let mut value = [0; 4096];
    value[..old.len()].copy_from_slice(old);
    value[change.offset as usize..][..CHANGE].copy_from_slice(data);
    (value, old.len())
}

/// Calls `load` with ranges that cover all keys.
fn in_chunks(count: u32, mut load: impl FnMut(std::ops::Range<u32>) -> Res<()>) -> Res<()> {
    (0..count).step_by(CHUNK as usize).try_for_each(|k| load(k..count.min(k + CHUNK)))
}

/// LMDB. Its values have no checksum and no history.
pub struct Lmdb {
    env: heed::Env<WithoutTls>,
    table: heed::Database<U32<BigEndian>, Bytes>,
}

/// How LMDB writes.
#[derive(Clone, Copy, PartialEq)]
pub enum LmdbMode {
    /// Through a writable mapping, without sync: the fastest that survives `kill -9`.
    Mapped,
    /// With `pwrite`, without sync.
    Written,
    /// Synced at each commit.
    Synced,
}

impl Lmdb {
    pub fn load(dir: &Path, mode: LmdbMode, count: u32, size: usize) -> Res<Self> {
        std::fs::create_dir_all(dir)?;
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(4 * count as usize * size.max(256) + (64 << 20));
        let flags = match mode {
            LmdbMode::Mapped => EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP,
            LmdbMode::Written => EnvFlags::NO_SYNC,
            LmdbMode::Synced => EnvFlags::empty(),
        };
        // SAFETY: the directory is this process's own and opened once; what NO_SYNC gives up is a power loss.
        let env = unsafe { options.flags(flags).open(dir)? };
        let mut txn = env.write_txn()?;
        let table = env.create_database(&mut txn, None)?;
        txn.commit()?;
        let lmdb = Lmdb { env, table };
        let mut value = vec![0; size];
        in_chunks(count, |keys| {
            let mut txn = lmdb.env.write_txn()?;
            for key in keys {
                initial(key, &mut value);
                lmdb.table.put(&mut txn, &key, &value)?;
            }
            Ok(txn.commit()?)
        })?;
        Ok(lmdb)
    }
}

impl Commit for Lmdb {
    fn commit(&self, changes: &[Change], data: &[u8; CHANGE]) -> Res<()> {
        let mut txn = self.env.write_txn()?;
        for &change in changes {
            let old = self.table.get(&txn, &change.key)?.ok_or(GONE)?;
            let (value, len) = changed(old, change, data);
            self.table.put(&mut txn, &change.key, &value[..len])?;
        }
        Ok(txn.commit()?)
    }
}

impl Read for Lmdb {
    fn read(&self, key: u32, out: &mut [u8; CHANGE]) -> Res<()> {
        let txn = self.env.read_txn()?;
        out.copy_from_slice(&self.table.get(&txn, &key)?.ok_or(GONE)?[..CHANGE]);
        Ok(())
    }
}

const TABLE: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("pages");

/// redb. `Durability::None` makes no system call at all: its commits do not survive `kill -9`.
pub struct Redb {
    base: redb::Database,
    durability: redb::Durability,
}

impl Redb {
    pub fn load(file: &Path, durability: redb::Durability, count: u32, size: usize) -> Res<Self> {
        let redb = Redb { base: redb::Database::create(file)?, durability };
        let mut value = vec![0; size];
        in_chunks(count, |keys| {
            let txn = redb.base.begin_write()?;
            {
                let mut table = txn.open_table(TABLE)?;
                for key in keys {
                    initial(key, &mut value);
                    table.insert(key, value.as_slice())?;
                }
            }
            Ok(txn.commit()?)
        })?;
        Ok(redb)
    }
}

impl Commit for Redb {
    fn commit(&self, changes: &[Change], data: &[u8; CHANGE]) -> Res<()> {
        let mut txn = self.base.begin_write()?;
        txn.set_durability(self.durability)?;
        {
            let mut table = txn.open_table(TABLE)?;
            for &change in changes {
                let (value, len) = match table.get(change.key)? {
                    Some(old) => changed(old.value(), change, data),
                    None => return Err(GONE.into()),
                };
                table.insert(change.key, &value[..len])?;
            }
        }
        Ok(txn.commit()?)
    }
}

impl Read for Redb {
    fn read(&self, key: u32, out: &mut [u8; CHANGE]) -> Res<()> {
        let table = self.base.begin_read()?.open_table(TABLE)?;
        out.copy_from_slice(&table.get(key)?.ok_or(GONE)?.value()[..CHANGE]);
        Ok(())
    }
}

/// SQLite with a write-ahead log. Threads share one connection under a lock: its own busy handler starves them.
pub struct Sqlite(Mutex<Connection>);

impl Sqlite {
    /// `synchronous`: "OFF" survives `kill -9`, "FULL" a loss of power.
    pub fn load(file: &Path, synchronous: &str, count: u32, size: usize) -> Res<Self> {
        let base = Connection::open(file)?;
        base.pragma_update(None, "journal_mode", "wal")?;
        base.pragma_update(None, "synchronous", synchronous)?;
        base.pragma_update(None, "cache_size", -256 * 1024)?;
        base.execute("CREATE TABLE pages (key INTEGER PRIMARY KEY, value BLOB)", [])?;
        let mut value = vec![0; size];
        in_chunks(count, |keys| {
            base.execute("BEGIN", [])?;
            let mut insert = base.prepare_cached("INSERT INTO pages VALUES (?1, ?2)")?;
            for key in keys {
                initial(key, &mut value);
                insert.execute((key, &value))?;
            }
            base.execute("COMMIT", [])?;
            Ok(())
        })?;
        Ok(Sqlite(Mutex::new(base)))
    }
}

impl Commit for Sqlite {
    fn commit(&self, changes: &[Change], data: &[u8; CHANGE]) -> Res<()> {
        let base = self.0.lock().map_err(|_| "poisoned")?;
        base.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut select = base.prepare_cached("SELECT value FROM pages WHERE key = ?1")?;
        let mut update = base.prepare_cached("UPDATE pages SET value = ?2 WHERE key = ?1")?;
        for &change in changes {
            let (value, len) = select
                .query_row([change.key], |row| {
                    Ok(changed(row.get_ref(0)?.as_blob()?, change, data))
                })
                .optional()?
                .ok_or(GONE)?;
            update.execute((change.key, &value[..len]))?;
        }
        base.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}

impl Read for Sqlite {
    fn read(&self, key: u32, out: &mut [u8; CHANGE]) -> Res<()> {
        let base = self.0.lock().map_err(|_| "poisoned")?;
        let mut select = base.prepare_cached("SELECT value FROM pages WHERE key = ?1")?;
        Ok(select.query_row([key], |row| {
            out.copy_from_slice(&row.get_ref(0)?.as_blob()?[..CHANGE]);
            Ok(())
        })?)
    }
}
