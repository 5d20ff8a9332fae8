// Asks the admin listener, with the token of this tab.

const KEY = "tidegate-token";

export function token() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function setToken(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

export class Refusal extends Error {
  constructor(status, problem, token) {
    super(problem?.detail ?? `the node answered ${status}`);
    this.status = status;
    this.token = token;
  }
}

// Asks with the token of this tab; a refusal tells with which.
async function send(path, options = {}) {
  const shown = token();
  const headers = { ...options.headers, ...(shown && { authorization: `Bearer ${shown}` }) };
  const answer = await fetch(path, { ...options, headers });
  if (!answer.ok) throw new Refusal(answer.status, await answer.json().catch(() => null), shown);
  return answer;
}

async function ask(method, path, body) {
  const answer = await send(path, body === undefined ? { method } : { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  if (answer.status === 204) return null;
  const text = await answer.text();
  const isJson = (answer.headers.get("content-type") ?? "").includes("json");
  return isJson && text ? JSON.parse(text) : text;
}

export const get = (path) => ask("GET", path);
export const post = (path, body) => ask("POST", path, body ?? {});
export const put = (path, body) => ask("PUT", path, body);
export const remove = (path) => ask("DELETE", path);

// A part of a path that may hold anything.
export const part = (text) => encodeURIComponent(text);

// Brings each overview to `take`, and says with `lost` that none comes; for ever.
export async function watch(take, lost) {
  for (let pause = 500; ; pause = Math.min(pause * 2, 8000)) {
    try {
      const answer = await send("/admin/events");
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) throw new Error("the node has ended the stream");
        text += value;
        let end;
        while ((end = text.indexOf("\n\n")) >= 0) {
          const data = text.slice(0, end).split("\n").filter((line) => line.startsWith("data:"));
          text = text.slice(end + 2);
          if (data.length) {
            take(JSON.parse(data.map((line) => line.slice(5)).join("\n")));
            pause = 500;
          }
        }
      }
    } catch (error) {
      if (await lost(error)) pause = 500;
    }
    await new Promise((again) => setTimeout(again, pause));
  }
}
