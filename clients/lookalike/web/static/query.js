// The query's side: a picture by drop, paste or choice, a part of it, words, refinements.

import { $, h, imageUrl, nameOf, shortId, thumbnailOf } from "./dom.js";
import { change, emptyQuery, listen, mark, state } from "./state.js";
import { mountRegion } from "./region.js";
import { stage } from "./upload.js";
import { tell } from "./results.js";

const DRAGGED = "application/x-lookalike-item";
const shown = { key: null };
let pictures = 0;
let limits = { max_image_bytes: 32 * 2 ** 20 };
export const kept = new Map(); // key -> picture, so that Back finds it again

export function setLimits(found) {
  limits = { ...limits, ...found };
}

// Search with a file. Several are not a query, but something to store.
export function takePicture(blob, name) {
  performance.mark("lookalike-drop");
  if (blob.size > limits.max_image_bytes) {
    tell(`The file has ${Math.round(blob.size / 2 ** 20)} MiB; at most ${Math.round(limits.max_image_bytes / 2 ** 20)} are taken. Use a smaller copy.`);
    return;
  }
  pictures += 1;
  const picture = { blob, name: name || "pasted picture", url: URL.createObjectURL(blob), key: String(pictures) };
  kept.set(picture.key, picture);
  change("query", { ...emptyQuery(), text: state.text, picture });
}

export function takeItem(item) {
  change("query", { ...emptyQuery(), item: { id: item.id, item } });
  scrollTo({ top: 0 });
}

function takeFiles(files) {
  if (files.length === 1) takePicture(files[0], files[0].name);
  else if (files.length > 1) stage(files);
}

export function mountQuery() {
  mountRegion();
  $("file").addEventListener("change", (event) => {
    takeFiles([...event.target.files]);
    event.target.value = "";
  });
  $("clear").addEventListener("click", () => {
    change("query", { ...emptyQuery(), text: state.text });
    $("file").focus();
  });
  $("home").addEventListener("click", (event) => {
    event.preventDefault();
    change("query", emptyQuery());
  });
  $("preview").addEventListener("error", () => { $("no-preview").hidden = !state.picture; });
  mountText();
  mountDrop();
  addEventListener("paste", paste);
  listen(render);
}

function mountText() {
  const set = () => {
    const text = $("text").value.trim();
    if (text !== state.text) change("query", { text });
  };
  $("text-form").addEventListener("submit", (event) => { event.preventDefault(); set(); });
  $("text").addEventListener("search", set);
  $("text").addEventListener("change", set);
}

function paste(event) {
  const files = [...(event.clipboardData?.files ?? [])];
  if (!files.length) return;
  event.preventDefault();
  takeFiles(files);
}

function mountDrop() {
  let depth = 0;
  const over = (on) => {
    $("drop").classList.toggle("over", on);
    $("veil").hidden = !on || $("upload").open;
  };
  const wants = (event) => {
    const types = event.dataTransfer?.types ?? [];
    return types.includes("Files") || types.includes(DRAGGED);
  };
  addEventListener("dragenter", (event) => { if (wants(event)) { depth += 1; over(true); } });
  addEventListener("dragleave", (event) => { if (wants(event)) { depth = Math.max(0, depth - 1); over(depth > 0); } });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    over(false);
    const files = [...event.dataTransfer.files];
    const dragged = event.dataTransfer.getData(DRAGGED);
    if (dragged) takeItem(JSON.parse(dragged));
    else if ($("upload").open) stage(files);
    else if (files.length) takeFiles(files);
    else tell("Only files can be dropped here: this page fetches nothing from elsewhere. Save the picture first.");
  });
}

export function dragItem(event, item) {
  event.dataTransfer.setData(DRAGGED, JSON.stringify(item));
  event.dataTransfer.effectAllowed = "copy";
}

function render() {
  const { picture, item } = state;
  const key = picture ? `p${picture.key}` : item ? `i${state.collection}/${item.id}` : null;
  if (key !== shown.key) {
    shown.key = key;
    renderShown(picture, item);
  }
  if (document.activeElement !== $("text")) $("text").value = state.text;
  renderMarks();
}

function renderShown(picture, item) {
  const preview = $("preview");
  const name = picture?.name ?? (item ? (item.item ? nameOf(item.item) : shortId(item.id)) : "");
  $("no-preview").hidden = true;
  $("drop-empty").hidden = Boolean(picture || item);
  $("shown").hidden = !(picture || item);
  $("drop").classList.toggle("full", Boolean(picture || item));
  $("shown-name").textContent = name;
  $("shown-name").title = item?.id ?? name;
  preview.alt = name ? `Query: ${name}` : "";
  if (picture) preview.src = picture.url;
  else if (item) preview.src = (item.item && thumbnailOf(item.item, state.collection)) || imageUrl(item.id, state.collection);
  else preview.removeAttribute("src");
}

function renderMarks() {
  $("refine").hidden = !state.marks.size;
  $("refine-list").replaceChildren(...[...state.marks.values()].map(({ sign, item }) => {
    const label = `${sign > 0 ? "More" : "Less"} like ${nameOf(item)}; remove`;
    const source = thumbnailOf(item, state.collection);
    return h("li", {}, h("button", {
      type: "button", class: sign > 0 ? "chip" : "chip minus", title: label, "aria-label": label,
      onclick: () => mark(item, sign),
    }, source ? h("img", { src: source, alt: "" }) : null, h("i", { "aria-hidden": "true" }, sign > 0 ? "+" : "−")));
  }));
}
