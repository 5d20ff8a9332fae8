//! The embedded queue under the contract of all brokers, and what is its own: crashes, failing disks, long backlogs.

mod place;

use self::place::Place;
use crate::broker::contract::contract;

contract!(Place::new());
