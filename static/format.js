/** Numbers and texts as the pages of Triptych write them. */

/** @param {number} value @param {number} digits  with its sign, a real minus included */
export function signed(value, digits) {
  return `${value < 0 || Object.is(value, -0) ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
}

/** @param {number} bytes */
export const mb = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

/** @param {number} value  a count */
export const count = (value) => value.toLocaleString("en-US");

/** @param {number} value  a threshold, to three digits */
export const brief = (value) => String(Number(value.toPrecision(3)));

/** @param {number} value  a share; only a whole one is called 100 % */
export const percent = (value) => (value === 1 ? "100 %" : `${(Math.min(value, 0.999) * 100).toFixed(1)} %`);

/** @param {number} ms */
export const duration = (ms) => `${ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2)} ms`;

/** @param {string} text @param {number} limit  in characters */
export function shorten(text, limit) {
  const letters = text.length > limit ? [...text.slice(0, 2 * limit)] : [];
  return letters.length > limit ? `${letters.slice(0, limit - 1).join("")}…` : text;
}

/** @param {number} number @param {string} noun */
export const many = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
