// Uploads of a photo in the ways of fetch, or of axios and form-data, and the replies by way.

import { createReadStream, readFileSync } from "node:fs";

const [url, token, path, client] = process.argv.slice(2);
const png = readFileSync(path);
const headers = { Authorization: `Bearer ${token}` };
const made = (form, ...field) => (form.append("data", ...field), form);

async function withFetch(body) {
  return (await fetch(url, { method: "POST", headers, body, duplex: "half" })).json();
}

function byFetch() {
  const bodies = {
    "a Buffer": png,
    "a Blob": new Blob([png]),
    "a form of an untyped Blob": made(new FormData(), new Blob([png])),
    "a form of a Blob with a name": made(new FormData(), new Blob([png], { type: "image/png" }), "a.png"),
    "a form of base64": made(new FormData(), png.toString("base64")),
    "a form of base64url": made(new FormData(), png.toString("base64url")),
    URLSearchParams: new URLSearchParams({ data: png.toString("base64") }),
    "a stream": new Blob([png]).stream(),
    text: png.toString("base64"),
  };
  return Object.entries(bodies).map(([way, body]) => [way, () => withFetch(body)]);
}

async function byAxios() {
  const { default: axios } = await import("axios");
  const { default: FormDataOfNpm } = await import("form-data");
  const bodies = {
    "a Buffer": png,
    "a stream": createReadStream(path),
    JSON: { data: png.toString("base64") },
    "a form of a Blob": made(new FormData(), new Blob([png])),
    "form-data of a stream": made(new FormDataOfNpm(), createReadStream(path)),
    "form-data of a Buffer": made(new FormDataOfNpm(), png),
  };
  const ways = Object.entries(bodies).map(([way, body]) => [way, () => axios.post(url, body, { headers })]);
  ways.push(["postForm", () => axios.postForm(url, { data: png }, { headers })]);
  return ways.map(([way, send]) => [way, async () => (await send()).data]);
}

const replies = {};
for (const [way, send] of await (client === "axios" ? byAxios() : byFetch())) {
  replies[way] = await send();
}
console.log(JSON.stringify(replies));
