//! Log lines: for people on a terminal; as JSON elsewhere, with the trace each belongs to.

use std::{fmt, io::IsTerminal};

use serde::{Serialize, Serializer};
use serde_json::Value;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::filter_fn,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer, layer, time::FormatTime, time::SystemTime},
    prelude::*,
    registry::LookupSpan,
};

use super::{
    Config,
    span::{self, TARGET},
    traces::Traces,
};

/// Why logs or traces could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level is no filter.
    #[error(
        "telemetry.log_level: `{0}` is no level; write error, warn, info, debug or trace, or a filter like info,tidegate=debug"
    )]
    Level(String),
    /// Traces cannot be sent.
    #[error("telemetry.otlp_endpoint: {0}")]
    Traces(String),
    /// Somebody has begun already.
    #[error("logging has begun already")]
    Begun,
}

/// Begins to log to standard error, and to send traces if there is somebody to send them to; until what it returns is
/// dropped.
pub fn init(config: &Config) -> Result<Option<Traces>, Error> {
    // Each actor's whole life is one span of ractor's at INFO; it costs memory and says nothing.
    let directives = format!("{},ractor=warn,hyper=warn,reqwest=warn,{TARGET}=off", config.log_level);
    let filter = EnvFilter::try_new(&directives).map_err(|_| Error::Level(config.log_level.clone()))?;
    let as_json = match config.log_format.as_str() {
        "json" => true,
        "text" => false,
        _ => !std::io::stderr().is_terminal(),
    };
    let lines = layer().with_writer(std::io::stderr);
    let lines = if as_json { lines.event_format(Json::of(config)).boxed() } else { lines.with_target(false).boxed() };
    let traces = if config.otlp_endpoint.is_empty() { None } else { Some(Traces::open(config)?) };
    let spans = traces.as_ref().map(|traces| {
        tracing_opentelemetry::layer()
            .with_tracer(traces.tracer())
            .with_location(false)
            .with_threads(false)
            .with_level(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata: &Metadata<'_>| metadata.target() == TARGET))
    });
    let begun = tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans).try_init();
    begun.map_err(|_| Error::Begun)?;
    if traces.is_some() {
        span::collect();
    }
    Ok(traces)
}

/// One object a line: when, how bad, where, whose, in which trace (OpenTelemetry, "Trace context in non-OTLP log formats"),
/// and what the line tells.
struct Json {
    service: String,
    environment: String,
}

impl Json {
    fn of(config: &Config) -> Self {
        Self { service: config.service_name.clone(), environment: config.environment.clone() }
    }
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let metadata = event.metadata();
        let mut line = Line(vec![
            ("timestamp", timestamp.into()),
            ("level", metadata.level().as_str().into()),
            ("target", metadata.target().into()),
            ("service.name", self.service.as_str().into()),
        ]);
        if !self.environment.is_empty() {
            line.0.push(("deployment.environment.name", self.environment.as_str().into()));
        }
        if let Some(context) = span::current() {
            line.0.extend([("trace_id", context.trace_id().into()), ("span_id", context.span_id().into())]);
        }
        event.record(&mut line);
        writeln!(writer, "{}", serde_json::to_string(&line).map_err(|_| fmt::Error)?)
    }
}

/// What a line tells, in order; a name that is taken is not told twice.
struct Line(Vec<(&'static str, Value)>);

impl Line {
    fn tell(&mut self, field: &Field, value: impl Into<Value>) {
        // A field may be named by a word of the language.
        let name = field.name().trim_start_matches("r#");
        if !self.0.iter().any(|(taken, _)| *taken == name) {
            self.0.push((name, value.into()));
        }
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.tell(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.tell(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.tell(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.tell(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.tell(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.tell(field, format!("{value:?}"));
    }
}
