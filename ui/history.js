/**
 * What the page shows, as an address and as an entry of the browser's history: the state that a link opens, and the rows
 * of a scored file, from which a row is opened and to which Back returns.
 */

let view = "try";
let goesToWhy = false; // once there are answers, which the page scrolls to
let isTouched = false; // an address is only written for somebody who has done something
/**
 * What is asked without the boxes, until its answer comes: one with a higher number than the questions before it.
 * Without `limits`, the thresholds are those of the page.
 * @type {{texts: string[], task: string | null, limits?: Record<string, number>, number: number} | null}
 */
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
    limits: asking?.limits ?? shown()?.limits,
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
  if (JSON.stringify(now) === JSON.stringify(before)) return;
  if (before?.row && now.view === "file") { // without an entry of its own, the one before it would show the same
    delete now.row;
    history.pushState({ ...history.state, triptych: now }, "", addressOf(now));
  } else history.replaceState({ ...history.state, triptych: now }, "", addressOf(now));
}

/** Open the state that the address carries, or the example; return the texts, the task of Why, and what to ask. */
function openLink(isSettled) {
  const { texts, task, view: asked, limits, problem } = readLink(location.search, page().names);
  view = asked === "why" ? asked : "try";
  window.triptychAsked ??= last()?.number ?? 0; // the page may open with answers, which have a number too
  if (problem) say(problem);
  if (asked === "file") tab("Score a file")?.click();
  goesToWhy = asked === "why";
  window.triptychOpening = !texts[0] && !isSettled; // see ask.js
  return texts[0] ? asQuestion(texts, task, limits, "link") : asQuestion(null, task, limits, isSettled ? "" : "example");
}

const unchanged = { __type__: "update" };

/**
 * The values of the boxes, of the task of Why, of the thresholds, and of a field that asks when it changes; what is not
 * given stays as it is.
 */
function asQuestion(texts = null, task = null, limits = new Map(), again = unchanged) {
  const boxes = Array.from({ length: page().boxes }, (_, number) => (texts ? texts[number] ?? "" : unchanged));
  return [...boxes, task || unchanged, ...page().names.map((name) => limits.get(name) ?? unchanged), again];
}

// --- The rows of a file

/** Do it once the node is on the screen: Gradio draws a tab some time after the click on it. */
function whenSeen(node, act, until = Date.now() + 5000) {
  if (node.offsetParent) act();
  else if (Date.now() < until) requestAnimationFrame(() => whenSeen(node, act, until));
}

/** The threshold of each task, the model's own where none is given. @param {Record<string, number>} [limits] */
const limitsOf = (limits) => new Map(limits ? Object.entries({ ...page().own, ...limits }) : []);

/**
 * Ask texts with a task of Why, and with the thresholds that they had, without typing them.
 * @param {string[]} texts @param {string | null} task @param {Record<string, number>} [limits]
 */
function askFor(texts, task, limits) {
  asking = { texts, task, limits, number: window.triptychAsked ?? 0 };
  const form = one("#correction");
  if (form && task in page().tasks) form.elements.task.value = task;
  one("#ask-for").click();
}

/**
 * Open a row of the table in the view "Try".
 * @param {{table: string, number: number, texts: string[], task: string | null, right: string, rights: Record<string, string>}} row
 *  `right` is the label of the task in the file, `rights` are those of every task that has one there
 */
function openRow(row) {
  isTouched = true;
  remember();
  view = "try";
  const now = { ...state(), texts: row.texts, task: row.task ?? "", view, row };
  history.pushState({ ...history.state, triptych: now }, "", addressOf(now));
  showTry({ ...now, limits: undefined }); // those of the page, which may have changed since the last answer
  whenSeen(one("#opened"), () => {
    scrollTo({ top: 0, behavior: "instant" });
    one("#opened button").focus();
  });
}

/** Whether thresholds are those of the answer. @param {Record<string, number>} [limits] */
function areShown(limits) {
  const answered = limitsOf(shown()?.limits);
  return !limits || [...limitsOf(limits)].every(([name, limit]) => limit === answered.get(name));
}

/** Show a text that was answered before. */
function showTry({ texts, task, limits, row, view: shownBefore }) {
  view = shownBefore;
  tab("Try")?.click();
  const isAsked = !asking && areSame(texts, textsOf(shown())) && areShown(limits); // or an answer is still to come
  const isThere = isAsked && areSame(texts, typed()) && (!task || task === one("#why-task input")?.value);
  if (texts.length && !isThere) askFor(texts, task || null, limits);
  drawRow(row);
}

/** Mark the answers to a row of the file that are not its right labels. */
function markWrong() {
  const row = history.state?.triptych?.row;
  const isShown = row?.table === shownTable?.page.id && [textsOf(shown()), asking?.texts ?? typed()].every((texts) => areSame(row?.texts ?? [], texts));
  const rights = (row && isShown && row.rights) || {};
  for (const facts of document.querySelectorAll("#side-by-side .facts[data-label]")) {
    const { task } = facts.closest("td").dataset;
    const right = Object.hasOwn(rights, task) ? rights[task] : facts.dataset.label;
    const badge = facts.querySelector(".badge.wrong");
    if (right === facts.dataset.label) badge?.remove();
    else if (badge?.dataset.right !== right) { // nothing is drawn twice: the observer sees what is drawn here too
      badge?.remove();
      facts.prepend(make("span", { class: "badge wrong", "data-right": right }, make("span", { "aria-hidden": "true" }, "≠"), ` File: ${shorten(right)}`));
    }
  }
}

const answersDrawn = new MutationObserver(markWrong); // they come runtime by runtime

/** The way back to the rows, and which of them is shown. */
function drawRow(row = history.state?.triptych?.row) {
  const place = one("#opened .way-back");
  if (!place) return;
  answersDrawn.observe(one("#side-by-side"), { childList: true, subtree: true });
  markWrong();
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
