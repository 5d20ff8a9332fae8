//! What the queue shows of itself.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};
use std::sync::Arc;

use super::{Broker, Standing};
use crate::telemetry::{Clock, series::Labels};

/// `tidegate_queue_messages{lane,state}` and `tidegate_queue_oldest_age_seconds{lane}`, read when scraped.
pub struct Metrics {
    broker: Arc<dyn Broker>,
    clock: Clock,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broker::Metrics")
    }
}

impl Metrics {
    /// Registers the queue's metrics.
    pub fn register(registry: &mut Registry, broker: Arc<dyn Broker>, clock: Clock) {
        registry.register_collector(Box::new(Self { broker, clock }));
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
        Ok(())
    }
}
