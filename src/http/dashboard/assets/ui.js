// Builds and renews what is seen. Texts become text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "path", "rect", "title"]);

export function h(tag, props, ...children) {
  const element = DRAWN.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  element.on = {};
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) listen(element, name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  add(element, children);
  return element;
}

function add(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) add(element, child);
    else if (child instanceof Node) element.append(child);
    else if (child !== null && child !== undefined && child !== false) element.append(String(child));
  }
}

// One listener for each kind of event; what it does can be changed.
function listen(element, kind, act) {
  if (!element.on[kind]) element.addEventListener(kind, (event) => element.on[kind]?.(event));
  element.on[kind] = act;
}

// Makes `old` look like `next` and keeps what is the same, so that focus and scrolling stay where they are.
export function renew(old, next) {
  if (old.nodeType !== next.nodeType || old.nodeName !== next.nodeName) {
    old.replaceWith(next);
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    const isState = name === "open" && old.nodeName === "DETAILS";
    if (!next.hasAttribute(name) && !isState) old.removeAttribute(name);
  }
  for (const { name, value } of [...next.attributes]) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const kind of Object.keys(old.on ?? {})) if (!next.on?.[kind]) old.on[kind] = null;
  for (const [kind, act] of Object.entries(next.on ?? {})) {
    old.on ??= {};
    listen(old, kind, act);
  }
  if (["INPUT", "SELECT", "TEXTAREA"].includes(old.nodeName)) return;
  const [before, after] = [[...old.childNodes], [...next.childNodes]];
  after.forEach((child, index) => (before[index] ? renew(before[index], child) : old.append(child)));
  before.slice(after.length).forEach((child) => child.remove());
}

export function fill(place, ...children) {
  renew(place, h(place.nodeName.toLowerCase(), Object.fromEntries([...place.attributes].map((it) => [it.name, it.value])), children));
}

export function note(text, isBad) {
  const shown = h("p", { class: isBad ? "note bad" : "note" }, text);
  document.getElementById("notes").append(shown);
  setTimeout(() => shown.remove(), isBad ? 9000 : 4000);
}

// Does something that changes the node, and says how it went.
export async function act(doing, done, after) {
  try {
    const answer = await doing();
    note(typeof done === "function" ? done(answer) : done);
    await after?.();
  } catch (error) {
    note(error.message, true);
  }
}

// Asks before something is done; `says` what will happen. `fields` are shown and their values handed on.
export function confirm(title, says, verb, go, fields) {
  const dialog = document.getElementById("dialog");
  const form = h("form", { method: "dialog", class: "stack", onsubmit: (event) => {
    event.preventDefault();
    dialog.close();
    go(Object.fromEntries(new FormData(form)));
  } },
    h("h2", { id: "dialog-title" }, title),
    h("p", null, says),
    fields ?? null,
    h("p", { class: "row" },
      h("button", { class: "main", type: "submit" }, verb),
      h("button", { type: "button", onclick: () => dialog.close() }, "Cancel")));
  dialog.replaceChildren(form);
  dialog.showModal();
}

export function table(caption, heads, rows, empty) {
  if (!rows.length) return h("p", { class: "soft" }, empty ?? "Nothing.");
  const head = ([name, kind]) => h("th", { scope: "col", class: kind }, name);
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", null,
      h("caption", null, caption),
      h("thead", null, h("tr", null, heads.map((it) => head([].concat(it))))),
      h("tbody", null, rows.map((cells) => h("tr", null,
        cells.map((cell, index) => h("td", { class: [].concat(heads[index])[1] }, cell)))))));
}

export const facts = (pairs) => h("dl", null, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
  .map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));

export const link = (to, text) => h("a", { href: `#/${to.map(encodeURIComponent).join("/")}` }, text ?? to.at(-1));

export const tag = (kind, text) => h("span", { class: `tag ${kind}` }, text);

export function span(ms) {
  if (ms === null || ms === undefined) return "";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 120000) return `${(ms / 1000).toFixed(ms < 10000 ? 1 : 0)} s`;
  if (ms < 7200000) return `${Math.round(ms / 60000)} min`;
  return ms < 172800000 ? `${Math.round(ms / 3600000)} h` : `${Math.round(ms / 86400000)} d`;
}

export const time = (text) => (text ? h("time", { datetime: text, title: text, class: "nowrap" },
  new Date(text).toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" })) : "");

export const clock = (text) => h("time", { datetime: text, title: text }, new Date(text).toLocaleTimeString());

export const number = (value) => Number(value ?? 0).toLocaleString();
