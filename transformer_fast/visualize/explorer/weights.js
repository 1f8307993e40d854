// Attention weights as they are sent: decoded head by head when one is first looked at.
// explorer.js makes an AttentionWeights of each entry of the data that explorer/encoding.py writes.
"use strict";

globalThis.AttentionWeights = class {
  /** entry: {name, layers, heads, queries, keys, special_queries, special_keys, bits, codes, maxima}. */
  constructor(entry) {
    Object.assign(this, { name: entry.name, layers: entry.layers, heads: entry.heads });
    this.queries = entry.queries;
    this.keys = entry.keys;
    this.selfAttention = entry.self_attention;
    this.specialQueries = new Set(entry.special_queries);
    this.specialKeys = new Set(entry.special_keys);
    this.digits = entry.bits === 16 ? 3 : 2;
    this.top = 2 ** entry.bits - 1;
    const bytes = AttentionWeights.bytes(entry.codes).buffer;
    this.codes = entry.bits === 16 ? new Uint16Array(bytes) : new Uint8Array(bytes);
    this.maxima = new Float32Array(AttentionWeights.bytes(entry.maxima).buffer);
    this.decoded = new Map();
  }

  static bytes(text) {
    const letters = atob(text);
    const bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
    return bytes;
  }

  /** Weights (Lq, Lk), row by row; head === this.heads is the mean of the layer's heads. */
  head(layer, head) {
    const name = `${layer},${head}`;
    if (!this.decoded.has(name)) {
      this.decoded.set(name, head === this.heads ? this.#mean(layer) : this.#decode(layer * this.heads + head));
    }
    return this.decoded.get(name);
  }

  #decode(place) {
    const [rows, columns] = [this.queries.length, this.keys.length];
    const weights = new Float32Array(rows * columns);
    const start = place * rows * columns;
    for (let row = 0; row < rows; row++) {
      const scale = this.maxima[place * rows + row] / this.top ** 2;
      for (let i = row * columns; i < (row + 1) * columns; i++) weights[i] = this.codes[start + i] ** 2 * scale;
    }
    return weights;
  }

  #mean(layer) {
    const sum = new Float32Array(this.queries.length * this.keys.length);
    for (let head = 0; head < this.heads; head++) {
      const weights = this.head(layer, head);
      for (let i = 0; i < sum.length; i++) sum[i] += weights[i] / this.heads;
    }
    return sum;
  }

  /** The positions that are shown. */
  shown(side, hideSpecial) {
    const [tokens, special] =
      side === "queries" ? [this.queries, this.specialQueries] : [this.keys, this.specialKeys];
    return [...tokens.keys()].filter((i) => !hideSpecial || !special.has(i));
  }

  headName(layer, head) {
    return `Layer ${layer}, ${head === this.heads ? "mean of heads" : `head ${head}`}`;
  }
};
