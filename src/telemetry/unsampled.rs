//! Spans that sampling leaves out are kept until the part of the trace they belong to is over: if one of them failed, all
//! of that part is sent after all.
//!
//! A part is what hangs below a span whose parent is another process, another node or nobody: a request, an attempt.

use std::collections::HashMap;

use opentelemetry::{
    SpanId, TraceFlags, TraceId,
    trace::{SpanContext, Status},
};
use opentelemetry_sdk::trace::SpanData;

/// Spans kept at the most: those of a thousand attempts under way.
const KEPT_MAX: usize = 4_096;

/// The spans that have ended while what they hang below has not, by what that is.
#[derive(Debug, Default)]
pub(super) struct Unsampled {
    below: HashMap<(TraceId, SpanId), Vec<SpanData>>,
    kept: usize,
}

/// What becomes of a span that has ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Its part goes on.
    Kept,
    /// It has failed, and there was no room to keep it.
    Forgotten,
    /// Its part is over. What is to be sent of it: all, or nothing.
    Over(Vec<SpanData>),
}

impl Unsampled {
    /// Takes a span that has ended.
    pub fn ended(&mut self, span: SpanData) -> Ended {
        let is_top = span.parent_span_id == SpanId::INVALID || span.parent_span_is_remote;
        if is_top {
            return Ended::Over(self.part_is_over(span));
        }
        if self.kept == KEPT_MAX {
            self.forget_below(&span);
            return if has_failed(&span) { Ended::Forgotten } else { Ended::Kept };
        }
        self.kept += 1;
        self.below.entry((span.span_context.trace_id(), span.parent_span_id)).or_default().push(span);
        Ended::Kept
    }

    /// What hangs below a span that is not kept would never be found again.
    fn forget_below(&mut self, span: &SpanData) {
        let context = &span.span_context;
        for below in self.below.remove(&(context.trace_id(), context.span_id())).into_iter().flatten() {
            self.kept -= 1;
            self.forget_below(&below);
        }
    }

    fn part_is_over(&mut self, top: SpanData) -> Vec<SpanData> {
        let mut part = vec![top];
        let mut looked_at = 0;
        while let Some(above) = part.get(looked_at).map(|span| &span.span_context) {
            let below = self.below.remove(&(above.trace_id(), above.span_id()));
            part.extend(below.into_iter().flatten());
            looked_at += 1;
        }
        self.kept -= part.len() - 1;
        if part.iter().any(has_failed) { part.into_iter().map(sampled).collect() } else { Vec::new() }
    }
}

fn has_failed(span: &SpanData) -> bool {
    matches!(span.status, Status::Error { .. })
}

fn sampled(span: SpanData) -> SpanData {
    let SpanData { span_context: context, .. } = &span;
    let span_context = SpanContext::new(
        context.trace_id(),
        context.span_id(),
        context.trace_flags() | TraceFlags::SAMPLED,
        context.is_remote(),
        context.trace_state().clone(),
    );
    SpanData { span_context, ..span }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use opentelemetry::{
        InstrumentationScope,
        trace::{SpanKind, TraceState},
    };
    use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};

    use super::*;

    /// A span's number, its parent's, whether that is elsewhere, and whether it failed; of one trace.
    fn span(trace: u8, number: u8, parent: u8, elsewhere: bool, failed: bool) -> SpanData {
        let id = |number: u8| SpanId::from_bytes([0, 0, 0, 0, 0, 0, 0, number]);
        let trace = TraceId::from_bytes([trace; 16]);
        SpanData {
            span_context: SpanContext::new(trace, id(number), TraceFlags::NOT_SAMPLED, false, TraceState::NONE),
            parent_span_id: id(parent),
            parent_span_is_remote: elsewhere,
            span_kind: SpanKind::Internal,
            name: "span".into(),
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: if failed { Status::error("timeout") } else { Status::Unset },
            instrumentation_scope: InstrumentationScope::default(),
        }
    }

    fn numbers(spans: &[SpanData]) -> Vec<u8> {
        let mut numbers: Vec<u8> = spans.iter().map(|span| span.span_context.span_id().to_bytes()[7]).collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn a_part_of_which_something_failed_is_sent_whole_and_the_others_are_not() {
        let mut unsampled = Unsampled::default();
        // Two attempts of one trace at once, and one of another: below 1 and 2 and 9 hang calls, one of which failed.
        for waiting in [
            span(1, 11, 1, false, false),
            span(1, 21, 2, false, false),
            span(1, 12, 1, false, true),
            span(1, 121, 12, false, false),
            span(2, 91, 9, false, false),
        ] {
            assert!(matches!(unsampled.ended(waiting), Ended::Kept));
        }
        let mut over = |span| match unsampled.ended(span) {
            Ended::Over(sent) => sent,
            other => panic!("{other:?}"),
        };
        let sent = over(span(1, 1, 100, true, false));
        assert_eq!(numbers(&sent), [1, 11, 12, 121]);
        assert!(sent.iter().all(|span| span.span_context.is_sampled()), "a collector may leave out what is not");
        assert!(over(span(1, 2, 100, true, false)).is_empty());
        assert!(over(span(2, 9, 0, false, false)).is_empty());
        assert_eq!((unsampled.kept, unsampled.below.len()), (0, 0));
    }

    #[test]
    fn parts_that_never_end_cost_bounded_memory() {
        let mut unsampled = Unsampled::default();
        for _ in 0..KEPT_MAX {
            assert!(matches!(unsampled.ended(span(1, 11, 1, false, true)), Ended::Kept));
        }
        assert!(matches!(unsampled.ended(span(1, 11, 1, false, false)), Ended::Kept), "nobody misses it");
        assert!(matches!(unsampled.ended(span(1, 11, 1, false, true)), Ended::Forgotten));
        assert_eq!(unsampled.kept, KEPT_MAX);
        let Ended::Over(sent) = unsampled.ended(span(3, 1, 0, false, true)) else { panic!("its part is over") };
        assert_eq!(numbers(&sent), [1], "the failed span itself is sent all the same");
    }
}
