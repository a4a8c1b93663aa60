// What a client program in Node does: its arguments, its requests, and the line that it prints.

import { readFileSync } from "node:fs";

export const CONNECTIONS = 4;
export const TIMEOUT = 60_000; // milliseconds

const [url, tokens, bodyFile, count, accept] = process.argv.slice(2);
const body = readFileSync(bodyFile);

/** Post `count` times, CONNECTIONS at a time; `post(url, body, headers)` returns the status of a reply read to its end. */
export async function run(post) {
  const statuses = {};
  const lost = {};
  const add = (counts, key) => (counts[key] = (counts[key] ?? 0) + 1);
  const given = tokens.split(",");

  async function connection(_, index) {
    const token = given[index % given.length];
    for (let number = 0; number < Math.floor(count / CONNECTIONS); number++) {
      const headers = {
        Authorization: `Bearer ${token}`,
        Accept: accept,
        "Content-Type": "text/plain",
        "X-Forwarded-For": `10.0.0.${(number % 250) + 1}`, // nginx limits the uploads of each address
      };
      try {
        add(statuses, await post(url, body, headers));
      } catch (error) {
        add(lost, error.cause?.code ?? error.code ?? error.name);
      }
    }
  }

  await Promise.all(Array.from({ length: CONNECTIONS }, connection));
  console.log(JSON.stringify({ statuses, lost }));
}
