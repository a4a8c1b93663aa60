// A client of Augu API in one file, for Node 20 or later, without packages. In a program:
//
//     import { Client } from "./client.mjs";
//     const client = new Client("http://127.0.0.1:8000", token);
//     const { objects } = await client.objects("photo.png", { minScore: 60 });
//
// From a shell, with AUGU_URL and AUGU_TOKEN set, `node examples/client.mjs photo.png` prints one object per line.
//
// Photos are PNG: Node has no decoder for other formats, and the error for them shows two ways to make a PNG.
import { realpathSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { STATUS_CODES } from "node:http";
import { setTimeout as wait } from "node:timers/promises";
import { fileURLToPath } from "node:url";

/**
 * @typedef {string | URL | ArrayBuffer | ArrayBufferView | Blob} Photo a path, or the bytes of a PNG
 * @typedef {{minScore?: number, limit?: number, names?: string | string[]}} Parameters which objects are returned
 * @typedef {{name: string, x: number, y: number, width: number, height: number, score: number}} Item one object: its
 *     box in pixels from the top-left corner of the photo, and its score in percent
 * @typedef {{objects: Item[], took: number}} Objects the objects, best score first, and the milliseconds it took
 * @typedef {{retries?: number, maxWait?: number, timeout?: number, userAgent?: string,
 *     sleep?: (seconds: number) => Promise<unknown>}} Options in seconds
 */

const PNG_SIGNATURE = Buffer.from("\x89PNG\r\n\x1a\n", "latin1");
const MAX_JSON = 2 ** 20; // bytes
const MAX_PNG = 2 ** 25;
const RETRIED = [429, 503];

/** A photo that cannot be sent; the message says why, in one line. */
export class InvalidPhoto extends Error {
  name = "InvalidPhoto";
}

/** A call that failed; the message has everything that the service says about it, in one line. */
export class CallFailed extends Error {
  name = "CallFailed";

  /**
   * @param {number | null} status the status of the reply, or null without a reply
   * @param {string} error a short name
   * @param {string} reason a sentence
   * @param {unknown} details the reasons by field, if the service sent them
   * @param {number | null} retryAfter the whole seconds to wait, if the service sent them
   */
  constructor(status, error, reason, details = undefined, retryAfter = null) {
    super([status, `${error}:`, reason, text(details)].filter(Boolean).join(" "));
    this.status = status;
    this.error = error;
    this.reason = reason;
    this.details = details;
    this.retryAfter = retryAfter;
  }
}

/**
 * A client of the service at `url`.
 *
 * A reply of 429 or 503 is retried after the seconds in its Retry-After, at most `retries` times, and only if the
 * retry starts within `maxWait` seconds of the call. Other failures are not retried, nor is a ban. Each try may take
 * `timeout` seconds. Redirects are not followed, as only this address may see the token.
 */
export class Client {
  #token;

  /**
   * @param {string} url
   * @param {string} token
   * @param {Options} options
   */
  constructor(url, token, options = {}) {
    if (!/^https?:\/\/[^\s/?#@]+(\/[^\s?#]*)?$/.test(url) || !URL.canParse(url))
      throw new TypeError("The url must look like https://host:port and contain no password.");
    if (!/^[A-Za-z0-9._~+/=-]+$/.test(token))
      throw new TypeError("The token is empty or contains an invalid character.");
    this.url = url.replace(/\/+$/, "");
    this.#token = token;
    this.retries = options.retries ?? 3;
    this.maxWait = options.maxWait ?? 90;
    this.timeout = options.timeout ?? 30;
    this.userAgent = options.userAgent ?? "augu-api-client-node";
    this.sleep = options.sleep ?? ((seconds) => wait(seconds * 1000));
  }

  /**
   * Find the objects in a photo. Throws CallFailed and InvalidPhoto.
   * @param {Photo} photo
   * @param {Parameters} parameters
   * @returns {Promise<Objects>}
   */
  async objects(photo, parameters = {}) {
    const { status, body } = await this.#detect(photo, parameters, "application/json", MAX_JSON);
    const data = this.#envelope(status, body).data;
    if (!Array.isArray(data?.objects)) throw this.#unexpected(status, "this is not its data");
    return data;
  }

  /**
   * The photo as a PNG with boxes drawn, at most `maxSide` pixels wide and high. Throws CallFailed and InvalidPhoto.
   * @param {Photo} photo
   * @param {Parameters & {maxSide?: number}} parameters
   * @returns {Promise<Buffer>}
   */
  async annotated(photo, parameters = {}) {
    const { status, body } = await this.#detect(photo, parameters, "image/png", MAX_PNG);
    if (!isPng(body)) throw this.#unexpected(status, "this is not a PNG");
    return body;
  }

  /**
   * @param {Photo} photo
   * @param {Parameters & {maxSide?: number}} parameters
   * @param {string} accept
   * @param {number} maxBytes
   */
  async #detect(photo, { minScore, limit, names, maxSide }, accept, maxBytes) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries({ min_score: minScore, limit, names, max_side: maxSide }))
      if (value !== undefined) query.set(name, `${value}`);
    const request = {
      method: "POST",
      headers: {
        Accept: accept,
        Authorization: `Bearer ${this.#token}`,
        "Content-Type": "image/png",
        "User-Agent": this.userAgent,
      },
      body: /** @type {Uint8Array<ArrayBuffer>} */ (await pngOf(photo)),
      redirect: /** @type {const} */ ("manual"),
    };
    const deadline = performance.now() + this.maxWait * 1000;
    for (let retries = this.retries; ; retries--) {
      const reply = await this.#once(`${this.url}/images/classify/objects?${query}`, request, maxBytes);
      if (reply.status === 200) return reply;
      const { status, body, retryAfter } = reply;
      const inTime = retryAfter !== null && performance.now() + retryAfter * 1000 <= deadline;
      if (!RETRIED.includes(status) || !inTime || retries <= 0) {
        const { error, message, details } = this.#envelope(status, body, retryAfter);
        throw new CallFailed(status, `${error}`, `${message}`, details, retryAfter);
      }
      await this.sleep(retryAfter);
    }
  }

  /**
   * @param {string} url
   * @param {RequestInit} request
   * @param {number} maxBytes
   */
  async #once(url, request, maxBytes) {
    try {
      const reply = await fetch(url, { ...request, signal: AbortSignal.timeout(this.timeout * 1000) });
      const body = await read(reply, maxBytes);
      if (body === null) throw this.#unexpected(reply.status, `this is more than ${maxBytes} bytes`);
      const wait = reply.headers.get("Retry-After") ?? "";
      return { status: reply.status, body, retryAfter: /^[0-9]{1,9}$/.test(wait) ? Number(wait) : null };
    } catch (error) {
      if (error instanceof CallFailed) throw error;
      const { message, cause } = /** @type {Error & {cause?: {code?: string}}} */ (error);
      throw new CallFailed(null, "No reply", `${this.url} did not answer: ${cause?.code ?? message}.`);
    }
  }

  /**
   * The reply's JSON object; if a proxy echoes the token, it is removed.
   * @param {number} status
   * @param {Buffer} body
   * @param {number | null} retryAfter
   */
  #envelope(status, body, retryAfter = null) {
    try {
      const envelope = JSON.parse(body.toString().replaceAll(this.#token, "..."));
      if (envelope?.statusCode === status) return envelope;
    } catch {
      // not JSON
    }
    const redirect = status >= 300 && status < 400;
    const why = redirect ? "this is a redirect, which is not followed" : "this is not its JSON";
    throw this.#unexpected(status, why, retryAfter);
  }

  /**
   * @param {number} status
   * @param {string} why
   * @param {number | null} retryAfter
   */
  #unexpected(status, why, retryAfter = null) {
    const reason = `${this.url} does not answer as Augu API does: ${why}.`;
    return new CallFailed(status, STATUS_CODES[status] ?? "Unknown", reason, undefined, retryAfter);
  }
}

/**
 * The texts in JSON, with the names of their fields.
 * @param {unknown} details
 * @returns {string}
 */
function text(details, depth = 3) {
  if (details === null || details === undefined) return "";
  if (typeof details !== "object") return `${details}`;
  if (!depth) return "";
  if (Array.isArray(details)) return details.map((value) => text(value, depth - 1)).join(" ");
  return Object.entries(details).map(([name, value]) => `${name}: ${text(value, depth - 1)}`).join("; ");
}

/**
 * The reply's body, or null if it is longer than is allowed, of which no more is read.
 * @param {Response} reply
 * @param {number} maxBytes
 */
async function read(reply, maxBytes) {
  const chunks = [];
  let length = 0;
  for await (const chunk of /** @type {AsyncIterable<Uint8Array>} */ (/** @type {unknown} */ (reply.body ?? []))) {
    length += chunk.length;
    if (length > maxBytes) return null;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** @param {Buffer} bytes */
function isPng(bytes) {
  return bytes.subarray(0, PNG_SIGNATURE.length).equals(PNG_SIGNATURE);
}

/**
 * The bytes of a PNG. Throws InvalidPhoto.
 * @param {Photo} photo
 */
async function pngOf(photo) {
  const bytes = await bytesOf(photo);
  if (isPng(bytes)) return bytes;
  if (!bytes.length) throw new InvalidPhoto("The photo is empty.");
  const name = typeof photo === "string" ? photo : "photo.jpg";
  throw new InvalidPhoto(
    "The photo is not a PNG, and Node cannot convert it. Make one with ImageMagick: " +
      `magick ${name} -auto-orient -resize 1280x1280 photo.png; or with the package sharp: ` +
      `sharp("${name}").rotate().resize(1280, 1280, { fit: "inside" }).png().toBuffer()`,
  );
}

/** @param {Photo} photo */
async function bytesOf(photo) {
  if (photo instanceof Blob) return Buffer.from(await photo.arrayBuffer());
  if (photo instanceof ArrayBuffer) return Buffer.from(photo);
  if (ArrayBuffer.isView(photo)) return Buffer.from(photo.buffer, photo.byteOffset, photo.byteLength);
  if (typeof photo !== "string" && !(photo instanceof URL))
    throw new InvalidPhoto("A photo is a path, an ArrayBuffer, an array of bytes or a Blob.");
  try {
    return await readFile(photo);
  } catch (error) {
    throw new InvalidPhoto(`The photo cannot be read: ${/** @type {Error} */ (error).message.slice(0, 300)}`);
  }
}

/** @param {string[]} photos */
async function main(photos) {
  const { AUGU_URL, AUGU_TOKEN } = process.env;
  if (photos.length !== 1) throw new TypeError("Usage: node examples/client.mjs photo.png");
  if (!AUGU_URL) throw new TypeError("Set AUGU_URL to the address of the service, such as http://127.0.0.1:8000.");
  if (!AUGU_TOKEN) throw new TypeError("Set AUGU_TOKEN to your token.");
  const { objects } = await new Client(AUGU_URL, AUGU_TOKEN).objects(photos[0]);
  for (const { name, score, x, y, width, height } of objects) console.log(name, score, x, y, width, height);
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  main(process.argv.slice(2)).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
}
