//! The queue in RabbitMQ, shared by all nodes.

mod envelope;
mod link;
mod publisher;
mod topology;
