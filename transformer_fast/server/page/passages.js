// Texts to passages: paragraphs with the line where they start. search.js calls it for pasted text and chosen files.

// Characters. A model reads some 250 to 500 tokens of a passage, of about 4 characters each.
const LONGEST = 1200;
// A paragraph shorter than this is a heading or a stray line: it stays with the next.
const SHORTEST = 60;
export const LARGEST_FILE = 2_000_000; // bytes
const TEXTS = /\.(txt|md|markdown|rst|org|tex|html?|xml|csv|tsv|json|ya?ml|toml|ini|py|js|ts|c|h|cc|cpp|hpp|rs|go|java|kt|rb|sh|sql|log|srt|eml)$/i;
const LEFT_OUT = /(^|\/)(\.[^/]+|node_modules|__pycache__|site-packages)(\/|$)/;

/** [{text, file, line}] of one text. */
export function passagesOf(text, file = "") {
  const found = [];
  let line = 1;
  let held = null;
  for (const part of text.split(/(\r?\n[ \t\f\v]*\r?\n\s*)/)) {
    const body = part.trim();
    if (body) {
      const start = line + newlines(part.slice(0, part.length - part.trimStart().length));
      held = held ? { ...held, text: `${held.text}\n${body}` } : { text: body, file, line: start };
      if (held.text.length >= SHORTEST) {
        found.push(...pieces(held));
        held = null;
      }
    }
    line += newlines(part);
  }
  return held ? [...found, held] : found;
}

const newlines = (text) => text.split("\n").length - 1;

/** A long passage in pieces that end with a sentence, or at least with a word. */
function pieces(passage) {
  const found = [];
  let { text, line } = passage;
  while (text.length > LONGEST) {
    const head = text.slice(0, LONGEST);
    const end = Math.max(head.lastIndexOf(". "), head.lastIndexOf(".\n"), head.lastIndexOf("\n\n"));
    const cut = end > LONGEST / 2 ? end + 1 : Math.max(head.lastIndexOf(" "), head.lastIndexOf("\n")) + 1 || LONGEST;
    found.push({ ...passage, text: text.slice(0, cut).trim(), line });
    line += newlines(text.slice(0, cut));
    text = text.slice(cut);
  }
  if (text.trim()) found.push({ ...passage, text: text.trim(), line });
  return found;
}

/** {passages, files, skipped} of chosen files: texts in UTF-8 that are not too large, hidden folders left out. */
export async function readFiles(files) {
  const passages = [];
  let [read, skipped] = [0, 0];
  for (const file of files) {
    const name = file.webkitRelativePath || file.name;
    if (LEFT_OUT.test(name)) continue;
    const text = TEXTS.test(name) && file.size <= LARGEST_FILE ? await decoded(file) : null;
    if (text === null) {
      skipped += 1;
      continue;
    }
    read += 1;
    for (const passage of passagesOf(text, name)) passages.push(passage);
  }
  return { passages, read, skipped };
}

async function decoded(file) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    return null;
  }
}
