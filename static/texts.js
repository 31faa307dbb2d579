/** What a classifier reads: texts and pairs of texts, checked, and their tokens, cut to the limit. */

import { EngineError } from "./fetching.js";
import { SPACE } from "./words.js";

/** @typedef {string | [string, string]} Text */
/** @typedef {import("./tokenizer.js").Encoding} Encoding */

const BLANK = new RegExp(`^[${SPACE}]*$`);

/**
 * Return the letters of a text, or of both texts of a pair, if they can be read.
 * @param {Text} text
 * @param {string} where what messages call it
 * @param {import("./classifier.js").Site} site
 */
export function checkText(text, where, site) {
  if (typeof text === "string") return [lettersOf(text, where, site.limits.max_chars)];
  if (!Array.isArray(text) || text.length !== 2) {
    throw new EngineError("input", `${where} must be a string or a pair of strings.`);
  }
  if (!site.pairs) {
    throw new EngineError("input", `${where} is a pair, and this model reads single texts.`);
  }
  return text.map((side, part) => lettersOf(side, sideOf(where, part), site.limits.max_chars));
}

/**
 * @param {string} text
 * @param {string} where
 * @param {number} most
 */
function lettersOf(text, where, most) {
  if (typeof text !== "string") throw new EngineError("input", `${where} must be a string, not ${typeof text}.`);
  if (BLANK.test(text)) throw new EngineError("input", `${where} is empty: give it at least one word.`);
  let length = 0;
  for (const _ of text) length++; // counted before anything of its size is made
  if (length > most) {
    const [has, limit] = [length, most].map((number) => number.toLocaleString("en-US"));
    throw new EngineError("input", `${where} has ${has} characters; the limit is ${limit}. Shorten or split it.`);
  }
  const letters = [...text];
  const lone = letters.findIndex((letter) => letter.length === 1 && letter >= "\ud800" && letter <= "\udfff");
  if (lone >= 0) {
    const code = letters[lone].charCodeAt(0).toString(16).toUpperCase();
    throw new EngineError(
      "input",
      `${where} contains a lone surrogate (U+${code} at position ${lone}), not a character. Save it as UTF-8 again.`,
    );
  }
  return letters;
}

/**
 * Raise an error if nothing of a text is left for the model.
 * @param {string[][]} letters
 * @param {Encoding} encoding
 * @param {string} where
 */
export function checkReadable(letters, encoding, where) {
  letters.forEach((_, part) => {
    if (encoding.ids.some((_, i) => !encoding.special[i] && encoding.texts[i] === part)) return;
    const which = letters.length > 1 ? sideOf(where, part) : where;
    throw new EngineError("input", `${which} has nothing to classify: no readable character in it.`);
  });
}

/**
 * Return the positions of the tokens that fit into the limit, special ones included. Of a pair the longer text is cut
 * first, then both alike.
 * @param {Encoding} encoding
 * @param {number} limit
 * @param {boolean} cutsLeft
 */
export function tokensRead(encoding, limit, cutsLeft) {
  const all = [...encoding.ids.keys()];
  if (all.length <= limit) return all;
  const texts = [0, 1].map((text) => all.filter((i) => !encoding.special[i] && encoding.texts[i] === text));
  const [first, second] = texts.map((own) => own.length);
  const room = Math.max(0, limit - (all.length - first - second));
  let shorter = Math.min(first, second);
  let longer = room - shorter;
  if (longer < shorter) {
    shorter = Math.floor(room / 2);
    longer = room - shorter;
  }
  const counts = first <= second ? [shorter, longer] : [longer, shorter];
  const cut = new Set(
    texts.flatMap((own, i) => (cutsLeft ? own.slice(0, Math.max(0, own.length - counts[i])) : own.slice(counts[i]))),
  );
  return all.filter((i) => !cut.has(i));
}

/**
 * @param {string} where
 * @param {number} part
 */
function sideOf(where, part) {
  return where === "The text" ? `The ${["first", "second"][part]} text` : `${where}[${part}]`;
}
