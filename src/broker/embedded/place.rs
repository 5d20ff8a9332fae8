//! Where a letter lies among the letters, and how they are read in that order.

use std::fmt;

use rusqlite::{Connection, OptionalExtension, Row as SqlRow};

use super::{
    schema::{UNREADABLE, lane_code, row, seen, standing_code, standing_of},
    shelf::Row,
    sql,
};
use crate::{broker::Standing, domain::time::Timestamp, store::Error};

/// A place among the letters, in the order of the index of what is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub standing: Standing,
    pub due: Timestamp,
    pub lane: i64,
    pub seq: i64,
}

impl Place {
    /// Before all letters that stand so.
    pub fn before_all(standing: Standing) -> Self {
        Self { standing, due: Timestamp(i64::MIN), lane: 0, seq: 0 }
    }

    /// Before the letters of the kind that follows.
    pub fn next_kind(self) -> Option<Self> {
        (self.standing == Standing::Dead).then(|| Self::before_all(Standing::Parked))
    }

    /// Reads what [`Display`](fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(str::parse::<i64>);
        let mut next = || numbers.next()?.ok();
        let (standing, due, lane, seq) = (next()?, Timestamp(next()?), next()?, next()?);
        let is_letter = standing == standing_code(Standing::Dead) || standing == standing_code(Standing::Parked);
        let is_all = numbers.next().is_none();
        (is_letter && is_all).then(|| Self { standing: standing_of(standing), due, lane, seq })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", standing_code(self.standing), self.due.0, self.lane, self.seq)
    }
}

fn placed(stored: &SqlRow<'_>) -> rusqlite::Result<(Row, Place)> {
    let row = row(stored)?;
    let (standing, due) = (standing_of(stored.get(7)?), Timestamp(stored.get(10)?));
    let place = Place { standing, due, lane: lane_code(row.lane), seq: row.seq };
    Ok((row, place))
}

/// The letters behind a place, of its kind.
pub(super) fn letters(connection: &Connection, after: Place, limit: usize) -> Result<Vec<(Row, Place)>, Error> {
    let mut statement = connection.prepare_cached(sql::LETTERS)?;
    let place = (standing_code(after.standing), after.due.0, after.lane, after.seq, limit as i64);
    let rows = statement.query_map(place, placed)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A letter by event id or message id.
pub(super) fn letter(connection: &Connection, id: &str) -> Result<Option<(Row, Place)>, Error> {
    let mut numbers = Vec::new();
    for key in [format!("e:{id}"), format!("m:{id}")] {
        numbers.extend(seen(connection, &key)?);
    }
    // One that cannot be read is named by its number.
    numbers.extend(id.strip_prefix(UNREADABLE).and_then(|seq| seq.parse::<i64>().ok()));
    let mut statement = connection.prepare_cached(sql::LETTER)?;
    for seq in numbers {
        if let Some(found) = statement.query_row([seq], placed).optional()? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Makes a letter ready, in a new life; `false`: it is not there any more.
pub(super) fn replay(connection: &Connection, seq: i64, replay: u32, body: &[u8]) -> Result<bool, Error> {
    Ok(connection.prepare_cached(sql::REPLAY)?.execute((seq, replay, body))? > 0)
}
