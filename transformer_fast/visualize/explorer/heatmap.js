// One head as cells: rows are queries, columns are keys. One canvas, so that 200 x 200 cells are as quick as 10 x 10.
// explorer.js makes one and is told which cell is looked at.
"use strict";

globalThis.AttentionHeatmap = class {
  static LARGEST_CELL = 30; // pixels
  static TEXT = 12; // pixels of a label's letters
  static LABEL = 15; // pixels from label to label, at least

  /** look(query, key): the cell under the pointer or the keyboard's; null, null: none. */
  constructor(weights, look) {
    this.weights = weights;
    this.look = look;
    this.element = document.createElement("div");
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-roledescription", "heat-map");
    this.canvas.setAttribute("aria-label", "Heat-map: rows are queries, columns are keys. Arrow keys move the cell.");
    this.tip = document.createElement("div");
    this.tip.className = "heatmap-tip";
    this.tip.hidden = true;
    this.tip.setAttribute("aria-hidden", "true"); // the inspector says it
    this.map = document.createElement("div");
    this.map.className = "heatmap";
    this.map.append(this.canvas, this.tip);
    this.element.append(this.map, this.#scale());
    this.canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.canvas.addEventListener("pointerdown", (event) => this.#point(event));
    this.canvas.addEventListener("pointerleave", () => this.look(null, null));
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#draw()).observe(this.map);
  }

  #scale() {
    const scale = document.createElement("div");
    scale.className = "heatmap-scale";
    this.largestText = document.createElement("span");
    this.ramp = document.createElement("canvas");
    this.ramp.setAttribute("aria-hidden", "true");
    scale.append("0", this.ramp, this.largestText);
    return scale;
  }

  /** Shows the weights (Lq, Lk) of one head. */
  show(head, hideSpecial) {
    this.head = head;
    this.rows = this.weights.shown("queries", hideSpecial);
    this.columns = this.weights.shown("keys", hideSpecial);
    this.largest = 0;
    for (const row of this.rows) {
      for (const column of this.columns) this.largest = Math.max(this.largest, this.#weight(row, column));
    }
    this.largestText.textContent = this.largest.toFixed(this.weights.digits);
    this.cells = this.#cells();
    this.cell = null;
    this.mark(null, null);
  }

  #weight(query, key) {
    return this.head[query * this.weights.keys.length + key];
  }

  /** A canvas with a dot for each cell, which is enlarged when it is drawn. */
  #cells() {
    const canvas = document.createElement("canvas");
    canvas.width = this.columns.length || 1;
    canvas.height = this.rows.length || 1;
    const image = new ImageData(canvas.width, canvas.height);
    const ramp = attentionTheme.ramp();
    this.rows.forEach((row, i) => {
      this.columns.forEach((column, j) => {
        const colour = this.largest ? Math.round((255 * this.#weight(row, column)) / this.largest) * 4 : 0;
        image.data.set(ramp.subarray(colour, colour + 4), 4 * (i * canvas.width + j));
      });
    });
    canvas.getContext("2d").putImageData(image, 0, 0);
    [this.ramp.width, this.ramp.height] = [256, 1];
    this.ramp.getContext("2d").putImageData(new ImageData(ramp, 256, 1), 0, 0);
    return canvas;
  }

  #point(event) {
    const { left, top, size } = this.geometry;
    const box = this.canvas.getBoundingClientRect();
    const i = Math.floor((event.clientY - box.top - top) / size);
    const j = Math.floor((event.clientX - box.left - left) / size);
    const inside = i >= 0 && j >= 0 && i < this.rows.length && j < this.columns.length;
    if (inside) this.look(this.rows[i], this.columns[j]);
    else this.look(null, null);
  }

  #key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Escape") this.look(null, null);
    if (!step) return;
    event.preventDefault();
    const [i, j] = this.cell ? [this.cell[0] + step[0], this.cell[1] + step[1]] : [0, 0];
    const clamp = (index, list) => list[Math.min(Math.max(index, 0), list.length - 1)];
    this.look(clamp(i, this.rows), clamp(j, this.columns));
  }

  /** Marks a cell, with what it is beside it. */
  mark(query, key) {
    this.cell = query === null ? null : [this.rows.indexOf(query), this.columns.indexOf(key)];
    this.#draw();
    this.tip.hidden = this.cell === null;
    if (this.cell === null) return;
    const weight = document.createElement("b");
    weight.textContent = this.#weight(query, key).toFixed(this.weights.digits);
    const words = document.createElement("div");
    words.append(isolated(this.weights.queries[query]), " → ", isolated(this.weights.keys[key]));
    this.tip.replaceChildren(words, weight);
    const { left, top, size } = this.geometry;
    const [x, y] = [left + (this.cell[1] + 1) * size + 8, top + (this.cell[0] + 1) * size + 8];
    const room = [this.map.clientWidth - this.tip.offsetWidth, this.canvas.clientHeight - this.tip.offsetHeight];
    // Where there is no room to the right or below: on the other side of the cell.
    this.tip.style.left = `${Math.max(0, x > room[0] ? x - size - 16 - this.tip.offsetWidth : x)}px`;
    this.tip.style.top = `${Math.max(0, y > room[1] ? y - size - 16 - this.tip.offsetHeight : y)}px`;

    function isolated(text) {
      const element = document.createElement("bdi");
      element.textContent = text;
      return element;
    }
  }

  #measure(context, width) {
    const widest = (tokens, positions, most) =>
      Math.min(most, Math.max(12, ...positions.map((i) => context.measureText(tokens[i]).width)));
    const left = Math.ceil(widest(this.weights.queries, this.rows, width * 0.28)) + 8;
    const top = Math.ceil(widest(this.weights.keys, this.columns, 110)) + 8;
    const size = Math.min((width - left - 1) / Math.max(this.columns.length, 1), AttentionHeatmap.LARGEST_CELL);
    return { left, top, size: size > 4 ? Math.floor(size) : size };
  }

  #draw() {
    const width = this.map.clientWidth;
    if (!this.head || !width) return;
    const context = this.canvas.getContext("2d");
    const font = `${AttentionHeatmap.TEXT}px ${getComputedStyle(this.element).fontFamily}`;
    context.font = font;
    const { left, top, size } = (this.geometry = this.#measure(context, width));
    const height = top + this.rows.length * size + 1;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(width * devicePixelRatio);
    this.canvas.height = Math.round(height * devicePixelRatio);
    context.scale(devicePixelRatio, devicePixelRatio);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.cells, left, top, this.columns.length * size, this.rows.length * size);
    context.font = font;
    context.textBaseline = "middle";
    this.#labels(context, this.rows, this.weights.queries, this.cell?.[0], (text, i) => {
      context.textAlign = "right";
      context.fillText(text, left - 6, top + (i + 0.5) * size, left - 8);
    });
    this.#labels(context, this.columns, this.weights.keys, this.cell?.[1], (text, i) => {
      context.save();
      context.translate(left + (i + 0.5) * size, top - 6);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(text, 0, 0, top - 8);
      context.restore();
    });
    if (this.cell) this.#frame(context);
  }

  /** Writes as many labels as there is room for; the marked one always, and none in its way. */
  #labels(context, positions, tokens, marked, write) {
    const { size } = this.geometry;
    const palette = attentionTheme.palette();
    const step = Math.max(1, Math.ceil(AttentionHeatmap.LABEL / size));
    for (let i = 0; i < positions.length; i += step) {
      if (marked !== undefined && Math.abs(i - marked) * size < AttentionHeatmap.LABEL) continue;
      context.fillStyle = palette.muted;
      write(this.#fitting(tokens[positions[i]]), i);
    }
    if (marked === undefined) return;
    context.fillStyle = palette.text;
    write(this.#fitting(tokens[positions[marked]]), marked);
  }

  #fitting(token) {
    const letters = [...token];
    return letters.length <= 16 ? token : `${letters.slice(0, 15).join("")}…`;
  }

  #frame(context) {
    const { left, top, size } = this.geometry;
    const [i, j] = this.cell;
    context.strokeStyle = attentionTheme.palette().mark;
    context.lineWidth = 2;
    context.strokeRect(left + j * size, top + i * size, size, size);
    context.lineWidth = 1;
    context.globalAlpha = 0.5;
    context.strokeRect(left, top + i * size, this.columns.length * size, size);
    context.strokeRect(left + j * size, top, size, this.rows.length * size);
    context.globalAlpha = 1;
  }
};
