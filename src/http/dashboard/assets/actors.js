// The tree of actors.

import { get, part, post } from "./api.js";
import { act, confirm, facts, h, link, number, span, table, tag, time } from "./ui.js";

let asked = "";
const open = new Set(["node"]);

export async function actors(shared, path) {
  const tree = await get(`/admin/actors?limit=50${asked ? `&q=${part(asked)}` : ""}`);
  const one = path && (await get(`/admin/actors/${path.split("/").map(part).join("/")}`).catch((error) => ({ path, gone: error.message })));
  const quarantine = await get("/admin/quarantine");
  const search = (event) => {
    event.preventDefault();
    asked = new FormData(event.target).get("q").trim();
    if (asked) open.add("node/conversations");
    shared.refresh();
  };
  return h("div", { class: "stack" },
    h("h1", null, "Actors"),
    one && (one.gone ? h("p", { class: "card" }, one.gone) : detail(shared, one)),
    h("div", { class: "card stack" },
      h("form", { class: "row", role: "search", onsubmit: search }, h("label", null, "Conversation", h("input", { name: "q", value: asked })), h("button", { type: "submit" }, "Search")),
      h("ul", { class: "tree" }, branch(shared, tree))),
    quarantine.length > 0 && h("section", { class: "card" }, table("In hand when the process died", ["Message", ["Deaths", "number"], ""],
      quarantine.map((it) => [link(["messages", it.message_id]), it.crashes, it.crashes >= 4 ? "is parked" : it.crashes >= 2 ? "runs alone" : "is watched"]))));
}

const LAMPS = { running: "ok", starting: "warn", stopped: "soft" };

function branch(shared, it) {
  const hand = it.in_hand && h("span", { class: "soft" }, ` · ${it.in_hand.phase} ${span(it.in_hand.age_ms)} `, it.in_hand.message_id && link(["messages", it.in_hand.message_id]));
  const counts = [it.waiting && `${number(it.waiting)} waiting`, it.restarts && `${number(it.restarts)} restarts`, it.zombies && `${it.zombies} blocked`].filter(Boolean).join(", ");
  const isOpen = open.has(it.path);
  const fold = () => {
    if (!open.delete(it.path)) open.add(it.path);
    shared.refresh();
  };
  const name = it.path.split("/").pop();
  const hasMore = it.children.length > 0 || it.children_total > 0;
  return h("li", null,
    h("div", { class: "row tight" },
      !hasMore ? h("span", { class: "fold" }) : h("button", { class: "fold quiet", "aria-expanded": String(isOpen), "aria-label": `${isOpen ? "Fold" : "Unfold"} ${name}`, onclick: fold }, isOpen ? "▾" : "▸"),
      h("span", { class: `lamp ${LAMPS[it.state]}`, title: it.state }), link(["actors", it.path], name),
      h("span", { class: "soft" }, [hasMore && `${number(it.children_total)} below`, counts].filter(Boolean).join(" · ")),
      it.last_failure && tag("bad", "failed"), hand),
    isOpen && hasMore && h("ul", null, it.children.map((child) => branch(shared, child))),
    isOpen && it.children.length < it.children_total && h("p", { class: "soft" }, `${number(it.children_total - it.children.length)} more; search for them`));
}

function detail(shared, it) {
  const address = `/admin/actors/${it.path.split("/").map(part).join("/")}`;
  const restart = () => confirm(`Restart ${it.path}?`, "It is killed and started again. What it has in hand goes the road of failures: a message is tried again; what waits stays.", "Restart",
    () => act(() => post(`${address}/restart`), `${it.path} is restarted`, shared.refresh));
  const crash = () => confirm(`Make ${it.path} fail?`, "It fails with the next thing it handles, on purpose.", "Make it fail",
    ({ mode }) => act(() => post(`${address}/crash`, { mode, ms: 2000 }), "The failure is ordered", shared.refresh),
    h("p", null, h("label", null, "How", h("select", { name: "mode" }, ["panic", "error", "hang", "block"].map((mode) => h("option", { value: mode }, mode))))));
  return h("section", { class: "card stack" },
    h("h2", null, h("code", null, it.path)),
    facts([["Kind", it.kind], ["State", tag(LAMPS[it.state], it.state)], ["Incarnation", it.generation], ["Started", time(it.started_at)],
      ["In hand", it.in_hand && h("span", null, `${it.in_hand.phase}, for ${span(it.in_hand.age_ms)} `, it.in_hand.message_id && link(["messages", it.in_hand.message_id]))],
      ["Waiting", number(it.waiting)], ["Handled", number(it.handled)], ["Failed", number(it.failed)], ["Restarts", number(it.restarts)], ["Blocked and replaced", it.zombies || null],
      ["Last failure", it.last_failure && h("span", null, time(it.last_failure.at), " ", it.last_failure.reason, " ", it.last_failure.message_id && link(["messages", it.last_failure.message_id]))]]),
    h("p", { class: "row" }, h("button", { disabled: !shared.mayAct() || it.path === "node", onclick: restart }, "Restart…"),
      shared.who?.fault_injection && h("button", { class: "danger", disabled: !shared.mayAct(), onclick: crash }, "Make it fail…")));
}
