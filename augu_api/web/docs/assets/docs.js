// The forms of the documentation: each sends the request of its operation and shows the reply, always as text.

import { explain } from "./service.js";

const token = document.getElementById("token");
token.value = localStorage.getItem("augu-token") ?? ""; // the page at / keeps it there
token.form.addEventListener("submit", (event) => event.preventDefault());

for (const form of document.querySelectorAll("form[hidden]")) form.hidden = false;
for (const form of document.querySelectorAll("form.try")) {
  const type = form.elements.type;
  type?.addEventListener("change", () => choose(form, type.value));
  choose(form, type?.value);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(form);
  });
}

/** Unfold what the address names. */
function reveal() {
  const named = document.getElementById(location.hash.slice(1));
  if (!named?.closest("details")) return;
  named.closest("details").open = true;
  named.scrollIntoView();
}

addEventListener("hashchange", reveal);
reveal();

/** Show only the fields of the chosen kind of body. */
function choose(form, kind) {
  for (const fieldset of form.querySelectorAll("fieldset")) fieldset.hidden = fieldset.dataset.type !== kind;
}

async function send(form) {
  const [status, problem, shown] = form.querySelectorAll("[role=status], .problem, .reply");
  const button = form.querySelector("button");
  status.textContent = "Waiting for the reply …";
  problem.hidden = button.disabled = true;
  shown.replaceChildren();
  try {
    const options = await optionsOf(form);
    const started = performance.now();
    const response = await fetch(pathOf(form), options);
    const body = await response.blob();
    const milliseconds = Math.round(performance.now() - started);
    status.textContent = `${response.status} ${response.statusText} in ${milliseconds} ms`;
    if (!response.ok) complain(problem, response, await body.text());
    const headers = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    shown.replaceChildren(...(await bodyOf(body)), ...part("Headers", headers));
  } catch (error) {
    status.textContent = `No reply. ${error.message}`;
  }
  button.disabled = false;
}

function pathOf(form) {
  const inputs = [...form.querySelectorAll("[data-in]")];
  const query = inputs.filter((input) => input.dataset.in === "query" && input.value.trim());
  const path = inputs
    .filter((input) => input.dataset.in === "path")
    .reduce((path, input) => path.replace(`{${input.name}}`, encodeURIComponent(input.value)), `.${form.dataset.path}`);
  return query.length ? `${path}?${new URLSearchParams(query.map((input) => [input.name, input.value.trim()]))}` : path;
}

async function optionsOf(form) {
  const options = { method: form.dataset.method, headers: {}, cache: "no-store" };
  if (token.value.trim()) options.headers.Authorization = `Bearer ${token.value.trim()}`;
  if (form.elements.accept) options.headers.Accept = form.elements.accept.value;
  const kind = form.elements.type?.value;
  if (!kind) return options;
  const fieldset = form.querySelector(`fieldset[data-type="${kind}"]`);
  if (kind === "multipart/form-data") {
    options.body = new FormData();
    for (const input of fieldset.querySelectorAll("input")) {
      if (input.type === "file") options.body.append(input.dataset.field, await fileOf(input));
      else if (input.value.trim()) options.body.append(input.dataset.field, input.value.trim());
    }
    return options; // the browser sets Content-Type itself, with the boundary that it chose
  }
  const text = fieldset.querySelector("textarea");
  options.body = text ? text.value : await fileOf(fieldset.querySelector("input"));
  options.headers["Content-Type"] = kind;
  return options;
}

/** The chosen file, or the documented example. */
async function fileOf(input) {
  if (input.files.length) return input.files[0];
  const example = await (await fetch(input.dataset.file)).blob();
  return new File([example], "example.png", { type: example.type });
}

function complain(problem, response, text) {
  let reply = null;
  try {
    reply = JSON.parse(text);
  } catch {
    // a proxy's page, for example
  }
  const { title, hint, left } = explain(response, reply);
  problem.textContent = [title, hint, left].join(" ");
  problem.hidden = false;
}

async function bodyOf(body) {
  if (!body.type.startsWith("image/")) return part("Body", pretty(await body.text(), body.type));
  const image = document.createElement("img");
  image.src = URL.createObjectURL(body);
  image.alt = "The reply's picture";
  image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  return [image];
}

function pretty(text, type) {
  try {
    return type === "application/json" ? JSON.stringify(JSON.parse(text), null, 2) : text;
  } catch {
    return text;
  }
}

function part(title, text) {
  const [heading, block] = [document.createElement("h4"), document.createElement("pre")];
  [heading.textContent, block.textContent] = [title, text];
  return [heading, block];
}
