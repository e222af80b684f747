//! The answers, in a SQLite database in the study's folder.
//!
//! Write-ahead log with `synchronous = FULL`: a transaction is on disk when it returns, so neither a killed process nor a power
//! failure loses an answer that a judge saw accepted.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use crate::error::Error;
use crate::study::{ANSWERS, Study};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS study (only INTEGER PRIMARY KEY CHECK (only = 1), digest TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS judges (
        judge INTEGER PRIMARY KEY, name TEXT NOT NULL, token TEXT NOT NULL UNIQUE, begun_ms INTEGER
    ) STRICT;
    CREATE TABLE IF NOT EXISTS shown (
        judge INTEGER NOT NULL, item INTEGER NOT NULL, at_ms INTEGER NOT NULL, PRIMARY KEY (judge, item)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS answers (
        judge INTEGER NOT NULL, item INTEGER NOT NULL, choice INTEGER NOT NULL, reasons TEXT NOT NULL, note TEXT NOT NULL,
        shown_ms INTEGER, answered_ms INTEGER NOT NULL, PRIMARY KEY (judge, item)
    ) STRICT;
";

/// An answer as given: by side, not by system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) judge: usize,
    pub(crate) item: usize,
    /// Negative: text A is better, positive: text B.
    pub(crate) choice: i8,
    /// Keys of the reasons, separated by spaces.
    pub(crate) reasons: String,
    pub(crate) note: String,
    /// When the page was last sent, milliseconds since 1970.
    pub(crate) shown_ms: Option<i64>,
    pub(crate) answered_ms: i64,
}

/// A judge's name, link, and whether the instructions were confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judge {
    pub(crate) name: String,
    pub(crate) token: String,
    pub(crate) begun: bool,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saved {
    /// It is stored, now or by an earlier submission of the same answer.
    Yes,
    /// Another answer is stored and stays.
    Different,
}

#[derive(Debug)]
pub(crate) struct Store {
    connection: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens the database of a study, and creates it if necessary.
    pub(crate) fn create(study: &Study) -> Result<Self, Error> {
        Self::open(study, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
    }

    /// Opens the database of a study; `None` if there is none yet.
    pub(crate) fn existing(study: &Study) -> Result<Option<Self>, Error> {
        if !study.folder.join(ANSWERS).exists() {
            return Ok(None);
        }
        Self::open(study, OpenFlags::SQLITE_OPEN_READ_WRITE).map(Some)
    }

    fn open(study: &Study, flags: OpenFlags) -> Result<Self, Error> {
        let path = study.folder.join(ANSWERS);
        if flags.contains(OpenFlags::SQLITE_OPEN_CREATE) {
            create_private(&path)?;
        }
        let connection = Connection::open_with_flags(&path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(answers("open", &path))?;
        let digest = prepare(&connection, &study.digest).map_err(answers("open", &path))?;
        if digest != study.digest {
            return Err(Error::OtherStudy { path });
        }
        Ok(Self { connection, path })
    }

    /// The judges by number, from 1; missing ones are added by `new`.
    pub(crate) fn judges(
        &self,
        count: usize,
        mut new: impl FnMut(usize) -> Result<Judge, Error>,
    ) -> Result<Vec<Judge>, Error> {
        let mut judges = Vec::with_capacity(count);
        for number in 1..=count {
            let known = match self.judge(number)? {
                Some(known) => known,
                None => {
                    let judge = new(number)?;
                    self.put_judge(number, &judge)?;
                    judge
                }
            };
            judges.push(known);
        }
        Ok(judges)
    }

    /// A judge by number.
    pub(crate) fn judge(&self, number: usize) -> Result<Option<Judge>, Error> {
        self.connection
            .query_row(
                "SELECT name, token, begun_ms IS NOT NULL FROM judges WHERE judge = ?1",
                [number],
                |row| Ok(Judge { name: row.get(0)?, token: row.get(1)?, begun: row.get(2)? }),
            )
            .optional()
            .map_err(answers("read", &self.path))
    }

    /// Adds a judge or changes the name and the token of one.
    pub(crate) fn put_judge(&self, number: usize, judge: &Judge) -> Result<(), Error> {
        let sql = "INSERT INTO judges (judge, name, token) VALUES (?1, ?2, ?3)
            ON CONFLICT (judge) DO UPDATE SET name = excluded.name, token = excluded.token";
        self.execute(sql, params![number, judge.name, judge.token])?;
        Ok(())
    }

    /// Records that a judge confirmed the instructions.
    pub(crate) fn begin(&self, judge: usize, now_ms: i64) -> Result<(), Error> {
        self.execute(
            "UPDATE judges SET begun_ms = ?2 WHERE judge = ?1 AND begun_ms IS NULL",
            params![judge, now_ms],
        )?;
        Ok(())
    }

    /// Records that a page was sent; the last time counts.
    pub(crate) fn show(&self, judge: usize, item: usize, now_ms: i64) -> Result<(), Error> {
        let sql = "INSERT OR REPLACE INTO shown (judge, item, at_ms) VALUES (?1, ?2, ?3)";
        self.execute(sql, params![judge, item, now_ms])?;
        Ok(())
    }

    /// Stores an answer (its `shown_ms` is filled in); an existing one stays.
    pub(crate) fn answer(&self, answer: &Answer) -> Result<Saved, Error> {
        let sql = "INSERT INTO answers (judge, item, choice, reasons, note, shown_ms, answered_ms)
            VALUES (?1, ?2, ?3, ?4, ?5, (SELECT at_ms FROM shown WHERE judge = ?1 AND item = ?2), ?6)
            ON CONFLICT (judge, item) DO NOTHING";
        let Answer { judge, item, choice, reasons, note, .. } = answer;
        if self.execute(sql, params![judge, item, choice, reasons, note, answer.answered_ms])? == 1 {
            return Ok(Saved::Yes);
        }
        let sql =
            "SELECT choice = ?3 AND reasons = ?4 AND note = ?5 FROM answers WHERE judge = ?1 AND item = ?2";
        let same: bool = self
            .connection
            .query_row(sql, params![judge, item, choice, reasons, note], |row| row.get(0))
            .map_err(answers("read", &self.path))?;
        Ok(if same { Saved::Yes } else { Saved::Different })
    }

    /// The items that a judge has answered.
    pub(crate) fn answered(&self, judge: usize) -> Result<HashSet<usize>, Error> {
        let read = || -> rusqlite::Result<HashSet<usize>> {
            let mut query = self.connection.prepare("SELECT item FROM answers WHERE judge = ?1")?;
            query.query_map([judge], |row| row.get(0))?.collect()
        };
        read().map_err(answers("read", &self.path))
    }

    /// All answers, by judge, in the order in which they came.
    pub(crate) fn answers(&self) -> Result<Vec<Answer>, Error> {
        let sql = "SELECT judge, item, choice, reasons, note, shown_ms, answered_ms FROM answers
            ORDER BY judge, rowid";
        let read = || -> rusqlite::Result<Vec<Answer>> {
            let mut query = self.connection.prepare(sql)?;
            let rows = query.query_map([], |row| {
                Ok(Answer {
                    judge: row.get(0)?,
                    item: row.get(1)?,
                    choice: row.get(2)?,
                    reasons: row.get(3)?,
                    note: row.get(4)?,
                    shown_ms: row.get(5)?,
                    answered_ms: row.get(6)?,
                })
            })?;
            rows.collect()
        };
        read().map_err(answers("read", &self.path))
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<usize, Error> {
        let run = || self.connection.prepare(sql)?.execute(values);
        run().map_err(answers("write", &self.path))
    }
}

/// Sets the journal, creates the tables, and returns the digest of the study that the database belongs to.
fn prepare(connection: &Connection, digest: &str) -> rusqlite::Result<String> {
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.execute_batch(SCHEMA)?;
    connection.execute("INSERT OR IGNORE INTO study (only, digest) VALUES (1, ?1)", [digest])?;
    connection.query_row("SELECT digest FROM study", [], |row| row.get(0))
}

/// Creates the file, if there is none, for its owner alone, because it holds the judges' links. SQLite gives the files that it
/// keeps beside it the same permissions.
fn create_private(path: &Path) -> Result<(), Error> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop).map_err(Error::io("create", path))
}

fn answers(action: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> Error {
    move |source| Error::Answers { action, path: path.into(), source }
}
