//! The letters as operators see them: read from the disk by the index of what is set aside, withheld from everybody
//! while one of them is in hand.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::Connection;

use super::{
    Embedded, Inner, Row,
    place::{self, Place},
    removal::Withholding,
    schema,
};
use crate::{
    broker::{
        Error, Letters, Standing,
        letters::{Content, Handful, Held, Hold, Letter, Listing, Look, Page, Which},
    },
    domain::time::Timestamp,
    store::Durability,
};

/// Letters read at once.
const READ_MAX: usize = 256;

/// Letters of one page: each may be as large as a webhook.
const LISTED_MAX: usize = 1_000;

/// Letters looked at for one page; a filter that fits none of them does not read all that lies there.
const LOOKED_AT_MAX: usize = 10_000;

#[async_trait]
impl Letters for Embedded {
    async fn list(&self, which: &Which, page: &Page) -> Result<Listing, Error> {
        let mut after = match &page.after {
            Some(after) => Place::parse(after).ok_or(Error::NoSuchPlace)?,
            None => Place::before_all(Standing::Dead),
        };
        let (mut listing, mut looked_at) = (Listing::default(), 0);
        loop {
            if !which.stands(after.standing) {
                let Some(next) = after.next_kind() else { return Ok(listing) };
                after = next;
                continue;
            }
            let rows = self.inner.database.read(move |c| place::letters(c, after, READ_MAX)).await?;
            let is_last = rows.len() < READ_MAX;
            for (row, place) in rows {
                if listing.letters.len() == page.limit().min(LISTED_MAX) || looked_at == LOOKED_AT_MAX {
                    listing.next = Some(after.to_string());
                    return Ok(listing);
                }
                (after, looked_at) = (place, looked_at + 1);
                let letter = letter(row, place);
                if which.means(&letter) {
                    listing.letters.push(letter);
                }
            }
            if is_last {
                let Some(next) = after.next_kind() else { return Ok(listing) };
                after = next;
            }
        }
    }

    async fn letter(&self, id: &str) -> Result<Option<Letter>, Error> {
        let id = id.to_owned();
        let found = self.inner.database.read(move |c| place::letter(c, &id)).await?;
        Ok(found.map(|(row, place)| letter(row, place)))
    }

    async fn hold(&self, id: &str) -> Result<Option<Held>, Error> {
        let (id, holder) = (id.to_owned(), self.inner.clone());
        let find = move |connection: &Connection| place::letter(connection, &id);
        // Filled on the writer's thread; given back if the caller has gone by then.
        let withheld = Arc::new(Mutex::new(None));
        let filled = withheld.clone();
        let after = move |found: &Option<(Row, Place)>| {
            *filled.lock() =
                found.as_ref().and_then(|(row, place)| holder.withhold(&[(row.clone(), place.standing)]).0.pop());
        };
        let found = self.inner.database.write(Durability::Written, find, after).await?;
        let Some((row, place)) = found else { return Ok(None) };
        let withheld = withheld.lock().take().ok_or(Error::Lost)?;
        Ok(Some(Held::new(letter(row, place), Box::new(withheld))))
    }

    async fn hold_some(
        &self,
        which: &Which,
        except: &HashSet<String>,
        _: usize,
        most: usize,
    ) -> Result<Handful, Error> {
        let mut some = Handful::default();
        let mut page = Page { after: None, limit: READ_MAX, look: Look::Remembered };
        loop {
            let listing = self.list(which, &page).await?;
            for letter in listing.letters.iter().filter(|letter| !except.contains(&letter.id)) {
                if some.held.len() == most {
                    return Ok(some);
                }
                match self.hold(&letter.id).await {
                    Ok(held) => some.held.extend(held),
                    Err(Error::Lost) => some.elsewhere = true,
                    Err(error) => return Err(error),
                }
            }
            page.after = listing.next;
            if page.after.is_none() {
                return Ok(some);
            }
        }
    }
}

fn letter(row: Row, place: Place) -> Letter {
    let is_parked = place.standing == Standing::Parked;
    Letter {
        id: row.job.id.to_string(),
        content: Content::Message(row.job),
        lane: Some(row.lane),
        standing: place.standing,
        tries: row.tries,
        replay: row.replay,
        reason: row.reason,
        parked_at: is_parked.then_some(place.due),
    }
}

#[async_trait]
impl Hold for Withholding {
    async fn replay(self: Box<Self>) -> Result<(), Error> {
        let (inner, row) = (self.inner.clone(), self.row.clone());
        let reborn = reborn(&row, inner.clock.now());
        let (stored, body) = (reborn.clone(), serde_json::to_vec(&*reborn.job).expect("a job is plain data"));
        let revive = move |connection: &Connection| place::replay(connection, stored.seq, stored.replay, &body);
        // On the writer's thread, so that it happens also when the caller stops waiting.
        let after = move |is_there: &bool| if *is_there { self.replayed(reborn) } else { self.end() };
        let is_there = inner.database.write(Durability::Synced, revive, after).await?;
        if is_there { Ok(()) } else { Err(Error::Lost) }
    }

    async fn discard(self: Box<Self>) -> Result<(), Error> {
        let (inner, seq) = (self.inner.clone(), self.row.seq);
        let remove = move |connection: &Connection| schema::remove(connection, seq);
        let removed = inner.database.write(Durability::Synced, remove, move |bytes| self.removed(*bytes)).await?;
        removed.map(drop).ok_or(Error::Lost)
    }
}

/// The row at the beginning of its new life.
fn reborn(row: &Row, now: Timestamp) -> Row {
    let job = Arc::new(row.job.replayed(now));
    let bytes = serde_json::to_vec(&*job).expect("a job is plain data").len() as u64;
    Row { job, tries: 0, replay: row.replay + 1, bytes, redelivered: true, reason: None, ..row.clone() }
}

impl Withholding {
    fn replayed(mut self, row: Row) {
        let inner: Arc<Inner> = self.inner.clone();
        let mut state = inner.state.lock();
        if let Some(standing) = self.release(&mut state) {
            state.tally.removed(row.lane, standing, self.row.bytes);
            state.tally.added(row.lane, Standing::Ready, row.bytes);
        }
        let lane = row.lane;
        state.shelf(lane).returned(row);
        drop(state);
        inner.ring(lane);
    }
}
