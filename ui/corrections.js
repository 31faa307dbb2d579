/**
 * What a visitor calls wrong, as a CSV of labelled rows that training and `compare --data` read: a row per text, and per
 * task a column with the right label. It is kept in this tab of the browser and goes nowhere else.
 */

import { csvCell, isFormula } from "./csv.js";

const MAX_ROWS = 1000;
const TEXT_NAMES = ["text", "sentence", "content"]; // of which `find_text_column` takes the first that is there
const MARKED = /[",\r\n;\t|']|^\s|\s$/; // or a program could take another sign for the separator
const ESCAPED = "formula_escaped"; // CsvTable takes the ' away again in rows that say "yes" here

/** @typedef {{texts: string[], right: Record<string, string>, answers: Record<string, Record<string, string>>}} Row  answers: task -> runtime -> label */

export class Corrections {
  /** @type {Row[]} */
  #rows = [];

  /** @param {string} key  under which the browser keeps them: one for each model @param {Record<string, string[]>} tasks  with their labels */
  constructor(key, tasks) {
    this.key = key;
    this.tasks = tasks;
    try {
      const kept = JSON.parse(sessionStorage.getItem(key) ?? "[]");
      if (Array.isArray(kept)) this.#rows = kept.filter(isRow);
    } catch {
      // A frame on another site has no storage: they last until the page is closed.
    }
  }

  get count() {
    return this.#rows.length;
  }

  /**
   * Note the right label of a text; one noted before for the same task is replaced. Returns why that is impossible, or "".
   * @param {string[]} texts @param {string} task @param {string} label @param {Record<string, string>} answers  by runtime
   */
  record(texts, task, label, answers) {
    if (!this.tasks[task]?.includes(label)) return `${task} has no label “${label}”.`;
    const same = this.#rows.find((row) => row.texts.length === texts.length && row.texts.every((text, at) => text === texts[at]));
    if (!same && this.#rows.length >= MAX_ROWS) return `There are ${MAX_ROWS.toLocaleString("en")} corrections already. Download them, remove them here and go on.`;
    const row = same ?? { texts, right: {}, answers: {} };
    if (!same) this.#rows.push(row);
    row.right[task] = label;
    row.answers[task] = answers;
    return this.#keep() ? "" : "The browser has no room for more: this one lasts until the page is closed. Download the CSV.";
  }

  clear() {
    this.#rows = [];
    this.#keep();
  }

  /** The rows as CSV, with the mark by which Excel knows UTF-8. */
  csv() {
    const tasks = Object.keys(this.tasks).filter((task) => this.#rows.some((row) => Object.hasOwn(row.right, task)));
    const runtimes = [...new Set(this.#rows.flatMap((row) => Object.values(row.answers).flatMap(Object.keys)))];
    const name = TEXT_NAMES.find((one) => !Object.hasOwn(this.tasks, one)) ?? "text";
    const isPairs = this.#rows.some((row) => row.texts.length > 1);
    const answers = tasks.flatMap((task) => runtimes.map((runtime) => ({ task, runtime })));
    const head = [name, ...(isPairs ? [`${name}_pair`] : []), ...tasks, ...answers.map(({ task, runtime }) => `${task} by ${runtime}`)];
    const rows = this.#rows.map((row) => [
      ...row.texts, ...(isPairs && row.texts.length < 2 ? [""] : []),
      ...tasks.map((task) => Object.hasOwn(row.right, task) ? row.right[task] : ""),
      ...answers.map(({ task, runtime }) => row.answers[task]?.[runtime] ?? ""),
    ]);
    const isEscaped = rows.map((row) => row.some(needsMark));
    const written = isEscaped.includes(true)
      ? [[...head, ESCAPED], ...rows.map((row, at) => (isEscaped[at] ? [...row.map(escaped), "yes"] : [...row, ""]))]
      : [head, ...rows];
    return `\ufeff${written.map((row) => `${row.map((cell) => csvCell(cell, MARKED)).join(",")}\r\n`).join("")}`;
  }

  #keep() {
    try {
      sessionStorage.setItem(this.key, JSON.stringify(this.#rows));
      return true;
    } catch {
      return false;
    }
  }
}

/** Whether what the browser kept is a row: another page of this host may have written it. @param {any} row */
const isRow = (row) =>
  Array.isArray(row?.texts) && row.texts.every((/** @type {unknown} */ text) => typeof text === "string") &&
  [row.right, row.answers].every((part) => part && typeof part === "object") &&
  Object.values(row.answers).every((part) => part && typeof part === "object");

/** Whether a ' is put before a cell: then also before one that has some already, so that they can be told apart. @param {string} cell */
const needsMark = (cell) => isFormula(cell.replace(/^'+/, ""));

/** @param {string} cell */
const escaped = (cell) => (needsMark(cell) ? `'${cell}` : cell);
