// Node-RED without its editor, with a flow of node-red-contrib-deepstack: reads photos in base64 from its standard input, and
// prints what the node sends for each of them. Ends with what Node-RED shows to its user if there is an error.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";

import runtime from "@node-red/runtime";
import util from "@node-red/util";

const [host, port, apiKey, confidence] = process.argv.slice(2);
const nodesDir = fileURLToPath(new URL("node_modules/node-red-contrib-deepstack", import.meta.url));
const userDir = mkdtempSync(join(tmpdir(), "node-red-"));
process.on("exit", () => rmSync(userDir, { recursive: true }));
const FLOW = [
  { id: "tab", type: "tab" },
  { id: "server", type: "deepstack-server", proto: "http", host, port, version: "v1" },
  {
    ...{ id: "detection", type: "deepstack-object-detection", z: "tab", server: "server", confidence, filters: [] },
    wires: [["detection"]], // a node without wires sends nothing
  },
];
writeFileSync(join(userDir, "flows.json"), JSON.stringify(FLOW));
writeFileSync(join(userDir, "flows_cred.json"), JSON.stringify({ server: { apiKey } }));

/** What the node sends for a photo. */
function detected(photo) {
  return new Promise((resolve) => {
    util.hooks.add("onSend.test", ([event]) => {
      resolve(event.msg.payload);
      return false; // deliver it to no other node
    });
    runtime._.nodes.getNode("detection").receive({ payload: Buffer.from(photo, "base64") });
  }).finally(() => util.hooks.remove("onSend.test"));
}

/** Exit with the first error that is logged, which Node-RED shows to its user. */
function emit(_, { level, msg }) {
  if (level <= util.log.ERROR) {
    console.error(String(msg));
    process.exit(1);
  }
}

const settings = { userDir, nodesDir, flowFile: "flows.json", credentialSecret: false, logging: { console: { level: "off" } } };
util.init(settings);
util.log.addHandler({ emit });
runtime.init(settings);
const started = new Promise((resolve) => util.events.once("flows:started", resolve));
await runtime.start();
await started;
const replies = [];
for (const photo of JSON.parse(await text(process.stdin))) {
  replies.push(await detected(photo));
}
process.stdout.write(JSON.stringify(replies), () => process.exit());
