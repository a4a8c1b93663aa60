// The page to try the endpoint by hand: it turns a photo into a PNG, sends it, and draws boxes around the objects.

import { paint } from "./colours.js";
import { explain, quota } from "./service.js";

const ENDPOINT = new URL("images/classify/objects", document.baseURI).href; // the page may be under any path
const LEAST = 5; // percent: the slider's minimum
const MAX_BYTES = 5 * 1024 * 1024;
const KEPT = "augu-token";
const $ = (id) => document.getElementById(id);
const MAX_PIXELS = Number($("main").dataset.maxPixels);
const shown = { objects: [], language: "curl", pixels: "" };

// --- the token

$("token").value = localStorage.getItem(KEPT) ?? "";
$("keep").checked = localStorage.getItem(KEPT) !== null;
$("account").addEventListener("submit", (event) => {
  event.preventDefault();
  sendWaiting();
});
$("account").addEventListener("input", (event) => {
  if ($("keep").checked) localStorage.setItem(KEPT, token());
  else localStorage.removeItem(KEPT);
  if (event.inputType === "insertFromPaste" && token() !== tried) sendWaiting();
});
$("token").addEventListener("change", () => {
  if (token() !== tried) sendWaiting();
});

let tried = ""; // the token that was sent last
let waiting = null; // the photo to send once there is a token, or a better one

function token() {
  return $("token").value.trim();
}

function sendWaiting() {
  if (waiting && token()) take(waiting);
}

function waitForToken(file) {
  waiting = file;
  $("send").hidden = false;
  $("token").focus();
  say("The photo is sent as soon as you enter the token.");
}

// --- the photo, from wherever it comes

$("file").addEventListener("change", () => take($("file").files[0]));
$("example").addEventListener("click", async () => take(await (await fetch("assets/example.png")).blob()));
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files[0]);
});

let latest = 0; // the reply to an earlier photo must not overwrite a later one

async function take(file) {
  if (!file) return;
  const mine = ++latest;
  say("Reading the photo …");
  $("problem").hidden = $("result").hidden = $("request").hidden = $("send").hidden = true;
  $("file").value = ""; // the same photo may be chosen again
  waiting = null;
  try {
    const png = await toPNG(file);
    if (mine === latest) say("Looking for objects …");
    const reply = await ask(png.blob);
    if (mine === latest) show(png, reply);
  } catch (problem) {
    if (mine !== latest) return;
    complain(problem);
    if (problem.needsToken) waitForToken(file);
  }
}

/** The photo as the browser shows it, as a PNG; scaled down if it is too large for the service. */
async function toPNG(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw { title: "This browser cannot show that file.", hint: "Choose a photo: a JPEG, PNG or WebP, for example." };
  }
  let scale = Math.min(1, Math.sqrt(MAX_PIXELS / (bitmap.width * bitmap.height)));
  for (;;) {
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.floor(bitmap.width * scale));
    canvas.height = Math.max(1, Math.floor(bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    if (blob?.size <= MAX_BYTES) return { blob, width: canvas.width, height: canvas.height };
    scale *= blob ? 0.95 * Math.sqrt(MAX_BYTES / blob.size) : 0.5; // no blob: larger than this browser can draw
  }
}

async function ask(blob) {
  tried = token();
  if (!tried) throw { title: "Enter your token.", hint: "You get it from the operator.", needsToken: true };
  const started = performance.now();
  const headers = { Authorization: `Bearer ${tried}`, "Content-Type": "image/png" };
  let response;
  try {
    response = await fetch(`${ENDPOINT}?min_score=${LEAST}`, { method: "POST", headers, body: blob });
  } catch {
    throw { title: "The service does not answer.", hint: "Is it running, and are you online?" };
  }
  const reply = await response.json().catch(() => null);
  if (!response.ok || !reply) throw explain(response, reply);
  return { ...reply.data, milliseconds: performance.now() - started, quota: quota(response) };
}

// --- what is shown

function say(text) {
  $("status").textContent = text;
}

function complain({ title, hint, left = "" }) {
  say(left);
  const strong = document.createElement("strong");
  strong.textContent = title;
  const paragraph = document.createElement("p");
  paragraph.append(strong, " ", hint);
  $("problem").replaceChildren(paragraph);
  $("problem").hidden = false;
}

function show(png, reply) {
  shown.objects = reply.objects;
  const url = URL.createObjectURL(png.blob);
  URL.revokeObjectURL($("save").href);
  $("picture").src = $("save").href = url;
  $("facts").textContent =
    `${png.width} x ${png.height} pixels. The service took ${reply.took} ms, ` +
    `the whole request ${Math.round(reply.milliseconds)} ms. ${reply.quota}`;
  shown.pixels = { width: png.width, height: png.height };
  $("result").hidden = $("request").hidden = false;
  draw();
}

$("score").addEventListener("input", draw);

function draw() {
  const least = Number($("score").value);
  const objects = shown.objects.filter((item) => item.score >= least);
  $("least").textContent = least;
  $("none").hidden = objects.length > 0;
  $("boxes").replaceChildren(...objects.map(boxOf).reverse()); // the best is on top
  $("list").replaceChildren(...objects.map(lineOf));
  const names = objects.map((item) => item.name).join(", ");
  $("picture").alt = objects.length ? `Your photo, with boxes around: ${names}` : "Your photo";
  say(objects.length === 1 ? "1 object found." : `${objects.length} objects found.`);
  $("program").textContent = PROGRAMS[shown.language](least);
}

function boxOf(item) {
  const box = document.createElement("div");
  const { width, height } = shown.pixels;
  box.className = "box";
  box.style.left = `${(100 * item.x) / width}%`;
  box.style.top = `${(100 * item.y) / height}%`;
  box.style.width = `${(100 * item.width) / width}%`;
  box.style.height = `${(100 * item.height) / height}%`;
  paint(box, item.name);
  const label = document.createElement("span");
  label.textContent = `${item.name} ${Math.round(item.score)}`;
  box.append(label);
  item.box = box;
  return box;
}

function lineOf(item) {
  const line = document.createElement("li");
  const button = document.createElement("button");
  const swatch = document.createElement("i");
  const score = document.createElement("b");
  button.type = "button";
  paint(swatch, item.name);
  score.textContent = `${item.score.toFixed(2)} %`;
  button.append(swatch, item.name, score);
  for (const kind of ["mouseenter", "focus"]) button.addEventListener(kind, () => item.box.classList.add("lit"));
  for (const kind of ["mouseleave", "blur"]) button.addEventListener(kind, () => item.box.classList.remove("lit"));
  line.append(button);
  return line;
}

// --- the same request elsewhere

const PROGRAMS = {
  curl: (least) => `curl --fail-with-body -H "Authorization: Bearer $AUGU_TOKEN" -H "Content-Type: image/png" \\
     --data-binary @photo.png "${ENDPOINT}?min_score=${least}"`,
  python: (least) => `import os
import sys

import requests

with open("photo.png", "rb") as photo:
    response = requests.post(
        "${ENDPOINT}",
        params={"min_score": ${least}},
        headers={"Authorization": f"Bearer {os.environ['AUGU_TOKEN']}", "Content-Type": "image/png"},
        data=photo,
        timeout=60,
    )
if not response.ok:
    sys.exit(response.text)  # message and details
for item in response.json()["data"]["objects"]:
    print(item["name"], item["score"], item["x"], item["y"], item["width"], item["height"])`,
  javascript: (least) => `import { readFile } from "node:fs/promises";

const response = await fetch("${ENDPOINT}?min_score=${least}", {
  method: "POST",
  headers: { Authorization: \`Bearer \${process.env.AUGU_TOKEN}\`, "Content-Type": "image/png" },
  body: await readFile("photo.png"),
});
const text = await response.text();
if (!response.ok) {
  console.error(text); // message and details
  process.exit(1);
}
for (const { name, score, x, y, width, height } of JSON.parse(text).data.objects) {
  console.log(name, score, x, y, width, height);
}`,
};

for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    shown.language = button.dataset.language;
    for (const other of document.querySelectorAll("[data-language]")) {
      other.setAttribute("aria-pressed", other === button);
    }
    draw();
  });
}

$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("program").textContent);
    $("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("program")); // browsers do not allow it over plain http: select the text instead
    $("copy").textContent = "Press Ctrl+C";
  }
  setTimeout(() => ($("copy").textContent = "Copy"), 2000);
});
