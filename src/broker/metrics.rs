//! What the queue shows of itself.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};
use std::sync::Arc;

use super::{Broker, Standing, Upkeep};
use crate::telemetry::{Clock, series::Labels};

/// `tidegate_queue_messages{lane,state}`, `tidegate_queue_oldest_age_seconds{lane}`, `tidegate_spool_messages` and
/// `tidegate_spool_oversized_messages`, read when scraped.
pub struct Metrics {
    broker: Arc<dyn Broker>,
    upkeep: Arc<dyn Upkeep>,
    clock: Clock,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broker::Metrics")
    }
}

impl Metrics {
    /// Registers the queue's metrics.
    pub fn register(registry: &mut Registry, broker: Arc<dyn Broker>, upkeep: Arc<dyn Upkeep>, clock: Clock) {
        registry.register_collector(Box::new(Self { broker, upkeep, clock }));
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = self.broker.counts();
        let mut messages =
            encoder.encode_descriptor("tidegate_queue_messages", "Messages in the queue", None, MetricType::Gauge)?;
        for count in &counts {
            let labels: Labels<2> = [("lane", count.lane.as_str()), ("state", count.standing.as_str())];
            ConstGauge::new(count.messages).encode(messages.encode_family(&labels)?)?;
        }
        let mut ages = encoder.encode_descriptor(
            "tidegate_queue_oldest_age_seconds",
            "Age of the oldest message that waits to be taken",
            None,
            MetricType::Gauge,
        )?;
        for count in counts.iter().filter(|count| count.standing == Standing::Ready) {
            let age = count.oldest.map_or(0.0, |oldest| self.clock.now().since(oldest).as_secs_f64());
            let labels: Labels<1> = [("lane", count.lane.as_str())];
            ConstGauge::new(age).encode(ages.encode_family(&labels)?)?;
        }
        let spool = "Messages on this node that RabbitMQ has not confirmed";
        let spool = encoder.encode_descriptor("tidegate_spool_messages", spool, None, MetricType::Gauge)?;
        ConstGauge::new(self.upkeep.spooled().unwrap_or(0)).encode(spool)?;
        let oversized = "Messages that stay in the spool because they are larger than RabbitMQ takes";
        let oversized =
            encoder.encode_descriptor("tidegate_spool_oversized_messages", oversized, None, MetricType::Gauge)?;
        ConstGauge::new(self.upkeep.oversized()).encode(oversized)
    }
}
