// The last script of a file that `visualize.explore` writes: shows the data that stands in the same file.
"use strict";

attentionExplorer(
  document.getElementById("explorer"),
  JSON.parse(document.getElementById("attention").textContent),
  { toggle: true },
);
