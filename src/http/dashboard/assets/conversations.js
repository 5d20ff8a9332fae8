// Conversations and messages, each with its story.

import { get, part, post } from "./api.js";
import { act, clock, confirm, facts, h, link, span, table, tag, time } from "./ui.js";

let asked = "";

export async function conversations(shared) {
  const query = asked ? `?q=${part(asked)}` : "?sort=waiting";
  const found = await get(`/admin/conversations${query}`);
  const search = (event) => {
    event.preventDefault();
    asked = new FormData(event.target).get("q").trim();
    shared.refresh();
  };
  const open = (event) => {
    event.preventDefault();
    const id = new FormData(event.target).get("id").trim();
    if (id) location.hash = `#/conversations/${encodeURIComponent(id)}`;
  };
  return h("div", { class: "stack" },
    h("h1", null, "Conversations"),
    h("div", { class: "card grid" },
      h("form", { onsubmit: search, role: "search" }, h("label", { class: "above" }, "Part of an id, among those alive here",
        h("span", { class: "row" }, h("input", { name: "q", value: asked }), h("button", { type: "submit" }, "Search")))),
      h("form", { onsubmit: open }, h("label", { class: "above" }, "Id of any conversation",
        h("span", { class: "row" }, h("input", { name: "id" }), h("button", { type: "submit" }, "Open")))),
      h("form", { onsubmit: (event) => {
        event.preventDefault();
        const id = new FormData(event.target).get("id").trim();
        if (id) location.hash = `#/messages/${encodeURIComponent(id)}`;
      } }, h("label", { class: "above" }, "Id of any message or event",
        h("span", { class: "row" }, h("input", { name: "id" }), h("button", { type: "submit" }, "Open"))))),
    h("section", { class: "card" },
      table(asked ? `${found.total} of the conversations alive on this node` : "Conversations whose customers have been waiting longest",
        ["Conversation", ["Waiting", "number"], ["Behind it", "number"], ["Restarts", "number"], ["What it waits for", "prose"]],
        found.conversations.map((one) => [link(["conversations", one.id]), span(one.waiting_ms), one.waiting, one.restarts, one.explanation]),
        asked ? "No conversation alive here has that in its id." : "Nobody waits.")));
}

export async function conversation(shared, id) {
  const it = await get(`/admin/conversations/${part(id)}`);
  const isMuted = shared.overview?.settings.some((setting) => setting.name === `mute/conversation/${id}`);
  const mute = { conversation: id };
  const silence = () => confirm("Mute the bot in this conversation?",
    "It says nothing here any more. What the customer writes is kept among the dead letters, until you end the mute and choose what becomes of it.",
    "Mute", () => act(() => post("/admin/mutes", { mute }), "The bot is muted here", shared.refresh));
  return h("div", { class: "stack" },
    h("h1", null, "Conversation ", h("span", { class: "mono" }, id)),
    h("div", { class: "card stack" },
      h("p", null, h("strong", null, sentence(it.explanation))),
      facts([["Customer", it.customer_id && h("code", null, it.customer_id)], ["Held by", { us: "the bot", other: "a human", nobody: "nobody" }[it.holder]],
        ["Merged into", it.merged_into && link(["conversations", it.merged_into])],
        ["Actor", it.actor && `${it.actor.state}, incarnation ${it.actor.generation}, ${it.actor.handled} handled, ${it.actor.failed} failed`],
        ["Last failure", it.actor?.last_failure && h("span", null, time(it.actor.last_failure.at), " ", it.actor.last_failure.reason, " ",
          it.actor.last_failure.message_id && link(["messages", it.actor.last_failure.message_id]))]]),
      h("p", { class: "row" },
        isMuted
          ? h("button", { disabled: !shared.mayAct(), onclick: () => unmute(shared, mute, "this conversation") }, "End the mute…")
          : h("button", { disabled: !shared.mayAct(), onclick: silence }, "Mute the bot here…"),
        it.actor && link(["actors", it.actor.path], "Its actor"))),
    h("section", { class: "card" }, table("Waiting or in hand, in order", ["Message", "Since", ["Tries", "number"], ["Why", "prose"]],
      it.waiting.map((one) => [link(["messages", one.message_id]), time(one.accepted_at), one.tries, one.explanation]), "Nothing waits here.")),
    h("section", { class: "card" }, table("Ended, the newest first", ["Message", "At", ["How", "prose"]],
      it.ended.map((one) => [link(["messages", one.message_id]), time(one.at), one.explanation]), "Nothing has ended here.")));
}

// Asks what becomes of what came meanwhile.
export function unmute(shared, mute, where) {
  confirm(`End the mute of ${where}?`, "Choose what becomes of the messages that came while the bot was muted.", "End the mute",
    ({ then }) => act(() => post("/admin/mutes/end", { mute, then }), "The bot speaks again", shared.refresh),
    h("fieldset", { class: "stack" }, h("legend", null, "Messages that came meanwhile"),
      [["answer", "Answer them"], ["hand_over", "Hand their conversations to humans"], ["drop", "Drop them"], ["keep", "Leave them among the dead letters"]]
        .map(([value, text]) => h("p", null, h("label", null, h("input", { type: "radio", name: "then", value, checked: value === "keep" }), text)))));
}

const WAITS = {
  queue: "in the queue", turn: "for earlier messages", merge: "for more of the customer's words", head: "for an earlier message that is tried again",
  slot: "for a free slot", limiter: "for the rate limiter", breaker: "for the circuit breaker", backoff: "after a failure of the AI service",
  shared: "for another's answer to the same question", retry: "before it was tried again", zendesk: "for Zendesk", store: "for the store",
  owner: "for another node", alone: "for its turn alone", paused: "while an operator had paused the pool",
};

// Where people look at traces is configured; without that its name is told.
function trace(shared, id) {
  const url = shared.who?.trace_url;
  const name = `trace ${id.slice(0, 8)}`;
  return [", ", url ? h("a", { href: url.replaceAll("{trace_id}", id), rel: "noreferrer" }, name) : h("span", { class: "mono" }, `trace ${id}`)];
}

function stage(shared, entry) {
  switch (entry.stage) {
    case "accepted": return ["", ["Accepted: stored, the webhook answered", entry.trace && trace(shared, entry.trace)]];
    case "taken": return ["", "Taken into its conversation"];
    case "merged": return ["", `Merged with others: ${entry.fragments} messages, one answer`];
    case "superseded": return ["", "Its answer was withheld: the customer had written more"];
    case "waited": return ["wait", `Waited ${span(entry.ms)} ${WAITS[entry.on] ?? entry.on}`];
    case "asked": return [entry.outcome === "ok" ? "" : "bad", `Asked ${entry.service}: ${entry.outcome} after ${span(entry.ms)}`];
    case "intended": return ["", "The answer was written into the ledger"];
    case "posted": return ["", `Posted in ${entry.parts} part${entry.parts > 1 ? "s" : ""}, in ${span(entry.ms)}`];
    case "recorded": return ["wait", "The answer was recorded and not posted (chat.shadow)"];
    case "looked_for": return ["", `Looked for in Zendesk: ${entry.found} parts were there`];
    case "failed": return ["bad", `Failed: ${entry.cause}`];
    case "replayed": return ["", `Replayed by an operator: life ${entry.replay}`];
    case "handed_over": return ["", "Handed to a human"];
    case "late": return ["wait", "Answered after a later message of its conversation"];
    case "ended": return ["", `Ended: ${entry.outcome.replace("_", " ")}`];
    default: return ["", entry.stage];
  }
}

export async function message(shared, id) {
  const it = await get(`/admin/messages/${part(id)}`);
  const isLetter = it.standing === "parked" || it.standing === "dead" || it.outcome === "parked";
  return h("div", { class: "stack" },
    h("h1", null, "Message ", h("span", { class: "mono" }, it.message_id)),
    h("div", { class: "card stack" },
      h("p", null, h("strong", null, sentence(it.explanation))),
      facts([["State", it.outcome ? tag(it.outcome === "parked" ? "bad" : "ok", it.outcome.replace("_", " ")) : tag("warn", it.phase ?? it.standing)],
        ["Conversation", link(["conversations", it.conversation_id])], ["Event", h("code", null, it.id)],
        ["Tries", it.tries], ["Failed for", it.reason ?? it.cause]]),
      isLetter && h("p", null, link(["letters", it.id], "Its dead letter"))),
    h("section", { class: "card" }, h("h2", null, "Its story"),
      timeline(shared, it.timeline)));
}

export const timeline = (shared, entries) => h("ol", { class: "timeline" }, entries.map((entry) => {
  const [kind, text] = stage(shared, entry);
  return h("li", { class: kind }, clock(entry.at), text);
}));

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + ".";
