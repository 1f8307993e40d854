// Small helpers of the page's modules. Texts are set as text, never as HTML.

export const byId = (id) => document.getElementById(id);

export function make(name, className = "", text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** Fills a select with models; with a single one there is nothing to choose, and it is hidden with its label. */
export function fillModels(select, models) {
  select.replaceChildren(...models.map((model) => new Option(model.id, model.id)));
  (select.closest("label") ?? select).hidden = models.length < 2;
}

/** An error in the page's notice; null takes it away. */
export function notify(error) {
  const notice = byId("notice");
  notice.hidden = error === null;
  notice.textContent = error === null ? "" : error.message;
}
