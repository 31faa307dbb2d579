/** The few statistics of the page: a median, its interval, a ratio of medians, a share. */

/** @typedef {{value: number, low: number, high: number}} Estimate */

const RESAMPLES = 2000;
const Z = 1.959964; // 95%

/** @param {number[]} samples */
export function median(samples) {
  const sorted = [...samples].sort((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/**
 * The median of each list and the first's over the second's, with bootstrap intervals. Item i of both is of one text, and
 * the same texts are drawn for both.
 * @param {number[]} first @param {number[]} second
 * @returns {{first: Estimate, second: Estimate, ratio: Estimate}}
 */
export function paired(first, second) {
  const random = generator(13);
  /** @type {number[][]} */
  const drawn = [[], [], []];
  for (let round = 0; round < RESAMPLES; round += 1) {
    const rows = first.map(() => Math.floor(random() * first.length));
    const [one, other] = [first, second].map((samples) => median(rows.map((row) => samples[row])));
    [one, other, one / other].forEach((value, at) => drawn[at].push(value));
  }
  const values = [median(first), median(second), median(first) / median(second)];
  const [one, other, ratio] = values.map((value, at) => interval(value, drawn[at]));
  return { first: one, second: other, ratio };
}

/** @param {number} value @param {number[]} draws @returns {Estimate} */
function interval(value, draws) {
  const sorted = draws.sort((a, b) => a - b);
  return { value, low: sorted[Math.floor(0.025 * sorted.length)], high: sorted[Math.ceil(0.975 * sorted.length) - 1] };
}

/** A proportion with its Wilson interval. @param {number} successes @param {number} rows @returns {Estimate} */
export function share(successes, rows) {
  const value = successes / rows;
  const centre = value + (Z * Z) / (2 * rows);
  const reach = Z * Math.sqrt((value * (1 - value)) / rows + (Z * Z) / (4 * rows * rows));
  const scale = 1 + (Z * Z) / rows;
  return { value, low: Math.max(0, (centre - reach) / scale), high: Math.min(1, (centre + reach) / scale) };
}

/** Numbers from 0 to 1 that are the same in every run: mulberry32. @param {number} seed */
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), 1 | state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}
