/** One answer: a card for each task with its label, its confidence and how it is spread, and where the time went. */

import { breakable, el, grid, styled } from "./dom.js";
import { brief, confidence } from "./format.js";

const MANY = 8; // a task with more labels shows the best five; the rest are in the table
const TOP = 5;

/** @typedef {import("./engine.js").Prediction} Prediction */

export const uncertain = () => el("span.badge.uncertain", {}, el("span", { "aria-hidden": "true" }, "?"), " Uncertain");

/**
 * @param {string} name
 * @param {any} task  of site.json
 * @param {Prediction} prediction
 * @param {string} runtime
 */
export function card(name, task, prediction, runtime) {
  /** @type {[string, number][]} */
  const scores = task.labels.map((/** @type {string} */ label) => [label, prediction.scores[label]]); // an object would sort "10" before "9"
  const ranked = scores.sort((a, b) => b[1] - a[1]);
  const shown = ranked.slice(0, ranked.length > MANY ? TOP : MANY);
  return el(
    `article.card.verdict.${runtime}`,
    { "data-task": name },
    el("h3", {}, name),
    el("p.guess", {}, el("b", {}, breakable(prediction.label)), " · ", el("span.figure", {}, confidence(prediction.confidence)), " ", prediction.uncertain && uncertain()),
    el("p.small", {}, thresholdLine(task, prediction), prediction.label === task.out_of_scope && [el("br"), "This label means that no other label fits."]),
    task.problem_type === "multi_label_classification" && el("p.small", {}, reached(prediction)),
    el("ol.bars", { "aria-label": `${name}: most likely labels` }, shown.map(([label, score]) => bar(label, score, task.threshold))),
    ranked.length > shown.length && everyScore(ranked),
  );
}

/** The place of a card whose answer is still to come. @param {string} name @param {number} labels @param {string} runtime */
export function placeholder(name, labels, runtime) {
  const rows = Array.from({ length: labels > MANY ? TOP : labels }, () => el("li", {}, el("i.meter"), el("i.meter"), ""));
  return el(`article.card.skeleton.${runtime}`, { "aria-hidden": "true" }, el("h3", {}, name), el("p.guess"), el("ol.bars", {}, rows));
}

/** @param {any} task @param {Prediction} prediction */
function thresholdLine(task, prediction) {
  if (!task.threshold) return "This model has no threshold";
  return `${prediction.uncertain ? "Below" : "At or above"} the threshold ${brief(task.threshold)}`;
}

/** @param {Prediction} prediction */
function reached(prediction) {
  return prediction.labels.length ? `Labels that apply: ${prediction.labels.join(", ")}` : "No label reaches the threshold.";
}

/** @param {string} label @param {number} score @param {number} threshold */
function bar(label, score, threshold) {
  const meter = el("i.meter", { "aria-hidden": "true" }, styled(el("i"), { width: `${score * 100}%` }));
  if (threshold) meter.append(styled(el("i.threshold"), { left: `${threshold * 100}%` }));
  return el("li", {}, el("span.name", { title: label }, label), meter, el("span.figure", {}, confidence(score)));
}

/** Built when it is opened: a task may have hundreds of labels. @param {[string, number][]} ranked */
function everyScore(ranked) {
  const details = el("details.table", {}, el("summary", {}, `All ${ranked.length} labels`));
  details.addEventListener("toggle", () => {
    if (details.childElementCount > 1) return;
    const rows = ranked.map(([label, score]) => [el("span", {}, breakable(label)), el("span.figure", {}, score.toFixed(6))]);
    details.append(el("div.scroll", { tabindex: "0" }, grid(["label", "probability"], rows)));
  }, { once: true });
  return details;
}

/**
 * What the model did not read or does not know, in the words of the other page.
 * @param {Prediction[]} predictions @param {number} maxTokens
 */
export function readingNotes(predictions, maxTokens) {
  /** @param {string} sign @param {string} text */
  const note = (sign, text) => el("p.cut", {}, el("span", { "aria-hidden": "true" }, sign), ` ${text}`);
  return [
    predictions.some((one) => one.unknown) && note("⚠", "No word of this text is in the model's vocabulary, so this answer is meaningless."),
    predictions.some((one) => one.unpaired) && note("⚠", "This model was trained on pairs of texts and was given a single one: the answer may be meaningless."),
    predictions.some((one) => one.truncated) && note("✂", `Only ${maxTokens} tokens were read; the rest was ignored.`),
  ].filter(Boolean);
}

/** @param {{title: string, glyph: string, name: string}} runtime @param {{tokenize_ms: number, forward_ms: number, rest_ms: number}} spent */
export function timing(runtime, spent) {
  const parts = [spent.tokenize_ms, spent.forward_ms, spent.rest_ms];
  const [tokenize, forward, rest] = parts.map((ms) => ms.toFixed(2));
  return el(
    `div.timing.${runtime.name}`,
    {},
    el("p", {}, el("span.mark", { "aria-hidden": "true" }, runtime.glyph), ` ${runtime.title} answered in this browser: `,
      el("span.figure", {}, `${parts.reduce((sum, ms) => sum + ms, 0).toFixed(2)} ms`),
      el("span.small", {}, ` (tokenise ${tokenize} · forward ${forward} · rest ${rest}; a single measurement, so noisy)`)),
    el("div.bar", { "aria-hidden": "true" }, parts.map((ms) => styled(el("i"), { "flex-grow": ms.toFixed(4) }))),
  );
}
