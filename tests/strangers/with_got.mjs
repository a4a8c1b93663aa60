// A client with got and Node's keep-alive agent.

import { Agent } from "node:http";

import got from "got";

import { CONNECTIONS, run, TIMEOUT } from "./task.mjs";

const http = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
const client = got.extend({ agent: { http }, retry: { limit: 0 }, throwHttpErrors: false, timeout: { request: TIMEOUT } });

await run(async (url, body, headers) => (await client.post(url, { body, headers })).statusCode);
http.destroy();
