// The nodes that live, and this one's dependencies and configuration.

import { get, part, post } from "./api.js";
import { act, confirm, h, number, table, tag, time } from "./ui.js";

export async function nodes(shared) {
  const [all, settings, config] = await Promise.all([get("/admin/nodes"), get("/admin/settings"), get("/admin/config")]);
  const health = shared.overview?.health.dependencies ?? {};
  return h("div", { class: "stack" },
    h("h1", null, "Nodes"),
    h("section", { class: "card" }, table("Nodes that live, as this one knows", ["Node", "Version", "Roles", "Started", ["In hand", "number"], "Clock", "State", ""],
      all.map((it) => row(shared, it, settings.some((setting) => setting.name === `drain/${it.id}`))))),
    h("section", { class: "card" }, table("Dependencies of this node", ["Dependency", "State", "Answers in", "Why"],
      Object.entries(health).map(([name, it]) => [name, tag(it.state === "up" ? "ok" : "bad", it.state), it.latency_ms === undefined ? "" : `${it.latency_ms.toFixed(1)} ms`, it.reason ?? ""]))),
    h("section", { class: "card" }, h("details", null, h("summary", null, "Configuration in force, secrets as ***"), h("pre", { tabindex: "0", "aria-label": "Configuration" }, config))));
}

function row(shared, it, isDrained) {
  const drain = () => confirm(`Drain ${it.name}?`, "It takes nothing more from the queue, gives its partitions to the others and says that it is unready; what it has in hand it finishes. It ends with the process, or when you resume it.",
    "Drain", () => act(() => post(`/admin/nodes/${part(it.id)}/drain`), `${it.name} is drained`, shared.refresh));
  const resume = () => act(() => post(`/admin/nodes/${part(it.id)}/resume`), `${it.name} takes messages again`, shared.refresh);
  return [h("span", null, it.name, " ", h("code", null, it.id)), it.version, it.roles.join(", "), time(it.started_at), number(it.in_hand),
    it.clock_skew_ms === null ? "" : `${it.clock_skew_ms} ms against Redis`, isDrained ? tag("warn", "drained") : it.consumes ? tag("ok", "works") : tag("bad", "reaches no queue"),
    isDrained ? h("button", { disabled: !shared.mayAct(), onclick: resume }, "Resume") : h("button", { disabled: !shared.mayAct(), onclick: drain }, "Drain…")];
}
