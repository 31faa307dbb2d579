/**
 * What a visitor does with an answer, in the browser: pin a text, drop a word of it, copy it as a link or as code, say
 * that it is wrong. The functions of share.js, corrections.js and history.js are in this module too: see SCRIPT
 * in site.py.
 */

const MAX_SHOWN = 300; // characters of the pinned text
const WORD = "#why .why:not(.waiting) [data-at]"; // of the newest question's explanation

/** @param {string} selector @returns {any} */
const one = (selector) => document.querySelector(selector);
/** @param {string} text */
const shorten = (text) => (text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN - 1)}…` : text);

/** What the server says about its model and its API. */
const page = () => (page.value ??= JSON.parse(one(".share").dataset.page));
const corrections = () => (corrections.value ??= new Corrections(page().key, page().tasks));
/** The last question that was answered or refused; null before the first. */
const last = () => JSON.parse(one("[data-shown]")?.dataset.shown ?? "null");
/** The text that was answered, with its labels; null without one. */
const shown = () => (last()?.labels ? last() : null);
const textsOf = (asked) => [asked?.text ?? []].flat();

const say = (message) => { one(".share .done").textContent = message; };

/** Type into a text box of the page, as a person would. */
function type(id, text) {
  const box = one(`#${id} :is(textarea, input)`);
  box.value = text;
  box.dispatchEvent(new Event("input", { bubbles: true }));
}

const typed = () => [...document.querySelectorAll(":is(#text, #second) :is(textarea, input)")].map((box) => box.value);

function ask(texts) {
  for (let number = 0; number < page().boxes; number++) type(number ? "second" : "text", texts[number] ?? "");
  setTimeout(() => one("#classify").click()); // after the page has read the boxes
}

// --- The pinned text

const pinned = () => ["pinned-0", "pinned-1"].map((id) => one(`#${id} :is(textarea, input)`)?.value).filter(Boolean);

function pin(texts) {
  ["pinned-0", "pinned-1"].forEach((id, number) => one(`#${id}`) && type(id, texts[number] ?? ""));
  one("#pinned .original").textContent = shorten(texts.join(" / "));
  one("#pinned .pinned").hidden = !texts.length;
  one("#pinned .swap").hidden = true;
  one("#changes").hidden = !texts.length;
}

/** The word of an explanation, what is before and after it, and the texts that were explained. */
function placeOf(word) {
  const texts = [...document.querySelectorAll("#why .words")].map((part) => part.dataset.text);
  const number = Number(word.closest(".words").dataset.number);
  const letters = [...texts[number]]; // positions count code points
  const [start, end] = word.dataset.at.split(",").map(Number);
  const part = (from, to) => letters.slice(from, to).join("");
  return { texts, number, word: part(start, end), before: part(0, start), after: part(end) };
}

/** Ask with another word, or none, in a place. */
function swap({ texts, number, before, after }, word) {
  const isGap = !word && (!before || /\s$/.test(before)) && /^\s/.test(after); // or two spaces would be left
  const kept = !word && /^[,.;:!?)\]]/.test(after) ? before.trimEnd() : before; // or a space before a comma
  ask(texts.map((text, at) => (at === number ? kept + word + (isGap ? after.slice(1) : after) : text)));
}

function drop(word) {
  const place = placeOf(word);
  if (!pinned().length) pin(place.texts);
  const form = one("#pinned .swap");
  form.place = place;
  form.hidden = false;
  one("#pinned .word-dropped").textContent = shorten(place.word);
  form.elements.word.value = "";
  form.elements.word.focus();
  swap(place, "");
}

/** Move between the words of a text with the arrow keys: only one of them is a tab stop. */
function moveTo(word, key) {
  const words = [...word.closest(".words").querySelectorAll("[data-at]")];
  const step = { ArrowRight: word.dir === "rtl" ? -1 : 1, ArrowLeft: word.dir === "rtl" ? 1 : -1, ArrowDown: 1, ArrowUp: -1 }[key];
  const to = key === "Home" ? words[0] : key === "End" ? words.at(-1) : words[words.indexOf(word) + step];
  if (!to) return;
  word.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}

// --- Links and code

async function copy(text, message) {
  const byHand = one("textarea.by-hand");
  byHand.hidden = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch { // only pages of https and of this machine may, and a frame only if it is allowed to
    byHand.value = text;
    byHand.hidden = false;
    byHand.select();
    if (!document.execCommand("copy")) return say("The browser does not let this page copy. Copy it from here.");
    byHand.hidden = true;
  }
  return say(message);
}

/** Follow an answer that has come. */
function answered() {
  if (last()?.number > asking?.number) asking = null; // and not on the answer to the question before
  remember();
  drawRow();
  drawForm();
  if (goesToWhy) one("#reasons").scrollIntoView();
  goesToWhy = false;
}

function copyLink() {
  const query = queryOf(location.search, state());
  if (query === null) return say("This text is too long for a link. Copy the request as code instead.");
  return copy(new URL(`${location.pathname}${query}`, location.href).href, "Link copied: text, task, view and thresholds. Not in it: runtime, method, pinned text.");
}

function copyCode(write, title) {
  const asked = shown();
  if (!asked) return say("Classify a text first.");
  const { path, ...api } = page().api;
  const url = new URL(path, `${location.origin}${location.pathname}`).href;
  const key = api.hasKey ? ` Put your key in place of ${KEY}.` : "";
  const limits = asked.isExact ? "" : " A request has one threshold for all tasks, so yours are left out.";
  return copy(write(asked, { url, ...api }), `Copied as ${title}.${key}${limits}`);
}

// --- Corrections

function drawForm() {
  const form = one("#correction");
  const asked = shown();
  if (!form || !asked) return;
  const task = form.elements.task.value;
  const labels = page().tasks[task];
  const select = form.elements.label;
  const of = JSON.stringify([task, asked.text]); // a label that was chosen for another text would be a wrong correction
  if (select.of !== of) {
    select.of = of;
    select.replaceChildren(new Option("Choose a label", ""), ...labels.map((label) => new Option(label, label)));
  }
  const answers = Object.entries(asked.labels[task]).map(([runtime, label]) => `${page().titles[runtime]}: ${label}`);
  form.querySelector(".answers").textContent = `Answers for this text: ${answers.join(" · ")}`;
  const { count } = corrections();
  form.querySelector(".kept").hidden = !count;
  form.querySelector(".count").textContent = count === 1 ? "1 corrected text" : `${count.toLocaleString("en")} corrected texts`;
}

function openForm(button) {
  const form = one("#correction");
  if (!shown()) return say("Classify a text first.");
  form.hidden = !form.hidden;
  button.setAttribute("aria-expanded", String(!form.hidden));
  if (form.hidden) return undefined;
  const task = one("#why-task input")?.value;
  if (task in page().tasks) form.elements.task.value = task;
  drawForm();
  return form.elements.label.focus();
}

function record(form) {
  const asked = shown();
  const [task, label] = [form.elements.task.value, form.elements.label.value];
  if (!label) return say("Choose the right label first.");
  if (!areSame(asking?.texts ?? typed(), textsOf(asked))) return say("The text in the box has no answer yet. Classify it first.");
  const problem = corrections().record(textsOf(asked), task, label, asked.labels[task]);
  drawForm();
  return say(problem || `Recorded: the right ${task} is “${label}”.`);
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([corrections().csv()], { type: "text/csv" }));
  link.download = "corrections.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function clear(button) {
  if (button.textContent === "Remove all") {
    button.textContent = "Click again to remove them";
    return;
  }
  button.textContent = "Remove all";
  corrections().clear();
  drawForm();
}

// --- The page

/** What each button does, by its data-do. @type {Record<string, (button: any) => any>} */
const DO = {
  pin: () => (shown() ? pin(textsOf(shown())) : say("Classify a text first.")),
  rows: backToRows,
  back: () => ask(pinned()),
  unpin: () => pin([]),
  link: copyLink,
  curl: () => copyCode(asCurl, "curl"),
  python: () => copyCode(asPython, "Python"),
  javascript: () => copyCode(asJavaScript, "JavaScript"),
  wrong: openForm,
  download,
  clear,
};

document.addEventListener("click", ({ target }) => {
  const button = target.closest?.("[data-do]");
  if (button) DO[button.dataset.do](button);
  const word = target.closest?.(WORD);
  if (word && !String(getSelection())) drop(word);
  setTimeout(remember, 100);
});
document.addEventListener("keydown", (event) => {
  isTouched = true;
  const word = event.target.closest?.(WORD);
  if (!word || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "Enter" || event.key === " ") drop(word);
  else if (/^(Arrow|Home|End)/.test(event.key)) moveTo(word, event.key);
  else return;
  event.preventDefault();
});
// An answer beside a text that it is not of would be a wrong one.
document.addEventListener("input", ({ target }) => {
  if (!target.closest("#text, #second")) return;
  asking = null;
  if (!shown()) return;
  one("#side-by-side .triptych")?.classList.toggle("stale", !areSame(typed(), textsOf(shown())));
  drawRow();
});
document.addEventListener("pointerdown", () => { isTouched = true; });
document.addEventListener("focusin", ({ target }) => {
  if (target.closest?.("#reasons")) view = "why";
  else if (target.closest?.("#ask, #examples")) view = "try";
});
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("#pinned .swap, #correction")) return;
  event.preventDefault();
  if (form.id) record(form);
  else swap(form.place, form.elements.word.value.trim());
});
document.addEventListener("change", ({ target }) => {
  if (target.matches?.("#correction [name=task]")) drawForm();
});
// For the events of the page, see what_if.py.
window.triptych = {
  open: openLink,
  askFor: () => (asking ? asQuestion(asking.texts, asking.task, limitsOf(asking.limits), `row ${++askedSoFar}`) : asQuestion()),
  answered: () => setTimeout(answered),
};
