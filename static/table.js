/** Reading a table that was dropped into the page: CSV and JSONL, as `inference/tables` reads them. */

export const MAX_BYTES = 10_000_000;
export const MAX_ROWS = 20_000;
const MAX_COLUMNS = 500;
const DELIMITERS = { ",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars" };
const SEPARATOR = /^sep=([,;\t|]?)[,;\t|\s]*$/i;
const USE = "Use .csv, .tsv or .jsonl";

/** A message for people about a file. */
export class TableError extends Error {}

class TooWide extends TableError {}

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
        line += cell.match(/\r\n|\r|\n/g)?.length ?? 0;
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

// --- JSONL

/** @param {string} name @param {string} text @returns {Table} */
function readJsonl(name, text) {
  /** @type {Map<string, number>} */
  const places = new Map();
  /** @type {Map<string, string>[]} */
  const lines = [];
  for (const [number, line] of text.split("\n").entries()) {
    if (!line.trim()) continue;
    if (lines.length === MAX_ROWS) throw tooMany(name);
    const where = `${name}, line ${(number + 1).toLocaleString("en-US")}`;
    let value;
    try {
      value = JSON.parse(line);
    } catch (error) {
      const reason = error instanceof SyntaxError ? error.message.slice(0, 120) : "it is nested too deeply";
      throw new TableError(`${where} is not valid JSON: ${reason}. Fix the file or export it again.`);
    }
    if (value === null || typeof value !== "object" || Array.isArray(value)) throw new TableError(`${where} is not a JSON object. Write one object per line.`);
    const cells = new Map(members(line));
    for (const key of cells.keys()) if (!places.has(key)) places.set(key, places.size);
    checkColumns(name, places.size);
    lines.push(cells);
  }
  const columns = [...places.keys()];
  const rows = lines.map((cells) => columns.map((column) => written(cells.get(column))));
  const kindOf = (/** @type {number} */ row, /** @type {number} */ column) => kind(lines[row].get(columns[column]));
  return { name, format: "jsonl", columns, rows, kind: kindOf, delimiter: ",", lineEnd: "\n", bom: false, remarks: [] };
}

/**
 * Yield the names and values of a JSON object as they are written: a number keeps its digits, and names their order.
 * @param {string} line  valid JSON
 * @returns {Generator<[string, string]>}
 */
function* members(line) {
  const token = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s{}[\],:"]+/gs;
  let depth = 0;
  let key = null;
  let start = 0;
  for (const { 0: sign, index } of line.matchAll(token)) {
    const end = index + sign.length;
    if (depth === 1 && key !== null && (sign === "," || sign === "}")) {
      yield [key, line.slice(start, index).trim()];
      key = null;
    } else if (depth === 1 && key === null && sign.startsWith('"')) {
      key = JSON.parse(sign);
      start = end;
    } else if (depth === 1 && sign === ":") start = end;
    if (sign === "{" || sign === "[") depth += 1;
    if (sign === "}" || sign === "]") depth -= 1;
  }
}

/** A cell as CSV holds it. @param {string | undefined} raw */
function written(raw) {
  if (raw === undefined || raw === "null") return "";
  return raw.startsWith('"') ? JSON.parse(raw) : raw;
}

/** Python's name of what is no text; null for a text, and for nothing, which is an empty one. @param {string | undefined} raw */
function kind(raw) {
  if (raw === undefined || raw === "null" || raw.startsWith('"')) return null;
  if (raw.startsWith("[")) return "list";
  if (raw.startsWith("{")) return "dict";
  if (raw === "true" || raw === "false") return "bool";
  return /[.eE]/.test(raw) ? "float" : "int";
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

/** @param {string} name @param {number} number */
function checkColumns(name, number) {
  if (number > MAX_COLUMNS) throw tooWide(name);
}

const tooWide = (/** @type {string} */ name) => new TooWide(`${name} has more than ${MAX_COLUMNS} columns. Remove those that are not needed.`);
const tooMany = (/** @type {string} */ name) => new TableError(`${name} has more than ${MAX_ROWS.toLocaleString("en-US")} rows. Split it, or use the command line: python -m inference score`);
