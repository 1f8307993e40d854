// All heads of all layers as small maps: a row a layer, a column a head, the mean of the heads in the last.
// explorer.js makes one and is told which head was chosen.
"use strict";

globalThis.AttentionOverview = class {
  // Dots of a small map's side: what a cell of the grid has on a screen of two dots a pixel.
  static SIDE = 64;
  // Pixels below which a map shows nothing: the grid scrolls sideways instead.
  static SMALLEST = 18;

  constructor(weights, choose) {
    this.weights = weights;
    this.choose = choose;
    this.cells = [];
    this.element = document.createElement("div");
    this.element.className = "overview-scroll";
    this.element.append(this.#grid());
  }

  #grid() {
    const { layers, heads } = this.weights;
    const columns = heads > 1 ? heads + 1 : heads;
    const grid = document.createElement("div");
    grid.className = "overview-grid";
    grid.setAttribute("role", "grid");
    grid.setAttribute("aria-label", "Heads: a row a layer, a column a head. Arrow keys choose one.");
    grid.style.gridTemplateColumns = `1.6rem repeat(${columns}, minmax(${AttentionOverview.SMALLEST}px, 3.5rem))`;
    const names = [...Array(heads).keys(), ...(heads > 1 ? ["avg"] : [])];
    grid.append(row([name("", "columnheader"), ...names.map((text) => name(text, "columnheader"))]));
    for (let layer = 0; layer < layers; layer++) {
      const cells = names.map((_, head) => this.#cell(layer, head));
      this.cells.push(cells);
      grid.append(row([name(layer, "rowheader"), ...cells]));
    }
    grid.addEventListener("keydown", (event) => this.#key(event));
    return grid;

    function row(children) {
      const element = document.createElement("div");
      element.className = "overview-row";
      element.setAttribute("role", "row");
      element.append(...children);
      return element;
    }
    function name(text, role) {
      const element = document.createElement("span");
      element.className = "overview-name";
      element.setAttribute("role", role);
      element.textContent = text;
      return element;
    }
  }

  #cell(layer, head) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "overview-cell";
    button.tabIndex = -1;
    button.title = this.weights.headName(layer, head);
    button.setAttribute("role", "gridcell");
    button.setAttribute("aria-label", button.title);
    button.setAttribute("aria-selected", "false");
    button.append(document.createElement("canvas"));
    button.addEventListener("click", () => this.choose(layer, head));
    return button;
  }

  #key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    let [layer, head] = this.selected;
    if (step) [layer, head] = [layer + step[0], head + step[1]];
    else if (event.key === "Home") head = 0;
    else if (event.key === "End") head = this.cells[0].length - 1;
    else return;
    event.preventDefault();
    if (!this.cells[layer]?.[head]) return;
    this.choose(layer, head);
    this.cells[layer][head].focus();
  }

  select(layer, head) {
    if (this.selected) this.#mark(false);
    this.selected = [layer, head];
    this.#mark(true);
  }

  #mark(selected) {
    const cell = this.cells[this.selected[0]][this.selected[1]];
    cell.setAttribute("aria-selected", String(selected));
    cell.tabIndex = selected ? 0 : -1;
  }

  /** Draws layer by layer, so that the page answers between them. */
  async draw(hideSpecial) {
    const drawing = (this.drawing = {});
    const [rows, columns] = ["queries", "keys"].map((side) => this.weights.shown(side, hideSpecial));
    for (const [layer, cells] of this.cells.entries()) {
      for (const [head, cell] of cells.entries()) {
        this.#drawCell(cell.firstChild, this.weights.head(layer, head), rows, columns);
      }
      await new Promise((resume) => setTimeout(resume));
      if (this.drawing !== drawing) return;
    }
  }

  #drawCell(canvas, weights, rows, columns) {
    const width = Math.min(columns.length, AttentionOverview.SIDE);
    const height = Math.min(rows.length, AttentionOverview.SIDE);
    canvas.width = width || 1;
    canvas.height = height || 1;
    if (!width || !height) return;
    // The maximum of what a dot stands for, not the mean: one strong link among many weak ones is what has to be seen.
    const cells = new Float32Array(width * height);
    let largest = 0;
    for (const [i, row] of rows.entries()) {
      const line = Math.floor((i * height) / rows.length) * width;
      const start = row * this.weights.keys.length;
      for (let j = 0; j < columns.length; j++) {
        const place = line + Math.floor((j * width) / columns.length);
        const weight = weights[start + columns[j]];
        if (weight > cells[place]) cells[place] = weight;
        if (weight > largest) largest = weight;
      }
    }
    const ramp = attentionTheme.ramp();
    const image = new ImageData(width, height);
    for (let i = 0; i < cells.length; i++) {
      const colour = largest ? Math.round((255 * cells[i]) / largest) * 4 : 0;
      image.data.set(ramp.subarray(colour, colour + 4), 4 * i);
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
};
