// The AI services: breakers, limits, slots.

import { get, part, put, remove } from "./api.js";
import { act, confirm, facts, h, number, table, tag, time } from "./ui.js";
import { gauge } from "./charts.js";
import { LAMPS, use } from "./now.js";

export async function services(shared) {
  const [breakers, limiters, settings] = await Promise.all([get("/admin/breakers"), get("/admin/limiters"), get("/admin/settings")]);
  const others = Object.entries(limiters).filter(([name]) => !(name in breakers));
  return h("div", { class: "stack" },
    h("h1", null, "Services"),
    h("div", { class: "grid" }, Object.entries(breakers).map(([name, it]) => service(shared, name, it, limiters[name], settings))),
    others.length > 0 && h("section", { class: "card" }, h("h2", null, "Other limits"), table("Zendesk, and API keys", ["Whose", "Used", ["Waiting", "number"]],
      others.map(([name, it]) => [name, [uses(it), changed(shared, name, settings)], number(it.waiting)]))),
    accounts(Object.keys(breakers).flatMap((name) => limiters[name].accounts ?? [])));
}

function uses(it) {
  const all = [...it.used.map((window) => use(window)), it.budget && budget(it.budget)].filter(Boolean);
  return all.length > 0 ? all : h("p", { class: "soft" }, "No limit.");
}

function budget(it) {
  const text = `${number(it.used)} of ${number(it.tokens)} tokens of this month`;
  return h("div", null, h("p", { class: "soft" }, text), gauge(it.used, it.tokens, text));
}

function accounts(all) {
  const money = (sum) => sum.toLocaleString(undefined, { maximumFractionDigits: 4 });
  return h("section", { class: "card" }, h("h2", null, "Used since this node began"),
    table("Tokens and cost, by service, model and who asked", ["Service", "Model", "Asked by", ["Tokens in", "number"], ["Tokens out", "number"], ["Cost", "number"]],
      all.map((it) => [it.service, it.model, it.key ? `key ${it.key}` : "the chat", number(it.input_tokens), number(it.output_tokens), money(it.cost)]), "Nothing yet."));
}

function service(shared, name, it, limiter, settings) {
  const off = !shared.mayAct();
  const says = {
    open: "No call is made any more, on all nodes; messages wait, and the next service of the chain is asked.",
    closed: "Calls are made whatever fails, on all nodes: a service that is down is asked with every message.",
  };
  const hold = (mode) => confirm(`Hold the breaker of ${name} ${mode}?`, says[mode], `Hold ${mode}`,
    ({ keep }) => act(() => put(`/admin/breakers/${part(name)}`, { mode, keep: keep === "on" }), `The breaker of ${name} is held ${mode}`, shared.refresh), keeping());
  const auto = () => act(() => put(`/admin/breakers/${part(name)}`, { mode: "auto" }), `The breaker of ${name} decides again`, shared.refresh);
  return h("section", { class: "card stack" },
    h("h2", { class: "row spread" }, name, tag(LAMPS[it.state], it.mode === "auto" ? it.state.replace("_", "-") : `held ${it.mode}`)),
    facts([["Failures in a row", it.consecutive_failures], ["Last minute", `${number(it.window.calls)} calls, ${number(it.window.failures)} failed, ${number(it.window.slow)} slow`],
      ["Open since", it.opened_at && time(it.opened_at)], ["Next probe", it.until && time(it.until)], ["Openings in a row", it.trips || null],
      ["Decides for", it.scope === "fleet" ? "all nodes" : "this node"]]),
    h("p", { class: "row" },
      it.mode === "auto"
        ? [h("button", { class: "danger", disabled: off, onclick: () => hold("open") }, "Hold open…"), h("button", { disabled: off, onclick: () => hold("closed") }, "Hold closed…")]
        : h("button", { class: "main", disabled: off, onclick: auto }, "Let it decide")),
    h("h3", null, "Limits"),
    uses(limiter),
    h("p", { class: "soft" }, `${limiter.slots.in_use} of ${limiter.slots.effective} slots in use, ${limiter.slots.waiting} wait; ${limiter.waiting} wait for a permit`),
    changed(shared, name, settings),
    h("details", null, h("summary", null, "Change limits"), change(shared, name)));
}

function changed(shared, name, settings) {
  const limits = settings.find((setting) => setting.name === `limits/${name}`);
  return limits && h("p", null, tag("warn", "changed"), ` by ${limits.by} `, time(limits.at), " ",
    h("button", { disabled: !shared.mayAct(), onclick: () => act(() => remove(`/admin/limiters/${part(name)}`), "The configured limits hold again", shared.refresh) }, "Back to the configured"));
}

const keeping = () => h("p", null, h("label", null, h("input", { type: "checkbox", name: "keep" }), "Also after a restart of this node"));

const LIMITS = [["per_minute", "Requests a minute"], ["per_hour", "Requests an hour"], ["burst", "Burst"], ["tokens_per_minute", "Tokens a minute"], ["concurrency", "Calls at once"]];

function change(shared, name) {
  const submit = (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const body = { keep: form.get("keep") === "on" };
    for (const [field] of LIMITS) if (form.get(field) !== "") body[field] = Number(form.get(field));
    act(() => put(`/admin/limiters/${part(name)}`, body), `Other limits hold for ${name}`, shared.refresh);
  };
  return h("form", { class: "stack", onsubmit: submit },
    h("p", { class: "soft" }, "What is left empty stays as configured."),
    h("div", { class: "row" }, LIMITS.map(([field, title]) => h("label", { class: "above" }, title, h("input", { class: "short", name: field, type: "number", min: "0" })))),
    keeping(), h("p", null, h("button", { type: "submit", class: "main", disabled: !shared.mayAct() }, "Change")));
}
