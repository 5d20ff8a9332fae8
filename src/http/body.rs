//! Reads the body of a webhook within its limits.

use axum::body::{Body, Bytes, HttpBody};
use bytes::BytesMut;
use futures_util::TryStreamExt;

use crate::actors::Share;

/// What is read of a body beyond its limit, so that its sender hears the answer.
const THROWN_AWAY_MAX: usize = 16 << 20;

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// It is longer than it may be.
    TooLong,
    /// The budget has no room for it.
    NoRoom,
    /// The connection did.
    BrokeOff,
}

/// Whether a sender is taken at his word on how long his body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// He is known: room for all of it is taken at once. Else many who come together would each get room for a part,
    /// and none for the whole.
    Believed,
    /// He is a stranger: room is taken for what has come. Else he would hold it by announcing.
    Ignored,
}

/// Reads a body of at most `limit` bytes, for which `share` grows. What is not taken is read on for a while and thrown
/// away: a sender that is cut off in the middle does not hear the answer.
pub async fn read(body: Body, limit: usize, announced: Announced, share: &mut Share) -> Result<Bytes, Error> {
    let length = body.size_hint().exact().and_then(|length| usize::try_from(length).ok());
    let fits = length.filter(|length| *length <= limit && announced == Announced::Believed);
    let mut refused = fits.filter(|length| !share.cover(*length)).map(|_| Error::NoRoom);
    let mut chunks = body.into_data_stream();
    let mut whole = BytesMut::new();
    let mut thrown_away = 0;
    while let Some(chunk) = chunks.try_next().await.map_err(|_| Error::BrokeOff)? {
        if refused.is_none() && whole.len() + chunk.len() > limit {
            refused = Some(Error::TooLong);
        } else if refused.is_none() && !share.cover(whole.len() + chunk.len()) {
            refused = Some(Error::NoRoom);
        }
        // Most come in one piece.
        if refused.is_none() && whole.is_empty() && length == Some(chunk.len()) {
            return Ok(chunk);
        }
        if refused.is_none() {
            whole.extend_from_slice(&chunk);
            continue;
        }
        whole = BytesMut::new();
        share.give_back();
        thrown_away += chunk.len();
        if thrown_away > THROWN_AWAY_MAX {
            break;
        }
    }
    refused.map_or(Ok(whole.freeze()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::Budget;

    fn body(chunks: usize) -> Body {
        let chunks = (0..chunks).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 10])));
        Body::from_stream(futures_util::stream::iter(chunks))
    }

    #[tokio::test]
    async fn a_body_is_bounded_by_its_limit_and_by_what_is_left() {
        let budget = Budget::new(100);
        for (chunks, limit, read_as) in
            [(0, 100, Ok(0)), (10, 100, Ok(100)), (11, 200, Err(Error::NoRoom)), (5, 49, Err(Error::TooLong))]
        {
            let read = read(body(chunks), limit, Announced::Believed, &mut budget.nothing()).await;
            assert_eq!(read.map(|bytes| bytes.len()), read_as, "{chunks} chunks, limit {limit}");
        }
    }
}
