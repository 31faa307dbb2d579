/** The worker of the page: it fetches and opens runtimes, and classifies and explains texts, one call after the other. */

import { Classifier } from "./classifier.js";
import { explain } from "./explain.js";
import { EngineError, fetchFile } from "./fetching.js";

/** @typedef {import("./classifier.js").Row} Row */
/** @typedef {import("./classifier.js").Site} Site */
/** @typedef {{ id: number, job: string, arguments: any }} Request */

const OUTPUT_PREFIX = "logits_";
const MAX_THREADS = 4;

/** @type {Site} */
let site;
/** @type {string} */
let base;
/** @type {any} ONNX Runtime, once it is here */
let ort = null;
/** @type {Classifier | null} */
let classifier = null;
/** @type {Map<string, any>} open sessions */
const sessions = new Map();
/** @type {Map<number, AbortController>} */
const running = new Map();
/** @type {Promise<unknown>} */
let last = Promise.resolve();

/** @type {Record<string, (request: Request, signal: AbortSignal) => Promise<unknown>>} */
const JOBS = {
  load: ({ id, arguments: { runtime } }, signal) => load(runtime, (...sizes) => progress(id, ...sizes), signal),
  classify: ({ id, arguments: { texts, runtime, ...options } }, signal) => {
    const step = stepOf(signal, (done, total) => progress(id, done, total));
    return opened().classify(texts, forward(runtime), options, step);
  },
  explain: ({ id, arguments: { text, task, label, runtime } }, signal) => {
    const step = stepOf(signal, (share) => progress(id, share));
    const tried = async (/** @type {Row[]} */ rows) => {
      await step(); // also between passes that show no progress
      return forward(runtime)(rows);
    };
    return explain(opened(), text, task, label, runtime, tried, step);
  },
};

self.addEventListener("message", ({ data }) => {
  if (data.job === "start") {
    ({ site, base } = data.arguments);
  } else if (data.job === "abort") {
    running.get(data.id)?.abort();
  } else {
    const controller = new AbortController();
    running.set(data.id, controller);
    last = last.then(() => answer(data, controller.signal));
  }
});

/**
 * Do a job and post its result.
 * @param {Request} request
 * @param {AbortSignal} signal
 */
async function answer(request, signal) {
  try {
    signal.throwIfAborted();
    self.postMessage({ id: request.id, result: await JOBS[request.job](request, signal) });
  } catch (error) {
    self.postMessage({ id: request.id, ...described(error, signal) });
  } finally {
    running.delete(request.id);
  }
}

/**
 * @param {unknown} error
 * @param {AbortSignal} signal
 */
function described(error, signal) {
  if (signal.aborted) return { aborted: true };
  if (error instanceof EngineError) return { error: { kind: error.kind, message: error.message } };
  // ONNX Runtime throws numbers and messages of its own; most often memory is full.
  const reason = String(error instanceof Error ? error.message : error).slice(0, 200);
  return { error: { kind: "run", message: `This browser cannot run the model (${reason}). Close other tabs and reload.` } };
}

/**
 * Fetch what a runtime needs and is not here yet, and open it.
 * @param {string} runtime
 * @param {(received: number, total: number) => void} onProgress in bytes of the packed files
 * @param {AbortSignal} signal
 */
async function load(runtime, onProgress, signal) {
  const started = performance.now();
  if (!Object.hasOwn(site.runtimes, runtime)) {
    throw new EngineError("load", `This page has no such runtime. It has: ${Object.keys(site.runtimes).join(", ")}.`);
  }
  if (sessions.has(runtime)) return { runtime, threads: ort.env.wasm.numThreads, seconds: 0, bytes: 0 };
  const names = [...(ort ? [] : ["wasm"]), ...(classifier ? [] : ["tokenizer"]), runtime];
  const total = names.reduce((sum, name) => sum + site.files[name].bytes, 0);
  /** @type {Record<string, number>} */
  const received = {};
  const contents = await Promise.all(
    names.map((name) => {
      const onShare = (/** @type {number} */ share) => {
        received[name] = share * site.files[name].bytes;
        onProgress(Math.round(Object.values(received).reduce((a, b) => a + b, 0)), total);
      };
      return fetchFile(site.files[name], base, onShare, signal);
    }),
  );
  const [wasm, tokenizer] = ["wasm", "tokenizer"].map((name) => contents[names.indexOf(name)]);
  if (tokenizer) classifier = new Classifier(site, JSON.parse(new TextDecoder().decode(tokenizer)));
  if (wasm) ort = await start(wasm);
  signal.throwIfAborted();
  sessions.set(runtime, await ort.InferenceSession.create(contents[names.length - 1], { executionProviders: ["wasm"] }));
  const seconds = (performance.now() - started) / 1000;
  return { runtime, threads: ort.env.wasm.numThreads, seconds, bytes: total };
}

/**
 * Start ONNX Runtime.
 * @param {Uint8Array<ArrayBuffer>} wasm
 */
async function start(wasm) {
  const library = await import(new URL("engine/ort.wasm.min.mjs", base).href);
  const { wasm: settings } = library.env;
  settings.wasmBinary = wasm.buffer;
  settings.wasmPaths = { mjs: new URL("engine/ort-wasm-simd-threaded.mjs", base).href };
  settings.numThreads = self.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1) : 1;
  return library;
}

function opened() {
  if (!classifier) throw new EngineError("run", "The model is not loaded.");
  return classifier;
}

/**
 * Return the function that gives the logits of rows of tokens, padded.
 * @param {string} runtime
 */
function forward(runtime) {
  return async (/** @type {Row[]} */ rows) => {
    const session = sessions.get(runtime);
    if (!session) throw new EngineError("run", "The model is not loaded.");
    const width = Math.max(...rows.map((row) => row.ids.length));
    const shape = [rows.length, width];
    /** @type {Record<string, any>} */
    const feed = {};
    for (const name of session.inputNames) {
      const data = new BigInt64Array(rows.length * width);
      if (name === "input_ids") data.fill(BigInt(site.pad_id));
      rows.forEach(({ ids, types }, i) => {
        for (let j = 0; j < ids.length; j++) {
          const value = name === "input_ids" ? ids[j] : name === "attention_mask" ? 1 : types[j];
          data[i * width + j] = BigInt(value);
        }
      });
      feed[name] = new ort.Tensor("int64", data, shape);
    }
    const outputs = await session.run(feed);
    /** @type {Record<string, Float32Array>} */
    const logits = {};
    for (const name of session.outputNames) logits[name.slice(OUTPUT_PREFIX.length)] = outputs[name].data;
    return logits;
  };
}

/**
 * Return a step that reports, and ends the work if it is aborted.
 * @param {AbortSignal} signal
 * @param {(...figures: number[]) => void} report
 */
function stepOf(signal, report) {
  return async (/** @type {number[]} */ ...figures) => {
    if (figures.length) report(...figures);
    await nextTask(); // in which the message that aborts it arrives
    signal.throwIfAborted();
  };
}

function nextTask() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve(undefined);
    };
    port2.postMessage(null);
  });
}

/**
 * @param {number} id
 * @param {...number} figures
 */
function progress(id, ...figures) {
  self.postMessage({ id, progress: figures });
}
