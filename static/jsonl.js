/** Reading JSONL: an object per line, whose values are kept as they are written. */

import { checkColumns, MAX_ROWS, TableError, tooMany } from "./table_limits.js";

/** @param {string} name @param {string} text @returns {import("./table.js").Table} */
export function readJsonl(name, text) {
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
  for (let at = line.indexOf("{") + 1; ; at += 1) {
    const start = line.indexOf('"', at);
    if (start < 0) return;
    const end = endOfString(line, start);
    const value = line.indexOf(":", end) + 1;
    at = endOfValue(line, value);
    yield [JSON.parse(line.slice(start, end)), line.slice(value, at).trim()];
    if (line[at] === "}") return;
  }
}

/** @param {string} line @param {number} at  of the first quotation mark */
function endOfString(line, at) {
  let end = at + 1;
  while (line[end] !== '"') end += line[end] === "\\" ? 2 : 1;
  return end + 1;
}

/** @param {string} line @param {number} at  before a value */
function endOfValue(line, at) {
  for (let depth = 0; ; at += 1) {
    const sign = line[at];
    if (sign === '"') at = endOfString(line, at) - 1;
    else if (sign === "{" || sign === "[") depth += 1;
    else if (depth === 0 && (sign === "," || sign === "}")) return at;
    else if (sign === "}" || sign === "]") depth -= 1;
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
