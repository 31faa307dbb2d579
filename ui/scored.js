// The rows of a scored file: sort, filter and search them, open one in the view "Try", download those that are shown.
// Only the rows in sight are in the document, so 20,000 of them scroll as 20 do.

const NARROW = matchMedia("(max-width: 640px)"); // a row has two lines there, as in look.css
const BEFORE = 8; // rows drawn above and below those in sight
const MAX_TITLE = 1000; // characters of a text in its tooltip

/** Height of a row in px, as in look.css. */
const rowHeight = () => (NARROW.matches ? 64 : 40);
const count = (number) => number.toLocaleString("en-US");

/** Make an element. @param {string} tag @param {Record<string, any>} attributes @param {...(Node | string)} children */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children);
  return node;
}

/** Read the file that ui/scored.py writes. @param {Response} response */
async function readRows(response) {
  if (!response.ok) throw new Error("The server has deleted the rows. Score the file again.");
  const text = await new Response(response.body.pipeThrough(new DecompressionStream("gzip"))).text();
  const [about, ...lines] = text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
  if (!about) throw new Error("The columns are too large for a table. The download has all rows.");
  const rows = lines.map(([cells, answers, error], at) => ({
    number: at + 1,
    cells,
    error,
    answers: answers.map(([label, confidence, uncertain, right]) => ({ label, confidence, uncertain, right, wrong: label >= 0 && right >= 0 && label !== right })),
    low: about.texts.map((column) => cells[column]).join("\n").toLowerCase(),
  }));
  return { ...about, rows };
}

class RowTable {
  /** @param {HTMLElement} root @param {any} data @param {{id: string, name: string, runtime: string, replaced: AbortSignal}} page */
  constructor(root, data, page) {
    this.data = data;
    this.page = page;
    // The task that has right labels is what the file was scored for.
    const labelled = data.tasks.flatMap(({ right }, at) => (right || data.tasks.length === 1 ? [at] : []));
    this.state = { task: labelled.length === 1 || NARROW.matches ? (labelled[0] ?? 0) : -1, label: -1, right: -1, uncertain: false, wrong: false, query: "" };
    this.sort = { key: "row", down: false };
    this.active = 0;
    this.grid = make("div", { class: "rows", role: "grid", tabindex: "0", "aria-label": "Scored rows. Arrow keys move, Enter opens a row.", onscroll: () => this.draw(), onkeydown: (event) => this.press(event) });
    this.status = make("p", { class: "small", role: "status" });
    this.save = make("button", { type: "button", class: "plain", onclick: () => this.download() });
    this.tools = make("div", { class: "tools" });
    root.replaceChildren(this.tools, make("div", { class: "tools" }, this.status, this.save), this.grid);
    root.classList.add(page.runtime);
    this.drawTools();
    this.refresh();
    new ResizeObserver(() => this.draw()).observe(this.grid);
    NARROW.addEventListener("change", () => {
      const { active } = this;
      this.refresh();
      this.moveTo(active, 0);
    }, { signal: page.replaced });
  }

  /** The tasks in the columns: the chosen one, or all. */
  get tasks() {
    return this.data.tasks.map((task, at) => ({ ...task, at })).filter(({ at }) => this.state.task < 0 || this.state.task === at);
  }

  /** Filter. @param {Partial<typeof this.state>} change */
  set(change) {
    if ("task" in change && change.task !== this.state.task) Object.assign(this.state, { label: -1, right: -1 });
    Object.assign(this.state, change);
    this.drawTools();
    this.refresh();
  }

  drawTools() {
    const { state, data } = this;
    const focused = document.activeElement?.getAttribute("data-tool");
    const search = this.search ?? make("input", { type: "search", class: "plain", placeholder: "Find in the texts", "aria-label": "Find in the texts", maxlength: 200, oninput: () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.set({ query: search.value }), 120);
    } });
    this.search = search;
    if (search.value !== state.query) search.value = state.query;
    const tools = [search];
    if (data.tasks.length > 1) tools.push(this.select("task", "Task", [[-1, "All tasks"], ...data.tasks.map(({ name }, at) => [at, name])], state.task));
    if (state.task >= 0) {
      tools.push(this.select("label", "Answer", this.labels("label", "any answer"), state.label));
      if (data.tasks[state.task].right) tools.push(this.select("right", "Right label", this.labels("right", "any right label"), state.right));
    }
    tools.push(this.toggle("uncertain", "? Uncertain", this.marked("uncertain")));
    if (this.tasks.some(({ right }) => right)) tools.push(this.toggle("wrong", "≠ Wrong", this.marked("wrong")));
    if (state.label >= 0 || state.right >= 0 || state.uncertain || state.wrong || state.query) {
      tools.push(make("button", { type: "button", class: "plain", "data-tool": "clear", onclick: () => { this.set({ label: -1, right: -1, uncertain: false, wrong: false, query: "" }); search.focus(); } }, "Show all"));
    }
    // The field of the search stays where it is, or it would lose the focus at each letter.
    for (const node of [...this.tools.children]) if (node !== search) node.remove();
    if (!search.isConnected) this.tools.append(search);
    this.tools.append(...tools.slice(1));
    if (focused) this.tools.querySelector(`[data-tool="${focused}"]`)?.focus();
  }

  /** The rows that match every filter but this one. @param {string} [without] */
  matching(without) {
    const { label, right, task, uncertain, wrong, query } = this.state;
    const shown = this.tasks.map(({ at }) => at);
    const words = query.trim().toLowerCase();
    const tests = {
      uncertain: uncertain && (({ answers }) => shown.some((at) => answers[at].uncertain)),
      wrong: wrong && (({ answers }) => shown.some((at) => answers[at].wrong)),
      label: label >= 0 && (({ answers }) => answers[task].label === label),
      right: right >= 0 && (({ answers }) => answers[task].right === right),
      query: words && (({ low }) => low.includes(words)),
    };
    const asked = Object.entries(tests).flatMap(([name, test]) => (test && name !== without ? [test] : []));
    return this.data.rows.filter((row) => asked.every((test) => test(row)));
  }

  /** How many of the other rows that are shown have this mark. @param {"uncertain" | "wrong"} mark */
  marked(mark) {
    const shown = this.tasks.map(({ at }) => at);
    return this.matching(mark).filter(({ answers }) => shown.some((at) => answers[at][mark])).length;
  }

  /** The labels that occur in them, the most frequent first. @param {"label" | "right"} what @param {string} any */
  labels(what, any) {
    const { task } = this.state;
    const rows = new Map(this.state[what] < 0 ? [] : [[this.state[what], 0]]);
    for (const { answers } of this.matching(what)) {
      const label = answers[task][what];
      if (label >= 0) rows.set(label, (rows.get(label) ?? 0) + 1);
    }
    const { labels } = this.data.tasks[task];
    return [[-1, any], ...[...rows].sort((a, b) => b[1] - a[1]).map(([label, number]) => [label, `${labels[label]} (${count(number)})`])];
  }

  select(key, title, options, value) {
    const select = make("select", { class: "plain", "aria-label": title, "data-tool": key, onchange: () => this.set({ [key]: Number(select.value) }) },
      ...options.map(([option, text]) => make("option", { value: option }, text)));
    select.value = String(value);
    return select;
  }

  toggle(key, text, rows) {
    return make("button", { type: "button", class: "plain", "data-tool": key, "aria-pressed": String(this.state[key]), onclick: () => this.set({ [key]: !this.state[key] }) }, `${text} (${count(rows)})`);
  }

  /** What the columns are: heading, width in rem (and the share of what is left over), and how a row is sorted by it. */
  columns() {
    const { columns, texts } = this.data;
    const widths = NARROW.matches ? { row: 4, text: 0, label: 5.5, figure: 6 } : { row: 4.6, text: 14, label: 7.5, figure: 8.2 };
    const rank = (at) => { // labels in the order of the alphabet
      const { labels } = this.data.tasks[at];
      const ranks = labels.map((_, label) => label).sort((a, b) => labels[a].localeCompare(labels[b]));
      const places = new Map(ranks.map((label, place) => [label, place]));
      return (label) => places.get(label) ?? labels.length;
    };
    const named = (at, what) => { let of; return ({ answers }) => (of ??= rank(at))(answers[at][what]); };
    return [
      { key: "row", head: "row", width: widths.row, value: ({ number }) => number, fill: (row) => [count(row.number)], of: "figure" },
      ...texts.map((column) => ({ key: `text ${column}`, head: columns[column], width: widths.text, grows: 2, value: ({ cells }) => cells[column].toLowerCase(), fill: (row) => [row.cells[column]], of: "text" })),
      ...this.tasks.flatMap(({ name, at, labels, right }) => [
        ...(right ? [{ key: `right ${at}`, head: `right ${name}`, width: widths.label, grows: 1, value: named(at, "right"), fill: ({ answers }) => [labels[answers[at].right] ?? "–"], of: "label" }] : []),
        { key: `label ${at}`, head: name, width: widths.label, grows: 1, value: named(at, "label"), fill: (row) => this.answer(row, at), of: "label given" },
        { key: `confidence ${at}`, head: "confidence", about: name, width: widths.figure, value: ({ answers }) => (answers[at].label < 0 ? 2 : answers[at].confidence), fill: ({ answers }) => [answers[at].label < 0 ? "–" : answers[at].confidence.toFixed(4)], of: "figure" },
      ]),
    ];
  }

  /** @returns {(Node | string)[]} */
  answer({ answers, error }, at) {
    const { label, uncertain, wrong } = answers[at];
    if (label < 0) return [make("i", { title: error.slice(0, MAX_TITLE) }, "no answer")];
    const sign = (text, word) => make("span", { class: "sign", title: word }, make("span", { "aria-hidden": "true" }, text), make("span", { class: "unseen" }, `${word}: `));
    return [...(wrong ? [sign("≠", "wrong")] : []), ...(uncertain ? [sign("?", "uncertain")] : []), this.data.tasks[at].labels[label]];
  }

  /** Filter and sort again, and draw. */
  refresh() {
    this.rows = this.matching();
    this.all = this.columns();
    const value = this.all.find(({ key }) => key === this.sort.key)?.value ?? (({ number }) => number);
    const direction = this.sort.down ? -1 : 1;
    const values = new Map(this.rows.map((row) => [row, value(row)]));
    this.rows.sort((a, b) => {
      const [x, y] = [values.get(a), values.get(b)];
      return (x < y ? -direction : x > y ? direction : 0) || a.number - b.number;
    });
    this.active = 0;
    this.drawHead();
    this.grid.scrollTop = 0;
    this.draw();
    const [some, total] = [this.rows.length, this.data.rows.length];
    this.status.textContent = some === total ? `${count(total)} row${total === 1 ? "" : "s"}` : `${count(some)} of ${count(total)} rows`;
    this.save.textContent = some === 1 ? "Download this row" : `Download these ${count(some)} rows`;
    this.save.disabled = !some;
  }

  drawHead() {
    const cells = this.all.map(({ key, head, about, of }) => {
      const isSorted = this.sort.key === key;
      const arrow = isSorted ? (this.sort.down ? "↓" : "↑") : "";
      const button = make("button", { type: "button", title: `Sort by ${about ? `${about}, ` : ""}${head}`, "aria-label": about && `${about}: ${head}`, "data-sort": key, onclick: () => this.sortBy(key) }, make("span", {}, head), arrow && make("b", {}, arrow));
      return make("div", { role: "columnheader", class: of, "aria-sort": isSorted ? (this.sort.down ? "descending" : "ascending") : "none" }, button);
    });
    const focused = this.grid.contains(document.activeElement) ? document.activeElement.getAttribute("data-sort") : null;
    this.head = make("div", { class: "head", role: "row", "aria-rowindex": 1 }, ...cells);
    this.body = make("div", { class: "body", role: "rowgroup" });
    const columns = this.all.filter(({ width }) => width); // on a phone the text has a line of its own
    this.grid.style.setProperty("--columns", columns.map(({ width, grows }) => (grows ? `minmax(${width}rem, ${grows}fr)` : `${width}rem`)).join(" "));
    this.grid.style.setProperty("--least", `${columns.reduce((sum, { width }) => sum + width, 0)}rem`);
    this.grid.setAttribute("aria-rowcount", String(this.rows.length + 1));
    this.grid.setAttribute("aria-colcount", String(this.all.length));
    this.grid.replaceChildren(make("div", { role: "rowgroup", class: "heads" }, this.head), this.body);
    if (focused) [...this.head.querySelectorAll("button")].find((button) => button.getAttribute("data-sort") === focused)?.focus({ preventScroll: true });
  }

  /** @param {string} key */
  sortBy(key) {
    const isSame = this.sort.key === key;
    this.sort = isSame && this.sort.down ? { key: "row", down: false } : { key, down: isSame };
    const { scrollLeft } = this.grid;
    this.refresh();
    this.grid.scrollLeft = scrollLeft;
  }

  /** Draw the rows in sight. */
  draw() {
    const { rows, grid, body } = this;
    const height = grid.clientHeight || 480;
    const first = Math.max(0, Math.floor(grid.scrollTop / rowHeight()) - BEFORE);
    const last = Math.min(rows.length, Math.ceil((grid.scrollTop + height) / rowHeight()) + BEFORE);
    body.style.height = `${Math.max(rows.length, 1) * rowHeight()}px`;
    if (!rows.length) {
      body.replaceChildren(make("div", { role: "row", class: "none" }, make("div", { role: "gridcell" }, "No row matches these filters.")));
      grid.removeAttribute("aria-activedescendant");
      return;
    }
    body.replaceChildren(...rows.slice(first, last).map((row, at) => this.row(row, first + at)));
    grid.setAttribute("aria-activedescendant", `scored-row-${this.active}`);
  }

  row(row, at) {
    const cells = this.all.map(({ of, fill }) => make("div", { role: "gridcell", class: of, dir: of === "text" ? "auto" : null, title: of === "text" ? fill(row)[0].slice(0, MAX_TITLE) : null }, ...fill(row)));
    const line = make("div", { role: "row", id: `scored-row-${at}`, "aria-rowindex": at + 2, "aria-selected": String(at === this.active), class: row.answers.some(({ wrong }) => wrong) ? "wrong" : null, onclick: () => {
      if (!getSelection()?.isCollapsed) return; // words were selected to be copied
      this.active = at;
      this.open();
    } }, ...cells);
    line.style.top = `${at * rowHeight()}px`;
    return line;
  }

  open() {
    const row = this.rows[this.active];
    if (!row) return;
    this.left = { top: this.grid.scrollTop, left: this.grid.scrollLeft, page: scrollY };
    this.grid.classList.add("visited"); // it is marked, because a visitor comes back to it
    this.draw();
    const task = this.data.tasks[this.taskOf(row)];
    const right = task && row.answers[this.data.tasks.indexOf(task)].right;
    openRow({
      table: this.page.id, number: row.number, texts: this.data.texts.map((column) => row.cells[column]),
      task: task?.name ?? null, right: task?.labels[right] ?? "",
      rights: Object.fromEntries(this.data.tasks.map(({ name, labels }, at) => [name, labels[row.answers[at].right]]).filter(([, label]) => label)),
    });
  }

  /** The task that a row is opened for: the one that is shown, else one that the row is listed for, else one with right labels. */
  taskOf({ answers }) {
    const marked = answers.findIndex(({ uncertain, wrong }) => (this.state.uncertain ? uncertain : wrong));
    return [this.state.task, marked, this.data.tasks.findIndex(({ right }) => right)].find((at) => at >= 0) ?? -1;
  }

  /** Show the rows as they were left, with the focus on the one that was opened. */
  comeBack() {
    const { top, left, page } = this.left ?? { top: 0, left: 0, page: scrollY };
    this.grid.focus({ preventScroll: true });
    this.grid.scrollLeft = left;
    this.moveTo(this.active, top);
    requestAnimationFrame(() => scrollTo({ top: page, behavior: "instant" })); // after the browser has restored what it noted
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    if (event.target !== this.grid) return;
    const height = rowHeight();
    const page = Math.max(1, Math.floor(this.grid.clientHeight / height) - 2);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Enter") this.open();
    else if (step === undefined) return;
    event.preventDefault();
    if (step === undefined) return;
    this.moveTo(Math.max(0, Math.min(this.rows.length - 1, this.active + step)), this.grid.scrollTop);
  }

  /** Make a row the active one, and scroll as little as shows it. @param {number} active @param {number} from  where to scroll from */
  moveTo(active, from) {
    this.active = active;
    const height = rowHeight();
    const top = active * height;
    const room = this.grid.clientHeight - this.head.offsetHeight - height;
    this.grid.scrollTop = Math.min(top, Math.max(from, top - room));
    this.draw();
  }

  /** Save the rows that are shown, in their order, with the names that `python -m inference score` gives the columns. */
  download() {
    const { columns, tasks } = this.data;
    const added = tasks.flatMap(({ name, right }) => [name, `${name}_confidence`, `${name}_uncertain`, ...(right ? [`${name}_right`] : [])]).concat("error");
    const prefix = added.some((name) => columns.includes(name)) ? "predicted_" : "";
    const lines = this.rows.map(({ number, cells, answers, error }) => [number, ...cells, ...answers.flatMap(({ label, confidence, uncertain, right }, at) => {
      const { labels, right: column } = tasks[at];
      const given = label < 0 ? ["", "", ""] : [labels[label], confidence.toFixed(6), String(Boolean(uncertain))];
      return column ? [...given, labels[right] ?? ""] : given;
    }), error]);
    const csv = [["row", ...columns, ...added.map((name) => prefix + name)], ...lines].map((cells) => `${cells.map((cell) => csvCell(harmless(String(cell)))).join(",")}\n`);
    const address = URL.createObjectURL(new Blob(["\ufeff", ...csv], { type: "text/csv;charset=utf-8" }));
    make("a", { href: address, download: this.page.name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }
}

/** Wait for the place of the table, which Gradio draws some time after the event that fills it. @param {string} url */
async function tablePlace(url) {
  for (const end = Date.now() + 60_000; Date.now() < end; ) {
    const place = document.getElementById("score-rows");
    if (place && url.endsWith(place.dataset.rows)) return place; // and not that of the file before
    await new Promise((drawn) => setTimeout(drawn, 50));
  }
  return null;
}

let replaced = new AbortController(); // of the table on the page
/** @type {RowTable | null} */
let shownTable = null;

/** Bring the answers up if they are below what is seen: a visitor who waits for them has the progress bar in sight. */
function showResults() {
  const { top, bottom } = document.getElementById("score-status").getBoundingClientRect();
  const isSeen = bottom > 0 && top < innerHeight;
  if (isSeen && top > innerHeight / 4) scrollBy({ top: top - 16, behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

/** Show the rows of a scored file. @param {{url: string} | null} file */
async function showScored(file) {
  if (!file?.url) return;
  const place = await tablePlace(file.url);
  if (!place) return;
  replaced.abort();
  replaced = new AbortController();
  shownTable = null;
  drawRow();
  place.textContent = "Loading the rows …";
  try {
    const { runtime, name, rows } = place.dataset;
    const table = new RowTable(place, await readRows(await fetch(file.url)), { id: rows, name, runtime, replaced: replaced.signal });
    shownTable = table;
    showResults();
    for (const button of document.querySelectorAll("#score-report [data-filter]")) {
      button.addEventListener("click", () => {
        table.set({ label: -1, right: -1, uncertain: false, wrong: false, query: "", ...JSON.parse(button.dataset.filter) });
        place.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "start" });
      });
    }
  } catch (error) {
    place.textContent = error instanceof Error ? error.message : String(error);
  }
}

// Gradio labels its drop zone differently from its visible text, so nobody who says aloud what they see can name it.
new MutationObserver(() => document.querySelector("#score-file button[aria-dropeffect][aria-label]")?.removeAttribute("aria-label"))
  .observe(document, { childList: true, subtree: true });

window.showScored = showScored;
