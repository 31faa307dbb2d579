/** Cells of the CSV files that the page and the static page write. */

// What a spreadsheet may run as a formula, and a number as programs write it: inference/tables/text_formats.py.
const FORMULA = /^[\s\x00-\x1f\x7f\x85\xad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]*[=+\-@\t\r\n＝＋－＠]/;
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/;
const SPECIAL = /[",\r\n]/;

/** Whether a cell begins as a formula does; a negative number does too. @param {string} cell */
export const isFormula = (cell) => FORMULA.test(cell);

/** @param {string} cell  gets a leading ' if a spreadsheet would run it */
export const harmless = (cell) => (FORMULA.test(cell) && !NUMBER.test(cell) ? `'${cell}` : cell);

/** @param {string} cell @param {RegExp} special  what is written between quotation marks */
export const csvCell = (cell, special = SPECIAL) => (special.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
