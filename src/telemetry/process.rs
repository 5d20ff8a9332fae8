//! The standard `process_*` metrics, read from `/proc` when scraped ("Writing client libraries", Prometheus docs).

use std::fs;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

/// Clock ticks of `/proc/self/stat` in a second; 100 on every Linux that userland can see (`USER_HZ`).
const TICKS: f64 = 100.0;

/// Bytes of a page.
const PAGE: u64 = 4_096;

#[derive(Debug)]
struct Process;

/// Registers them; on systems without `/proc` they are left out.
pub fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Process));
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(stat) = fs::read_to_string("/proc/self/stat").ok() else { return Ok(()) };
        // The command's name may hold spaces and ends with the last parenthesis.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let cpu = (number(11) + number(12)) as f64 / TICKS;
        let descriptor =
            encoder.encode_descriptor("process_cpu_seconds", "CPU time used", None, MetricType::Counter)?;
        ConstCounter::new(cpu).encode(descriptor)?;
        let files = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
        let gauges = [
            ("process_virtual_memory_bytes", "Virtual memory", number(20)),
            ("process_resident_memory_bytes", "Memory in RAM", number(21) * PAGE),
            ("process_threads", "Threads", number(17)),
            ("process_open_fds", "Open files and sockets", files),
            ("process_max_fds", "Files and sockets that may be open", files_max()),
            ("process_start_time_seconds", "Unix time of the start", booted_at() + number(19) / TICKS as u64),
        ];
        for (name, help, value) in gauges {
            let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(descriptor)?;
        }
        Ok(())
    }
}

/// The soft limit; 0 when it cannot be read, `u64::MAX` when there is none.
fn files_max() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    soft.map_or(0, |soft| soft.parse().unwrap_or(u64::MAX))
}

/// Unix time of the system's start.
fn booted_at() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()).unwrap_or(0)
}
