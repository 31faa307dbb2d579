/** "Wrong?": notes the right label of the text that was answered, for a CSV that the visitor downloads. */

import { Corrections } from "./corrections.js"; // of the folder ui; staged beside this file
import { button, byId, el, fill } from "./dom.js";
import { many } from "./format.js";

/** @typedef {import("./engine.js").Text} Text */

export class WrongPanel {
  /** The text that was answered, by which runtime, with its label for each task. @type {{text: Text, runtime: string, labels: Record<string, string>} | null} */
  #shown = null;

  /** @param {any} site */
  constructor(site) {
    const single = Object.entries(site.tasks).filter(([, task]) => task.problem_type === "single_label_classification");
    this.corrections = new Corrections(`triptych corrections ${site.content}`, Object.fromEntries(single.map(([name, task]) => [name, task.labels])));
    const names = single.map(([name]) => name);
    this.tasks = /** @type {HTMLSelectElement} */ (el("select", { id: "wrong-task" }, names.map((name) => el("option", {}, name))));
    this.labels = /** @type {HTMLSelectElement} */ (el("select", { id: "wrong-label" }));
    this.tasks.addEventListener("change", () => this.#drawLabels());
    this.status = el("p.small", { role: "status" });
    this.kept = el("p.row", { hidden: true });
    this.box = el("details.table.wrong", { hidden: true }, el("summary", {}, "Wrong?"),
      el("p.small", {}, "Say which label is right. Corrections stay in this tab of your browser until you download them."),
      el("div.row", {}, names.length > 1 && el("label.field", {}, "Task", this.tasks), el("label.field", {}, "Right label", this.labels),
        button("Record", () => this.#record())),
      this.status, this.kept);
    byId("answer").after(this.box);
    if (names.length) this.#drawLabels();
    this.#drawKept();
  }

  /** @param {Text} text @param {string} runtime @param {Record<string, string>} labels  by task */
  show(text, runtime, labels) {
    this.#shown = { text, runtime, labels };
    this.box.hidden = this.tasks.options.length === 0;
    this.status.textContent = "";
  }

  /** Nothing is shown that could be wrong. */
  hide() {
    this.#shown = null;
    this.box.hidden = true;
  }

  #drawLabels() {
    fill(this.labels, el("option", { value: "" }, "Choose a label"), this.corrections.tasks[this.tasks.value].map((label) => el("option", { value: label }, label)));
  }

  #record() {
    const [task, label] = [this.tasks.value, this.labels.value];
    if (!this.#shown) return;
    const { text, runtime, labels } = this.#shown;
    const problem = label ? this.corrections.record([text].flat(), task, label, { [runtime]: labels[task] }) : "Choose the right label first.";
    this.status.textContent = problem || `Recorded: the right ${task} is “${label}”.`;
    this.#drawKept();
  }

  #drawKept() {
    const { count } = this.corrections;
    this.kept.hidden = !count;
    const remove = button("Remove all", () => {
      if (remove.textContent === "Remove all") remove.textContent = "Click again to remove them";
      else {
        this.corrections.clear();
        this.#drawKept();
      }
    });
    fill(this.kept, many(count, "corrected text"), button("Download CSV", () => this.#download()), remove);
  }

  #download() {
    const href = URL.createObjectURL(new Blob([this.corrections.csv()], { type: "text/csv" }));
    el("a", { href, download: "corrections.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60_000);
  }
}
