/** Numbers and texts as every page of Triptych writes them; inference/calls/formatting.py agrees. */

/** @param {number} value @param {number} places  with thousands commas and a real minus */
export function fixed(value, places) {
  const [whole, rest] = Math.abs(value).toFixed(places).split(".");
  const sign = value < 0 || Object.is(value, -0) ? "−" : "";
  return sign + whole.replace(/\B(?=(\d{3})+$)/g, ",") + (rest ? `.${rest}` : "");
}

/** @param {number} value @param {number} places  with its sign, a real minus included */
export const signed = (value, places) => (value < 0 || Object.is(value, -0) ? "" : "+") + fixed(value, places);

/** @param {number} value  to at least so many significant digits @param {number} significant */
export const digits = (value, significant = 3) =>
  value ? fixed(value, Math.max(0, significant - 1 - Math.floor(Math.log10(Math.abs(value))))) : "0";

/** @param {number} bytes */
export function mb(bytes) {
  if (bytes < 1e5) return `${fixed(bytes / 1e3, 1)} kB`;
  return bytes < 1e9 ? `${fixed(bytes / 1e6, 1)} MB` : `${fixed(bytes / 1e9, 1)} GB`;
}

/** @param {number} value  a count */
export const count = (value) => fixed(value, 0);

/** @param {number} value  a threshold, to three digits */
export const brief = (value) => String(Number(value.toPrecision(3)));

/** @param {number} share  only 1 is written as 100%, and only 0 as 0% */
export function percent(share) {
  if (share === 0 || share === 1) return share ? "100%" : "0%";
  return share > 0 && share < 0.0005 ? "<0.1%" : `${fixed((share < 1 ? Math.min(share, 0.999) : share) * 100, 1)}%`;
}

/** @param {number} ratio  a speed-up: one decimal place, two below 1 */
export const times = (ratio) => `${fixed(ratio, ratio >= 1 ? 1 : 2)}×`;

/** @param {number} value  a duration in milliseconds */
export const duration = (value) => `${digits(value)} ms`;

/** @param {number} score */
export const confidence = (score) => fixed(score, 4);

/** @param {string} text @param {number} limit  in characters */
export function shorten(text, limit) {
  const letters = text.length > limit ? [...text.slice(0, 2 * limit)] : [];
  return letters.length > limit ? `${letters.slice(0, limit - 1).join("")}…` : text;
}

/** @param {number} number @param {string} noun */
export const many = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
