/**
 * Text in, predictions out, as `inference/classifier.py` does it: check, tokenize, cut, sort into batches, and read the
 * logits. What turns token ids into logits is given. Batches are filled in order of length; Python looks for the division
 * that costs least.
 */

import { EngineError } from "./fetching.js";
import { checkReadable, checkText, tokensRead } from "./texts.js";
import { Tokenizer } from "./tokenizer.js";
import { segmenter } from "./words.js";

/** @typedef {import("./texts.js").Text} Text */
/** @typedef {import("./tokenizer.js").Encoding} Encoding */
/** @typedef {import("./tokenizer.js").Tables & { breaks: Record<string, number[]> }} Tables */

/**
 * @typedef {object} Task
 * @property {string[]} labels
 * @property {string} problem_type
 * @property {number} threshold
 * @property {boolean} one_output
 */

/**
 * @typedef {object} Site what `deploy/static.py` writes into site.json, as far as the engine needs it
 * @property {string} version
 * @property {Record<string, Task>} tasks
 * @property {number} max_tokens
 * @property {boolean} pairs
 * @property {boolean} token_types
 * @property {number} pad_id
 * @property {boolean} cuts_left
 * @property {{ max_chars: number, batch_size: number, token_budget: number, explain_s: number, rows: number }} limits
 * @property {string} default_runtime
 * @property {Record<string, { title: string, bytes: number }>} runtimes
 * @property {Record<string, import("./fetching.js").StagedFile>} files
 * @property {{ name: string }} model
 */

/**
 * @typedef {object} Prediction
 * @property {string} label
 * @property {number} confidence
 * @property {Record<string, number>} scores
 * @property {boolean} uncertain
 * @property {boolean} truncated
 * @property {boolean} unknown
 * @property {boolean} unpaired
 * @property {string[]} labels
 */

/** @typedef {{ ids: number[], types: number[] }} Row */
/** @typedef {(rows: Row[]) => Promise<Record<string, Float32Array>>} Forward logits of each task, row after row */

const MULTI = "multi_label_classification";

export class Classifier {
  /**
   * @param {Site} site
   * @param {Tables} tables
   */
  constructor(site, tables) {
    this.site = site;
    this.tokenizer = new Tokenizer(tables);
    this.segments = segmenter(tables.breaks);
  }

  /**
   * Classify texts for every task. Without `skip`, a text that cannot be read is an error; with it, it has null.
   * @param {Text[]} texts
   * @param {Forward} forward
   * @param {{ threshold?: number | null, skip?: boolean }} options
   * @param {(done: number, total: number) => Promise<void>} step called after each batch; what it raises ends the work
   */
  async classify(texts, forward, { threshold = null, skip = false }, step) {
    if (!texts.length) throw new EngineError("input", "texts is empty: give at least one text.");
    if (threshold !== null && !(threshold >= 0 && threshold <= 1)) {
      throw new EngineError("input", `threshold=${threshold} is not a probability between 0 and 1.`);
    }
    const started = performance.now();
    /** @type {(string | null)[]} */
    const errors = texts.map(() => null);
    /** @type {(ReturnType<Classifier["tokens"]> | null)[]} */
    const tokens = texts.map((text, i) => {
      try {
        return this.tokens(text, texts.length === 1 || skip ? "The text" : `texts[${i}]`);
      } catch (error) {
        if (!skip || !(error instanceof EngineError)) throw error;
        errors[i] = error.message;
        return null;
      }
    });
    const tokenized = performance.now();
    /** @type {Record<string, (Prediction | null)[]>} */
    const predictions = {};
    for (const task of Object.keys(this.site.tasks)) predictions[task] = texts.map(() => null);
    let [done, forwardMs] = [0, 0];
    for (const batch of this.batches(tokens.map((entry) => entry?.row.ids.length ?? 0))) {
      const before = performance.now();
      const logits = await forward(batch.map((i) => /** @type {{ row: Row }} */ (tokens[i]).row));
      forwardMs += performance.now() - before;
      for (const [name, task] of Object.entries(this.site.tasks)) {
        const rows = this.rows(name, logits[name], batch.length);
        batch.forEach((i, at) => {
          predictions[name][i] = read(task, rows[at], /** @type {any} */ (tokens[i]).flags, threshold);
        });
      }
      await step((done += batch.length), texts.length);
    }
    const tokenizeMs = tokenized - started;
    const rest_ms = performance.now() - started - tokenizeMs - forwardMs;
    return { predictions, errors, timing: { tokenize_ms: tokenizeMs, forward_ms: forwardMs, rest_ms } };
  }

  /**
   * Return the tokens of a text as the model reads them, and what to say of them.
   * @param {Text} text
   * @param {string} where what messages call it
   */
  tokens(text, where) {
    const letters = checkText(text, where, this.site);
    const encoding = this.tokenizer.encode(letters);
    checkReadable(letters, encoding, where);
    const read = tokensRead(encoding, this.site.max_tokens, this.site.cuts_left);
    const flags = {
      truncated: read.length < encoding.ids.length,
      unknown: letters.some((_, text) => {
        const own = read.filter((i) => !encoding.special[i] && encoding.texts[i] === text);
        return this.isUnknown(own.map((i) => encoding.ids[i]));
      }),
      unpaired: this.site.pairs && letters.length === 1,
    };
    return { letters, encoding, read, flags, row: rowOf(encoding, read) };
  }

  /**
   * Return whether the vocabulary has nothing for the pieces of a word or a text.
   * @param {number[]} ids
   */
  isUnknown(ids) {
    // As in Python, where a space before a word can be a piece.
    const own = ids.filter((id) => !/^\u2581+$/.test(this.tokenizer.tables.vocabulary[id] ?? ""));
    return own.length > 0 && own.every((id) => id === this.tokenizer.tables.unknown);
  }

  /**
   * Return row numbers in batches of similar length, shortest first; those of length 0 are left out.
   * @param {number[]} lengths
   */
  batches(lengths) {
    const { batch_size: size, token_budget: budget } = this.site.limits;
    /** @type {number[][]} */
    const batches = [];
    /** @type {number[]} */
    let batch = [];
    for (const row of [...lengths.keys()].filter((i) => lengths[i]).sort((a, b) => lengths[a] - lengths[b])) {
      if (batch.length && (batch.length === size || (batch.length + 1) * lengths[row] > budget)) {
        batches.push(batch);
        batch = [];
      }
      batch.push(row);
    }
    if (batch.length) batches.push(batch);
    return batches;
  }

  /**
   * Return the logits of each row, one for each label.
   * @param {string} name
   * @param {Float32Array} logits
   * @param {number} count
   * @returns {number[][]}
   */
  rows(name, logits, count) {
    const task = this.site.tasks[name];
    const width = task.labels.length - (task.one_output ? 1 : 0);
    if (logits?.length !== count * width) throw new EngineError("run", `The model gives other logits for ${name}.`);
    if (!logits.every(Number.isFinite)) {
      throw new EngineError("run", `The model gave NaN or infinity for the task ${name}. Reload the page.`);
    }
    return Array.from({ length: count }, (_, i) => {
      const row = [...logits.subarray(i * width, (i + 1) * width)];
      return task.one_output ? [0, ...row] : row;
    });
  }
}

/**
 * Return the softmax of logits, or the sigmoid of each if a text can have several labels.
 * @param {number[]} logits
 * @param {string} problemType
 */
export function probabilities(logits, problemType) {
  if (problemType === MULTI) return logits.map(sigmoid);
  const most = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/** @param {number} value */
export function sigmoid(value) {
  const small = Math.exp(-Math.abs(value)); // never above 1: no overflow on either side
  return value >= 0 ? 1 / (1 + small) : small / (1 + small);
}

/**
 * @param {Encoding} encoding
 * @param {number[]} read
 * @returns {Row}
 */
export function rowOf(encoding, read) {
  return { ids: read.map((i) => encoding.ids[i]), types: read.map((i) => encoding.types[i]) };
}

/**
 * @param {Task} task
 * @param {number[]} logits
 * @param {{ truncated: boolean, unknown: boolean, unpaired: boolean }} flags
 * @param {number | null} threshold
 * @returns {Prediction}
 */
function read(task, logits, flags, threshold) {
  const scores = probabilities(logits, task.problem_type);
  const top = scores.indexOf(Math.max(...scores));
  const limit = threshold ?? task.threshold;
  const least = threshold ?? (task.threshold || 0.5);
  const isMulti = task.problem_type === MULTI;
  return {
    label: task.labels[top],
    confidence: scores[top],
    scores: Object.fromEntries(task.labels.map((label, i) => [label, scores[i]])),
    uncertain: scores[top] < limit,
    ...flags,
    labels: isMulti ? task.labels.filter((_, i) => scores[i] >= least) : [task.labels[top]],
  };
}
