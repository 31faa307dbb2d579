/** The view "Try": a text in, the answer of every task below it, and why. */

import { card, placeholder, readingNotes, timing } from "./answer.js";
import { announce, button, byId, el, fill, message } from "./dom.js";
import { confidence, count } from "./format.js";
import { WhyPanel } from "./why_panel.js";
import { WrongPanel } from "./wrong.js";

const MAX_LINK = 2000; // characters of a text that a link carries

/** @typedef {import("./engine.js").Text} Text */

export class TryView {
  /** @type {AbortController | null} */
  #running = null;
  /** The text that the shown answer is of. @type {Text | null} */
  #answered = null;

  /**
   * @param {any} site
   * @param {any} page
   * @param {import("./engine.js").Engine} engine
   * @param {import("./loading.js").Loader} loader
   * @param {(state: Record<string, string>) => void} remember  writes the state into the address
   */
  constructor(site, page, engine, loader, remember) {
    this.site = site;
    this.page = page;
    this.engine = engine;
    this.loader = loader;
    this.remember = remember;
    this.boxes = [/** @type {HTMLTextAreaElement} */ (byId("text"))];
    if (site.pairs) {
      this.boxes.push(/** @type {HTMLTextAreaElement} */ (byId("second")));
      byId("text-label").textContent = "First text: a premise, a question";
      byId("second-box").hidden = false;
    }
    this.why = new WhyPanel(site, page, engine, (task) => this.#remember(task));
    this.wrong = new WrongPanel(site);
    this.#drawExamples();
    this.#connect();
  }

  /** Show the text and task of a link, or the first example with the answer that Python gave it. @param {URLSearchParams} state */
  open(state) {
    this.why.select(state.get("task"));
    const given = state.get("text");
    if (given !== null && given.length > MAX_LINK) {
      fill(byId("message"), message(`The text of this link has ${count(given.length)} characters; a link may have ${count(MAX_LINK)}. Paste the text instead.`));
      return;
    }
    if (given !== null) {
      this.#put(this.site.pairs && state.get("second") ? [given, state.get("second") ?? ""] : given);
      void this.ask();
      return;
    }
    const { tasks, examples: [first] } = this.site;
    if (!first) return; // nothing was asked, so no places for answers
    fill(byId("answer"), el("div.cards", {}, Object.entries(tasks).map(([name, task]) => placeholder(name, task.labels.length, this.loader.runtime))));
    this.#put(first.text);
    if (first.answer) {
      const predictions = Object.fromEntries(Object.entries(first.answer).map(([task, prediction]) => [task, [prediction]]));
      const { title } = this.page.runtimes[this.site.default_runtime];
      this.#show(first.text, predictions, el("p.small", {}, `Python's ${title} gave this answer when the page was made. In this browser the model answers once it is loaded.`));
    }
    if (!this.loader.isWaitingForConsent) void this.ask();
  }

  /** Answer what is in the boxes, once the model is there; the next question replaces it. */
  async ask() {
    const text = this.#text();
    this.#running?.abort();
    this.why.clear();
    const running = (this.#running = new AbortController());
    const { signal } = running;
    byId("answer").setAttribute("aria-busy", "true");
    byId("answer").classList.toggle("stale", this.#answered !== null && String(this.#answered) !== String(text));
    try {
      if (this.loader.isWaitingForConsent) {
        byId("download").focus();
        fill(byId("message"), el("p.cut", {}, "Download the model first; your text is then answered."));
      } else fill(byId("message"));
      await this.loader.ready();
      if (signal.aborted) return;
      const { predictions, timing: spent } = await this.engine.classify([text], { signal });
      if (signal.aborted) return;
      fill(byId("message"));
      const runtime = this.page.runtimes[this.loader.runtime];
      this.#show(text, predictions, timing(runtime, spent));
      announce(Object.entries(predictions).map(([task, [one]]) => one && `${task}: ${one.label}, ${confidence(one.confidence)}${one.uncertain ? ", uncertain" : ""}`).join("; "));
      this.#remember(this.why.task);
      void this.why.explain(text);
    } catch (error) {
      if (!signal.aborted) this.#fail(error);
    } finally {
      if (!signal.aborted) byId("answer").removeAttribute("aria-busy");
    }
  }

  /** @param {unknown} error */
  #fail(error) {
    fill(byId("answer"));
    this.wrong.hide();
    this.#answered = null;
    fill(byId("message"), message(error instanceof Error ? error.message : String(error)));
  }

  /** @param {Text} text @param {Record<string, (any | null)[]>} predictions @param {HTMLElement} foot */
  #show(text, predictions, foot) {
    const { tasks, max_tokens: maxTokens } = this.site;
    const answers = Object.entries(predictions).flatMap(([name, [prediction]]) => (prediction ? [{ name, prediction }] : []));
    const answer = byId("answer");
    fill(answer, el("div.cards", {}, answers.map(({ name, prediction }) => card(name, tasks[name], prediction, this.loader.runtime))),
      readingNotes(answers.map(({ prediction }) => prediction), maxTokens), foot);
    this.#answered = text;
    this.wrong.show(text, this.loader.runtime, Object.fromEntries(answers.map(({ name, prediction }) => [name, prediction.label])));
    answer.classList.remove("stale");
  }

  /** @returns {Text} */
  #text() {
    const [first, second] = this.boxes.map((box) => box.value);
    return second?.trim() ? [first, second] : first;
  }

  /** @param {Text} text */
  #put(text) {
    const parts = typeof text === "string" ? [text] : text;
    this.boxes.forEach((box, at) => { box.value = parts[at] ?? ""; });
  }

  /** @param {string} task */
  #remember(task) {
    const text = this.#answered;
    const [first, second] = typeof text === "string" ? [text, ""] : text ?? ["", ""];
    const fits = first.length + second.length <= MAX_LINK;
    this.remember({ task, ...(fits && first ? { text: first } : {}), ...(fits && second ? { second } : {}) });
  }

  #drawExamples() {
    fill(byId("examples"), this.site.examples.map((/** @type {{name: string, text: Text}} */ example) =>
      button(example.name, () => {
        this.#put(example.text);
        void this.ask();
      }, ".chip")));
  }

  #connect() {
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      void this.ask();
    });
    for (const box of this.boxes) {
      box.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
        event.preventDefault();
        void this.ask();
      });
      // An answer beside a text that it is not of would be a wrong one.
      box.addEventListener("input", () => {
        const isStale = this.#answered !== null && String(this.#answered) !== String(this.#text());
        byId("answer").classList.toggle("stale", isStale);
        byId("reasons").classList.toggle("stale", isStale);
      });
    }
  }
}
