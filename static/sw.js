/**
 * Keeps the page for visits without a network. Addresses with ?v= name a content by its hash and are answered from the
 * cache; everything else comes from the network, and from the cache only where there is none.
 */

const scope = new URL("./", location.href);
const PREFIX = `triptych ${scope.pathname} `; // several pages may share an origin
const CACHE = `${PREFIX}${new URL(location.href).searchParams.get("content")}`;
const OWN = /^((engine|model)\/)?[^/]*$/; // in the page's folder there may be other pages
const worker = /** @type {any} */ (self);

worker.addEventListener("install", () => worker.skipWaiting());

worker.addEventListener("activate", (/** @type {any} */ event) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) {
      if (name.startsWith(PREFIX) && name !== CACHE) await caches.delete(name);
    }
    await worker.clients.claim();
  })());
});

worker.addEventListener("message", (/** @type {any} */ event) => {
  const keep = Array.isArray(event.data?.keep) ? event.data.keep.slice(0, 200) : [];
  event.waitUntil((async () => {
    const cache = await caches.open(CACHE);
    for (const address of keep) {
      if (isOurs(new URL(address, scope)) && !(await cache.match(address))) await cache.add(address).catch(() => {});
    }
  })());
});

worker.addEventListener("fetch", (/** @type {any} */ event) => {
  const { request } = event;
  const address = new URL(request.url);
  if (request.method === "GET" && isOurs(address)) event.respondWith(answer(event, request, address));
});

/** @param {URL} address */
function isOurs(address) {
  const isBelow = address.origin === scope.origin && address.pathname.startsWith(scope.pathname);
  return isBelow && OWN.test(nameOf(address)) && nameOf(address) !== "sw.js";
}

/** @param {URL} address  below the page's folder */
function nameOf(address) {
  return address.pathname.slice(scope.pathname.length);
}

/** @param {any} event @param {Request} request @param {URL} address */
async function answer(event, request, address) {
  const cache = await caches.open(CACHE);
  // A page may be opened with any ?query or as index.html; its files are one page.
  const key = request.mode === "navigate" && ["", "index.html"].includes(nameOf(address)) ? scope.href : request;
  const isFixed = address.searchParams.has("v") && request.cache !== "reload";
  const kept = isFixed ? await cache.match(key) : undefined;
  if (kept) return kept;
  try {
    const response = await fetch(request);
    // Kept while it streams on, so that the page sees its progress.
    if (response.status === 200 && !response.redirected) event.waitUntil(cache.put(key, response.clone()).catch(() => {}));
    return response;
  } catch (error) {
    const old = await cache.match(key);
    if (old) return old;
    throw error;
  }
}
