// Keeps the contract of static/engine.js with arithmetic that can be done by hand: good, glad and bad are the words it knows.
export class EngineError extends Error {
  constructor(message, kind) { super(message); this.kind = kind; }
}

const SIZES = { int8: 25_400_000, onnx: 88_000_000 };
const pause = (ms, signal) => new Promise((resolve, reject) => {
  signal?.throwIfAborted();
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
});

export class Engine {
  constructor(site) { this.site = site; this.loaded = {}; this.slow = Number(new URL(location.href).searchParams.get("slow") ?? 0); }

  isLoaded(runtime) { return this.loaded[runtime] === true; }

  async load(runtime = this.site.default_runtime, { onProgress = () => {}, signal } = {}) {
    if (this.loaded[runtime]) return { runtime, threads: 1, seconds: 0, bytes: 0 };
    await fetch(`model/${runtime}.bin?v=0123456789abcdef`, { signal });
    for (let part = 0; part <= 4; part += 1) { onProgress((SIZES[runtime] * part) / 4, SIZES[runtime]); await pause(this.slow, signal); }
    this.loaded[runtime] = true;
    return { runtime, threads: 1, seconds: 0.1, bytes: SIZES[runtime] };
  }

  async classify(texts, { runtime = this.site.default_runtime, signal, skip = false } = {}) {
    await this.load(runtime, { signal });
    await pause(this.slow / 10, signal);
    const errors = texts.map((text, at) => problem(text, texts.length > 1 && !skip ? `texts[${at}]` : "The text"));
    const first = errors.find(Boolean);
    if (first && !skip) throw new EngineError(first, "input");
    const predictions = Object.fromEntries(Object.entries(this.site.tasks).map(([name, task]) => [name, texts.map((text, at) => (errors[at] ? null : predict(text, task, runtime)))]));
    return { predictions, errors, timing: { tokenize_ms: 0.25, forward_ms: runtime === "int8" ? 4 : 8, rest_ms: 0.05 } };
  }

  async explain(text, task, { label = null, signal, onProgress = () => {} } = {}) {
    await pause(this.slow, signal);
    onProgress(0.5);
    const first = [text].flat()[0];
    const answer = (words) => predict(words.join(" "), this.site.tasks[task], "int8");
    const whole = answer(first.split(" "));
    const chosen = label ?? whole.label;
    const odds = (p) => Math.log(p / (1 - p));
    const letters = [...first];
    const words = [];
    for (let start = 0; start < letters.length; start += 1) {
      let end = start;
      while (end < letters.length && letters[end] !== " ") end += 1;
      if (end > start) {
        const rest = answer([letters.slice(0, start).join(""), letters.slice(end).join("")]);
        const without = rest.scores[chosen];
        words.push({ text: letters.slice(start, end).join(""), start, end, attribution: odds(whole.scores[chosen]) - odds(without), without, unknown: false, in_text: 0 });
      }
      start = end;
    }
    return { text: first, second_text: Array.isArray(text) ? text[1] : null, task, label: chosen, predicted: whole.label, score: whole.scores[chosen], log_odds: 0, backend: "int8", method: "occlusion", words, read: [0, letters.length], second_read: [0, 0], truncated: false, grouped: 1, seconds: 0.012, unpaired: false, shared: null, notes: words.length > 20 ? ["The model's vocabulary lacks “אבג”: a note."] : [] };
  }

  close() {}
}

export function expose(engine) {
  window.triptych = { predict: async (texts) => (await engine.classify(texts)).predictions, version: engine.site.version };
}

function problem(text, where) {
  const parts = [text].flat();
  if (parts.some((part) => !part.trim())) return `${where} is empty: give it at least one word.`;
  if (parts.some((part) => part.length > 20000)) return `${where} has ${parts[0].length.toLocaleString("en-US")} characters; the limit is 20,000. Shorten or split it.`;
  return null;
}

function predict(text, task, runtime) {
  const words = [text].flat().join(" ").toLowerCase().split(/\s+/);
  const count = (list) => words.filter((word) => list.includes(word.replace(/[^a-z]/g, ""))).length;
  const logit = 2 * (count(["good", "glad"]) - count(["bad"])) + (runtime === "onnx" && words.includes("wobbly") ? 3 : 0);
  const powers = task.labels.map((_, at) => Math.exp(at === task.labels.length - 1 ? logit : -at / 4));
  const total = powers.reduce((sum, power) => sum + power, 0);
  const scores = Object.fromEntries(task.labels.map((label, at) => [label, powers[at] / total]));
  const [label, confidence] = Object.entries(scores).reduce((best, one) => (one[1] > best[1] ? one : best));
  return { label, confidence, scores, uncertain: confidence < task.threshold, truncated: words.length > 128, unknown: !count(["good", "glad", "bad"]) && words.length < 3, unpaired: false, labels: [label] };
}
