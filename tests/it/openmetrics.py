"""Reads metrics from standard input as Prometheus' own client does; fails where they are not OpenMetrics."""

import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

families = list(text_string_to_metric_families(sys.stdin.read()))
samples = [sample for family in families for sample in family.samples]
print(len(families), len(samples))
