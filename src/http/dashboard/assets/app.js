// Which page is shown, who looks, and how things stand.

import { get, Refusal, setToken, token, watch } from "./api.js";
import { fill, h, note } from "./ui.js";
import { now } from "./now.js";
import { conversation, conversations, message } from "./conversations.js";
import { queues } from "./queues.js";
import { letter, letters } from "./letters.js";
import { services } from "./services.js";
import { actors } from "./actors.js";
import { nodes } from "./nodes.js";
import { audit } from "./audit.js";

const PAGES = [
  ["now", "Now", now], ["conversations", "Conversations", conversations], ["queues", "Queues", queues],
  ["letters", "Dead letters", letters], ["services", "Services", services], ["actors", "Actors", actors],
  ["nodes", "Nodes", nodes], ["audit", "Audit", audit],
];
const DETAILS = { conversations: conversation, messages: message, letters: letter };
const BELONGS = { messages: "conversations" };
const EVERY = 2000;

// What pages share: who looks, the last overview, the beats so far.
const shared = { who: null, overview: null, beats: [], mayAct: () => shared.who?.role === "operator", refresh: () => show() };
let shown = { key: "", serial: 0, busy: false };

function plain(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function route() {
  const parts = location.hash.replace(/^#\/?/, "").split("/").map(plain);
  const name = parts[0] || "now";
  const detail = parts.length > 1 && DETAILS[name];
  const page = PAGES.find(([known]) => known === name);
  return { name, args: parts.slice(1), view: detail || page?.[2] || now };
}

function menu(name) {
  const here = BELONGS[name] ?? name;
  fill(document.getElementById("pages"), PAGES.map(([page, title]) =>
    h("a", { href: `#/${page}`, "aria-current": page === here ? "page" : null }, title)));
}

// Renews the page; a slower answer of an earlier look is not shown.
async function show() {
  const { name, args, view } = route();
  const key = JSON.stringify([name, args]);
  const isNew = key !== shown.key;
  const serial = ++shown.serial;
  shown.key = key;
  const main = document.getElementById("main");
  if (isNew) {
    menu(name);
    const title = PAGES.find(([page]) => page === (BELONGS[name] ?? name))?.[1] ?? "Now";
    document.title = `${title} · Tidegate`;
  }
  shown.busy = true;
  try {
    const content = await view(shared, ...args);
    if (serial !== shown.serial) return;
    if (isNew) main.replaceChildren(...[content].flat());
    else fill(main, content);
  } catch (error) {
    if (serial !== shown.serial) return;
    if (await refused(error)) return;
    if (isNew) main.replaceChildren(h("h1", null, "Not to be seen"), h("p", null, error.message));
  } finally {
    if (serial === shown.serial) shown.busy = false;
  }
  if (isNew && main.contains(document.activeElement) === false && shown.serial > 1) main.focus({ preventScroll: true });
}

// `true` when a token is asked for.
async function refused(error) {
  if (!(error instanceof Refusal) || error.status !== 401) return false;
  // A late answer: somebody has signed in, or been asked to, since.
  if (error.token !== token()) return true;
  // Not brought again and again: whoever brings wrong tokens is not listened to for a while.
  const wasWrong = Boolean(token());
  setToken("");
  const dialog = document.getElementById("dialog");
  if (dialog.open) return true;
  const input = h("input", { type: "password", name: "token", autocomplete: "off", required: true });
  const form = h("form", { method: "dialog", class: "stack", onsubmit: (event) => {
    event.preventDefault();
    setToken(input.value);
    dialog.close();
    begin();
  } },
    h("h2", { id: "dialog-title" }, "Sign in"),
    h("p", null, wasWrong ? "This token is not known to the node." : "This node asks for a token (admin.tokens). It is kept in this tab only."),
    h("label", { class: "above" }, "Token", input),
    h("p", null, h("button", { class: "main", type: "submit" }, "Sign in")));
  dialog.replaceChildren(form);
  dialog.showModal();
  return true;
}

async function begin() {
  try {
    shared.who = await get("/admin/whoami");
    const overview = await get("/admin/overview");
    shared.beats = overview.history ?? [];
    stands(overview);
    document.getElementById("sign").hidden = !token();
  } catch (error) {
    if (!(await refused(error))) note(error.message, true);
  }
  shown.key = "";
  await show();
}

function stands(overview) {
  shared.overview = overview;
  shared.beats = [...shared.beats, overview.now].slice(-300);
  const more = overview.verdict.length > 1 ? ` (and ${overview.verdict.length - 1} more)` : "";
  const text = overview.verdict[0] + more;
  const standing = document.getElementById("standing");
  if (standing.textContent !== text) standing.textContent = text;
  document.getElementById("lamp").className = `lamp ${overview.level}`;
  document.getElementById("node").textContent = `${overview.node} · ${overview.version}`;
  if (route().name === "now") show();
}

async function lost(error) {
  document.getElementById("lamp").className = "lamp bad";
  document.getElementById("standing").textContent = `no news from the node: ${error.message}`;
  return refused(error);
}

document.getElementById("theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const current = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  document.documentElement.dataset.theme = current === "dark" ? "light" : "dark";
  localStorage.setItem("tidegate-theme", document.documentElement.dataset.theme);
});
document.getElementById("sign").addEventListener("click", () => {
  setToken("");
  location.reload();
});
const theme = localStorage.getItem("tidegate-theme");
if (theme) document.documentElement.dataset.theme = theme;
addEventListener("hashchange", show);
setInterval(() => {
  const isIdle = document.visibilityState === "visible" && route().name !== "now" && !document.getElementById("dialog").open;
  // What takes longer than the time between two looks is waited for.
  if (isIdle && !shown.busy) show();
}, EVERY);
await begin();
watch(stands, lost);
