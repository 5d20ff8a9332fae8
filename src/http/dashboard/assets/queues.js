// Queues, the pools that work them off, mutes, and jobs on many letters.

import { get, part, post } from "./api.js";
import { act, confirm, h, number, span, table, tag, time } from "./ui.js";
import { gauge } from "./charts.js";
import { unmute } from "./conversations.js";

const POOLS = { chat: "answers conversations", events: "works off the events lane", retry: "judges dead letters" };

export async function queues(shared) {
  const [lanes, settings, jobs] = await Promise.all([get("/admin/queues"), get("/admin/settings"), get("/admin/jobs")]);
  const rows = Object.entries(lanes).map(([lane, it]) => [lane, number(it.ready), number(it.in_hand), number(it.delayed), number(it.dead),
    number(it.parked), it.spool === null ? "none" : number(it.spool), span(it.oldest_age_ms)]);
  return h("div", { class: "stack" },
    h("h1", null, "Queues"),
    h("section", { class: "card" }, table("Messages by lane", ["Lane", ["Ready", "number"], ["In hand", "number"], ["Delayed", "number"], ["Dead", "number"],
      ["Parked", "number"], ["Spool", "number"], ["Oldest", "number"]], rows)),
    h("section", { class: "card" }, h("h2", null, "Pools"), table("Pools, on all nodes", ["Pool", "What it does", "State", ""],
      Object.entries(POOLS).map(([pool, does]) => poolRow(shared, pool, does, settings.find((it) => it.name === `pause/${pool}`))))),
    h("section", { class: "card" }, h("h2", null, "Mutes"), mutes(shared, settings)),
    h("section", { class: "card" }, h("h2", null, "Jobs on many letters"), jobTable(shared, jobs)));
}

function poolRow(shared, pool, does, pause) {
  const go = () => confirm(`Pause the pool ${pool}?`, "Nothing more is taken in hand, on all nodes, also after a restart, until you resume it. Webhooks are still taken and kept; what is in hand is finished.",
    "Pause", () => act(() => post(`/admin/pools/${part(pool)}/pause`), `The pool ${pool} is paused`, shared.refresh));
  const back = () => act(() => post(`/admin/pools/${part(pool)}/resume`), `The pool ${pool} works again`, shared.refresh);
  return [pool, does, pause ? h("span", null, tag("bad", "paused"), ` by ${pause.by} `, time(pause.at)) : tag("ok", "works"),
    pause ? h("button", { disabled: !shared.mayAct(), onclick: back }, "Resume") : h("button", { disabled: !shared.mayAct(), onclick: go }, "Pause…")];
}

function mutes(shared, settings) {
  const all = settings.filter((it) => it.name.startsWith("mute/"));
  const everywhere = () => confirm("Mute the bot everywhere?", "It says nothing to anybody any more, on all nodes. What customers write is kept among the dead letters until you end the mute and choose what becomes of it.",
    "Mute everywhere", () => act(() => post("/admin/mutes", { mute: "all" }), "The bot is muted", shared.refresh));
  const brand = (event) => {
    event.preventDefault();
    const name = new FormData(event.target).get("brand").trim();
    if (name) act(() => post("/admin/mutes", { mute: { brand: name } }), `The bot is muted for ${name}`, shared.refresh);
  };
  return h("div", { class: "stack" },
    table("Where the bot says nothing", ["Where", "By", "Since", ""], all.map((it) => [it.name.slice(5), it.by, time(it.at),
      h("button", { disabled: !shared.mayAct(), onclick: () => unmute(shared, it.value, it.name.slice(5)) }, "End…")]), "The bot is muted nowhere."),
    h("div", { class: "row" }, h("button", { class: "danger", disabled: !shared.mayAct(), onclick: everywhere }, "Mute everywhere…"),
      h("form", { class: "row", onsubmit: brand }, h("label", null, "Brand", h("input", { name: "brand" })),
        h("button", { type: "submit", disabled: !shared.mayAct() }, "Mute the brand"))));
}

export function jobTable(shared, jobs) {
  const order = (job, action) => h("button", { disabled: !shared.mayAct(), onclick: () => act(() => post(`/admin/jobs/${part(job.id)}/${action}`), `Job ${job.id}: ${action}`, shared.refresh) },
    { pause: "Pause", resume: "Resume", cancel: job.stage === "waiting" ? "Undo" : "Break off" }[action]);
  return table("Jobs of this node, the newest first", ["Job", "State", "Done", ["Failed", "number"], "By", ""], jobs.map((job) => {
    const isOver = ["done", "cancelled", "failed", "interrupted"].includes(job.stage);
    const kind = { done: "ok", failed: "bad", cancelled: "soft", interrupted: "bad" }[job.stage] ?? "warn";
    return [`${job.id}: ${job.deed.replace("_", " ")}, ${job.rate}/s`, h("span", null, tag(kind, job.paused && !isOver ? "paused" : job.stage), job.last_error && ` ${job.last_error}`),
      h("span", null, `${number(job.done)}${job.total === null ? "" : ` of ${number(job.total)}`}`, job.total > 0 && gauge(job.done, job.total, "progress")),
      number(job.failed), h("span", null, `${job.by}, `, time(job.ordered_at)),
      isOver ? "" : h("span", { class: "row" }, order(job, job.paused ? "resume" : "pause"), order(job, "cancel"))];
  }), "No job was ordered on this node.");
}
