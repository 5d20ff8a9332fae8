// Dead letters: by what their causes have in common, one by one, and many at once.

import { get, part, post, remove } from "./api.js";
import { act, confirm, facts, h, link, number, table, tag, time } from "./ui.js";
import { timeline } from "./conversations.js";
import { jobTable } from "./queues.js";

let chosen = null;
let after = null;
let told = null;
const texts = new Map();

export async function letters(shared) {
  const filter = chosen ? `?fingerprint=${part(chosen)}&limit=50` : "?limit=50";
  const [groups, found, jobs] = await Promise.all([get("/admin/dead-letters/groups"),
    get(`/admin/dead-letters${filter}${after ? `&after=${part(after)}` : ""}`), get("/admin/jobs")]);
  const choose = (fingerprint) => {
    [chosen, after, told] = [fingerprint, null, null];
    shared.refresh();
  };
  return h("div", { class: "stack" },
    h("h1", null, "Dead letters"),
    groups.beyond && h("p", null, tag("warn", "More lie there than one look reaches; the rest is seen when some of these have gone.")),
    h("section", { class: "card" }, table("By cause", [["Cause", "prose"], ["Letters", "number"], "First", "Last", ""], groups.groups.map((it) => [
      h("span", null, tag(it.standing === "parked" ? "bad" : "warn", it.cause), " ", it.fingerprint), number(it.letters), time(it.first), time(it.last),
      h("button", { "aria-pressed": String(chosen === it.fingerprint), onclick: () => choose(chosen === it.fingerprint ? null : it.fingerprint) },
        chosen === it.fingerprint ? "Show all" : "Only these")]), "There are none: nothing was given up.")),
    groups.groups.length > 0 && h("section", { class: "card stack" }, h("h2", null, chosen ? "All of this cause" : "All parked letters"), many(shared)),
    h("section", { class: "card" }, table(chosen ? "Letters of this cause" : "Letters", ["Letter", "Conversation", "State", ["Reason", "prose"], ["Tries", "number"], "Parked"],
      found.letters.map((it) => [link(["letters", it.id]), it.conversation_id && link(["conversations", it.conversation_id]),
        tag(it.standing === "parked" ? "bad" : "warn", it.standing), it.reason, it.tries, time(it.parked_at)]), "None."),
      h("p", { class: "row" }, after && h("button", { onclick: () => { after = null; shared.refresh(); } }, "From the beginning"),
        found.next && h("button", { onclick: () => { after = found.next; shared.refresh(); } }, "Next page"))),
    h("section", { class: "card" }, h("h2", null, "Jobs"), jobTable(shared, jobs)));
}

function many(shared) {
  const body = (form, more) => ({ filter: chosen ? { fingerprint: chosen } : {}, all: !chosen, rate: Number(form.get("rate")), canary: Number(form.get("canary")), ...more });
  const form = () => new FormData(document.getElementById("many"));
  const dry = async () => {
    told = await post("/admin/dead-letters/replay", { ...body(form()), dry_run: true });
    shared.refresh();
  };
  const ordered = (job) => `Job ${job.id} is ordered`;
  const replay = () => confirm("Replay these letters?", "Each gets a new life and is answered, unless a human has its conversation. Letters that fail again come back here.", "Replay",
    () => act(() => post("/admin/dead-letters/replay", body(form())), ordered, shared.refresh));
  const human = () => confirm("Hand these conversations to humans?", "Each conversation goes to a human, and its letter ends as handed over.", "Hand over",
    () => act(() => post("/admin/dead-letters/hand-over", body(form())), ordered, shared.refresh));
  const discard = () => confirm("Discard these letters?", "They are removed for good. Nobody is told. For 30 seconds it can be undone below.", "Discard",
    () => act(() => post("/admin/dead-letters/discard", body(form(), { undo: "30s" })), ordered, shared.refresh));
  const off = !shared.mayAct();
  return h("form", { id: "many", class: "stack", onsubmit: (event) => event.preventDefault() },
    h("div", { class: "row" },
      h("label", { class: "above" }, "Letters a second", h("input", { class: "short", name: "rate", type: "number", min: "0.1", max: "1000", step: "any", value: "10" })),
      h("label", { class: "above" }, "Canaries first", h("input", { class: "short", name: "canary", type: "number", min: "0", value: "5" }))),
    h("p", { class: "row" },
      h("button", { type: "button", disabled: off, onclick: () => act(dry, "That is what would happen") }, "What would happen?"),
      h("button", { type: "button", class: "main", disabled: off, onclick: replay }, "Replay…"),
      h("button", { type: "button", disabled: off, onclick: human }, "Hand to humans…"),
      h("button", { type: "button", class: "danger", disabled: off, onclick: discard }, "Discard…")),
    told && h("div", { role: "status" }, h("p", null, `${number(told.letters)} letters${told.beyond ? " and more" : ""}: `,
      Object.entries(told.would).map(([would, count]) => `${number(count)} would ${would.replaceAll("_", " ")}`).join(", ") || "nothing would happen"),
      table("The first of them", ["Letter", "Would"], told.sample.map((it) => [link(["letters", it.id]), it.would.replaceAll("_", " ")]))));
}

export async function letter(shared, id) {
  const it = await get(`/admin/dead-letters/${part(id)}`);
  const text = texts.get(id);
  const reveal = () => act(async () => {
    const full = await get(`/admin/dead-letters/${part(id)}?text=true`);
    texts.set(id, JSON.stringify(full.message ?? full.foreign, null, 2));
  }, "Shown; that was written into the audit log", shared.refresh);
  const gone = () => { location.hash = it.message_id ? `#/messages/${encodeURIComponent(it.message_id)}` : "#/letters"; };
  const replay = () => confirm("Replay this letter?", "It gets a new life and is answered, unless a human has its conversation.", "Replay",
    () => act(() => post(`/admin/dead-letters/${part(id)}/replay`), (done) => `Replayed: life ${done.replay}`, gone));
  const discard = () => confirm("Discard this letter?", "It is removed at once, for good. Nobody is told.", "Discard",
    () => act(() => remove(`/admin/dead-letters/${part(id)}`), "Discarded", gone));
  const off = !shared.mayAct();
  return h("div", { class: "stack" },
    h("h1", null, "Dead letter ", h("span", { class: "mono" }, it.id)),
    h("div", { class: "card stack" },
      facts([["State", tag(it.standing === "parked" ? "bad" : "warn", it.standing)], ["Cause", it.cause], ["Reason", it.reason],
        ["Message", it.message_id && link(["messages", it.message_id])], ["Conversation", it.conversation_id && link(["conversations", it.conversation_id])],
        ["Lane", it.lane], ["Tries", it.tries], ["Life", it.replay], ["Accepted", time(it.accepted_at)], ["Parked", time(it.parked_at)]]),
      h("p", { class: "row" }, h("button", { class: "main", disabled: off || !it.can_be_replayed, onclick: replay }, "Replay…"),
        h("button", { class: "danger", disabled: off, onclick: discard }, "Discard…"),
        !it.can_be_replayed && h("span", { class: "soft" }, "It could not be understood; a new life would not change that."))),
    it.history && h("section", { class: "card" }, h("h2", null, "Its history"), timeline(shared, it.history)),
    h("section", { class: "card stack" }, h("h2", null, "What it says"),
      text === undefined
        ? h("p", null, h("button", { onclick: reveal }, "Show what the customer wrote"), h("span", { class: "soft" }, " Asking is written into the audit log."))
        : h("pre", { tabindex: "0", "aria-label": "What it says" }, text)));
}
