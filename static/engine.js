/**
 * The model in the visitor's browser: `Engine` sends texts to a worker and gives the answers of Python's `Prediction`
 * and `Explanation`, in plain types.
 */

import { EngineError } from "./fetching.js";

export { EngineError };

/** @typedef {import("./texts.js").Text} Text */
/** @typedef {import("./classifier.js").Site} Site */
/** @typedef {import("./classifier.js").Prediction} Prediction */
/** @typedef {{ runtime: string, threads: number, seconds: number, bytes: number }} Loaded */
/**
 * @typedef {object} Answer
 * @property {Record<string, (Prediction | null)[]>} predictions
 * @property {(string | null)[]} errors
 * @property {{ tokenize_ms: number, forward_ms: number, rest_ms: number }} timing
 */
/** @typedef {Awaited<ReturnType<typeof import("./explain.js").explain>>} Explanation */
/**
 * @typedef {object} Call
 * @property {(result: any) => void} resolve
 * @property {(error: unknown) => void} reject
 * @property {(...figures: number[]) => void} onProgress
 */
/**
 * @typedef {object} Load
 * @property {Promise<Loaded>} promise
 * @property {Set<(received: number, total: number) => void>} listeners
 * @property {AbortController} controller
 * @property {number} waiting
 * @property {boolean} isDone
 */

export class Engine {
  /**
   * @param {Site} site the content of site.json
   * @param {URL | string} base address of the page's folder
   */
  constructor(site, base = new URL(".", import.meta.url)) {
    this.site = site;
    this.base = String(base);
    /** @type {Worker | null} */
    this.worker = null;
    /** @type {Map<number, Call>} */
    this.calls = new Map();
    this.count = 0;
    this.isClosed = false;
    /** @type {Map<string, Load>} */
    this.loads = new Map();
  }

  /**
   * Fetch and open a runtime. Callers share one load; it is aborted when all of them have aborted.
   * @param {string} runtime
   * @param {{ onProgress?: (received: number, total: number) => void, signal?: AbortSignal }} options
   * @returns {Promise<Loaded>}
   */
  load(runtime = this.site.default_runtime, { onProgress = () => {}, signal } = {}) {
    let load = this.loads.get(runtime);
    if (!load) {
      const created = this.startLoad(runtime);
      this.loads.set(runtime, created);
      const forget = () => this.loads.get(runtime) === created && this.loads.delete(runtime);
      created.promise.then(() => (created.isDone = true), forget);
      load = created;
    }
    const shared = load;
    shared.listeners.add(onProgress);
    shared.waiting++;
    return aborting(shared.promise, signal, () => {
      shared.listeners.delete(onProgress);
      if (--shared.waiting || shared.isDone) return;
      if (this.loads.get(runtime) === shared) this.loads.delete(runtime);
      shared.controller.abort();
    });
  }

  /**
   * @param {string} runtime
   * @returns {Load}
   */
  startLoad(runtime) {
    const controller = new AbortController();
    /** @type {Load["listeners"]} */
    const listeners = new Set();
    const onProgress = (/** @type {number[]} */ ...figures) =>
      listeners.forEach((listener) => listener(figures[0], figures[1]));
    const promise = this.call("load", { runtime }, onProgress, controller.signal);
    return { promise, listeners, controller, waiting: 0, isDone: false };
  }

  /**
   * Return whether a runtime is open, so that an answer needs no download.
   * @param {string} runtime
   */
  isLoaded(runtime = this.site.default_runtime) {
    return this.loads.get(runtime)?.isDone ?? false;
  }

  /**
   * Classify texts for every task. The runtime is loaded first if it is not.
   * @param {Text[]} texts
   * @param {{ runtime?: string, signal?: AbortSignal, onProgress?: (done: number, total: number) => void,
   *   threshold?: number | null, skip?: boolean }} options `skip`: a text that cannot be read has null and an error
   * @returns {Promise<Answer>}
   */
  async classify(texts, { runtime = this.site.default_runtime, signal, onProgress, threshold = null, skip = false } = {}) {
    await this.load(runtime, { signal });
    return this.call("classify", { texts, runtime, threshold, skip }, onProgress, signal);
  }

  /**
   * Explain a label of a text by leaving out one word at a time.
   * @param {Text} text
   * @param {string} task
   * @param {{ label?: string | null, runtime?: string, signal?: AbortSignal, onProgress?: (share: number) => void }} options
   * @returns {Promise<Explanation>}
   */
  async explain(text, task, { label = null, runtime = this.site.default_runtime, signal, onProgress } = {}) {
    await this.load(runtime, { signal });
    return this.call("explain", { text, task, label, runtime }, onProgress, signal);
  }

  /** End the worker. What is pending is aborted. */
  close() {
    this.isClosed = true;
    this.fail(closed());
  }

  /**
   * Send a job to the worker.
   * @param {string} job
   * @param {object} values
   * @param {((...figures: number[]) => void)=} onProgress
   * @param {AbortSignal=} signal
   * @returns {Promise<any>}
   */
  call(job, values, onProgress = () => {}, signal) {
    const id = ++this.count;
    const promise = new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      if (this.isClosed) throw closed();
      this.calls.set(id, { resolve, reject, onProgress });
      this.started().postMessage({ id, job, arguments: values });
    });
    return aborting(promise, signal, () => {
      this.calls.delete(id);
      this.worker?.postMessage({ id, job: "abort" });
    });
  }

  started() {
    if (this.worker) return this.worker;
    // From a blob, because a worker with an address of its own would not be held to the page's Content-Security-Policy.
    const source = `import ${JSON.stringify(new URL("worker.js", this.base).href)};`;
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const worker = new Worker(address, { type: "module" });
    worker.addEventListener("message", ({ data }) => {
      URL.revokeObjectURL(address);
      this.receive(data);
    });
    const reason = "The engine of this page cannot start. Reload the page; the browser may be too old.";
    worker.addEventListener("error", () => this.fail(new EngineError("load", reason)));
    worker.postMessage({ job: "start", arguments: { site: this.site, base: this.base } });
    this.worker = worker;
    return worker;
  }

  /** @param {{ id: number, progress?: number[], result?: unknown, error?: { kind: any, message: string } }} message */
  receive({ id, progress, result, error }) {
    const call = this.calls.get(id);
    if (!call) return; // aborted
    if (progress) {
      call.onProgress(...progress);
      return;
    }
    this.calls.delete(id);
    if (error) call.reject(new EngineError(error.kind, error.message));
    else call.resolve(result);
  }

  /** @param {Error} error */
  fail(error) {
    this.worker?.terminate();
    this.worker = null;
    this.loads.clear();
    const calls = [...this.calls.values()];
    this.calls.clear();
    for (const call of calls) call.reject(error);
  }
}

function closed() {
  return new DOMException("The engine was closed.", "AbortError");
}

/**
 * Let people and tests ask the model from the browser's console.
 * @param {Engine} engine
 */
export function expose(engine) {
  /** @type {any} */ (window).triptych = {
    version: engine.site.version,
    /** @param {Text | Text[]} texts */
    predict: async (texts) => (await engine.classify(Array.isArray(texts) ? texts : [texts])).predictions,
  };
}

/**
 * Return a promise that rejects as soon as a signal is aborted.
 * @template T
 * @param {Promise<T>} promise
 * @param {AbortSignal | undefined} signal
 * @param {() => void} onAbort
 * @returns {Promise<T>}
 */
function aborting(promise, signal, onAbort) {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const abort = () => {
      onAbort();
      reject(signal.reason);
    };
    if (signal.aborted) {
      promise.catch(() => {});
      abort();
      return;
    }
    signal.addEventListener("abort", abort, { once: true });
    const done = () => signal.removeEventListener("abort", abort);
    promise.then(resolve, reject).finally(done);
  });
}
