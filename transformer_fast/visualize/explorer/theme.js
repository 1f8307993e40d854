// Light, dark, or what the system says: the toggle, and the colours that canvases need as numbers.
// Loaded before the files that draw. A further colour of a canvas is a line in PALETTES.
"use strict";

globalThis.attentionTheme = (() => {
  const KEY = "transformer-fast-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const listeners = new Set();

  // ramp: from no weight to the largest; even steps of lightness, one hue, so that more is always further from the ground.
  const PALETTES = {
    light: {
      text: "#1b1d21", muted: "#5a606b", line: "#e0e3e8", accent: [36, 80, 200], mark: "#c2410c",
      ramp: [[244, 246, 250], [200, 213, 245], [141, 167, 234], [78, 116, 214], [32, 66, 168], [14, 31, 92]],
    },
    dark: {
      text: "#e6e8ec", muted: "#a2a9b5", line: "#2f343d", accent: [143, 178, 255], mark: "#ffb86b",
      ramp: [[29, 32, 38], [37, 56, 104], [52, 90, 176], [94, 136, 232], [158, 188, 255], [233, 240, 255]],
    },
  };

  // Storage is refused to frames without an origin of their own, as in notebooks.
  const stored = () => {
    try { return localStorage.getItem(KEY); } catch { return null; }
  };
  const store = (name) => {
    try { localStorage.setItem(KEY, name); } catch { /* the choice lasts as long as the page */ }
  };

  const current = () => document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light");
  const changed = () => listeners.forEach((listener) => listener());

  function set(name) {
    document.documentElement.dataset.theme = name;
    changed();
  }

  const tables = {};
  /** 256 colours from no weight to the largest, as 4 bytes each. */
  function ramp() {
    const name = current();
    return (tables[name] ??= interpolated(PALETTES[name].ramp));
  }

  function interpolated(stops) {
    const table = new Uint8ClampedArray(256 * 4);
    for (let i = 0; i < 256; i++) {
      const position = (i / 255) * (stops.length - 1);
      const first = Math.min(Math.floor(position), stops.length - 2);
      for (let channel = 0; channel < 3; channel++) {
        const [from, to] = [stops[first][channel], stops[first + 1][channel]];
        table[4 * i + channel] = from + (to - from) * (position - first);
      }
      table[4 * i + 3] = 255;
    }
    return table;
  }

  /** A button that changes between light and dark. */
  function toggle() {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "button plain theme-toggle";
    const show = () => {
      button.textContent = current() === "dark" ? "Light mode" : "Dark mode";
    };
    button.addEventListener("click", () => {
      const name = current() === "dark" ? "light" : "dark";
      store(name);
      set(name);
    });
    listeners.add(show);
    show();
    return button;
  }

  system.addEventListener("change", changed);
  if (["light", "dark"].includes(stored())) document.documentElement.dataset.theme = stored();
  return { palette: () => PALETTES[current()], ramp, toggle, listen: (call) => listeners.add(call) };
})();
