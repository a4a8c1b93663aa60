// A client with axios and Node's keep-alive agent.

import { Agent } from "node:http";

import axios from "axios";

import { CONNECTIONS, run, TIMEOUT } from "./task.mjs";

const httpAgent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });

await run(async (url, body, headers) => {
  const response = await axios.post(url, body, { headers, httpAgent, timeout: TIMEOUT, validateStatus: () => true });
  return response.status;
});
httpAgent.destroy();
