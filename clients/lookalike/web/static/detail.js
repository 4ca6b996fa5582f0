// One hit in full: both pictures with what agrees, what the match is worth, what is known.

import { $, TIERS, bytes, h, imageUrl, nameOf, odds, thumbnailOf } from "./dom.js";
import { mark, state } from "./state.js";
import { takeItem } from "./query.js";
import { currentHits } from "./results.js";
import { canExplain, contain, draw, explain, noteMissing } from "./explain.js";

let open = null; // the hit
let controller = new AbortController();

export function mountDetail() {
  $("detail-prev").addEventListener("click", () => step(-1));
  $("detail-next").addEventListener("click", () => step(1));
  $("detail").addEventListener("close", () => {
    controller.abort();
    const tile = [...$("grid").children].find((element) => element.dataset.id === open?.id)?.querySelector(".tile");
    tile?.focus({ preventScroll: false });
  });
  $("detail").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  for (const sheet of document.querySelectorAll("dialog")) {
    sheet.addEventListener("click", (event) => {
      if (event.target === sheet || event.target.closest("[data-close]")) sheet.close();
    });
  }
}

export function openDetail(hit) {
  show(hit);
  $("detail").showModal();
}

function step(by) {
  const hits = currentHits();
  const next = hits[hits.findIndex((hit) => hit.id === open.id) + by];
  if (next) show(next);
}

function show(hit) {
  controller.abort();
  controller = new AbortController();
  open = hit;
  const hits = currentHits();
  const i = hits.findIndex((one) => one.id === hit.id);
  $("detail-prev").disabled = i <= 0;
  $("detail-next").disabled = i >= hits.length - 1;
  $("detail-title").textContent = nameOf(hit);
  $("detail-verdict").replaceChildren(...verdict(hit));
  $("detail-why").textContent = "";
  $("detail-actions").replaceChildren(...actions(hit));
  $("detail-facts").replaceChildren(...facts(hit).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  const isHit = hit.score !== undefined;
  const theirs = pane("Hit", thumbnailOf(hit, state.collection));
  const ours = isHit && (state.picture || state.item) ? pane("Query", $("preview").src) : null;
  if (!isHit) theirs.element.querySelector("figcaption").remove();
  $("detail-pair").replaceChildren(...(ours ? [ours.element] : []), theirs.element);
  if (ours && canExplain()) why(hit, ours, theirs, controller.signal);
}

function pane(name, source) {
  const boxes = h("span", { class: "boxes", "aria-hidden": "true" });
  const image = source ? h("img", { src: source, alt: "" }) : h("span", { class: "tile-none" }, "no thumbnail");
  const inner = h("div", { class: "pane-in" }, image, boxes);
  return { element: h("figure", { class: "pane" }, inner, h("figcaption", {}, name)), inner, image, boxes };
}

async function why(hit, ours, theirs, signal) {
  $("detail-why").textContent = "Looking for what agrees …";
  try {
    const answer = await explain(hit.id, signal);
    await Promise.allSettled([ours.image.decode?.(), theirs.image.decode?.()]);
    if (signal.aborted) return;
    for (const [side, field] of [[ours, "query_region"], [theirs, "item_region"]]) {
      const own = side.image.naturalWidth / side.image.naturalHeight;
      Object.assign(side.boxes.style, { inset: "0" });
      if (own) draw(side.boxes, answer.matches, field, contain(side.inner.getBoundingClientRect(), own));
    }
    $("detail-why").textContent = answer.matches.length
      ? "Boxes of one colour show parts that agree."
      : "No single part stands out: the pictures agree as a whole.";
  } catch (error) {
    if (error.name === "AbortError") return;
    noteMissing(error);
    $("detail-why").textContent = error.isMissing ? "" : error.message;
  }
}

function verdict(hit) {
  if (hit.score === undefined) return [];
  const tier = TIERS[hit.tier];
  const parts = [h("strong", {}, `Score ${hit.score.toFixed(3)}. `)];
  if (tier) parts.push(`${tier[1]} `);
  if (hit.false_match_rate !== undefined) parts.push(`About ${odds(hit.false_match_rate)} unrelated pictures would score as high.`);
  if (hit.duplicate_count) parts.push(` ${hit.duplicate_count} near-duplicates are folded into it: ${hit.duplicate_ids.slice(0, 5).join(", ")}${hit.duplicate_count > 5 ? ", …" : ""}.`);
  return parts;
}

function actions(hit) {
  const button = (text, f, pressed) => h("button", {
    type: "button", class: "button", onclick: f, "aria-pressed": pressed === undefined ? null : String(pressed),
  }, text);
  const sign = state.marks.get(hit.id)?.sign;
  const close = (f) => () => { $("detail").close(); f(); };
  const found = [
    button("More like this", close(() => takeItem(hit))),
    button("Like", close(() => mark(hit, 1)), sign > 0),
    button("Dislike", close(() => mark(hit, -1)), sign < 0),
  ];
  if (hit.image?.has_original) {
    found.push(h("a", { class: "button", download: "", href: imageUrl(hit.id, state.collection, { original: 1 }) }, "Download original"));
  }
  return found;
}

function facts(hit) {
  const rows = [["id", hit.id]];
  for (const [name, value] of Object.entries(hit.metadata ?? {})) {
    rows.push([name, typeof value === "string" ? value : JSON.stringify(value)]);
  }
  const { image } = hit;
  if (image) rows.push(["picture", `${image.width} × ${image.height}, ${bytes(image.size_bytes)}, ${image.media_type.replace("image/", "")}`]);
  if (hit.create_time) rows.push(["stored", new Date(hit.create_time).toLocaleString()]);
  return rows;
}
