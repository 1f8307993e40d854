// The tab "Chat": messages, answers as they are written, a button that stops them. page.js starts it.
// The conversation is in this page alone; every request sends it whole.

import { stream } from "./api.js";
import { byId, fillModels, make, notify } from "./dom.js";

// Tokens of an answer where the user says nothing; of a model that takes few, half of what it takes.
const MOST = 512;

let history = [];
let running = null;

export function startChat(models) {
  const select = byId("chat-model");
  fillModels(select, models);
  const limit = () => {
    const { max_length: length } = models.find(({ id }) => id === select.value);
    byId("chat-most").value = length === null ? MOST : Math.min(MOST, Math.floor(length / 2));
  };
  select.addEventListener("change", limit);
  limit();
  byId("chat-form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("chat-text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("chat-form").requestSubmit();
  });
  byId("chat-stop").addEventListener("click", () => running?.abort());
  byId("chat-new").addEventListener("click", clear);
  clear();
}

function clear() {
  running?.abort();
  running = null;
  busy(false);
  history = [];
  byId("chat-log").replaceChildren(make("p", "chat-empty", "Ask something. The conversation stays in this page and goes to this server alone."));
}

async function send() {
  if (running) return;
  const text = byId("chat-text").value.trim();
  if (!text) return;
  byId("chat-text").value = "";
  const own = (running = new AbortController());
  if (!history.length) byId("chat-log").replaceChildren();
  history.push({ role: "user", content: text });
  const asked = make("div", "message user", text);
  const answer = new Answer();
  byId("chat-log").append(asked, answer.element);
  answer.element.scrollIntoView({ block: "end" });
  busy(true);
  notify(null);
  try {
    for await (const event of stream("v1/chat/completions", body(), own.signal)) answer.add(event);
    answer.end();
  } catch (error) {
    answer.end(error.name === "AbortError" ? "stopped" : null, error.name === "AbortError" ? null : error);
  }
  if (running !== own) return; // a new chat has begun
  running = null;
  // What was stopped is part of the conversation; what failed before it said anything is asked again.
  if (answer.text) history.push({ role: "assistant", content: answer.text });
  else {
    byId("chat-text").value ||= history.pop().content;
    asked.remove();
  }
  busy(false);
  byId("chat-said").textContent = answer.text;
}

function body() {
  const system = byId("chat-system").value.trim();
  const [temperature, most] = ["chat-temperature", "chat-most"].map((id) => byId(id).valueAsNumber);
  return {
    model: byId("chat-model").value,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...history],
    stream: true,
    stream_options: { include_usage: true },
    ...(Number.isNaN(temperature) ? {} : { temperature }),
    ...(Number.isNaN(most) ? {} : { max_tokens: most }),
  };
}

function busy(on) {
  byId("chat-send").hidden = on;
  byId("chat-stop").hidden = !on;
  byId("chat-log").setAttribute("aria-busy", String(on));
}

/** One answer: its elements, and the text that has come so far. */
class Answer {
  constructor() {
    this.text = this.reasoning = "";
    this.element = make("div", "message assistant");
    this.said = make("div", "said");
    this.said.append(make("span", "waiting"));
    this.facts = make("div", "facts");
    this.element.append(this.said, this.facts);
  }

  add(event) {
    if (event.usage) this.usage = event.usage;
    const [choice] = event.choices;
    if (!choice) return;
    this.first ??= performance.now();
    this.text += choice.delta?.content ?? "";
    this.reasoning += choice.delta?.reasoning_content ?? "";
    this.reason = choice.finish_reason ?? this.reason;
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.#show();
    });
  }

  #show() {
    const log = byId("chat-log");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    this.said.replaceChildren(...rendered(this.text));
    if (this.reasoning) {
      this.details ??= this.element.insertBefore(make("details"), this.said);
      this.details.replaceChildren(make("summary", "", "Reasoning"), this.reasoning);
    }
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  end(note = null, error = null) {
    if (this.frame) cancelAnimationFrame(this.frame);
    this.#show();
    if (error) this.facts.append(make("span", "failed", error.message));
    else this.facts.textContent = [note, ...this.#facts()].filter(Boolean).join(" · ");
  }

  #facts() {
    const seconds = (performance.now() - this.first) / 1000;
    const count = this.usage?.completion_tokens;
    return [
      this.reason === "length" && "ended at the most tokens",
      count && `${count} tokens`,
      count > 1 && seconds > 0 && `${((count - 1) / seconds).toFixed(1)} tokens/s`,
    ];
  }
}

/** Text with its ``` blocks as code. */
function rendered(text) {
  return text.split(/^```/m).map((part, i) => {
    // Code has a margin of its own: the blank lines around it are left out.
    if (i % 2 === 0) return document.createTextNode((i ? part.trimStart() : part).replace(/\n+$/, ""));
    const pre = make("pre");
    pre.append(make("code", "", part.replace(/^[^\n]*\n?/, "").replace(/\n$/, "")));
    return pre;
  });
}
