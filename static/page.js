/** The page: reads what it shows, opens the views, and keeps the state in the address. */

import { byId, el, fill, message } from "./dom.js";
import { Engine, expose } from "./engine.js";
import { FileView } from "./file.js";
import { count, many, mb } from "./format.js";
import { Loader } from "./loading.js";
import { MeasureView } from "./measure.js";
import { TryView } from "./try.js";

const TABS = ["try", "measure", "file"];
const CONTROL_MS = 2000; // that the model waits for the service worker, which keeps it for the next visit

/** @param {string} name */
async function read(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} cannot be read (status ${response.status}).`);
  return response.json();
}

/** The state that an address carries; whatever else it carries is ignored. */
const state = () => new URLSearchParams(location.hash.slice(1));

function currentTab() {
  const tab = state().get("tab") ?? "try";
  return TABS.includes(tab) ? tab : "try";
}

function showTab() {
  const tab = currentTab();
  for (const section of document.querySelectorAll("[data-view]")) {
    /** @type {HTMLElement} */ (section).hidden = section.getAttribute("data-view") !== tab;
  }
  for (const link of document.querySelectorAll("[data-tab]")) {
    if (link.getAttribute("data-tab") === tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Put a state into the address without a new entry in the history. @param {Record<string, string>} values */
function remember(values) {
  if (currentTab() !== "try") return;
  history.replaceState(null, "", `#${new URLSearchParams({ tab: "try", ...values })}`);
}

/** Let a service worker keep the page for visits without a network; where that is not allowed, go without. @param {string} content */
async function keepOffline(content) {
  try {
    const { serviceWorker } = navigator;
    await serviceWorker.register(`sw.js?content=${encodeURIComponent(content)}`);
    await serviceWorker.ready;
    if (!serviceWorker.controller) await new Promise((resolve) => serviceWorker.addEventListener("controllerchange", resolve, { once: true }));
    const addresses = performance.getEntriesByType("resource").map(({ name }) => name);
    serviceWorker.controller?.postMessage({ keep: [new URL("./", location.href).href, ...addresses] });
  } catch {
    // A frame on another site has no storage of its own, and plain http no service worker.
  }
}

/** @param {any} site @param {any} page @param {any} parity */
function describe(site, page, parity) {
  document.title = `${site.model.name} · Triptych`;
  const tasks = Object.entries(site.tasks).map(([name, task]) => `${name} (${many(task.labels.length, "label")})`).join(", ");
  const { title } = page.runtimes[site.default_runtime];
  fill(byId("strip"), el("span", {}, "Model ", el("b", {}, site.model.name), `: ${tasks}`),
    page.recorded ? el("span", {}, page.recorded.sentence, " ", el("a", { href: "comparison.html" }, `See the measurement${Object.keys(page.recorded.receipts).length > 1 ? "s" : ""}`)) : el("span", {}, `${title} in your browser: nothing you type leaves this machine.`));
  byId("comparison").hidden = !page.recorded;
  const lines = [
    `The model ${site.model.name} runs in your browser with ONNX Runtime Web. The page asks only the server it came from, and sends no text anywhere: its Content-Security-Policy forbids that.`,
    site.model.base && `It is fine-tuned from ${site.model.base} and reads the first ${site.max_tokens} tokens of ${site.pairs ? "a pair of texts" : "a text"}.`,
    parity ? agreement(parity, title) : `Whether the labels are those of Python's ${title} was not checked when this page was made.`,
    ...Object.values(site.runtimes).map((runtime) => `${runtime.title}: ${mb(runtime.model_bytes)}; compressed and with everything that it needs, ${mb(runtime.bytes)} are fetched.`),
    site.model.licence && `Licence of the model: ${site.model.licence}.`,
    `Triptych ${site.version}.`,
  ].filter(Boolean);
  fill(byId("about"), el("details", {}, el("summary", {}, "About this page and its model"), el("ul.about", {}, lines.map((line) => el("li", {}, line)))));
}

/** @param {any} parity @param {string} title */
function agreement(parity, title) {
  const parts = Object.entries(parity.tasks).map(([name, task]) => `${name} ${count(task.equal)}`);
  return `Same label as from Python's ${title}, of ${count(parity.texts)} showcase texts: ${parts.join(", ")}. The largest difference in the probability of that label is ${parity.max_difference.toFixed(4)} (${parity.browser}).`;
}

async function main() {
  const [site, page, parity] = await Promise.all(["site.json", "page.json", "parity.json"].map(read));
  for (const [name, runtime] of Object.entries(page.runtimes)) runtime.name = name;
  describe(site, page, parity);
  const engine = new Engine(site);
  expose(engine);
  const pause = new Promise((resolve) => setTimeout(resolve, CONTROL_MS));
  const loader = new Loader(engine, site, page, Promise.race([keepOffline(site.content), pause]));
  const view = new TryView(site, page, engine, loader, remember);
  new MeasureView(site, page, engine, loader);
  new FileView(site, page, engine, loader);
  addEventListener("hashchange", () => {
    showTab();
    if (state().has("text")) view.open(state());
  });
  loader.start();
  view.open(state());
}

showTab();
main().catch((error) => fill(byId("failure"), message(`This page cannot start: ${error.message} Reload it.`)));
