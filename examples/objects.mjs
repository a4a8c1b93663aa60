// Print the objects in a PNG, one per line. Needs Node 20 or later and no packages. Set AUGU_URL and AUGU_TOKEN, and run
// `node examples/objects.mjs photo.png`. A reply of 429 (the quota is used up) or 503 (the service is busy) says in
// Retry-After how many seconds to wait; the script gives up after the third.
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const { AUGU_URL, AUGU_TOKEN } = process.env;
const headers = { Authorization: `Bearer ${AUGU_TOKEN}`, "Content-Type": "image/png" };

async function detect(body, tries = 3) {
  const signal = AbortSignal.timeout(30_000);
  const reply = await fetch(`${AUGU_URL}/images/classify/objects`, { method: "POST", headers, body, signal });
  const seconds = Number(reply.headers.get("Retry-After"));
  if ([429, 503].includes(reply.status) && seconds > 0 && seconds <= 60 && tries > 1) {
    await sleep(seconds * 1000);
    return detect(body, tries - 1);
  }
  return reply.json();
}

const { error, message, details, data } = await detect(await readFile(process.argv[2]));
if (error) {
  console.error(`${error}: ${message}`, details ?? "");
  process.exitCode = 1;
} else {
  for (const { name, score, x, y, width, height } of data.objects) console.log(name, score, x, y, width, height);
}
