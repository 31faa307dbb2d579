/**
 * What the page shows, as an address and as an entry of the browser's history: the state that a link opens, and the rows
 * of a scored file, from which a row is opened and to which Back returns.
 */

let view = "try";
let goesToWhy = false; // once there are answers, which the page scrolls to
let isTouched = false; // an address is only written for somebody who has done something
/** What is asked without the boxes, until its answer comes. @type {{texts: string[], task: string | null} | null} */
let asking = null;
let askedSoFar = 0;
let isReturning = false; // to the rows, whatever the entry before this one shows

const tab = (name) => [...document.querySelectorAll('#views button[role="tab"]')].find((one) => one.textContent.trim() === name);
const isFile = () => tab("Score a file")?.getAttribute("aria-selected") === "true";
/** As a text box gives it back. @param {string[]} texts */
const plain = (texts) => texts.map((text) => text.replace(/\r\n?/g, "\n").trim()).filter(Boolean);
const areSame = (texts, others) => JSON.stringify(plain(texts)) === JSON.stringify(plain(others));

function state() {
  const task = asking?.task ?? one("#why-task input")?.value;
  return {
    texts: asking?.texts ?? textsOf(shown()),
    task: page().names.includes(task) && page().names.length > 1 ? task : "",
    view: isFile() ? "file" : view,
    limits: shown()?.limits ?? {},
  };
}

/** The address of a state, without a text that is too long for it. */
function addressOf(now) {
  const query = queryOf(location.search, now) ?? queryOf(location.search, { ...now, texts: [] }) ?? location.search;
  return `${location.pathname}${query}${location.hash}`;
}

/** Let the address and this entry of the history follow what is shown. */
function remember() {
  if (!isTouched || !one(".share")) return;
  const before = history.state?.triptych;
  const now = { ...before, ...state() };
  if (JSON.stringify(now) !== JSON.stringify(before)) history.replaceState({ ...history.state, triptych: now }, "", addressOf(now));
}

/** Open the state that the address carries, or the example; return the texts, the task of Why, and what to ask. */
function openLink(isSettled) {
  const { texts, task, view: asked, limits, problem } = readLink(location.search, page().names);
  view = asked === "why" ? asked : "try";
  if (problem) say(problem);
  if (asked === "file") tab("Score a file")?.click();
  goesToWhy = asked === "why";
  window.triptychOpening = !texts[0] && !isSettled; // see ask.js
  return texts[0] ? asQuestion(texts, task, limits, "link") : asQuestion(null, task, limits, isSettled ? "" : "example");
}

/**
 * The values of the boxes, of the task of Why, of the thresholds, and of a field that asks when it changes; what is not
 * given stays as it is.
 */
function asQuestion(texts, task, limits, again) {
  const unchanged = { __type__: "update" };
  const boxes = Array.from({ length: page().boxes }, (_, number) => (texts ? texts[number] ?? "" : unchanged));
  return [...boxes, task || unchanged, ...page().names.map((name) => limits.get(name) ?? unchanged), again];
}

// --- The rows of a file

/** Do it once the node is on the screen: Gradio draws a tab some time after the click on it. */
function whenSeen(node, act, until = Date.now() + 5000) {
  if (node.offsetParent) act();
  else if (Date.now() < until) requestAnimationFrame(() => whenSeen(node, act, until));
}

/** Ask texts with a task of Why, without typing them. @param {string[]} texts @param {string | null} task */
function askFor(texts, task) {
  asking = { texts, task };
  const form = one("#correction");
  if (form && task in page().tasks) form.elements.task.value = task;
  one("#ask-for").click();
}

/**
 * Open a row of the table in the view "Try".
 * @param {{table: string, number: number, texts: string[], task: string | null, right: string}} row
 */
function openRow(row) {
  isTouched = true;
  remember();
  view = "try";
  const now = { ...state(), texts: row.texts, task: row.task ?? "", view, row };
  history.pushState({ ...history.state, triptych: now }, "", addressOf(now));
  showTry(now);
  whenSeen(one("#opened"), () => {
    scrollTo({ top: 0, behavior: "instant" });
    one("#opened button").focus();
  });
}

/** Show a text that was answered before. */
function showTry({ texts, task, row, view: shownBefore }) {
  view = shownBefore;
  tab("Try")?.click();
  const isThere = areSame(texts, textsOf(shown())) && (!task || task === one("#why-task input")?.value);
  if (texts.length && !(isThere && areSame(texts, typed()))) askFor(texts, task || null);
  drawRow(row);
}

/** The way back to the rows, and which of them is shown. */
function drawRow(row = history.state?.triptych?.row) {
  const place = one("#opened .way-back");
  if (!place) return;
  if (!row || row.table !== shownTable?.page.id) {
    place.hidden = true;
    return;
  }
  place.hidden = false;
  const isOther = !areSame(row.texts, asking?.texts ?? typed());
  const right = row.right && ` The right ${row.task} label in the file: ${row.right}.`;
  place.querySelector(".row").textContent = isOther ? "" : `Row ${count(row.number)}.${right}`;
}

function showRows() {
  tab("Score a file")?.click();
  if (shownTable) whenSeen(shownTable.grid, () => shownTable.comeBack());
}

function backToRows() {
  if (!history.state?.triptych?.row) return showRows();
  isReturning = true;
  return history.back(); // a row is opened from the rows, in an entry of its own
}

addEventListener("popstate", ({ state: entry }) => {
  const now = entry?.triptych;
  if (isReturning || now?.view === "file") showRows();
  else if (now) showTry(now);
  isReturning = false;
});
