/** The view "Score a file": a table in, the same table with the model's answers out, all of it in this browser. */

import { uncertain } from "./answer.js";
import { announce, breakable, button, byId, el, fill, grid, message, styled } from "./dom.js";
import { count, many, mb, percent, shorten } from "./format.js";
import { added, Scores } from "./scored.js";
import { share } from "./stats.js";
import { choices, findColumn, readTable } from "./table.js";
import { MAX_BYTES, MAX_ROWS } from "./table_limits.js";

const PREVIEW_ROWS = 5;
const PREVIEW_COLUMNS = 12;
const MAX_CELL = 120;
const MAX_BARS = 10;
const MIN_LABELLED = 20; // rows below which no accuracy means anything

/** @typedef {import("./table.js").Table} Table */

export class FileView {
  /** @type {Table | null} */
  #table = null;
  /** @type {AbortController | null} */
  #running = null;
  /** @type {string | null} of the download, which is let go with the next one */
  #address = null;

  /** @param {any} site @param {any} page @param {import("./engine.js").Engine} engine @param {import("./loading.js").Loader} loader */
  constructor(site, page, engine, loader) {
    this.site = site;
    this.page = page;
    this.engine = engine;
    this.loader = loader;
    this.input = /** @type {HTMLInputElement} */ (el("input", { type: "file", id: "file", accept: ".csv,.tsv,.jsonl,.ndjson" }));
    this.preview = el("div", { id: "preview" });
    this.status = el("div", { id: "score-status" });
    this.begin = button("Score the file", () => void this.#score(), ".primary");
    this.stop = button("Stop", () => this.#running?.abort());
    this.stop.disabled = this.begin.disabled = true;
    const drop = el("label.drop", { for: "file" }, el("b", {}, "Drop a CSV or JSONL file here, or choose one"), el("span.small", {}, `at most ${MAX_BYTES / 1e6} MB and ${count(MAX_ROWS)} rows`), this.input);
    this.#listen(drop);
    const what = site.pairs ? "a pair of texts" : "one text";
    byId("view-file").append(
      el("h2", {}, "Score a file"),
      el("p.small", {}, `A CSV, TSV or JSONL file with ${what} per row. The answers are added as columns. Other columns are unchanged, except that cells that look like formulas get a leading '. `,
        el("b", {}, "The file is read and scored in this browser: neither it nor the answers leave this machine.")),
      drop, this.preview, el("div.row.actions", {}, this.begin, this.stop), this.status);
  }

  /** @param {HTMLElement} drop */
  #listen(drop) {
    this.input.addEventListener("click", () => { this.input.value = ""; }); // the same file may be chosen again
    this.input.addEventListener("change", () => void this.#open(this.input.files?.[0]));
    // A file that misses the field would replace the page.
    for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());
    for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, () => drop.classList.add("over"));
    for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => void this.#open(event.dataTransfer?.files[0]));
  }

  /** @param {File | undefined} file */
  async #open(file) {
    if (!file || this.#running) return;
    this.#table = null;
    this.begin.disabled = true;
    fill(this.status);
    try {
      if (file.size > MAX_BYTES) throw new Error(`${shorten(file.name, 80)} has ${mb(file.size)}; the maximum is ${MAX_BYTES / 1e6} MB. Split it, or use the command line: python -m inference score`);
      this.#table = readTable(shorten(file.name, 80), new Uint8Array(await file.arrayBuffer()), this.page.text_names);
      this.#draw(this.#table);
    } catch (error) {
      fill(this.preview, message(error instanceof Error ? error.message : String(error)));
    }
  }

  /** Show the columns to choose and the first rows. @param {Table} table */
  #draw(table) {
    const names = choices(table.columns);
    const text = findColumn(names, this.page.text_names) ?? (names.length === 1 ? names[0] : "");
    this.text = this.#select("Text column", "score-column", names, text, text ? null : "choose …");
    const fields = [this.text.field];
    if (this.site.pairs) {
      this.second = this.#select("Column of the second texts", "score-second", names, "", "choose …");
      fields.push(this.second.field);
    }
    this.labels = Object.keys(this.site.tasks).map((task) => ({ task, ...this.#select(`Right ${task} label`, `score-label-${task}`, names, this.#labelColumn(names, task), "none") }));
    this.all = /** @type {HTMLInputElement} */ (el("input", { type: "checkbox", id: "score-all" }));
    this.question = message(`Which column of ${table.name} holds the texts? Choose it.`);
    fill(this.preview,
      this.question,
      el("div.row.fields", {}, fields, this.labels.map(({ field }) => field), el("label.check", {}, this.all, "Include the probability of every label")),
      firstRows(table));
    this.#check();
  }

  /** The column with the right labels of a task: that of its name, or "label" if there is only one task. @param {string[]} columns @param {string} task */
  #labelColumn(columns, task) {
    const isOnly = Object.keys(this.site.tasks).length === 1;
    return findColumn(columns, [task]) ?? (isOnly ? findColumn(columns, this.page.label_names) : null) ?? "";
  }

  /** @param {string} title @param {string} id @param {string[]} names @param {string} chosen @param {string | null} none */
  #select(title, id, names, chosen, none) {
    const select = /** @type {HTMLSelectElement} */ (el("select", { id }, none !== null && el("option", { value: "" }, none), names.map((name) => el("option", { value: name }, shorten(name, 60)))));
    select.value = chosen;
    select.addEventListener("change", () => this.#check());
    return { select, field: el("label.field", {}, title, select) };
  }

  #check() {
    if (this.question) this.question.hidden = Boolean(this.text?.select.value);
    this.begin.disabled = this.#running !== null || !this.text?.select.value || (this.site.pairs && !this.second?.select.value);
  }

  async #score() {
    const table = this.#table;
    if (!table || !this.text || this.#running) return;
    const running = (this.#running = new AbortController());
    this.begin.disabled = this.input.disabled = true;
    this.stop.disabled = false;
    const started = performance.now();
    try {
      const second = this.second?.select.value;
      if (second && second === this.text.select.value) throw new Error("Both texts of every pair would come from one column. Choose a column for each.");
      const choice = { text: table.columns.indexOf(this.text.select.value), second: second ? table.columns.indexOf(second) : null, allScores: this.all?.checked ?? false };
      added(this.site.tasks, table.columns, choice.allScores); // refused before the model is fetched
      fill(this.status, el("p.small", {}, this.loader.isReady ? "Starting …" : "Waiting for the model; the view “Try” shows its progress."));
      if (this.loader.isWaitingForConsent) throw new Error("The model is not here yet. Download it in the view “Try” first.");
      await this.loader.ready(running.signal);
      const scores = new Scores(this.site.tasks, table, choice);
      const progress = this.#progress(table.rows.length);
      try {
        await scores.run(this.engine, running.signal, progress);
      } catch (error) {
        if (!running.signal.aborted || !scores.rows) throw error;
      }
      this.#results(scores, (performance.now() - started) / 1000);
    } catch (error) {
      const isStopped = running.signal.aborted;
      fill(this.status, isStopped ? el("p.small", { role: "status" }, "Stopped.") : message(error instanceof Error ? error.message : String(error)));
    } finally {
      this.#running = null;
      this.stop.disabled = true;
      this.input.disabled = false;
      this.#check();
    }
  }

  /** @param {number} total @returns {(done: number) => void} */
  #progress(total) {
    const started = performance.now();
    const bar = /** @type {HTMLProgressElement} */ (el("progress", { max: total, value: 0, "aria-label": "share done" }));
    const line = el("p.figure", {}, `0 of ${count(total)} rows`);
    fill(this.status, el("div.scoring", {}, bar, line));
    return (done) => {
      const left = ((performance.now() - started) / done) * (total - done) / 1000;
      bar.value = done;
      line.textContent = `${count(done)} of ${count(total)} rows, about ${count(Math.ceil(left))} s left`;
    };
  }

  /** @param {Scores} scores @param {number} seconds */
  #results(scores, seconds) {
    const { table, rows } = scores;
    const total = table.rows.length;
    if (this.#address) URL.revokeObjectURL(this.#address);
    this.#address = URL.createObjectURL(scores.csv());
    const name = `${(table.name.replace(/\.[^.]*$/, "").normalize("NFKD").replace(/[^\w.-]+/g, "_").replace(/^[._]+|[._]+$/g, "").slice(0, 60)) || "file"}.scored.csv`;
    const notes = [
      `${many(rows, "row")} on ${this.site.runtimes[this.loader.runtime].title} in ${seconds.toFixed(1)} s`,
      rows < total && `stopped after ${count(rows)} of ${count(total)}: the download has these alone`,
      scores.errors && `${count(scores.errors)} without an answer (see the column ${scores.added.prefix}error)`,
      scores.truncated && `${count(scores.truncated)} longer than the model reads, of which the rest was ignored`,
      scores.unknown && `${count(scores.unknown)} without any word of the model's vocabulary, so their answers are meaningless`,
      scores.added.prefix && `the file already has a column with such a name, so the added columns begin with ${scores.added.prefix}`,
    ].filter(Boolean).join("; ");
    announce(`Done. ${notes}.`);
    fill(this.status, el("p", {}, `${notes}.`), el("a.button.primary", { id: "score-download", href: this.#address, download: name }, `Download ${name}`),
      el("div.cards", {}, Object.keys(this.site.tasks).map((task) => this.#card(scores, task))));
  }

  /** @param {Scores} scores @param {string} task */
  #card(scores, task) {
    const { labels, uncertain: doubtful, answered } = scores.tally(task);
    const rest = labels.slice(MAX_BARS);
    const shown = rest.length ? [...labels.slice(0, MAX_BARS), /** @type {[string, number]} */ ([`${rest.length} more labels`, rest.reduce((sum, [, rows]) => sum + rows, 0)])] : labels;
    const column = this.labels?.find((one) => one.task === task)?.select.value;
    return el(`article.card.${this.loader.runtime}`, { "data-task": task },
      el("h3", {}, task),
      column ? accuracyLine(scores, task, column, this.site.tasks[task].problem_type) : null,
      el("p.small", {}, uncertain(), ` ${answered ? percent(doubtful / answered) : "–"} of the answers`),
      el("ol.bars", { "aria-label": `${task}: share of each label` }, shown.map(([label, rows]) => el("li", {},
        el("span.name", { title: label }, label),
        el("i.meter", { "aria-hidden": "true" }, styled(el("i"), { width: `${(rows / answered) * 100}%` })),
        el("span.figure", {}, percent(rows / answered))))));
  }
}

/** @param {Scores} scores @param {string} task @param {string} column @param {string} problemType */
function accuracyLine(scores, task, column, problemType) {
  if (problemType !== "single_label_classification") return el("p.small", {}, "Accuracy is not shown: this task gives a text several labels at once.");
  const { rows, right, unknown } = scores.accuracy(task, scores.table.columns.indexOf(column));
  if (unknown.length) {
    const examples = unknown.slice(0, 3).map(([spelling, number]) => `‘${shorten(spelling, 40)}’ (${many(number, "row")})`).join(", ");
    return el("p.cut", {}, `Accuracy is not shown: the column ${shorten(column, 40)} has ${many(unknown.length, "label")} that this task does not have: ${examples}.`);
  }
  if (rows < MIN_LABELLED) return el("p.small", {}, `Accuracy is not shown: ${many(rows, "row")} with a label, and at least ${MIN_LABELLED} are needed.`);
  const { value, low, high } = share(right, rows);
  return [el("p.guess", {}, el("b", {}, percent(value)), " right"), el("p.small", {}, `${percent(low)} to ${percent(high)} with 95% confidence, on ${many(rows, "labelled row")}`)];
}

/** @param {Table} table */
function firstRows(table) {
  const { rows, columns, remarks } = table;
  const remark = remarks.join(", ");
  const parts = [`${table.name}: ${rows.length > PREVIEW_ROWS ? `first ${PREVIEW_ROWS} of ${count(rows.length)} rows` : `all ${rows.length} rows`}`];
  if (columns.length > PREVIEW_COLUMNS) parts.push(`first ${PREVIEW_COLUMNS} of ${columns.length} columns`);
  const cut = (/** @type {string[]} */ cells) => cells.slice(0, PREVIEW_COLUMNS).map((cell) => shorten(cell, MAX_CELL));
  const [head, ...lines] = [columns, ...rows.slice(0, PREVIEW_ROWS)].map(cut);
  return el("div.preview", {}, el("p.small", {}, `${parts.join(", ")}${remark ? `. ${remark[0].toUpperCase()}${remark.slice(1)}` : ""}:`),
    el("div.wide", { tabindex: "0" }, grid(head, lines)));
}
