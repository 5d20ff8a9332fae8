//! The embedded queue under the contract of all brokers, and what is its own: the plans of its statements.

mod place;
mod plans;

use self::place::Place;
use crate::broker::contract::contract;

contract!(Place::new());
