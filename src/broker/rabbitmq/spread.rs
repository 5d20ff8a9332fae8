//! Which node consumes from which partition: each node works it out alone from who lives, and all come to the same.
//!
//! Rendezvous hashing (Thaler and Ravishankar 1998) with a bound: of all pairs of a partition and a node the one with the
//! highest hash is joined first, as long as the node has room. So all have as many as each other, give or take one, and few
//! partitions move when a node comes or goes. Nodes that disagree for a moment do no harm: the server gives a queue to one
//! consumer at a time, and a conversation to whoever holds its lease (design rule 4).

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{source::Source, topology::hash};
use crate::broker::Peer;

/// After an outage of RabbitMQ all nodes come back within seconds. So long nobody takes what belongs to one that lives.
const SETTLES_WITHIN: Duration = Duration::from_secs(6);

/// The nodes over which to spread: those that messages reach. `connected_for`: how long this node is connected.
pub(super) fn candidates<'a>(me: &str, peers: &'a [Peer], connected_for: Option<Duration>) -> Vec<&'a str> {
    let settled = connected_for.is_some_and(|connected| connected > SETTLES_WITHIN);
    peers.iter().filter(|peer| !settled || peer.consumes || peer.id == me).map(|peer| peer.id.as_str()).collect()
}

/// The owner of each queue, in their order; `None`: there are no nodes.
pub(super) fn owners<'a>(sources: &[Arc<Source>], nodes: &[&'a str]) -> Vec<Option<&'a str>> {
    let queues: Vec<&str> = sources.iter().map(|source| source.queue.as_str()).collect();
    assign(&queues, nodes)
}

fn assign<'a>(queues: &[&str], nodes: &[&'a str]) -> Vec<Option<&'a str>> {
    let mut owners = vec![None; queues.len()];
    let Some(each) = queues.len().checked_div(nodes.len()) else { return owners };
    // So many have one more.
    let mut more = queues.len() % nodes.len();
    let mut pairs: Vec<(u64, usize, &str)> = Vec::with_capacity(queues.len() * nodes.len());
    for (n, queue) in queues.iter().enumerate() {
        pairs.extend(nodes.iter().map(|node| (hash(&format!("{node}/{queue}")), n, *node)));
    }
    pairs.sort_unstable_by(|a, b| b.cmp(a));
    let mut had: HashMap<&str, usize> = HashMap::new();
    for (_, n, node) in pairs {
        let count = had.entry(node).or_default();
        let has_room = *count < each || (*count == each && more > 0);
        if owners[n].is_none() && has_room {
            more -= usize::from(*count == each);
            *count += 1;
            owners[n] = Some(node);
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn queues(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("tidegate.chat.{n:02}")).collect()
    }

    fn spread(count: usize, nodes: &BTreeSet<String>) -> Vec<Option<String>> {
        let (queues, nodes) = (queues(count), nodes.iter().map(String::as_str).collect::<Vec<_>>());
        let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
        assign(&queues, &nodes).into_iter().map(|owner| owner.map(str::to_owned)).collect()
    }

    proptest! {
        #[test]
        fn each_has_as_many_as_the_others_give_or_take_one(
            count in 1_usize..64,
            nodes in prop::collection::btree_set("[0-9a-f]{16}", 1..9),
        ) {
            let owners = spread(count, &nodes);
            for node in &nodes {
                let has = owners.iter().filter(|owner| owner.as_ref() == Some(node)).count();
                prop_assert!(has == count / nodes.len() || has == count.div_ceil(nodes.len()), "{has} of {count}");
            }
            prop_assert!(owners.iter().all(Option::is_some));
        }

        #[test]
        fn all_nodes_come_to_the_same(nodes in prop::collection::btree_set("[0-9a-f]{16}", 1..9)) {
            let queues = queues(16);
            let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
            let there: Vec<&str> = nodes.iter().map(String::as_str).collect();
            let back: Vec<&str> = nodes.iter().rev().map(String::as_str).collect();
            prop_assert_eq!(assign(&queues, &there), assign(&queues, &back));
        }

        #[test]
        fn less_than_half_moves_when_one_goes(nodes in prop::collection::btree_set("[0-9a-f]{16}", 4..9)) {
            let mut fewer = nodes.clone();
            let gone = fewer.pop_first().unwrap();
            let (before, after) = (spread(64, &nodes), spread(64, &fewer));
            let stayed = before.iter().zip(&after).filter(|(before, after)| before == after).count();
            prop_assert!(before.iter().filter(|owner| owner.as_ref() != Some(&gone)).count() - stayed < 32);
        }
    }

    #[test]
    fn without_nodes_nobody_owns_anything() {
        assert_eq!(assign(&["q"], &[]), [None]);
    }

    #[test]
    fn whom_no_message_reaches_owns_nothing_once_the_others_had_time_to_come_back() {
        let peer = |id: &str, consumes| Peer { id: id.to_owned(), consumes };
        let peers = [peer("ada", true), peer("bob", false), peer("eve", true)];
        let after = |seconds| candidates("eve", &peers, Some(Duration::from_secs(seconds)));
        assert_eq!(after(1), ["ada", "bob", "eve"], "it may be back in a moment");
        assert_eq!(after(10), ["ada", "eve"]);
        assert_eq!(candidates("eve", &peers, None), ["ada", "bob", "eve"], "we are away ourselves");
        let last = [peer("ada", false), peer("eve", false)];
        assert_eq!(candidates("eve", &last, Some(Duration::from_secs(10))), ["eve"], "what we said is older than this");
    }
}
