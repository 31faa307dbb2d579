/**
 * The words of a text: their positions in it, in code points, and their tokens. They are the same as those of
 * `inference/explain/words.py`, whose segments are those of UAX #29. The browser's own `Intl.Segmenter` has another
 * version of Unicode, and splits Han and Thai by a dictionary.
 */

/**
 * @typedef {object} WordSpan
 * @property {number} start
 * @property {number} end
 * @property {number[]} pieces positions of its tokens
 * @property {number} text 0, or 1 for a word of the second text of a pair
 */

const MAX_WORD_LETTERS = 1000;
const ZWJ = "\u200d";
/** White space as Python defines it: `\s` of JavaScript has U+FEFF, and lacks U+001C to U+001F and U+0085. */
export const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const IS_SPACE = new RegExp(`[${SPACE}]`);
const ALPHANUMERIC = /[\p{L}\p{N}]/u;
const HYPHENS = ["-", "\u2010", "\u2011"];

// Kinds of code points in the rules of UAX #29.
const [EXTEND, LETTER, HEBREW, NUMERIC, KATAKANA, UNDERSCORE, FLAG, PICTURE] = [1, 2, 4, 8, 16, 32, 64, 128];
const [MID_LETTER, MID_NUMBER, MID_BOTH, QUOTE, DOUBLE_QUOTE] = [256, 512, 1024, 2048, 4096];
const ANY_LETTER = LETTER | HEBREW;
const IN_WORD = MID_LETTER | MID_BOTH | QUOTE;
const IN_NUMBER = MID_NUMBER | MID_BOTH | QUOTE;
/** @type {Record<string, number>} */
const KINDS = {
  extend: EXTEND,
  letter: LETTER,
  hebrew: HEBREW,
  numeric: NUMERIC,
  katakana: KATAKANA,
  underscore: UNDERSCORE,
  flag: FLAG,
  picture: PICTURE,
  mid_letter: MID_LETTER,
  mid_number: MID_NUMBER,
  mid_both: MID_BOTH,
  quote: QUOTE,
  double_quote: DOUBLE_QUOTE,
};

/**
 * Return the function that cuts a text into words and punctuation marks: start and end of each, without white space.
 * @param {Record<string, number[]>} breaks ranges of each kind
 * @returns {(letters: string[]) => [number, number][]}
 */
export function segmenter(breaks) {
  const kinds = new Uint16Array(0x110000);
  for (const [name, ranges] of Object.entries(breaks)) {
    for (let i = 0; i < ranges.length; i += 2) {
      for (let code = ranges[i]; code <= ranges[i + 1]; code++) kinds[code] |= KINDS[name];
    }
  }
  return (letters) => {
    /** @type {[number, number][]} */
    const spans = [];
    for (let start = 0; start < letters.length; ) {
      if (IS_SPACE.test(letters[start])) {
        start++;
        continue;
      }
      let end = start;
      while (end < letters.length && end < start + MAX_WORD_LETTERS && !IS_SPACE.test(letters[end])) end++;
      const run = letters.slice(start, end);
      const own = run.map((letter) => kinds[/** @type {number} */ (letter.codePointAt(0))]);
      const parts = split(run, own).map(([from, to]) => /** @type {[number, number]} */ ([start + from, start + to]));
      spans.push(...compounds(letters, parts));
      start = end;
    }
    return spans;
  };
}

/**
 * Cut a run without white space by rules WB3c to WB999.
 * @param {string[]} run
 * @param {number[]} kinds
 */
function split(run, kinds) {
  /** @type {[number, number][]} */
  const parts = [];
  let start = 0;
  let flags = 0; // in a row, before this letter
  let [before, last] = [0, kinds[0] & ~EXTEND]; // kinds of the two letters before, without what extends them
  for (let i = 1; i <= run.length; i++) {
    const kind = kinds[i];
    if (i < run.length && kind & EXTEND) continue;
    flags = last & FLAG ? flags + 1 : 0;
    let next = i + 1;
    while (next < run.length && kinds[next] & EXTEND) next++;
    const isPicture = run[i - 1] === ZWJ && kind & PICTURE;
    if (i === run.length || !(isPicture || joins(before, last, kind, kinds[next] ?? 0, flags))) {
      parts.push([start, i]);
      start = i;
    }
    [before, last] = [last, kind];
  }
  return parts;
}

/**
 * @param {number} before
 * @param {number} last
 * @param {number} kind
 * @param {number} next
 * @param {number} flags
 */
function joins(before, last, kind, next, flags) {
  if (last & FLAG && kind & FLAG) return flags % 2 === 1;
  if (last & ANY_LETTER) {
    if (kind & (ANY_LETTER | NUMERIC)) return true;
    if (kind & IN_WORD && next & ANY_LETTER) return true;
    if (last & HEBREW && (kind & QUOTE || (kind & DOUBLE_QUOTE && next & HEBREW))) return true;
  }
  if (kind & ANY_LETTER && last & IN_WORD && before & ANY_LETTER) return true;
  if (kind & HEBREW && last & DOUBLE_QUOTE && before & HEBREW) return true;
  if (last & NUMERIC && kind & (NUMERIC | ANY_LETTER)) return true;
  if (last & NUMERIC && kind & IN_NUMBER && next & NUMERIC) return true;
  if (kind & NUMERIC && last & IN_NUMBER && before & NUMERIC) return true;
  if (last & KATAKANA && kind & KATAKANA) return true;
  const inName = ANY_LETTER | NUMERIC | KATAKANA;
  return Boolean((last & (inName | UNDERSCORE) && kind & UNDERSCORE) || (last & UNDERSCORE && kind & inName));
}

/**
 * Join words with a hyphen between them.
 * @param {string[]} letters
 * @param {[number, number][]} parts
 */
function compounds(letters, parts) {
  /** @type {[number, number][]} */
  const spans = [];
  for (let i = 0; i < parts.length; i++) {
    let [start, end] = parts[i];
    while (isCompound(letters, parts[i], parts[i + 1], parts[i + 2])) {
      i += 2;
      end = parts[i][1];
    }
    spans.push([start, end]);
  }
  return spans;
}

/**
 * @param {string[]} letters
 * @param {[number, number]} first
 * @param {[number, number]=} hyphen
 * @param {[number, number]=} second
 */
function isCompound(letters, first, hyphen, second) {
  if (!hyphen || !second || !HYPHENS.includes(letters.slice(...hyphen).join(""))) return false;
  return ALPHANUMERIC.test(letters[first[0]]) && ALPHANUMERIC.test(letters[second[0]]);
}

/**
 * Return the words that a tokenizer read. Every token belongs to exactly one: segments that share a token are one
 * word, and a token of white space belongs to the word after it.
 * @param {[number, number][]} segments
 * @param {[number, number][]} offsets of all tokens
 * @param {number[]} pieces positions of the tokens of this text that are read
 * @param {[number, number]} read start and end of the part that was read; words end there
 * @param {number} text
 * @returns {WordSpan[]}
 */
export function wordsOf(segments, offsets, pieces, [low, high], text) {
  const parts = segments.filter(([a, b]) => a < high && b > low).map(([a, b]) => [Math.max(a, low), Math.min(b, high)]);
  const afterEnd = (/** @type {number} */ at) => bisect(parts, (part) => part[1] > at); // bisect_right of the ends
  const atStart = (/** @type {number} */ at) => bisect(parts, (part) => part[0] >= at); // bisect_left of the starts
  /** @type {Map<number, [number, number]>} */
  const touched = new Map();
  for (const i of pieces) {
    const [start, end] = offsets[i];
    const [first, last] = [afterEnd(start), atStart(end) - 1];
    if (start < end && first <= last) touched.set(i, [first, last]);
  }
  if (!touched.size) {
    if (!parts.length || !pieces.length) return [];
    return [{ start: parts[0][0], end: parts[parts.length - 1][1], pieces: [...pieces], text }];
  }
  const known = [...new Set([...touched.values()].map(([first]) => first))].sort((a, b) => a - b);
  for (const i of pieces) {
    if (touched.has(i)) continue;
    const at = bisect(known, (first) => first >= afterEnd(offsets[i][0]));
    const segment = known[Math.min(at, known.length - 1)];
    touched.set(i, [segment, segment]);
  }
  /** @type {[number, number, number[]][]} */
  const groups = [];
  for (const [i, [first, last]] of [...touched].sort(([, a], [, b]) => a[0] - b[0] || a[1] - b[1])) {
    const group = groups[groups.length - 1];
    if (group && first <= group[1]) {
      group[1] = Math.max(group[1], last);
      group[2].push(i);
    } else {
      groups.push([first, last, [i]]);
    }
  }
  return groups.map(([first, last, tokens]) => ({
    start: parts[first][0],
    end: parts[last][1],
    pieces: tokens.sort((a, b) => a - b),
    text,
  }));
}

/**
 * Return at most `limit` words, each of as many neighbours as that takes; more if a pair has a text without any.
 * @param {WordSpan[]} words
 * @param {number} limit
 */
export function grouped(words, limit) {
  const size = Math.ceil(words.length / Math.max(limit, 1));
  if (size <= 1) return words;
  return [0, 1].flatMap((text) => {
    const own = words.filter((word) => word.text === text);
    return Array.from({ length: Math.ceil(own.length / size) }, (_, i) => {
      const some = own.slice(i * size, (i + 1) * size);
      const pieces = some.flatMap((word) => word.pieces).sort((a, b) => a - b);
      return { start: some[0].start, end: some[some.length - 1].end, pieces, text };
    });
  });
}

/**
 * Return the first index of a sorted list from which a condition holds.
 * @template T
 * @param {T[]} list
 * @param {(entry: T) => boolean} holds
 */
function bisect(list, holds) {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(list[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}
