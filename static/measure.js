/** The view "Measure here": INT8 and FP32 in turns on the same texts, in this browser; beside it what was recorded. */

import { announce, button, byId, el, fill, grid, message, styled } from "./dom.js";
import { count, duration, fixed, many, mb, times } from "./format.js";
import { paired } from "./stats.js";

const TEXTS = 200;
const WARM_UP = 5;
const SHOWN_DIFFERENCES = 8;

/** @typedef {import("./engine.js").Text} Text */
/** @typedef {import("./stats.js").Estimate} Estimate */

export class MeasureView {
  /** @type {AbortController | null} */
  #running = null;

  /** @param {any} site @param {any} page @param {import("./engine.js").Engine} engine @param {import("./loading.js").Loader} loader */
  constructor(site, page, engine, loader) {
    this.site = site;
    this.page = page;
    this.engine = engine;
    this.loader = loader;
    this.texts = spread(site.showcase.map((/** @type {{text: Text}} */ row) => row.text), TEXTS);
    this.status = el("div", { id: "measured" });
    byId("view-measure").append(el("div.two", {}, this.#here(), this.#recorded()));
  }

  #here() {
    const { runtimes } = this.site;
    const heading = el("h2", {}, "In your browser");
    if (!("int8" in runtimes && "onnx" in runtimes) || !this.texts.length) {
      return el("section.panel", {}, heading, el("p", {}, this.texts.length ? "This page has only one version of the model, so there is nothing to compare it with." : "This page has no texts to measure on."));
    }
    const fetched = mb(this.site.files.onnx.bytes);
    this.start = button(`Measure (fetches FP32 first, ${fetched})`, () => void this.#run(), ".primary");
    this.stop = button("Stop", () => this.#running?.abort());
    this.stop.disabled = true;
    return el("section.panel", { "aria-label": "In your browser" }, heading,
      el("p.small", {}, `INT8 and FP32 (the ONNX file before it was quantized) answer the same ${count(this.texts.length)} texts in turns, one text at a time, on this machine.`),
      el("div.row.actions", {}, this.start, this.stop), this.status);
  }

  /** What was measured elsewhere, which is not to be compared with the figures of this machine. */
  #recorded() {
    const { recorded, runtimes } = this.page;
    if (!recorded) return null;
    const rows = recorded.rows.map((/** @type {any} */ row) => [
      el(`span.${row.runtime}`, {}, el("span.mark", { "aria-hidden": "true" }, runtimes[row.runtime].glyph), ` ${runtimes[row.runtime].title}`),
      el("span.figure", {}, duration(row.p50_ms)), el("span.figure", {}, mb(row.model_bytes)),
    ]);
    return el("section.panel", { "aria-label": "Recorded" }, el("h2", {}, "Recorded on another machine"),
      grid(["runtime", "median, one text", "size"], rows), el("p.small", {}, recorded.source),
      el("p", {}, el("a", { href: "comparison.html" }, "See the whole comparison")));
  }

  async #run() {
    if (!this.start || !this.stop || this.#running) return;
    const running = (this.#running = new AbortController());
    const { signal } = running;
    this.start.disabled = true;
    this.stop.disabled = false;
    try {
      if (this.loader.isWaitingForConsent) throw new Error("The model is not here yet. Download it in the view “Try” first.");
      await this.loader.ready(signal);
      const bar = this.#progress();
      await this.engine.load("onnx", { signal, onProgress: (received, total) => bar(received / total, `Fetching FP32: ${fixed(received / 1e6, 1)} of ${mb(total)}`) });
      const measured = await this.#measure(signal, (done) => bar(done / this.texts.length, `${count(done)} of ${count(this.texts.length)} texts`));
      this.#show(measured);
    } catch (error) {
      fill(this.status, signal.aborted ? el("p.small", { role: "status" }, "Stopped.") : message(error instanceof Error ? error.message : String(error)));
    } finally {
      this.#running = null;
      this.start.disabled = false;
      this.start.textContent = this.engine.isLoaded("onnx") ? "Measure" : this.start.textContent;
      this.stop.disabled = true;
    }
  }

  #progress() {
    const bar = /** @type {HTMLProgressElement} */ (el("progress", { max: 1, value: 0, "aria-label": "share done" }));
    const line = el("p.figure", {});
    fill(this.status, el("div.scoring", {}, bar, line));
    return (/** @type {number} */ share, /** @type {string} */ text) => {
      bar.value = share;
      line.textContent = text;
    };
  }

  /** @param {AbortSignal} signal @param {(done: number) => void} progress */
  async #measure(signal, progress) {
    /** @type {Record<string, number[]>} */
    const ms = { int8: [], onnx: [] };
    const differing = [];
    for (const runtime of ["int8", "onnx"]) {
      for (const text of this.texts.slice(0, WARM_UP)) await this.engine.classify([text], { runtime, signal });
    }
    for (const [number, text] of this.texts.entries()) {
      /** @type {Record<string, Record<string, any[]>>} */
      const answers = {};
      // In turns, and each first as often as the other: what slows the machine down slows both.
      for (const runtime of number % 2 ? ["onnx", "int8"] : ["int8", "onnx"]) {
        signal.throwIfAborted();
        const { predictions, timing } = await this.engine.classify([text], { runtime, signal });
        ms[runtime].push(timing.tokenize_ms + timing.forward_ms + timing.rest_ms);
        answers[runtime] = predictions;
      }
      for (const [task, [int8]] of Object.entries(answers.int8)) {
        const fp32 = answers.onnx[task][0];
        if (int8.label !== fp32.label) differing.push({ task, text, int8: int8.label, fp32: fp32.label });
      }
      progress(number + 1);
    }
    return { ...paired(ms.onnx, ms.int8), differing };
  }

  /** @param {{first: Estimate, second: Estimate, ratio: Estimate, differing: {task: string, text: Text, int8: string, fp32: string}[]}} measured */
  #show({ first: fp32, second: int8, ratio, differing }) {
    const { runtimes, tasks } = this.site;
    const answers = this.texts.length * Object.keys(tasks).length;
    const isClear = ratio.low > 1 || ratio.high < 1;
    const sentence = isClear
      ? `INT8 is ${times(ratio.value)} as fast as FP32 in this browser (${times(ratio.low)} to ${times(ratio.high)}) and ${times(runtimes.onnx.model_bytes / runtimes.int8.model_bytes)} smaller; ${differing.length ? `${count(differing.length)} of ${count(answers)} labels differ` : "every label is the same"}.`
      : `INT8 and FP32 are about equally fast in this browser (${times(ratio.low)} to ${times(ratio.high)}); ${differing.length ? `${count(differing.length)} of ${count(answers)} labels differ` : "every label is the same"}.`;
    const longest = Math.max(fp32.high, int8.high);
    announce(sentence);
    fill(this.status, el("p.summary", {}, sentence),
      el("div.lanes", {}, this.#lane("int8", "INT8", int8, longest), this.#lane("onnx", "FP32", fp32, longest)),
      grid(["version", "median, one text", "95% interval", "size"], [["INT8", int8, runtimes.int8], ["FP32", fp32, runtimes.onnx]].map(([name, { value, low, high }, runtime]) => [
        name, el("span.figure", {}, duration(value)), el("span.figure", {}, `${duration(low)} to ${duration(high)}`), el("span.figure", {}, mb(runtime.model_bytes))])),
      differing.length > 0 && el("details", {}, el("summary", {}, `${many(differing.length, "label")} that differ${differing.length === 1 ? "s" : ""}`),
        differences(differing)),
      el("p.small", {}, `${count(this.texts.length)} texts, each once per version, tokenising included; medians with bootstrap intervals over texts. Other tabs and programs slow both down.`));
  }

  /** @param {string} runtime @param {string} title @param {Estimate} estimate @param {number} longest */
  #lane(runtime, title, { value, low, high }, longest) {
    const part = (/** @type {number} */ ms) => `${(ms / longest) * 100}%`;
    return el(`div.lane.${runtime}`, {}, el("span", {}, el("span.mark", { "aria-hidden": "true" }, this.page.runtimes[runtime].glyph), ` ${title}`),
      el("i.meter", { "aria-hidden": "true" }, styled(el("i"), { width: part(value) }), styled(el("i.whisker"), { left: part(low), width: part(high - low) })),
      el("span.figure", {}, duration(value)));
  }
}

/** @param {{task: string, text: Text, int8: string, fp32: string}[]} differing */
function differences(differing) {
  const rows = differing.slice(0, SHOWN_DIFFERENCES).map(({ task, text, int8, fp32 }) => [task, [text].flat().join(" / "), int8, fp32]);
  return el("div", {}, differing.length > rows.length && el("p.small", {}, `The first ${rows.length}:`), el("div.wide", { tabindex: "0" }, grid(["task", "text", "INT8", "FP32"], rows)));
}

/** At most so many items, from all of the list. @param {Text[]} items @param {number} limit */
function spread(items, limit) {
  const step = Math.max(1, items.length / limit);
  return Array.from({ length: Math.min(limit, items.length) }, (_, at) => items[Math.floor(at * step)]);
}
