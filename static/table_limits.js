/** What a table may have in this page, and how that is said. */

export const MAX_BYTES = 10_000_000;
export const MAX_ROWS = 20_000;
export const MAX_COLUMNS = 500;
export const MAX_BLANK = 10_000; // lines before the header

/** A message for people about a file. */
export class TableError extends Error {}

export class TooWide extends TableError {}

/** @param {string} name @param {number} number */
export function checkColumns(name, number) {
  if (number > MAX_COLUMNS) throw tooWide(name);
}

export const tooWide = (/** @type {string} */ name) => new TooWide(`${name} has more than ${MAX_COLUMNS} columns. Remove those that are not needed.`);
export const tooMany = (/** @type {string} */ name) => new TableError(`${name} has more than ${MAX_ROWS.toLocaleString("en-US")} rows. Split it, or use the command line: python -m inference score`);
