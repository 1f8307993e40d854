// One head as lines from queries (left) to keys (right). Tokens are elements, lines are one canvas.
// explorer.js makes one for each head that is shown, and is told which token is looked at.
"use strict";

globalThis.AttentionLines = class {
  static ROW = 26; // pixels, as .lines-token has them
  // More lines than this are a grey field: the strongest are drawn. With 241 tokens a new picture takes Chromium 7 ms.
  static MOST = 1500;
  static WEAKEST = 0.02;
  // Dots of a canvas' side that all browsers draw (Safari: 16,384).
  static LARGEST = 16000;

  /** look(side, position or null, pin): the token under the pointer; pin: clicked, or under the keyboard's focus. */
  constructor(weights, look) {
    this.weights = weights;
    this.look = look;
    this.element = document.createElement("div");
    this.element.className = "lines";
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("aria-hidden", "true");
    this.sides = {};
    const headings = ["queries", "keys"].map((side) => {
      const heading = document.createElement("h3");
      heading.className = `lines-heading ${side}`;
      heading.textContent = side === "queries" ? "Query" : "Key";
      return heading;
    });
    headings.splice(1, 0, document.createElement("span"));
    this.element.append(...headings, this.#side("queries"), this.canvas, this.#side("keys"));
    new ResizeObserver(() => this.#draw()).observe(this.element);
  }

  #side(side) {
    const list = document.createElement("div");
    list.className = `lines-side ${side}`;
    list.tabIndex = 0;
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", side === "queries" ? "Queries" : "Keys");
    const at = (event) => {
      const place = event.target.closest(".lines-token")?.dataset.position;
      return place === undefined ? null : Number(place);
    };
    list.addEventListener("pointerover", (event) => event.pointerType === "mouse" && this.look(side, at(event), false));
    list.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.look(side, null, false));
    list.addEventListener("click", (event) => {
      const again = this.pinned?.[0] === side && this.pinned[1] === at(event);
      this.look(side, again ? null : at(event), true);
    });
    list.addEventListener("keydown", (event) => this.#key(event, side));
    list.addEventListener("focus", () => {
      if (list.matches(":focus-visible") && this.looked?.[0] !== side) this.look(side, this.active[side], true);
    });
    this.sides[side] = list;
    return list;
  }

  #key(event, side) {
    const shown = this.shown[side];
    const index = shown.indexOf(this.active[side]);
    const other = side === "queries" ? "keys" : "queries";
    const page = 10;
    const steps = { ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      const next = Math.min(Math.max(index + steps[event.key], 0), shown.length - 1);
      this.look(side, shown[next], true);
      this.tokens[side][next].scrollIntoView({ block: "nearest" });
    } else if (event.key === (side === "queries" ? "ArrowRight" : "ArrowLeft")) {
      this.sides[other].focus();
    } else if (event.key === "Escape") {
      this.look(side, null, true);
    } else return;
    event.preventDefault();
  }

  /** Shows the weights (Lq, Lk) of one head. */
  show(head, hideSpecial) {
    this.head = head;
    this.shown = {};
    this.tokens = {};
    for (const side of ["queries", "keys"]) {
      this.shown[side] = this.weights.shown(side, hideSpecial);
      this.tokens[side] = this.shown[side].map((position) => this.#token(side, position));
      this.sides[side].replaceChildren(...this.tokens[side]);
    }
    this.active = { queries: this.shown.queries[0] ?? null, keys: this.shown.keys[0] ?? null };
    this.links = this.#strongest();
    this.mark(null, null);
  }

  #token(side, position) {
    const [tokens, special] = side === "queries"
      ? [this.weights.queries, this.weights.specialQueries]
      : [this.weights.keys, this.weights.specialKeys];
    const option = document.createElement("div");
    option.className = special.has(position) ? "lines-token special" : "lines-token";
    option.id = `${side}-${position}-${(AttentionLines.count = (AttentionLines.count ?? 0) + 1)}`;
    option.dataset.position = position;
    option.setAttribute("role", "option");
    option.setAttribute("aria-selected", "false");
    const text = document.createElement("bdi");
    text.textContent = text.title = tokens[position];
    const number = document.createElement("span");
    number.className = "number";
    option.append(text, number);
    return option;
  }

  #strongest() {
    const links = [];
    const columns = this.weights.keys.length;
    for (const [i, query] of this.shown.queries.entries()) {
      for (const [j, key] of this.shown.keys.entries()) {
        const weight = this.head[query * columns + key];
        if (weight >= AttentionLines.WEAKEST) links.push({ i, j, weight });
      }
    }
    links.sort((a, b) => b.weight - a.weight);
    this.leftOut = Math.max(0, links.length - AttentionLines.MOST);
    return links.slice(0, AttentionLines.MOST).reverse(); // the strongest are drawn last, over the others
  }

  /** Shows what a token attends (of queries) or what attends it (of keys); position null: everything. */
  mark(side, position, pinned = null) {
    this.pinned = pinned;
    this.looked = position === null ? null : [side, position];
    if (position !== null) this.active[side] = position;
    for (const [name, tokens] of Object.entries(this.tokens)) {
      for (const [index, option] of tokens.entries()) {
        const here = this.shown[name][index];
        option.setAttribute("aria-selected", String(name === side && here === position));
        option.classList.toggle("active", here === this.active[name]);
        if (here === this.active[name]) this.sides[name].setAttribute("aria-activedescendant", option.id);
        const weight = position === null || name === side ? null : this.#weight(side, position, here);
        option.lastChild.textContent = weight === null ? "" : weight.toFixed(this.weights.digits);
        if (weight === null) option.style.removeProperty("--share");
        else option.style.setProperty("--share", Math.min(weight, 1).toFixed(3));
      }
    }
    this.#draw();
  }

  #weight(side, position, other) {
    const [query, key] = side === "queries" ? [position, other] : [other, position];
    return this.head[query * this.weights.keys.length + key];
  }

  #draw() {
    if (!this.head || !this.canvas.clientWidth) return;
    const rows = Math.max(this.shown.queries.length, this.shown.keys.length);
    const [width, height] = [this.canvas.clientWidth, rows * AttentionLines.ROW];
    const dots = Math.min(devicePixelRatio, AttentionLines.LARGEST / Math.max(width, height, 1));
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(width * dots);
    this.canvas.height = Math.round(height * dots);
    const context = this.canvas.getContext("2d");
    context.scale(dots, dots);
    const [red, green, blue] = attentionTheme.palette().accent;
    const draw = ({ i, j, weight }, opacity) => {
      const [from, to] = [(i + 0.5) * AttentionLines.ROW, (j + 0.5) * AttentionLines.ROW];
      context.strokeStyle = `rgba(${red}, ${green}, ${blue}, ${opacity})`;
      context.lineWidth = 1 + 2.5 * weight;
      context.beginPath();
      context.moveTo(2, from);
      context.bezierCurveTo(width * 0.4, from, width * 0.6, to, width - 2, to);
      context.stroke();
    };
    if (!this.looked) {
      for (const link of this.links) draw(link, Math.min(0.08 + 0.92 * link.weight, 1));
      return;
    }
    for (const link of this.links) draw(link, 0.04);
    for (const link of this.#of(...this.looked)) draw(link, Math.min(0.15 + 0.85 * link.weight, 1));
  }

  #of(side, position) {
    const index = this.shown[side].indexOf(position);
    const other = this.shown[side === "queries" ? "keys" : "queries"];
    return other
      .map((there, place) => ({
        i: side === "queries" ? index : place,
        j: side === "queries" ? place : index,
        weight: this.#weight(side, position, there),
      }))
      .filter((link) => link.weight >= 0.5 / 10 ** this.weights.digits)
      .sort((a, b) => a.weight - b.weight);
  }
};
