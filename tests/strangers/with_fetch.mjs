// A client with Node's own fetch.

import { run, TIMEOUT } from "./task.mjs";

await run(async (url, body, headers) => {
  const response = await fetch(url, { method: "POST", body, headers, signal: AbortSignal.timeout(TIMEOUT) });
  await response.arrayBuffer();
  return response.status;
});
