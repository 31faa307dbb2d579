/** The part of "Try" that explains: for which task, for which label, and the explanation. */

import { button, byId, el, fill, message } from "./dom.js";
import { show } from "./why.js";

const AT_ONCE = 600; // characters of a text that is explained without being asked for

/** @typedef {import("./engine.js").Text} Text */

export class WhyPanel {
  /** @type {AbortController | null} */
  #running = null;
  /** @type {Text | null} */
  #text = null;

  /** @param {any} site @param {any} page @param {import("./engine.js").Engine} engine @param {(task: string) => void} onTask */
  constructor(site, page, engine, onTask) {
    this.site = site;
    this.page = page;
    this.engine = engine;
    const names = Object.keys(site.tasks);
    this.tasks = /** @type {HTMLSelectElement} */ (el("select", { id: "why-task" }, names.map((name) => el("option", {}, name))));
    this.labels = /** @type {HTMLSelectElement} */ (el("select", { id: "why-label" }));
    this.result = el("div", { id: "why" });
    this.tasks.addEventListener("change", () => {
      this.#drawLabels();
      onTask(this.task);
      this.#again();
    });
    this.labels.addEventListener("change", () => this.#again());
    this.#drawLabels();
    this.box = el("section.reasons", { "aria-labelledby": "why-title", hidden: true },
      el("div.row", {}, el("h2", { id: "why-title" }, "Why"),
        names.length > 1 && el("label.field", {}, "Task", this.tasks), el("label.field", {}, "Label", this.labels)),
      this.result);
    byId("reasons").append(this.box);
  }

  /** @returns {string} */
  get task() {
    return this.tasks.value;
  }

  /** @param {string | null} task  of a link, so it may be anything */
  select(task) {
    if (task !== null && Object.hasOwn(this.site.tasks, task)) {
      this.tasks.value = task;
      this.#drawLabels();
    }
  }

  clear() {
    this.#running?.abort();
    byId("reasons").classList.add("stale");
  }

  /** Explain a text that was just answered; a long one waits for a click. @param {Text} text */
  async explain(text) {
    this.#text = text;
    this.box.hidden = false;
    byId("reasons").classList.remove("stale");
    if (String(text).length <= AT_ONCE) await this.#run();
    else {
      this.#running?.abort();
      fill(this.result, el("p.small", {}, "The text is long: leaving out one word at a time takes some seconds."), button("Explain", () => void this.#run()));
    }
  }

  #drawLabels() {
    const labels = this.site.tasks[this.task].labels;
    fill(this.labels, el("option", { value: "" }, "the predicted label"), labels.map((/** @type {string} */ label, /** @type {number} */ at) => el("option", { value: `${at}` }, label)));
  }

  #again() {
    if (this.#text !== null) void this.#run();
  }

  async #run() {
    const text = this.#text;
    if (text === null) return;
    this.#running?.abort();
    const running = (this.#running = new AbortController());
    const { signal } = running;
    const task = this.task;
    const label = this.labels.value === "" ? null : this.site.tasks[task].labels[Number(this.labels.value)];
    this.result.setAttribute("aria-busy", "true");
    const bar = /** @type {HTMLProgressElement} */ (el("progress", { max: 1, value: 0, "aria-label": "share of the words left out" }));
    const wait = setTimeout(() => fill(this.result, el("div.scoring", {}, bar)), 400); // a short one is there before
    try {
      const onProgress = (/** @type {number} */ share) => { bar.value = share; };
      const explanation = await this.engine.explain(text, task, { label, signal, onProgress });
      if (signal.aborted) return;
      clearTimeout(wait);
      fill(this.result, show(explanation, this.site.tasks[task].threshold, this.page.runtimes[this.site.default_runtime]));
    } catch (error) {
      if (!signal.aborted) fill(this.result, message(error instanceof Error ? error.message : String(error)));
    } finally {
      clearTimeout(wait);
      if (!signal.aborted) this.result.removeAttribute("aria-busy");
    }
  }
}
