/**
 * The request that a page shows, as a link and as code. Pure functions: they touch no page, and never a network.
 *
 * Every string of a snippet is written with the escapes of JSON. Nothing in it can end a quotation, and no character
 * that turns or hides what it stands beside is pasted as it is.
 */

const MAX_LINK = 2000; // characters of the query; longer addresses are cut off by some proxies and programs
const MAX_CHARS = 20000; // of a text, as inference/calls/texts.py
const MAX_ARGUMENT = 30000; // characters, of up to four bytes
const VIEWS = ["try", "why", "file"];
const KEY = "YOUR_API_KEY";

/** @typedef {{text: string | string[], backend: string, threshold: number | null}} Asked  a pair has two texts */
/** @typedef {{url: string, hasKey: boolean, isGradio: boolean}} Address  where requests go: the API, or else the page's own endpoint */

/** Names of the parameters: of what there is one, and of the threshold of each task. */
const NAMES = ["text", "second", "task", "view"];
const LIMIT = "limit.";
const NONNEGATIVE = /^(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i;

/**
 * Read the state that an address carries. Whatever it holds is text, a probability, or one of the names that the page has.
 * @param {string} query @param {string[]} tasks
 * @returns {{texts: string[], task: string | null, view: string, limits: Map<string, number>, problem: string}}
 */
export function readLink(query, tasks) {
  const given = new URLSearchParams(query);
  const twice = [...NAMES, ...tasks.map((name) => LIMIT + name)].find((name) => given.getAll(name).length > 1);
  if (twice !== undefined) {
    const name = NAMES.includes(twice) ? `“${twice}”` : "a threshold";
    return { texts: [], task: null, view: "try", limits: new Map(), problem: `This link was not opened: it names ${name} more than once.` };
  }
  const thresholds = [...given].filter(([name]) => name.startsWith(LIMIT)).map(([name, value]) => ({ name: name.slice(LIMIT.length), value }));
  const valid = thresholds.filter(({ name, value }) => tasks.includes(name) && NONNEGATIVE.test(value) && Number(value) <= 1);
  const task = given.get("task");
  const view = given.get("view") ?? "";
  return {
    // More than is allowed, also in pairs of halves: the server then refuses the text as too long and answers no part of it.
    texts: ["text", "second"].map((name) => (given.get(name) ?? "").slice(0, 2 * MAX_CHARS + 2)),
    task: task !== null && tasks.includes(task) ? task : null,
    view: VIEWS.includes(view) ? view : "try",
    limits: new Map(valid.map(({ name, value }) => [name, Math.round(Number(value) * 1000) / 1000])), // the steps of a slider
    problem: [
      [task, ...thresholds.map(({ name }) => name)].every((name) => name === null || tasks.includes(name)) ? "" : "This model has no task of the name that is in the link.",
      valid.length < thresholds.filter(({ name }) => tasks.includes(name)).length ? "A threshold in the link is not a number from 0 to 1, so the model's own is used." : "",
    ].filter(Boolean).join(" "),
  };
}

/**
 * Return the query that opens a state, with what else the address has; null if the text is too long for a link. A view of
 * a file has no text and no task of Why.
 * @param {string} query  of the address now @param {{texts: string[], task: string, view: string, limits?: Record<string, number>}} state
 *  `limits` are the thresholds that are not the model's own
 */
export function queryOf(query, { texts, task, view, limits = {} }) {
  const made = new URLSearchParams(query);
  for (const name of [...made.keys()]) if (NAMES.includes(name) || name.startsWith(LIMIT)) made.delete(name);
  const isFile = view === "file";
  const [text, second] = isFile ? [] : texts;
  if (text) made.set("text", text);
  if (second) made.set("second", second);
  if (task && !isFile) made.set("task", task);
  if (view !== "try") made.set("view", view);
  for (const [name, limit] of Object.entries(limits)) if (typeof limit === "number") made.set(LIMIT + name, String(Number(limit.toFixed(3))));
  const written = made.toString();
  return written.length > MAX_LINK ? null : written && `?${written}`;
}

/** Characters without a look of their own, which could hide or reverse what is pasted: controls, marks of direction, halves of pairs. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}\p{Cn}]|(?! )\p{Zs}/gu;

/** @param {string} letter */
const units = (letter) => letter.split("").map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`).join("");

/** JSON, and a literal of JavaScript, in which every character can be seen. @param {any} value */
const literal = (value) => JSON.stringify(value).replace(UNSEEN, units);

/** A literal of Python. @param {any} value @returns {string} */
function pythonic(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(pythonic).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, inner]) => `${pythonic(name)}: ${pythonic(inner)}`).join(", ")}}`;
  // Two halves of a pair are two characters to Python.
  return JSON.stringify(value).replace(UNSEEN, (letter) => (letter.length > 1 ? `\\U${letter.codePointAt(0)?.toString(16).padStart(8, "0")}` : units(letter)));
}

/** Within single quotes of any shell: no quote, and no two backslashes, of which fish makes one. @param {string} json */
const quoted = (json) => `'${json.replaceAll("\\\\", "\\u005c").replaceAll("'", "\\u0027")}'`;

/** @param {string} url */
const address = (url) => `${/[[\]{}]/.test(url) ? "-g " : ""}'${url.replaceAll("'", "%27")}'`;

/** @param {Asked} asked */
function apiBody({ text, backend, threshold }) {
  return { text, backend, return_scores: true, ...(threshold === null ? {} : { threshold }) };
}

/** The arguments of the page's own endpoint, by name. @param {Asked} asked */
function gradioArguments({ text, backend, threshold }) {
  const [first, second = null] = [text].flat();
  return { text: first, backend, threshold, second_text: second };
}

/** @param {Asked} asked @param {Address} to */
export function asCurl(asked, { url, hasKey, isGradio }) {
  const body = quoted(literal(isGradio ? { data: Object.values(gradioArguments(asked)) } : apiBody(asked)));
  const key = hasKey ? ` -H 'Authorization: Bearer ${KEY}'` : "";
  const curl = `curl -sS -H 'Content-Type: application/json'${key} -d`;
  // printf is a command of the shell itself: an argument of another program may have 128 KB on Linux.
  const first = body.length > MAX_ARGUMENT ? `printf %s ${body} | ${curl} @- ${address(url)}` : `${curl} ${body} ${address(url)}`;
  if (!isGradio) return first;
  return (
    `${first} \\\n` +
    `  | sed 's/.*"event_id" *: *"\\([a-z0-9]*\\)".*/\\1/' | xargs -I{} curl -sSN ${address(url).replace("-g ", "").replace(/'$/, "/{}'")}`
  );
}

/** @param {Asked} asked @param {Address} to */
export function asPython(asked, { url, hasKey, isGradio }) {
  if (isGradio) {
    const named = Object.entries(gradioArguments(asked)).map(([name, value]) => `${name}=${pythonic(value)}`).join(", ");
    const page = url.slice(0, url.indexOf("gradio_api/"));
    return `from gradio_client import Client\n\nclient = Client(${pythonic(page)})\nprint(client.predict(${named}, api_name="/predict"))\n`;
  }
  const headers = { "Content-Type": "application/json", ...(hasKey ? { Authorization: `Bearer ${KEY}` } : {}) };
  return `import json
import urllib.request

body = ${pythonic(apiBody(asked))}
request = urllib.request.Request(${pythonic(url)}, json.dumps(body).encode(), ${pythonic(headers)})
with urllib.request.urlopen(request) as response:
    print(json.dumps(json.load(response), indent=2))
`;
}

/** @param {Asked} asked @param {Address} to */
export function asJavaScript(asked, { url, hasKey, isGradio }) {
  const headers = literal({ "Content-Type": "application/json", ...(hasKey ? { Authorization: `Bearer ${KEY}` } : {}) });
  const body = literal(isGradio ? { data: Object.values(gradioArguments(asked)) } : apiBody(asked));
  const steps = isGradio
    ? `  .then((response) => response.json())
  .then(({ event_id }) => fetch(\`\${url}/\${event_id}\`))
  .then((response) => response.text())`
    : "  .then((response) => response.json())";
  return `// In a browser this runs on pages of this server${isGradio ? "" : "; other sites need its option --cors-origin"}.
const url = ${literal(url)};
fetch(url, {
  method: "POST",
  headers: ${headers},
  body: JSON.stringify(${body}),
})
${steps}
  .then((answer) => console.log(answer));
`;
}
