/** Fetch a packed file with its progress, unpack it, and check that it is the one that was staged. */

/**
 * @typedef {object} StagedFile
 * @property {string} path
 * @property {number} bytes packed
 * @property {number} unpacked
 * @property {string} sha256 of the unpacked bytes
 */

/** A message for people. */
export class EngineError extends Error {
  /**
   * @param {"input" | "load" | "run"} kind
   * @param {string} message
   */
  constructor(kind, message) {
    super(message);
    this.name = "EngineError";
    this.kind = kind;
  }
}

/** Something else than the file that was staged. */
class DamagedError extends EngineError {
  /** @param {StagedFile} file */
  constructor(file) {
    super("load", `${file.path} is not the file that belongs to this page. Reload the page.`);
  }
}

/**
 * Return the unpacked bytes of a file of the page.
 * @param {StagedFile} file
 * @param {string} base address of the page's folder
 * @param {(share: number) => void} onProgress called with the share of the file that is here
 * @param {AbortSignal} signal
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
export async function fetchFile(file, base, onProgress, signal) {
  try {
    return await fetchOnce(file, base, onProgress, signal, "default");
  } catch (error) {
    if (!(error instanceof DamagedError)) throw error;
    // A host may have sent a page about an error, and caches keep that.
    return fetchOnce(file, base, onProgress, signal, "reload");
  }
}

/**
 * @param {StagedFile} file
 * @param {string} base
 * @param {(share: number) => void} onProgress
 * @param {AbortSignal} signal
 * @param {RequestCache} cache
 */
async function fetchOnce(file, base, onProgress, signal, cache) {
  const packed = await download(file, base, onProgress, signal, cache);
  // A host may have unpacked it already: the first bytes say so, and no header does.
  const isPacked = packed[0] === 0x1f && packed[1] === 0x8b;
  const content = isPacked ? await inflate(packed, file) : packed;
  if (content.length !== file.unpacked || (await isOther(content, file.sha256))) throw new DamagedError(file);
  return content;
}

/**
 * @param {StagedFile} file
 * @param {string} base
 * @param {(share: number) => void} onProgress
 * @param {AbortSignal} signal
 * @param {RequestCache} cache
 */
async function download(file, base, onProgress, signal, cache) {
  // A digest in the address: the page's service worker may keep it for good.
  const address = new URL(`${file.path}?v=${file.sha256.slice(0, 16)}`, base);
  const response = await fetch(address, { signal, cache }).catch(async () => {
    signal.throwIfAborted();
    const answer = await fetch(address, { signal, redirect: "manual" }).catch(() => null);
    const reason = answer?.type === "opaqueredirect" ? ": the host sends it from another address, which the page may not ask" : "";
    const remedy = reason ? "Serve the page's folder from a host that does not." : "Check the connection and try again.";
    throw new EngineError("load", `${file.path} cannot be fetched${reason}. ${remedy}`);
  });
  if (!response.ok || !response.body) {
    throw new EngineError("load", `${file.path} cannot be fetched (HTTP ${response.status}). Try again later.`);
  }
  const most = Math.max(file.bytes, file.unpacked);
  /** @type {Uint8Array<ArrayBuffer>[]} */
  const parts = [];
  let received = 0;
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      received += value.length;
      if (received > most) throw new DamagedError(file);
      parts.push(value);
      const isPacked = parts[0][0] === 0x1f && (parts[0].length < 2 || parts[0][1] === 0x8b);
      onProgress(Math.min(1, received / (isPacked ? file.bytes : file.unpacked)));
    }
  } catch (error) {
    await reader.cancel().catch(() => {});
    signal.throwIfAborted();
    if (error instanceof EngineError) throw error;
    throw new EngineError("load", `The connection broke off while ${file.path} was fetched. Try again.`);
  }
  return joined(parts, received);
}

/**
 * @param {Uint8Array<ArrayBuffer>} packed
 * @param {StagedFile} file
 */
async function inflate(packed, file) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const content = new Uint8Array(file.unpacked); // known, so that nothing is copied and no bomb unfolds
  let length = 0;
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      content.set(value, length); // raises past the end
      length += value.length;
    }
  } catch {
    await reader.cancel().catch(() => {});
    throw new DamagedError(file);
  }
  return content.subarray(0, length);
}

/**
 * @param {Uint8Array<ArrayBuffer>} content
 * @param {string} expected
 */
async function isOther(content, expected) {
  if (!globalThis.crypto?.subtle) return false; // only HTTPS and localhost have it
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("") !== expected;
}

/**
 * @param {Uint8Array<ArrayBuffer>[]} parts
 * @param {number} length
 */
function joined(parts, length) {
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
