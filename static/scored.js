/** Scoring the rows of a table: the columns that `python -m inference score` adds, their counts, and the CSV. */

import { csvCell, harmless } from "./csv.js"; // of the folder ui; staged beside this file

const PREFIX = "predicted_"; // of the added columns, if the file has one of their names
const DIGITS = 6;
const CHUNK = 64; // texts between two looks at Stop
const MISSING = new Set(["", "nan", "na", "n/a", "<na>", "nat", "none", "null"]); // as in inference/compare/labels.py

/** @typedef {import("./table.js").Table} Table */
/** @typedef {import("./engine.js").Prediction} Prediction */

/**
 * @typedef {object} Choice
 * @property {number} text  column of the texts
 * @property {number | null} second  column of the second texts
 * @property {boolean} allScores
 */

/**
 * The added columns. Raises an error if two would have one name.
 * @param {any} tasks  of site.json @param {string[]} columns  of the file @param {boolean} allScores
 * @returns {{prefix: string, names: string[]}}
 */
export function added(tasks, columns, allScores) {
  /** @param {string} prefix */
  const names = (prefix) => [
    ...Object.entries(tasks).flatMap(([task, { labels }]) => {
      const name = `${prefix}${task}`;
      return [name, `${name}_confidence`, `${name}_uncertain`, ...(allScores ? labels.map((/** @type {string} */ label) => `${name}_${label}`) : [])];
    }),
    `${prefix}error`,
  ];
  const prefix = names("").some((name) => columns.includes(name)) ? PREFIX : "";
  const all = names(prefix);
  const clash = all.find((name) => columns.includes(name));
  if (clash !== undefined) throw new Error(`The file already has a column '${clash.slice(0, 60)}', which would hold an answer. Rename it.`);
  if (new Set(all).size < all.length) throw new Error("Two added columns would have the same name. Leave out the scores.");
  return { prefix, names: all };
}

export class Scores {
  rows = 0;
  errors = 0;
  truncated = 0;
  unknown = 0;
  /** @type {(Record<string, Prediction> | string)[]} per row its answers, or why it has none */
  answers = [];

  /** @param {any} tasks @param {Table} table @param {Choice} choice */
  constructor(tasks, table, choice) {
    this.tasks = tasks;
    this.table = table;
    this.choice = choice;
    this.added = added(tasks, table.columns, choice.allScores);
  }

  /**
   * Answer every row; after an abort, `answers` has the rows until then.
   * @param {import("./engine.js").Engine} engine @param {AbortSignal} signal @param {(done: number) => void} progress
   */
  async run(engine, signal, progress) {
    const { rows } = this.table;
    for (let start = 0; start < rows.length; start += CHUNK) {
      signal.throwIfAborted();
      const chunk = rows.slice(start, start + CHUNK).map((_, at) => this.#text(start + at));
      const readable = chunk.flatMap((text, at) => (text.problem ? [] : [at]));
      const texts = readable.map((at) => chunk[at].text);
      const { predictions, errors } = texts.length ? await engine.classify(texts, { skip: true, signal }) : { predictions: {}, errors: [] };
      const places = new Map(readable.map((at, place) => [at, place]));
      chunk.forEach(({ problem }, at) => {
        const place = places.get(at) ?? 0;
        this.#count(problem ?? errors[place] ?? Object.fromEntries(Object.entries(predictions).map(([task, all]) => [task, /** @type {Prediction} */ (all[place])])));
      });
      progress(this.rows);
    }
  }

  /** @param {number} row @returns {{text: import("./engine.js").Text, problem: string | null}} */
  #text(row) {
    const { text, second } = this.choice;
    const columns = second === null ? [text] : [text, second];
    const cells = columns.map((column) => this.table.rows[row][column]);
    const at = columns.findIndex((column) => this.table.kind(row, column));
    const which = second === null ? "The text" : `The ${at ? "second" : "first"} text`;
    const problem = at < 0 ? null : `${which} must be a string, not ${this.table.kind(row, columns[at])}.`;
    return { text: second === null ? cells[0] : [cells[0], cells[1]], problem };
  }

  /** @param {Record<string, Prediction> | string} answer */
  #count(answer) {
    this.rows += 1;
    this.answers.push(answer);
    if (typeof answer === "string") this.errors += 1;
    else {
      const [first] = Object.values(answer);
      this.truncated += Number(first.truncated);
      this.unknown += Number(first.unknown);
    }
  }

  /** The most frequent labels of a task and its uncertain answers. @param {string} task */
  tally(task) {
    /** @type {Map<string, number>} */
    const labels = new Map();
    let uncertain = 0;
    for (const answer of this.answers) {
      if (typeof answer === "string") continue;
      labels.set(answer[task].label, (labels.get(answer[task].label) ?? 0) + 1);
      uncertain += Number(answer[task].uncertain);
    }
    const ordered = [...labels].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    return { labels: ordered, uncertain, answered: this.rows - this.errors };
  }

  /**
   * Rows with a right label in this column, and those whose answer is that label; or the spellings that no label has.
   * @param {string} task @param {number} column
   * @returns {{rows: number, right: number, unknown: [string, number][]}}
   */
  accuracy(task, column) {
    const meaning = meanings(this.tasks[task].labels);
    /** @type {Map<string, number>} */
    const unknown = new Map();
    let rows = 0;
    let right = 0;
    this.answers.forEach((answer, row) => {
      const spelling = this.table.rows[row][column].trim();
      const label = meaning(spelling);
      if (label === undefined) unknown.set(spelling, (unknown.get(spelling) ?? 0) + 1);
      if (!label || typeof answer === "string") return;
      rows += 1;
      right += Number(answer[task].label === label);
    });
    return { rows, right, unknown: [...unknown].sort((a, b) => b[1] - a[1]) };
  }

  /** The table with the added columns, for the rows that have an answer. @returns {Blob} */
  csv() {
    const { table, added: { names } } = this;
    const parts = [`${table.bom ? "\ufeff" : ""}${line([...table.columns, ...names], table)}`];
    this.answers.forEach((answer, row) => {
      parts.push(line([...table.rows[row], ...this.#cells(answer)], table));
    });
    return new Blob(parts, { type: "text/csv;charset=utf-8" });
  }

  /** @param {Record<string, Prediction> | string} answer @returns {string[]} */
  #cells(answer) {
    if (typeof answer === "string") return [...this.added.names.slice(1).map(() => ""), answer];
    const cells = Object.keys(this.tasks).flatMap((task) => {
      const { label, confidence, uncertain, scores } = answer[task];
      const all = this.choice.allScores ? this.tasks[task].labels.map((/** @type {string} */ name) => scores[name].toFixed(DIGITS)) : [];
      return [label, confidence.toFixed(DIGITS), String(uncertain), ...all];
    });
    return [...cells, ""];
  }
}

/** @param {string[]} cells @param {Table} table */
function line(cells, { delimiter, lineEnd }) {
  const special = new RegExp(`["\\r\\n${delimiter}]`);
  return cells.map((cell) => csvCell(harmless(cell), special)).join(delimiter) + lineEnd;
}

/**
 * What a spelling means: a label, "" for none, undefined if nothing is known. Exactly, then without case and separators,
 * where that names one label only.
 * @param {string[]} labels
 */
function meanings(labels) {
  const exact = new Set(labels);
  /** @type {Map<string, string[]>} */
  const folded = new Map();
  for (const label of labels) folded.set(fold(label), [...(folded.get(fold(label)) ?? []), label]);
  return (/** @type {string} */ spelling) => {
    if (exact.has(spelling)) return spelling;
    const alike = folded.get(fold(spelling)) ?? [];
    if (alike.length === 1) return alike[0];
    return MISSING.has(spelling.toLowerCase()) ? "" : undefined;
  };
}

/** @param {string} label */
const fold = (label) => label.normalize("NFC").replace(/(?<=[\p{L}\p{N}])[\s_-]+(?=[\p{L}\p{N}])/gu, " ").trim().toLowerCase();
