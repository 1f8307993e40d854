// Starts the page: asks which models there are, shows the tabs that they serve, and asks for a key where one is needed.
// A further tab: a section and a button in index.html, a module, and a line in TABS.

import { ask, onMissingKey, setKey } from "./api.js";
import { startAttention } from "./attention.js";
import { startChat } from "./chat.js";
import { byId, notify } from "./dom.js";
import { startSearch } from "./search.js";

// Each with the models that it works with, of those of GET page/models.
const TABS = {
  search: { fits: ({ kind }) => kind === "embeddings" || kind === "reranker", start: startSearch },
  chat: { fits: ({ chat }) => chat, start: startChat },
  attention: { fits: ({ attention }) => attention !== null, start: startAttention },
};

function select(name, focus = false) {
  for (const other of Object.keys(TABS)) {
    const [tab, selected] = [byId(`tab-${other}`), other === name];
    tab.setAttribute("aria-selected", String(selected));
    tab.tabIndex = selected ? 0 : -1;
    byId(other).hidden = !selected;
    if (selected && focus) tab.focus();
  }
  notify(null);
}

function moveWithKeys(event, names) {
  const index = names.indexOf(event.target.getAttribute("aria-controls"));
  const steps = { ArrowRight: index + 1, ArrowLeft: index - 1 + names.length, Home: 0, End: names.length - 1 };
  if (!(event.key in steps)) return;
  event.preventDefault();
  open(names[steps[event.key] % names.length], true);
}

function open(name, focus) {
  history.replaceState(null, "", `#${name}`);
  select(name, focus);
}

function keyFromUser() {
  const form = byId("key");
  form.hidden = false;
  byId("key-text").value = "";
  byId("key-text").focus();
  return new Promise((given) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      setKey(byId("key-text").value);
      form.hidden = true;
      given();
    }, { once: true });
  });
}

async function start() {
  byId("theme").append(globalThis.attentionTheme.toggle());
  onMissingKey(keyFromUser);
  const { models } = await ask("page/models");
  const names = [];
  for (const [name, tab] of Object.entries(TABS)) {
    const fitting = models.filter(tab.fits);
    if (!fitting.length) continue;
    names.push(name);
    byId(`tab-${name}`).hidden = false;
    byId(`tab-${name}`).addEventListener("click", () => open(name));
    tab.start(fitting);
  }
  if (!names.length) throw new Error("The models of this server have nothing to show here; its interface is at /docs.");
  byId("tabs").addEventListener("keydown", (event) => moveWithKeys(event, names));
  byId("tabs").hidden = false;
  const asked = location.hash.slice(1);
  select(names.includes(asked) ? asked : names[0]);
}

start().catch(notify);
