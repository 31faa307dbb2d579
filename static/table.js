/** Reading a table that was dropped into the page: CSV and JSONL, as `inference/tables` reads them. */

import { readJsonl } from "./jsonl.js";
import { checkColumns, MAX_BLANK, MAX_COLUMNS, MAX_ROWS, TableError, TooWide, tooMany, tooWide } from "./table_limits.js";

const DELIMITERS = { ",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars" };
const SEPARATOR = /^sep=([,;\t|]?)[,;\t|\s]*$/i;
const USE = "Use .csv, .tsv or .jsonl";

/**
 * @typedef {object} Table
 * @property {string} name
 * @property {"csv" | "jsonl"} format
 * @property {string[]} columns
 * @property {string[][]} rows  every cell as CSV holds it
 * @property {(row: number, column: number) => string | null} kind  Python's name of a cell that is no text, such as "int"
 * @property {string} delimiter
 * @property {string} lineEnd
 * @property {boolean} bom
 * @property {string[]} remarks  what was assumed
 */

/** @param {string} name @param {Uint8Array} bytes @param {string[]} textNames  of columns that hold texts @returns {Table} */
export function readTable(name, bytes, textNames) {
  const extension = /\.[^.]*$/.exec(name.toLowerCase())?.[0] ?? "";
  const starts = (/** @type {number[]} */ ...mark) => mark.every((byte, at) => bytes[at] === byte);
  if (starts(0x1f, 0x8b)) throw new TableError(`${name} is packed with gzip. Unpack it first.`);
  if (starts(0x50, 0x4b, 3, 4)) throw new TableError(`${name} contains a ZIP file or a spreadsheet. Save it as UTF-8 CSV.`);
  if (starts(0x50, 0x41, 0x52, 0x31)) throw new TableError(`${name} contains Parquet, which this page does not read. ${USE}.`);
  const isJson = [".jsonl", ".ndjson"].includes(extension);
  if (!isJson && ![".csv", ".tsv"].includes(extension)) throw new TableError(`${name}: unsupported file type. ${USE}.`);
  const { text, bom, remarks } = decode(name, bytes);
  const table = isJson ? readJsonl(name, text) : readCsv(name, text, extension === ".tsv", bom, textNames);
  table.remarks.unshift(...remarks);
  if (!table.columns.length) throw new TableError(`${name} is empty. It needs a header and rows.`);
  if (!table.rows.length) throw new TableError(`${name} has no rows. It needs a header and a text in every row.`);
  return table;
}

/** @param {string} name @param {Uint8Array} bytes */
function decode(name, bytes) {
  const [a, b, c, d] = bytes;
  const isLittle = a === 0xff && b === 0xfe;
  if ((isLittle && c === 0 && d === 0) || (a === 0 && b === 0 && c === 0xfe && d === 0xff)) throw new TableError(`${name} is UTF-32. Save it as UTF-8.`);
  const utf16 = isLittle ? "utf-16le" : a === 0xfe && b === 0xff ? "utf-16be" : null;
  if (utf16) return { text: decoded(name, bytes, utf16), bom: true, remarks: ["read as UTF-16"] };
  const start = [...bytes.slice(0, 20)];
  if (bytes.length >= 4 && !(start.some((byte, at) => at % 2 === 0 && byte) && start.some((byte, at) => at % 2 && byte))) {
    throw new TableError(`${name} seems to be UTF-16 without a byte-order mark. Save it as UTF-8.`);
  }
  return { text: decoded(name, bytes, "utf-8"), bom: a === 0xef && b === 0xbb && c === 0xbf, remarks: [] };
}

/** @param {string} name @param {Uint8Array} bytes @param {string} encoding */
function decoded(name, bytes, encoding) {
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch {
    if (encoding !== "utf-8") throw new TableError(`${name} is damaged: it is not ${encoding.toUpperCase()} throughout. Export it again.`);
    throw new TableError(`${name} is not UTF-8. Save it as UTF-8; Excel calls that "CSV UTF-8".`);
  }
}

// --- CSV

/** @param {string} name @param {string} text @param {boolean} isTsv @param {boolean} bom @param {string[]} textNames @returns {Table} */
function readCsv(name, text, isTsv, bom, textNames) {
  const first = /^[^\r\n]*(\r\n|\n|\r|$)/.exec(text)?.[0] ?? "";
  const lineEnd = first.endsWith("\r\n") ? "\r\n" : "\n";
  const excel = SEPARATOR.exec(first.trimEnd());
  if (!excel && /^sep=.?\s*$/i.test(first)) throw new TableError(`${name} is separated by '${first[4] ?? ""}'. Use commas, semicolons, tabs or bars.`);
  const candidates = excel?.[1] ? [excel[1]] : isTsv ? ["\t", ",", ";", "|"] : Object.keys(DELIMITERS);
  /** @type {Map<string, string[]>} */
  const headers = new Map();
  let wrong;
  for (const delimiter of candidates) {
    try {
      headers.set(delimiter, header(records(name, text, delimiter)).next().value?.cells ?? []);
    } catch (error) {
      if (error instanceof TooWide) throw error;
      wrong ??= error;
    }
  }
  if (!headers.size) throw wrong;
  const delimiter = likeliest(headers, textNames);
  const remarks = delimiter === candidates[0] ? [] : [`separated by ${DELIMITERS[/** @type {keyof DELIMITERS} */ (delimiter)]}`];
  const { columns, rows, hasSpare } = measured(name, header(records(name, text, delimiter)));
  if (hasSpare) remarks.push("empty cells at the end of rows are ignored");
  const twice = columns.find((column, at) => column && columns.indexOf(column) !== at);
  if (twice) remarks.push(`${columns.filter((column) => column === twice).length} columns are named '${twice.slice(0, 60)}'`);
  return { name, format: "csv", columns, rows, kind: () => null, delimiter, lineEnd, bom, remarks };
}

/** The separator that gives a text column, or else several columns. @param {Map<string, string[]>} headers @param {string[]} textNames */
function likeliest(headers, textNames) {
  const all = [...headers];
  const named = all.find(([, columns]) => findColumn(columns, textNames));
  if (named) return named[0];
  return all[0][1].length > 1 ? all[0][0] : all.reduce((best, one) => (one[1].length > best[1].length ? one : best))[0];
}

/** @param {string} name @param {Generator<{line: number, cells: string[]}>} parsed */
function measured(name, parsed) {
  /** @type {string[]} */
  const columns = parsed.next().value?.cells ?? [];
  checkColumns(name, columns.length);
  let used = columns.findLastIndex((column) => column.trim()) + 1;
  const named = used;
  let hasSpare = false;
  const rows = [];
  for (const { line, cells } of parsed) {
    if (rows.length === MAX_ROWS) throw tooMany(name);
    if (cells.length > columns.length) {
      if (cells.slice(columns.length).some((cell) => cell.trim())) {
        throw new TableError(`${name}, line ${line}: ${cells.length} cells, and the header has ${columns.length}. Put a text that contains the separator between quotation marks.`);
      }
      hasSpare = true;
      cells.length = columns.length;
    }
    while (cells.length < columns.length) cells.push("");
    used = Math.max(used, cells.findLastIndex((cell) => cell.trim()) + 1);
    rows.push(cells);
  }
  if (named > 0 && used < columns.length) {
    for (const cells of [columns, ...rows]) cells.length = used;
    hasSpare = true;
  }
  return { columns, rows, hasSpare };
}

/** The records without the empty lines and Excel's "sep=;" before the header. @param {Generator<{line: number, cells: string[]}>} parsed */
function* header(parsed) {
  let isBefore = true;
  for (const record of parsed) {
    if (isBefore && record.line > MAX_BLANK) throw new TableError("The file begins with too many empty lines. Remove them.");
    if (isBefore && (!record.cells.some((cell) => cell.trim()) || SEPARATOR.test(record.cells.join("")))) continue;
    isBefore = false;
    yield record;
  }
}

/**
 * Yield each record with the line that it begins on. Strict: a quotation mark that is never closed would join all rows
 * after it into one cell.
 * @param {string} name @param {string} text @param {string} delimiter
 * @returns {Generator<{line: number, cells: string[]}>}
 */
function* records(name, text, delimiter) {
  const stop = delimiter === "|" ? /[|\r\n]/g : new RegExp(`[${delimiter}\r\n]`, "g");
  let at = 0;
  let line = 1;
  while (at < text.length) {
    const start = line;
    /** @type {string[]} */
    const cells = [];
    const fail = (/** @type {string} */ reason) => new TableError(`${name}, line ${start.toLocaleString("en-US")} cannot be read as CSV: ${reason}. Fix the file or export it again.`);
    for (;;) {
      let cell = "";
      if (text[at] === '"') {
        for (at += 1; ; at += 2) {
          const quote = text.indexOf('"', at);
          if (quote < 0) throw fail("unexpected end of data");
          cell += text.slice(at, quote);
          at = quote;
          if (text[at + 1] !== '"') break;
          cell += '"';
        }
        at += 1;
        line += occurrences(cell, "\n") + occurrences(cell, "\r") - occurrences(cell, "\r\n");
        if (at < text.length && text[at] !== delimiter && text[at] !== "\r" && text[at] !== "\n") throw fail(`'${delimiter}' expected after '"'`);
      } else {
        stop.lastIndex = at;
        const end = stop.exec(text)?.index ?? text.length;
        cell = text.slice(at, end);
        at = end;
      }
      cells.push(cell);
      if (text[at] !== delimiter) break;
      if (cells.length > MAX_COLUMNS * 4) throw tooWide(name);
      at += 1;
    }
    at += text.startsWith("\r\n", at) ? 2 : 1;
    line += 1;
    yield { line: start, cells: cells.length === 1 && cells[0] === "" ? [] : cells };
  }
}

/** @param {string} text @param {string} part */
function occurrences(text, part) {
  let number = 0;
  for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + part.length)) number += 1;
  return number;
}

// --- Columns

/** Return the column that has the first of these names, ignoring case, spaces, hyphens and underscores. @param {string[]} columns @param {string[]} names */
export function findColumn(columns, names) {
  const folded = columns.map(fold);
  for (const name of names) {
    const at = folded.indexOf(fold(name));
    if (at >= 0) return columns[at];
  }
  return null;
}

/** @param {string} column */
const fold = (column) => column.replace(/[\s_-]+/g, "").toLowerCase();

/** The columns that can be chosen by name. @param {string[]} columns */
export const choices = (columns) => columns.filter((column) => column && columns.indexOf(column) === columns.lastIndexOf(column));
