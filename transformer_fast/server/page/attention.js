// The tab "Attention": a text through a model, its weights in the explorer (globalThis.attentionExplorer). page.js starts it.

import { ask } from "./api.js";
import { byId, fillModels, notify } from "./dom.js";

const SECOND = {
  optional: "Second text, read with the first (optional)",
  required: "Text that the decoder reads",
};

/** models: [{id, attention: {pair: "none", "optional" or "required", max_tokens}}]. */
export function startAttention(models) {
  const select = byId("attention-model");
  fillModels(select, models);
  const chosen = () => models.find((model) => model.id === select.value);
  const showSecond = () => {
    const { pair, max_tokens: most } = chosen().attention;
    byId("attention-said").textContent = `Up to ${most} tokens`;
    byId("attention-second").hidden = pair === "none";
    byId("attention-pair").required = pair === "required";
    byId("attention-second").querySelector("label").textContent = SECOND[pair] ?? "";
  };
  select.addEventListener("change", showSecond);
  showSecond();
  byId("attention-form").addEventListener("submit", (event) => {
    event.preventDefault();
    show(chosen());
  });
}

async function show(model) {
  const [text, pair] = ["attention-text", "attention-pair"].map((id) => byId(id).value);
  const body = { model: model.id, text, ...(model.attention.pair !== "none" && pair.trim() ? { text_pair: pair } : {}) };
  byId("attention-go").disabled = true;
  byId("attention-said").textContent = "Computing …";
  notify(null);
  try {
    globalThis.attentionExplorer(byId("attention-explorer"), await ask("page/attention", body));
    byId("attention-said").textContent = "";
  } catch (error) {
    byId("attention-said").textContent = "";
    notify(error);
  } finally {
    byId("attention-go").disabled = false;
  }
}
