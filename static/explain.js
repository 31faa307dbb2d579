/**
 * How much each word contributes to a label, by leaving it out: the occlusion of `inference/explain`, with the same
 * words, figures and notes.
 */

import { EngineError } from "./fetching.js";
import { probabilities, rowOf, sigmoid } from "./classifier.js";
import { grouped, SPACE, wordsOf } from "./words.js";

/** @typedef {import("./classifier.js").Classifier} Classifier */
/** @typedef {import("./classifier.js").Forward} Forward */
/** @typedef {import("./texts.js").Text} Text */

/**
 * @typedef {object} Attribution
 * @property {string} text
 * @property {number} start in code points
 * @property {number} end
 * @property {number | null} attribution
 * @property {number | null} without
 * @property {boolean} unknown
 * @property {number} in_text
 */

const [SAFE_SHARE, PROBE, MIN_WORDS, IDLE] = [0.8, 4, 3, 0.1];
const [NAMED_WORDS, NAMED_LETTERS] = [4, 30];
const SPACES = new RegExp(`[${SPACE}]+`);
const UNPRINTABLE = /[\p{C}\p{Z}]/u;

/**
 * Explain a label of a text.
 * @param {Classifier} classifier
 * @param {Text} text
 * @param {string} name of the task
 * @param {string | null} label default: the predicted one
 * @param {string} runtime
 * @param {Forward} forward
 * @param {(share: number) => Promise<void>} step called after each pass; what it raises ends the work
 */
export async function explain(classifier, text, name, label, runtime, forward, step) {
  const started = performance.now();
  const { site } = classifier;
  const task = Object.hasOwn(site.tasks, name) ? site.tasks[name] : null;
  if (!task) throw new EngineError("input", `Unknown task. This model has: ${Object.keys(site.tasks).join(", ")}.`);
  if (label !== null && !task.labels.includes(label)) {
    throw new EngineError("input", `The task ${name} has no such label. Choose one of its ${task.labels.length}.`);
  }
  const { letters, encoding, read, flags } = classifier.tokens(text, "The text");
  const { words, parts } = wordsRead(classifier, letters, encoding, read);
  if (!words.length) {
    throw new EngineError("input", "The part of the text that the model reads has no word to explain.");
  }
  const logits = async (/** @type {number[][]} */ rows) =>
    classifier.rows(name, (await forward(rows.map((row) => rowOf(encoding, row))))[name], rows.length);
  const [whole] = await logits([read]);
  const scores = probabilities(whole, task.problem_type);
  const predicted = task.labels[scores.indexOf(Math.max(...scores))];
  const index = task.labels.indexOf(label ?? predicted);
  const score = async (/** @type {number[][]} */ rows) =>
    (await logits(rows)).map((row) => logOdds(row, task.problem_type, index));
  const log_odds = logOdds(whole, task.problem_type, index);
  const deadline = started + site.limits.explain_s * 1000;
  const { groups, falls } = await occlude(classifier, score, read, words, log_odds, deadline, step);
  const described = groups.map(({ start, end, pieces, text }, i) => ({
    text: letters[text].slice(start, end).join(""),
    start,
    end,
    attribution: falls[i],
    without: falls[i] === null ? null : sigmoid(log_odds - /** @type {number} */ (falls[i])),
    unknown: classifier.isUnknown(pieces.map((piece) => encoding.ids[piece])),
    in_text: text,
  }));
  const explanation = {
    text: typeof text === "string" ? text : text[0],
    second_text: typeof text === "string" ? null : text[1],
    task: name,
    label: task.labels[index],
    predicted,
    score: scores[index],
    log_odds,
    backend: runtime,
    method: "occlusion",
    words: described,
    read: parts[0],
    second_read: parts[1] ?? null,
    truncated: flags.truncated,
    grouped: Math.ceil(words.length / groups.length),
    unpaired: flags.unpaired,
    baseline_log_odds: null,
    convergence_delta: null,
    n_steps: null,
    converged: null,
    seconds: (performance.now() - started) / 1000,
  };
  const shared = sharedMove(explanation);
  return { ...explanation, shared, notes: notesOf(explanation, letters, shared) };
}

/**
 * Return the words that the model reads, and start and end of the part of each text that they are in.
 * @param {Classifier} classifier
 * @param {string[][]} letters
 * @param {import("./tokenizer.js").Encoding} encoding
 * @param {number[]} read
 */
function wordsRead(classifier, letters, encoding, read) {
  const isRead = new Set(read);
  /** @type {import("./words.js").WordSpan[]} */
  const words = [];
  /** @type {[number, number][]} */
  const parts = [];
  letters.forEach((own, text) => {
    const all = [...encoding.ids.keys()].filter((i) => !encoding.special[i] && encoding.texts[i] === text);
    const kept = all.filter((i) => isRead.has(i));
    let [low, high] = [0, own.length];
    if (kept.length < all.length) {
      const places = kept.map((i) => encoding.offsets[i]);
      if (classifier.site.cuts_left) low = Math.min(own.length, ...places.map(([start]) => start));
      else high = Math.max(0, ...places.map(([, end]) => end));
    }
    words.push(...wordsOf(classifier.segments(own), encoding.offsets, kept, [low, high], text));
    parts.push([low, high]);
  });
  return { words, parts };
}

/**
 * Return the words, or groups of neighbours, and how much the log-odds fall without each; null past the deadline.
 * @param {Classifier} classifier
 * @param {(rows: number[][]) => Promise<number[]>} score
 * @param {number[]} tokens
 * @param {import("./words.js").WordSpan[]} words
 * @param {number} whole
 * @param {number} deadline
 * @param {(share: number) => Promise<void>} step
 */
async function occlude(classifier, score, tokens, words, whole, deadline, step) {
  const { batch_size: size, token_budget: budget, rows } = classifier.site.limits;
  const atOnce = Math.max(1, Math.min(size, Math.floor(budget / tokens.length)));
  const before = performance.now();
  const tried = Math.min(PROBE, atOnce);
  await score(Array(tried).fill(tokens));
  const rowMs = Math.max((performance.now() - before) / tried, 1e-3);
  const passes = Math.min(rows, Math.floor((SAFE_SHARE * (deadline - performance.now())) / rowMs));
  const groups = grouped(words, passes);
  /** @type {(number | null)[]} */
  const falls = groups.map(() => null);
  for (let start = 0; start < groups.length && (!start || performance.now() <= deadline); start += atOnce) {
    const batch = groups.slice(start, start + atOnce).map(({ pieces }) => {
      const dropped = new Set(pieces);
      return tokens.filter((token) => !dropped.has(token));
    });
    (await score(batch)).forEach((left, i) => (falls[start + i] = whole - left));
    await step(Math.min(1, (start + atOnce) / groups.length));
  }
  return { groups, falls };
}

/**
 * Return log(p / (1 - p)) of one label, exact even if p itself rounds to 1.
 * @param {number[]} logits
 * @param {string} problemType
 * @param {number} label
 */
function logOdds(logits, problemType, label) {
  if (problemType === "multi_label_classification") return logits[label];
  const others = logits.filter((_, i) => i !== label);
  const most = Math.max(...others);
  return logits[label] - most - Math.log(others.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
}

/**
 * Return the most that one word moves the confidence if no word carries the answer alone; null otherwise.
 * @param {{ words: Attribution[], score: number, label: string, predicted: string }} explanation
 */
function sharedMove({ words, score, label, predicted }) {
  const moved = words.flatMap(({ without }) => (without === null ? [] : [Math.abs(score - without)]));
  if (label !== predicted || moved.length < words.length || moved.length < MIN_WORDS) return null;
  return Math.max(...moved) < IDLE ? Math.max(...moved) : null;
}

/**
 * Return what a reader must know, in sentences.
 * @param {{ words: Attribution[], truncated: boolean, unpaired: boolean, grouped: number, read: [number, number],
 *   second_read: [number, number] | null }} explanation
 * @param {string[][]} letters
 * @param {number | null} shared
 */
function notesOf(explanation, letters, shared) {
  const { words, truncated, unpaired, grouped, read, second_read } = explanation;
  const notes = [];
  if (unpaired) {
    notes.push("This model was trained on pairs of texts and was given a single one: the answer may be meaningless.");
  }
  for (const [i, [low, high]] of truncated ? [read, ...(second_read ? [second_read] : [])].entries() : []) {
    const which = second_read ? `the ${["first", "second"][i]} text` : "the text";
    const unread = letters[i].length - (high - low);
    if (unread) {
      notes.push(
        `The model read characters ${whole(low)} to ${whole(high)} of ${which}; the other ${whole(unread)} were cut ` +
          "off and had no part in the answer.",
      );
    }
  }
  if (grouped > 1) {
    notes.push(
      `The text is long, so up to ${grouped} neighbouring words were left out together: each figure is for the whole ` +
        "group.",
    );
  }
  const unknown = [...new Set(words.filter((word) => word.unknown).map((word) => word.text))];
  if (unknown.length) {
    const more = unknown.length > NAMED_WORDS ? ` and ${unknown.length - NAMED_WORDS} more` : "";
    notes.push(
      `The model's vocabulary lacks ${unknown.slice(0, NAMED_WORDS).map(quoted).join(", ")}${more}: the model reads ` +
        "the same token for every such word, so a figure shows the effect of having some word there, not this one.",
    );
  }
  const unreached = words.filter((word) => word.attribution === null).length;
  if (unreached) {
    notes.push(
      `Time was up: ${unreached} of ${words.length} parts of the text were not tried and have no figure. Allow more ` +
        "time.",
    );
  }
  if (shared !== null) {
    notes.push(
      `No word carries this answer alone: without any one of them the confidence moves by ${shared.toFixed(2)} at ` +
        "most. Words that carry the same information can each look unimportant here; integrated gradients, on " +
        "PyTorch, weigh all of them at once.",
    );
  }
  return notes;
}

/** @param {number} value */
function whole(value) {
  return value.toLocaleString("en-US");
}

/**
 * Quote a word; show characters that could reverse the sentence or move a cursor by their code points.
 * @param {string} word
 */
function quoted(word) {
  const shown = [...word.split(SPACES).filter(Boolean).join(" ")].map((letter) => {
    if (!UNPRINTABLE.test(letter) || letter === " " || letter === "\u200c" || letter === "\u200d") return letter;
    const code = /** @type {number} */ (letter.codePointAt(0));
    return `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
  });
  const letters = [...shown.join("")];
  return `“${letters.length <= NAMED_LETTERS ? letters.join("") : `${letters.slice(0, NAMED_LETTERS - 1).join("")}…`}”`;
}
