//! The integration tests: the real daemon as a process of its own, between the two simulators.

mod crashes;
mod support;
