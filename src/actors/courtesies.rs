//! Small kindnesses that nobody waits for, such as a typing indicator. Owned here, bounded, ended with the node.

use parking_lot::Mutex;
use tokio::task::JoinSet;

/// Courtesies under way at once; further ones are left out.
const COURTESIES_MAX: usize = 256;

/// The courtesies under way.
#[derive(Default)]
pub struct Courtesies(Mutex<JoinSet<()>>);

impl Courtesies {
    /// Begins one, unless too many are under way.
    pub fn spawn(&self, courtesy: impl Future<Output = ()> + Send + 'static) {
        let mut under_way = self.0.lock();
        while under_way.try_join_next().is_some() {}
        if under_way.len() < COURTESIES_MAX {
            under_way.spawn(courtesy);
        }
    }
}
