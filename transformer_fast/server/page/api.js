// Calls of the server: JSON, streams of server-sent events, the key, errors as one sentence.
// All other modules of the page call `ask` or `stream`. Paths are relative, so that a proxy may put a prefix before them.

const KEY = "transformer-fast-key";
// How often a full server (429) is asked again before that is the user's business.
const ATTEMPTS = 5;

let askForKey = () => Promise.reject(new Error("the server asks for a key"));

/** call(): a promise that there is a key. */
export function onMissingKey(call) {
  askForKey = call;
}

export function setKey(key) {
  try { sessionStorage.setItem(KEY, key); } catch { /* without storage it lasts as long as the page */ }
  current = key;
}

let current = "";
try { current = sessionStorage.getItem(KEY) ?? ""; } catch { /* as above */ }

/** The answer to GET (without a body) or POST, as parsed JSON. Throws Error with the server's own text. */
export async function ask(path, body, signal) {
  return (await answered(path, body, signal)).json();
}

async function answered(path, body, signal) {
  const options = { signal, headers: {}, method: body === undefined ? "GET" : "POST" };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  for (let attempt = 1; ; attempt++) {
    if (current) options.headers.Authorization = `Bearer ${current}`;
    const answer = await fetch(path, options).catch((error) => {
      throw error.name === "AbortError" ? error : new Error("The server cannot be reached.");
    });
    if (answer.ok) return answer;
    if (answer.status === 401) await askForKey();
    else if (answer.status === 429 && attempt < ATTEMPTS) await wait(Number(answer.headers.get("Retry-After")) || 1, signal);
    else throw new Error(await textOf(answer));
  }
}

function wait(seconds, signal) {
  return new Promise((resume, fail) => {
    const timer = setTimeout(resume, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      fail(signal.reason);
    });
  });
}

async function textOf(answer) {
  const content = await answer.json().catch(() => null);
  return content?.error?.message ?? `The server answered ${answer.status}.`;
}

/** The events of a streamed answer, as parsed JSON. */
export async function* stream(path, body, signal) {
  const answer = await answered(path, body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}
