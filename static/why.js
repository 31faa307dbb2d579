/** Why a label: the text with its words marked, what to know, and every figure. As ui/why.py and its template do. */

import { el, breakable, table } from "./dom.js";
import { confidence, count, shorten, signed } from "./format.js";

const MIN_WEIGHT = 0.05; // of the largest attribution: smaller ones are only in the table
const MAX_QUOTED = 60; // characters of a word in the headline
const MAX_UNREAD = 200; // characters shown of a part that was not read

/** @typedef {{text: string, start: number, end: number, attribution: number | null, without: number | null, unknown: boolean, in_text: number}} Word */

/**
 * @param {any} explanation  as Python's `Explanation.to_dict()`, with `shared`
 * @param {number} threshold  score below which an answer is uncertain
 * @param {{title: string, glyph: string, name: string}} runtime
 */
export function show(explanation, threshold, runtime) {
  const { words, second_text: second } = explanation;
  const most = Math.max(0, ...words.map((/** @type {Word} */ word) => Math.abs(word.attribution ?? 0)));
  const texts = [{ text: explanation.text, read: explanation.read }];
  if (second !== null && second !== undefined) texts.push({ text: second, read: explanation.second_read });
  return el(
    `div.why.${runtime.name}`,
    {},
    summary(explanation, most, threshold),
    explanation.notes.map((/** @type {string} */ note) => el("p.cut", {}, el("b", {}, "Note:"), " ", isolated(note))),
    legend(explanation.truncated),
    texts.flatMap(({ text, read }, number) => [
      texts.length > 1 && el("p.small", {}, number ? "Second text" : "First text"),
      marked([...text], read, words.filter((/** @type {Word} */ word) => word.in_text === number), most),
    ]),
    table("All words as a table", ["word", "log-odds", "probability without it"], words.map((/** @type {Word} */ word) => [
      el("bdi", {}, word.text, texts.length > 1 && el("small", {}, ` ${word.in_text ? "second" : "first"} text`)),
      el("span.figure", {}, word.attribution === null ? "not tried" : signed(word.attribution, 4)),
      el("span.figure", {}, word.without === null ? "" : confidence(word.without)),
    ])),
    el("p.small", {}, "A figure is what a word adds to the log-odds of the label, ln(p / (1 − p)): 0.7 doubles the odds, −0.7 halves them. ",
      el("span.mark", { "aria-hidden": "true" }, runtime.glyph), ` ${runtime.title}, occlusion, ${count(Math.round(explanation.seconds * 1000))} ms. Each word was left out in turn and the rest of the text classified again.`),
  );
}

/** @param {any} explanation @param {number} most @param {number} threshold */
function summary(explanation, most, threshold) {
  const { label, predicted, score } = explanation;
  const remark = label !== predicted ? ` (the model predicts ${predicted})` : score < threshold ? " (uncertain)" : "";
  const parts = headline(explanation, most).flatMap(([lead, words], at) => [
    at ? "; " : "", lead, ...words.flatMap((word, number) => [number ? " and " : " ", el("q", {}, el("bdi", {}, word))]),
  ]);
  return el("p.summary", {}, "Why ", el("b", {}, breakable(label)), " ", el("span.figure", {}, confidence(score)), remark, ": ",
    parts.length ? parts : "no word has a noticeable effect", ".");
}

/**
 * The parts of a sentence about the words that matter most on either side, each with the words it names.
 * @param {any} explanation @param {number} most @returns {[string, string[]][]}
 */
function headline(explanation, most) {
  const isShared = explanation.shared !== null && explanation.shared !== undefined;
  const ranked = [...explanation.words].sort((a, b) => Math.abs(b.attribution ?? 0) - Math.abs(a.attribution ?? 0));
  /** @type {[string, string[]][]} */
  const parts = isShared ? [["no single word decides it", []]] : [];
  for (const [verb, sign] of /** @type {[string, number][]} */ ([["supported", 1], ["opposed", -1]])) {
    const words = ranked.filter((word) => sign * (word.attribution ?? 0) > MIN_WEIGHT * most).map((word) => shorten(word.text, MAX_QUOTED));
    const named = [...new Set(words)].slice(0, 2);
    if (named.length) parts.push([`${verb} ${isShared ? "slightly" : "most"} by`, named]);
  }
  return parts;
}

/** A note whose quoted words do not turn the sentence around them. @param {string} note */
function isolated(note) {
  return note.split(/(“.*?”)/u).map((part) => (/^“.*”$/u.test(part) ? ["“", el("bdi", {}, part.slice(1, -1)), "”"] : part)).flat();
}

/** @param {boolean} truncated */
function legend(truncated) {
  /** @param {string} side @param {string} figure */
  const sample = (side, figure) => el(`span.word.${side}`, {}, "word ", el("small", {}, figure));
  return el("p.legend", {}, sample("for", "+1.2"), " supports the label, ", sample("against", "−1.2"),
    " opposes it; the deeper the colour, the larger the effect. Words without colour have little effect: see the table.",
    truncated && [" ", el("span.unread", {}, "Struck through"), ": not read."]);
}

/** @param {string[]} letters @param {[number, number]} read @param {Word[]} words @param {number} most */
function marked(letters, [low, high], words, most) {
  const line = el("p.words", {}, unread(letters.slice(0, low), true));
  const usual = directionOf(letters.slice(0, 2000).join("")) ?? "ltr";
  let end = low;
  let direction = usual;
  for (const word of words) {
    const before = letters.slice(end, word.start).join("");
    if (before.includes("\n")) direction = usual;
    const own = directionOf(word.text);
    direction = own ?? direction; // a number goes on in the direction of the word before it
    line.append(before, boxed(word, most ? Math.abs(word.attribution ?? 0) / most : 0, direction, own === null && !/\p{N}/u.test(word.text)));
    end = word.end;
  }
  line.append(letters.slice(end, high).join(""), unread(letters.slice(high), false) || "");
  return line;
}

/** @param {Word} word @param {number} weight @param {string} direction @param {boolean} isNeutral */
function boxed(word, weight, direction, isNeutral) {
  if (word.attribution === null) return el("span.word.untried", {}, word.text);
  if (weight < MIN_WEIGHT) return document.createTextNode(word.text);
  const side = word.attribution > 0 ? "for" : "against";
  const box = el(`span.word.${side}`, { dir: direction }, word.text, el("small", { dir: "ltr" }, signed(word.attribution, 2)));
  box.style.setProperty("--weight", weight.toFixed(2));
  return isNeutral ? box : el(`span.as-${direction}`, {}, box);
}

/** @param {string[]} letters @param {boolean} isStart */
function unread(letters, isStart) {
  if (!letters.length) return null;
  const isCut = letters.length > MAX_UNREAD;
  const more = `${count(letters.length - MAX_UNREAD)} more characters that were not read`;
  const text = (isStart ? letters.slice(-MAX_UNREAD) : letters.slice(0, MAX_UNREAD)).join("");
  return isStart ? el("span.unread", {}, isCut && el("small", {}, `${more} … `), text) : el("span.unread", {}, text, isCut && el("small", {}, ` … ${more}`));
}

const RTL = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

/** The direction of the first letter that has one. @param {string} text @returns {"ltr" | "rtl" | null} */
function directionOf(text) {
  const letter = /\p{L}/u.exec(text);
  return letter ? (RTL.test(letter[0]) ? "rtl" : "ltr") : null;
}
