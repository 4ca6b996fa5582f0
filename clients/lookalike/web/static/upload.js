// Adding pictures: small batches, two at a time, with an outcome for each file.

import { $, bytes, count, h } from "./dom.js";
import { send } from "./api.js";
import { change, state } from "./state.js";
import { poll } from "./collections.js";

const BATCH_FILES = 16;
const BATCH_BYTES = 8e6;
const LINES = 2;
const MOST_ROWS = 500;
const WORDS = { created: "added", updated: "replaced", unchanged: "was there already", skipped: "left alone" };

let rows = []; // {file, state, element}
let controller = null;

export function mountUpload() {
  $("add").addEventListener("click", () => { reset(); $("upload").showModal(); });
  for (const id of ["upload-files", "upload-folder"]) {
    $(id).addEventListener("change", (event) => {
      stage([...event.target.files]);
      event.target.value = "";
    });
  }
  $("upload-go").addEventListener("click", () => { if (rows.length) go(); });
  $("upload-stop").addEventListener("click", () => controller?.abort());
}

// Put files on the list; nothing is sent before "Add".
export function stage(files) {
  if (controller) return;
  if (!$("upload").open) {
    reset();
    $("upload").showModal();
  }
  if (rows.some((row) => row.state !== "waiting")) reset();
  const pictures = files.filter((file) => !file.name.startsWith("."));
  for (const file of pictures) {
    const element = rows.length < MOST_ROWS ? rowOf(file) : null;
    rows.push({ file, state: "waiting", element });
    if (element) $("upload-list").append(element);
  }
  const total = rows.reduce((sum, row) => sum + row.file.size, 0);
  $("upload-run").hidden = !rows.length;
  $("upload-bar").value = 0;
  $("upload-go").hidden = false;
  $("upload-go").textContent = `Add ${count(rows.length, "picture")}`;
  $("upload-meta").textContent = `${bytes(total)} to “${state.collection}”`;
  $("upload-go").focus();
}

function reset() {
  if (controller) return;
  rows = [];
  $("upload-list").replaceChildren();
  $("upload-run").hidden = true;
}

function rowOf(file) {
  return h("li", { class: "outcome", dataset: { state: "waiting" } },
    h("b", { title: file.name }, file.webkitRelativePath || file.name), h("span", {}, bytes(file.size)));
}

function settle(row, outcome, error) {
  row.state = error || outcome === "failed" ? "failed" : "done";
  row.outcome = row.state === "failed" ? "failed" : outcome;
  if (!row.element) {
    if (row.state !== "failed") return;
    row.element = rowOf(row.file);
    $("upload-list").append(row.element);
  }
  row.element.dataset.state = row.state;
  row.element.lastElementChild.textContent = row.state === "failed" ? "not added" : WORDS[outcome] ?? outcome;
  if (row.state === "failed") {
    row.element.append(h("p", {}, error?.message ?? "It failed."));
    $("upload-list").prepend(row.element);
  }
}

async function go() {
  controller = new AbortController();
  $("upload-go").hidden = true;
  $("upload-stop").hidden = false;
  const batches = cut(rows.filter((row) => row.state === "waiting"));
  const total = rows.reduce((sum, row) => sum + row.file.size, 0) || 1;
  const progress = { done: 0, under: new Map() };
  const tell = () => {
    const sent = progress.done + [...progress.under.values()].reduce((a, b) => a + b, 0);
    $("upload-bar").value = Math.min(sent / total, 1);
  };
  const worker = async () => {
    for (let batch = batches.shift(); batch && !controller.signal.aborted; batch = batches.shift()) {
      await sendBatch(batch, progress, tell);
    }
  };
  await Promise.all(Array.from({ length: LINES }, worker));
  const stopped = controller.signal.aborted;
  controller = null;
  $("upload-stop").hidden = true;
  if (!stopped) $("upload-bar").value = 1;
  summarise(stopped);
  poll();
  change("stored", {});
}

async function sendBatch(batch, progress, tell) {
  const form = new FormData();
  form.append("collection", state.collection);
  form.append("ids", "content");
  for (const { file } of batch) {
    form.append("metadata", JSON.stringify({ name: file.webkitRelativePath || file.name }));
    form.append("file", file, file.name);
  }
  const size = batch.reduce((sum, row) => sum + row.file.size, 0);
  try {
    const { results } = await send("/v1/items", form, (sent, of) => {
      progress.under.set(batch, (size * sent) / of);
      tell();
    }, controller.signal);
    results.forEach((result, i) => settle(batch[i], result.outcome, result.error));
  } catch (error) {
    if (error.name !== "AbortError") for (const row of batch) settle(row, "failed", error);
  }
  progress.under.delete(batch);
  progress.done += size;
  tell();
  $("upload-meta").textContent = `${rows.filter((row) => row.state !== "waiting").length} of ${count(rows.length, "picture")}`;
}

function cut(list) {
  const batches = [];
  let size = 0;
  for (const row of list) {
    const last = batches.at(-1);
    if (!last || last.length === BATCH_FILES || size + row.file.size > BATCH_BYTES) {
      batches.push([row]);
      size = row.file.size;
    } else {
      last.push(row);
      size += row.file.size;
    }
  }
  return batches;
}

function summarise(stopped) {
  const of = (...outcomes) => rows.filter((row) => outcomes.includes(row.outcome)).length;
  const parts = [`${count(of("created", "updated"), "picture")} added`];
  if (of("unchanged", "skipped")) parts.push(`${of("unchanged", "skipped")} were there already`);
  if (of("failed")) parts.push(`${of("failed")} failed`);
  if (stopped) parts.push("stopped");
  $("upload-meta").textContent = parts.join(", ");
}
