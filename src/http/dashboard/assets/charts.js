// Small drawings.

import { h } from "./ui.js";

// A line over the last minutes.
export function sparkline(values, label) {
  const top = Math.max(1, ...values);
  const step = values.length > 1 ? 100 / (values.length - 1) : 100;
  const points = values.map((value, index) => `${(index * step).toFixed(2)},${(29 - (27 * value) / top).toFixed(2)}`);
  const line = `M${points.join("L")}`;
  return h("svg", { class: "spark", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": label },
    values.length > 1 && h("path", { class: "area", d: `${line}L100,30L0,30Z` }),
    values.length > 1 && h("path", { d: line }));
}

// How much of a limit is used.
export function gauge(used, limit, label) {
  const part = limit > 0 ? Math.min(1, used / limit) : 0;
  return h("span", { class: "gauge", role: "img", "aria-label": label },
    h("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      h("rect", { class: part >= 1 ? "bad" : "", x: 0, y: 0, width: (part * 100).toFixed(1), height: 10 })));
}

// Counts since the beginning, as what came in each stretch of so many beats.
export function rates(beats, field, stretch) {
  const rates = [];
  for (let end = beats.length - 1; end - stretch >= 0; end -= stretch) {
    rates.unshift(Math.max(0, beats[end][field] - beats[end - stretch][field]));
  }
  return rates;
}
