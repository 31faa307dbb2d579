/** Building the page: every text goes in as text, never as markup. */

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * Make an element.
 * @param {string} tag  may carry classes: "p.small.cut"
 * @param {Record<string, string | number | boolean | null | undefined>} [attributes]  true gives an empty attribute, false and null none
 * @param {...(Child | Child[])} children
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name);
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value === true ? "" : String(value));
  }
  append(node, children);
  return node;
}

/** @param {Element} node @param {(Child | Child[])[]} children */
function append(node, children) {
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) node.append(child instanceof Node ? child : String(child));
  }
}

/** Replace what an element holds. @param {Element} node @param {...(Child | Child[])} children */
export function fill(node, ...children) {
  node.replaceChildren();
  append(node, children);
}

/**
 * Return the element of this id, which index.html has.
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const node = document.getElementById(id);
  if (!node) throw new Error(`No element #${id}.`);
  return node;
}

/** @param {HTMLElement} node @param {Record<string, string>} styles  by property; a style attribute is not allowed here */
export function styled(node, styles) {
  for (const [name, value] of Object.entries(styles)) node.style.setProperty(name, value);
  return node;
}

/** A label with a place to wrap after each underscore: `replacement_card_duration` is wider than a column. @param {string} label */
export function breakable(label) {
  return label.split("_").flatMap((part, at, parts) => (at < parts.length - 1 ? [`${part}_`, el("wbr")] : [part]));
}

/** @param {string} text */
export function message(text) {
  return el("p.message", { role: "alert" }, el("span", { "aria-hidden": "true" }, "⚠"), " ", text);
}

/** A button. @param {string} text @param {() => void} onClick @param {string} [classes] */
export function button(text, onClick, classes = "") {
  const node = el(`button${classes}`, { type: "button" }, text);
  node.addEventListener("click", onClick);
  return /** @type {HTMLButtonElement} */ (node);
}

/** A table that is closed at first. @param {string} title @param {string[]} heads @param {Child[][]} rows */
export function table(title, heads, rows) {
  return el("details.table", {}, el("summary", {}, title), grid(heads, rows));
}

/** @param {string[]} heads @param {Child[][]} rows */
export function grid(heads, rows) {
  const lines = rows.map(([head, ...cells]) => el("tr", {}, el("th", { scope: "row" }, head), cells.map((cell) => el("td", {}, cell))));
  return el("table", {}, el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))), el("tbody", {}, lines));
}

/** Let a screen reader say something short; the page shows it at length. @param {string} text */
export function announce(text) {
  byId("announcement").textContent = text;
}
