/** The model's way into the browser: what will be fetched, asking where that may cost money, progress, and trying again. */

import { button, byId, el, fill, message, styled } from "./dom.js";
import { fixed, mb } from "./format.js";

/** @typedef {import("./engine.js").Engine} Engine */

/** Whether 25 MB are to be asked for first: the visitor saves data, or the device looks like a phone. */
function asksFirst() {
  const { connection, userAgentData } = /** @type {any} */ (navigator);
  const isSlow = connection?.saveData || /2g|3g/.test(connection?.effectiveType ?? "");
  const isPhone = userAgentData?.mobile || (matchMedia("(pointer: coarse)").matches && matchMedia("(max-width: 800px)").matches);
  return Boolean(isSlow || isPhone);
}

export class Loader {
  /** @type {Promise<void> | null} */
  #loading = null;
  #isAllowed = !asksFirst();
  /** @type {() => void} */
  #allow = () => {};
  /** Resolves once the download may begin. @type {Promise<void>} */
  #allowed = new Promise((resolve) => { this.#allow = resolve; });

  /**
   * @param {Engine} engine
   * @param {any} site
   * @param {any} page
   * @param {Promise<unknown>} before  what the download waits for: the service worker that keeps it
   */
  constructor(engine, site, page, before) {
    this.engine = engine;
    this.site = site;
    this.page = page;
    this.before = before;
    this.runtime = site.default_runtime;
    if (this.#isAllowed) this.#allow();
  }

  /** Start the download, or offer it. Errors are shown in the page. */
  start() {
    if (this.#isAllowed) this.ready().catch(() => {});
    else this.#offer();
  }

  get isReady() {
    return this.engine.isLoaded(this.runtime);
  }

  /**
   * Resolve once the model answers; wait for the visitor's consent first, if need be.
   * @param {AbortSignal} [signal]  ends the waiting, not the download, which others wait for too
   * @returns {Promise<void>}
   */
  async ready(signal) {
    await this.#allowed;
    this.#loading ??= this.#load();
    const aborted = new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason), { once: true }));
    await Promise.race([this.#loading, aborted]);
  }

  get isWaitingForConsent() {
    return !this.#isAllowed;
  }

  /** @returns {string} what is fetched, and that it stays */
  get #size() {
    return mb(this.site.runtimes[this.runtime].bytes);
  }

  #offer() {
    const accept = button(`Download the model (${this.#size})`, () => {
      this.#isAllowed = true;
      this.#allow();
      this.ready().catch(() => {});
    }, ".primary");
    accept.id = "download";
    this.#show(el("p", {}, "The model runs in this browser, and what you type is not sent anywhere. It is fetched once, when you ask for it."), accept);
  }

  async #load() {
    const bar = el("div.bar", { "aria-hidden": "true" }, el("i"));
    const line = el("span.figure", {}, `0.0 of ${this.#size}`);
    this.#show(el("p", {}, "Loading the model: ", line, ". You can type already; nothing you type leaves this machine."), bar);
    let shown = 0;
    /** @param {number} received @param {number} total */
    const onProgress = (received, total) => {
      if (received < total && performance.now() - shown < 100) return; // no reader of screens counts along
      shown = performance.now();
      line.textContent = `${fixed(received / 1e6, 1)} of ${mb(total)}`;
      styled(/** @type {HTMLElement} */ (bar.firstElementChild), { width: `${(received / total) * 100}%` });
      if (received === total) fill(bar.previousElementSibling ?? line, "Starting the model …");
    };
    try {
      await this.before;
      const { threads } = await this.engine.load(this.runtime, { onProgress });
      await this.engine.classify([this.site.pairs ? ["a", "b"] : "a"], { skip: true }); // the first pass is the slowest
      const { title, model_bytes: bytes } = this.site.runtimes[this.runtime];
      const parts = [`${title} runs in this browser: ${mb(bytes)}, ${threads > 1 ? `${threads} threads` : "one thread"}. Nothing you type leaves this machine.`];
      this.#show(el(`p.${this.runtime}`, {}, el("span.mark", { "aria-hidden": "true" }, this.page.runtimes[this.runtime].glyph), " ", ...parts));
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#loading = null;
      this.#show(message(reason), button("Try again", () => this.ready().catch(() => {})));
      throw error;
    }
  }

  /** @param {...HTMLElement} children */
  #show(...children) {
    fill(byId("model"), ...children);
  }
}
