//! The embedded queue under the contract of all brokers, and what is its own: crashes, long backlogs and the
//! plans of its statements. Disks that fail are met by the whole daemon (`tests/it/storage.rs`).

mod backlog;
mod crash;
mod place;
mod plans;

use self::place::Place;
use crate::broker::contract::{contract, contract_on_disk};

contract!(Place::new());
contract_on_disk!(Place::new());
