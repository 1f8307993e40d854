// The attention explorer: all heads, and one of them as lines or as a heat-map, with what a token attends beside it.
//
//     attentionExplorer(element, data, {toggle: true})
//
// Called by the file that `visualize.explore` writes (start.js) and by the server's page. `data` is what
// explorer/encoding.py makes. Tokens come from anybody's text: they are only ever set as textContent or drawn.
"use strict";

globalThis.attentionExplorer = (element, data, { toggle = false } = {}) => {
  // Rows of the lists of what a token attends and what attends it.
  const LISTED = 6;

  const all = data.maps.map((entry) => new AttentionWeights(entry));
  const state = { map: 0, layer: 0, head: 0, view: data.view, hideSpecial: false, pinned: null };

  const root = make("div", "explorer");
  const bar = make("div", "explorer-bar");
  const overview = make("section", "overview");
  const aside = make("div", "explorer-aside");
  const head = make("section", "head");
  const title = make("h2");
  const note = make("span", "explorer-note");
  const view = make("div");
  const inspector = make("section", "inspector");
  const said = make("div", "unseen");
  const facts = make("p", "explorer-note");
  const special = check("Hide special tokens", (on) => {
    state.hideSpecial = on;
    state.pinned = null;
    drawing.overview.draw(on);
    showHead();
  });
  const drawing = {};

  said.setAttribute("role", "status");
  overview.setAttribute("aria-label", "All heads");
  head.setAttribute("aria-label", "One head");
  inspector.setAttribute("aria-label", "Strongest links");
  if (all.length > 1) bar.append(chooser());
  bar.append(views(), special);
  if (toggle) bar.append(attentionTheme.toggle());
  const titles = make("div", "head-title");
  titles.append(title, note);
  head.append(titles, view, said);
  aside.append(overview, inspector);
  root.append(bar, aside, head, facts);
  element.replaceChildren(root);
  attentionTheme.listen(() => root.isConnected && (drawing.overview.draw(state.hideSpecial), showHead()));
  showMap(0, data.layer, data.head);

  function make(name, className = "", text = "") {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return made;
  }

  function check(text, changed) {
    const label = make("label", "check");
    const box = make("input");
    box.type = "checkbox";
    box.addEventListener("change", () => changed(box.checked));
    label.append(box, text);
    return label;
  }

  function chooser() {
    const select = make("select");
    select.setAttribute("aria-label", "Kind of attention");
    select.append(...all.map((weights, i) => new Option(weights.name, i)));
    select.addEventListener("change", () => showMap(Number(select.value), null, null));
    return select;
  }

  function views() {
    const group = make("fieldset", "segments");
    group.append(make("legend", "unseen", "View"));
    const name = `view-${Math.random().toString(36).slice(2)}`;
    for (const [value, text] of [["lines", "Lines"], ["heatmap", "Heat-map"]]) {
      const label = make("label");
      const radio = make("input");
      Object.assign(radio, { type: "radio", name, value, checked: state.view === value });
      radio.addEventListener("change", () => {
        state.view = value;
        state.pinned = null;
        showHead();
      });
      label.append(radio, text);
      group.append(label);
    }
    return group;
  }

  function showMap(index, layer, headIndex) {
    const weights = all[index];
    Object.assign(state, { map: index, layer: layer ?? weights.layers - 1, head: headIndex ?? 0, pinned: null });
    special.hidden = !weights.specialQueries.size && !weights.specialKeys.size;
    drawing.overview = new AttentionOverview(weights, (newLayer, newHead) => {
      Object.assign(state, { layer: newLayer, head: newHead });
      drawing.overview.select(newLayer, newHead);
      showHead();
    });
    drawing.lines = new AttentionLines(weights, lookAtToken);
    drawing.heatmap = new AttentionHeatmap(weights, lookAtCell);
    overview.replaceChildren(
      make("h2", "", "All heads"),
      drawing.overview.element,
      make("p", "explorer-note", "A row a layer, a column a head; colours go up to the largest weight of each."),
    );
    overview.hidden = weights.layers * weights.heads === 1;
    facts.textContent = summary(weights);
    drawing.overview.select(state.layer, state.head);
    drawing.overview.draw(state.hideSpecial);
    showHead();
  }

  function summary(weights) {
    const count = (number, one) => `${number} ${one}${number === 1 ? "" : "s"}`;
    const [rows, columns] = [weights.queries.length, weights.keys.length];
    const precision = weights.digits === 3 ? "weights to three digits" : "weights in 8 bits, to two digits";
    return `${count(weights.layers, "layer")}, ${count(weights.heads, "head")}, ` +
      `${count(rows, weights.selfAttention ? "token" : "query token")}` +
      `${weights.selfAttention ? "" : `, ${count(columns, "key token")}`}; ${precision}.`;
  }

  function showHead() {
    const weights = all[state.map];
    title.textContent = weights.headName(state.layer, state.head);
    const drawn = state.view === "lines" ? drawing.lines : drawing.heatmap;
    if (view.firstChild !== drawn.element) view.replaceChildren(drawn.element);
    drawn.show(weights.head(state.layer, state.head), state.hideSpecial);
    note.textContent = state.view === "lines" ? linesNote(drawn) : "";
    if (state.pinned && state.view === "lines") drawing.lines.mark(...state.pinned, state.pinned);
    inspect(...(state.pinned ?? [null, null]));
  }

  function linesNote(lines) {
    const from = `weights from ${AttentionLines.WEAKEST} on`;
    return lines.leftOut ? `the ${AttentionLines.MOST.toLocaleString("en")} strongest links` : from;
  }

  function lookAtToken(side, position, pin) {
    if (pin) state.pinned = position === null ? null : [side, position];
    const [markedSide, marked] = position === null || pin ? state.pinned ?? [null, null] : [side, position];
    drawing.lines.mark(markedSide, marked, state.pinned);
    inspect(markedSide, marked);
  }

  function lookAtCell(query, key) {
    drawing.heatmap.mark(query, key);
    inspect(query === null ? null : "queries", query, key);
  }

  /** The lists of what a token attends, and of what attends it. */
  function inspect(side, position, key = null) {
    const weights = all[state.map];
    if (position === null) {
      const what = state.view === "lines" ? "a token" : "a cell";
      inspector.replaceChildren(make("p", "", `Point at ${what} to see its weights, or move there with the arrow keys.`));
      said.textContent = "";
      return;
    }
    const lists = [];
    if (side === "queries" || weights.selfAttention) lists.push(list(weights, "queries", position));
    if (key !== null) lists.push(list(weights, "keys", key));
    else if (side === "keys" || weights.selfAttention) lists.push(list(weights, "keys", position));
    inspector.replaceChildren(...lists.map(({ box }) => box));
    said.textContent = key === null
      ? lists.map(({ text }) => text).join(" ")
      : `${weights.queries[position]} attends ${weights.keys[key]}: ${weightOf(position, key).toFixed(weights.digits)}`;
  }

  function weightOf(query, key) {
    return all[state.map].head(state.layer, state.head)[query * all[state.map].keys.length + key];
  }

  function list(weights, side, position) {
    const attends = side === "queries";
    const others = attends ? weights.keys : weights.queries;
    const links = weights
      .shown(attends ? "keys" : "queries", state.hideSpecial)
      .map((other) => ({ other, weight: attends ? weightOf(position, other) : weightOf(other, position) }))
      .sort((a, b) => b.weight - a.weight || a.other - b.other)
      .slice(0, LISTED);
    const token = make("bdi", "", (attends ? weights.queries : weights.keys)[position]);
    const heading = make("h3");
    heading.append(token, attends ? " attends" : " is attended by");
    const items = make("ol");
    items.append(...links.map(({ other, weight }) => item(others[other], other, weight, weights.digits)));
    const box = make("div");
    box.append(heading, items);
    const named = links.slice(0, 3).map(({ other, weight }) => `${others[other]} ${weight.toFixed(weights.digits)}`);
    return { box, text: `${heading.textContent}: ${named.join(", ")}.` };
  }

  function item(token, position, weight, digits) {
    const entry = make("li");
    const name = make("span");
    name.append(make("bdi", "", token), " ", make("span", "place", position));
    const barOf = make("span", "bar");
    const filled = make("i");
    filled.style.width = `${Math.min(weight, 1) * 100}%`;
    barOf.append(filled);
    entry.append(name, barOf, make("span", "number", weight.toFixed(digits)));
    return entry;
  }
};
