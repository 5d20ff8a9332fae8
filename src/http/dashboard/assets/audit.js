// What operators did.

import { get, part } from "./api.js";
import { h, table, time } from "./ui.js";

let before = null;

export async function audit(shared) {
  const page = await get(`/admin/audit?limit=100${before ? `&before=${part(before)}` : ""}`);
  const turn = (place) => {
    before = place;
    shared.refresh();
  };
  return h("div", { class: "stack" },
    h("h1", null, "Audit"),
    h("section", { class: "card" }, table("What was done, the newest first", ["When", "Who", "What", "To what", "How", "Node"], page.entries.map((it) =>
      [time(it.at), it.who, it.action, h("code", null, it.subject), it.detail ? h("code", null, JSON.stringify(it.detail)) : "", it.node]), "Nothing was done yet."),
      h("p", { class: "row" }, before && h("button", { onclick: () => turn(null) }, "The newest"), page.next && h("button", { onclick: () => turn(page.next) }, "Earlier"))));
}
