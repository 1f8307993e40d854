// The tab "Search": passages of pasted text and chosen files, ranked by embeddings, the best of them by a reranker.
// page.js starts it. Vectors stay in this page: a second query over the same passages embeds the query alone.

import { ask } from "./api.js";
import { byId, fillModels, make, notify } from "./dom.js";
import { passagesOf, readFiles } from "./passages.js";

const BATCH = 32; // passages of a request: some 8,000 tokens
const CANDIDATES = 30; // that a reranker reads
const SHOWN = 10;
const MOST = 20_000; // passages: 30 MB of vectors of 384 numbers

const vectors = new Map(); // model and text -> Float32Array of length 1
let models = [];
let files = { passages: [], read: 0, skipped: 0 };
let running = null;

/** all: models of the kinds "embeddings" and "reranker"; query and document are parameters of /v1/embeddings. */
export function startSearch(all) {
  models = all;
  const [embeddings, rerankers] = ["embeddings", "reranker"].map((kind) => models.filter((model) => model.kind === kind));
  fillModels(byId("search-model"), embeddings);
  fillModels(byId("search-reranker"), rerankers);
  const rerank = byId("search-rerank");
  rerank.parentElement.hidden = !embeddings.length || !rerankers.length;
  if (rerankers.length < 2) rerank.parentElement.lastChild.textContent = " Rerank the best";
  rerank.checked = rerankers.length > 0;
  byId("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    search(embeddings.length > 0);
  });
  byId("search-stop").addEventListener("click", () => running?.abort());
  for (const id of ["search-folder", "search-files"]) byId(id).addEventListener("change", (event) => add(event.target));
  byId("search-clear").addEventListener("click", () => {
    files = { passages: [], read: 0, skipped: 0 };
    showSources();
  });
}

async function add(input) {
  const more = await readFiles([...input.files]);
  input.value = "";
  files = {
    passages: [...files.passages, ...more.passages],
    read: files.read + more.read,
    skipped: files.skipped + more.skipped,
  };
  showSources();
}

function showSources() {
  const skipped = files.skipped ? `; ${files.skipped} left out (no text in UTF-8, or over 2 MB)` : "";
  byId("search-sources").textContent = files.read || files.skipped
    ? `${counted(files.read, "file")}, ${counted(files.passages.length, "passage")}${skipped}` : "";
  byId("search-clear").hidden = !files.read && !files.skipped;
}

const counted = (number, one) => `${number.toLocaleString("en")} ${one}${number === 1 ? "" : "s"}`;

async function search(embeds) {
  running?.abort();
  const own = (running = new AbortController());
  const query = byId("search-query").value.trim();
  const passages = [...passagesOf(byId("search-text").value), ...files.passages];
  busy(true);
  notify(null);
  try {
    if (!passages.length) throw new Error("There is nothing to search: paste a text or add a folder.");
    if (passages.length > MOST) throw new Error(`There are ${counted(passages.length, "passage")}; at most ${counted(MOST, "passage")} are searched.`);
    const begun = performance.now();
    let ranked = passages.map((passage) => ({ passage }));
    if (embeds) ranked = await byEmbeddings(query, passages, own.signal);
    else if (passages.length > CANDIDATES * 10) throw new Error(`Without a model of embeddings, at most ${CANDIDATES * 10} passages are ranked.`);
    if (byId("search-rerank").checked) ranked = await byReranker(query, embeds ? ranked.slice(0, CANDIDATES) : ranked, own.signal);
    show(ranked.slice(0, SHOWN), passages.length, (performance.now() - begun) / 1000);
  } catch (error) {
    if (error.name !== "AbortError") notify(error);
  } finally {
    if (running === own) busy(false);
  }
}

function busy(on) {
  byId("search-go").hidden = on;
  byId("search-stop").hidden = !on;
  byId("search-progress").hidden = true;
  byId("search-results").setAttribute("aria-busy", String(on));
}

async function byEmbeddings(query, passages, signal) {
  const model = byId("search-model").value;
  const { query: asQuery, document: asDocument } = models.find(({ id }) => id === model);
  const texts = [...new Set(passages.map(({ text }) => text))].filter((text) => !vectors.has(`${model}\n${text}`));
  for (let start = 0; start < texts.length; start += BATCH) {
    progress(start, texts.length);
    const batch = texts.slice(start, start + BATCH);
    const found = await embed({ model, input: batch, ...asDocument }, signal);
    batch.forEach((text, i) => vectors.set(`${model}\n${text}`, found[i]));
  }
  byId("search-progress").hidden = true;
  const [wanted] = await embed({ model, input: [query], ...asQuery }, signal);
  return passages
    .map((passage) => ({ passage, similarity: dot(wanted, vectors.get(`${model}\n${passage.text}`)) }))
    .sort((a, b) => b.similarity - a.similarity);
}

function progress(done, all) {
  const bar = byId("search-bar");
  [bar.max, bar.value] = [all, done];
  byId("search-progress-text").textContent = `${done.toLocaleString("en")} of ${counted(all, "passage")} embedded`;
  byId("search-progress").hidden = all <= BATCH;
}

/** Vectors of length 1, so that a product is the cosine. */
async function embed(body, signal) {
  const { data } = await ask("v1/embeddings", { ...body, encoding_format: "base64" }, signal);
  return data.sort((a, b) => a.index - b.index).map(({ embedding }) => {
    const letters = atob(embedding);
    const vector = new Float32Array(Uint8Array.from(letters, (letter) => letter.charCodeAt(0)).buffer);
    const length = Math.sqrt(dot(vector, vector)) || 1;
    return vector.map((x) => x / length);
  });
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

async function byReranker(query, ranked, signal) {
  const documents = ranked.map(({ passage }) => passage.text);
  const { results } = await ask("v1/rerank", { model: byId("search-reranker").value, query, documents }, signal);
  return results
    .map(({ index, relevance_score: relevance }) => ({ ...ranked[index], relevance }))
    .sort((a, b) => b.relevance - a.relevance);
}

function show(ranked, count, seconds) {
  byId("search-said").textContent = `The best ${ranked.length} of ${counted(count, "passage")}, in ${seconds.toFixed(2)} s`;
  byId("search-results").replaceChildren(...ranked.map(({ passage, similarity, relevance }) => {
    const item = make("li");
    const head = make("div", "head");
    const place = passage.file ? `${passage.file}, line ${passage.line}` : `Line ${passage.line}`;
    const scores = [
      ...(relevance === undefined ? [] : [`relevance ${relevance.toFixed(3)}`]),
      ...(similarity === undefined ? [] : [`similarity ${similarity.toFixed(3)}`]),
    ];
    head.append(make("span", "place", place), make("span", "", scores.join(" · ")));
    item.append(head, make("div", "text", passage.text));
    return item;
  }));
}
