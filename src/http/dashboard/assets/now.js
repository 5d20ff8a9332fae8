// How things stand, on one page.

import { post, part } from "./api.js";
import { act, h, link, number, span, table, tag } from "./ui.js";
import { gauge, rates, sparkline } from "./charts.js";

const STRETCH = 5;

export function now(shared) {
  const it = shared.overview;
  if (!it) return h("p", { class: "soft" }, "Asking the node…");
  return h("div", { class: "stack" },
    h("h1", null, { ok: "All is well", warn: "Worth a look", bad: "Customers are affected" }[it.level]),
    h("div", { class: "card" },
      h("h2", null, "In words"),
      h("ul", { class: "verdict" }, it.verdict.map((said) => h("li", null, said))),
      settings(shared, it.settings)),
    h("div", { class: "grid flows" }, flows(shared.beats, it)),
    h("section", { class: "card" },
      h("h2", null, "Waiting longest"),
      table("Customers who have been waiting longest, on this node", ["Conversation", ["For", "number"], ["What it waits for", "prose"]],
        it.waiting.map((one) => [link(["conversations", one.id]), span(one.waiting_ms), one.explanation]),
        "Nobody waits.")),
    h("div", { class: "grid" }, Object.entries(it.breakers).map(([name, breaker]) => service(name, breaker, it.limiters[name])),
      lanes(it.queues), dependencies(it.health)));
}

function flows(beats, it) {
  const minute = Math.min(60, beats.length - 1);
  const kinds = [["accepted", "Messages taken in"], ["answered", "Messages answered"], ["failed", "Failures"], ["parked", "Given up"]];
  return kinds.map(([field, title]) => {
    const lately = minute > 0 ? beats.at(-1)[field] - beats.at(-1 - minute)[field] : 0;
    return h("section", { class: "card" },
      h("h2", null, title),
      h("p", { class: "figure" }, number(lately)),
      h("p", { class: "soft" }, `in the last minute · ${number(it.now[field])} since the start`),
      sparkline(rates(beats, field, STRETCH), `${title}, per ${STRETCH} seconds over the last minutes`));
  });
}

export const LAMPS = { closed: "ok", half_open: "warn", open: "bad" };

function service(name, breaker, limiter) {
  const state = breaker.mode === "auto" ? breaker.state.replace("_", "-") : `held ${breaker.mode}`;
  return h("section", { class: "card stack" },
    h("h2", { class: "row spread" }, h("span", null, "Service ", link(["services"], name)), tag(LAMPS[breaker.state], state)),
    (limiter?.used ?? []).map((window) => use(window)),
    h("p", { class: "soft" }, `${limiter?.slots?.in_use ?? 0} of ${limiter?.slots?.effective ?? 0} slots in use, ${limiter?.waiting ?? 0} wait for a permit`));
}

export function use(window) {
  const text = `${number(window.used)} of ${number(window.limit)} ${window.kind} in ${span(window.per_ms)}`;
  return h("div", null, h("p", { class: "soft" }, text), gauge(window.used, window.limit, text));
}

function lanes(queues) {
  const rows = Object.entries(queues).map(([lane, it]) =>
    [lane, number(it.ready), number(it.in_hand), number(it.delayed), number(it.dead + it.parked), span(it.oldest_age_ms)]);
  return h("section", { class: "card" }, h("h2", null, link(["queues"], "Queues")),
    table("Messages by lane", ["Lane", ["Ready", "number"], ["In hand", "number"], ["Delayed", "number"], ["Letters", "number"], ["Oldest", "number"]], rows));
}

function dependencies(health) {
  return h("section", { class: "card" }, h("h2", null, "Dependencies"),
    h("p", { class: "row" }, Object.entries(health.dependencies).map(([name, it]) =>
      h("span", { title: it.reason ?? null }, tag(it.state === "up" ? "ok" : "bad", `${name} ${it.state}`)))));
}

// What operators have set, each with the way back.
export function settings(shared, all) {
  if (!all.length) return null;
  const undo = (setting) => {
    const [kind, what, id] = split(setting.name);
    if (kind === "pause") return ["Resume", () => post(`/admin/pools/${part(what)}/resume`)];
    if (kind === "drain") return ["Resume", () => post(`/admin/nodes/${part(what)}/resume`)];
    return [null, null, id];
  };
  return h("div", null, h("h3", null, "Set by operators"),
    table("What operators have set", ["What", "By", "", ""], all.map((setting) => {
      const [verb, go] = undo(setting);
      return [h("code", null, setting.name), `${setting.by}, ${new Date(setting.at).toLocaleString()}`,
        setting.ends_with ? "ends with the process" : "until taken back",
        verb && h("button", { disabled: !shared.mayAct(), onclick: () => act(go, `${setting.name} is taken back`, shared.refresh) }, verb)];
    })));
}

function split(name) {
  const [kind, ...rest] = name.split("/");
  return [kind, rest.join("/")];
}
