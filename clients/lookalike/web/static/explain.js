// Why a hit matches: boxes over the query's picture and the hit's.

import { $, aspect, h } from "./dom.js";
import { ask } from "./api.js";
import { state } from "./state.js";
import { pictureRect } from "./region.js";

const WAIT_MS = 160;
const BOXES = 4;
const SIDE = 800; // px; where things are can be told from a small copy

const answers = new Map();
let smaller = { key: null, blob: null };
let isMissing = false;
let current = null; // {id, controller}

export function forgetExplanations() {
  answers.clear();
  leave();
}

// Whether there is a picture to compare with, and a server that can.
export const canExplain = () => !isMissing && Boolean(state.picture || state.item);

export async function explain(id, signal) {
  const key = JSON.stringify([id, state.region]);
  if (!answers.has(key)) {
    const request = { collection: state.collection, item_id: id };
    if (state.region) request.region = state.region;
    if (!state.picture) request.query_item_id = state.item.id;
    answers.set(key, await ask("/v1/explain", request, state.picture ? await smallCopy() : null, signal));
  }
  return answers.get(key);
}

export function noteMissing(error) {
  if (error.isMissing) isMissing = true;
}

async function smallCopy() {
  const { blob, key } = state.picture;
  if (smaller.key !== key) smaller = { key, blob: await scaled(blob).catch(() => blob) };
  return smaller.blob;
}

async function scaled(blob) {
  const image = await createImageBitmap(blob); // upright: the EXIF orientation is applied
  const scale = Math.min(1, SIDE / Math.max(image.width, image.height));
  if (scale === 1 && blob.size < 400_000) return blob;
  const canvas = h("canvas", { width: Math.round(image.width * scale), height: Math.round(image.height * scale) });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  image.close();
  return new Promise((resolve, reject) => canvas.toBlob((made) => (made ? resolve(made) : reject()), "image/jpeg", 0.9));
}

export function explainTile(tile, boxes, hit) {
  const enter = () => hover(tile, boxes, hit);
  tile.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") enter(); });
  tile.addEventListener("focus", () => { if (tile.matches(":focus-visible")) enter(); });
  tile.addEventListener("pointerleave", leave);
  tile.addEventListener("blur", leave);
}

function hover(tile, boxes, hit) {
  leave();
  if (!canExplain() || hit.score === undefined) return;
  const controller = new AbortController();
  const timer = setTimeout(async () => {
    try {
      const answer = await explain(hit.id, controller.signal);
      if (controller.signal.aborted) return;
      const rect = tile.getBoundingClientRect();
      draw(boxes, answer.matches, "item_region", cover(rect, aspect(hit.image), hit.image));
      drawOnQuery(answer.matches);
    } catch (error) {
      noteMissing(error);
    }
  }, WAIT_MS);
  current = { controller, timer, boxes };
}

function leave() {
  if (!current) return;
  clearTimeout(current.timer);
  current.controller.abort();
  current.boxes.replaceChildren();
  $("query-boxes").replaceChildren();
  current = null;
}

function drawOnQuery(matches) {
  const rect = pictureRect();
  const layer = $("query-boxes");
  Object.assign(layer.style, {
    left: `${rect.left}px`, top: `${rect.top}px`, width: `${rect.width}px`, height: `${rect.height}px`,
  });
  draw(layer, matches, "query_region");
}

// Draw the strongest boxes; `place` maps a region to where it is shown, all in fractions.
export function draw(layer, matches, side, place = (region) => region) {
  layer.replaceChildren(...matches.slice(0, BOXES).map((match, i) => {
    const region = place(match[side]);
    const p = (value) => `${value * 100}%`;
    const box = h("span", { class: `box box-${i + 1}` });
    Object.assign(box.style, { left: p(region.left), top: p(region.top), width: p(region.width), height: p(region.height) });
    return box;
  }));
}

// A picture that covers its tile is cut at two sides if the tile is not of its shape.
function cover(rect, shape, image) {
  const own = image?.width && image?.height ? image.width / image.height : shape;
  const x = Math.max(1, own / (rect.width / rect.height));
  const y = Math.max(1, rect.width / rect.height / own);
  return placed(x, y);
}

// A picture that is contained in its frame has margins instead.
export function contain(rect, own) {
  const frame = rect.width / rect.height;
  return placed(Math.min(1, own / frame), Math.min(1, frame / own));
}

function placed(x, y) {
  return (region) => {
    const left = Math.max(0, 0.5 + (region.left - 0.5) * x);
    const top = Math.max(0, 0.5 + (region.top - 0.5) * y);
    return {
      left, top,
      width: Math.min(1, 0.5 + (region.left + region.width - 0.5) * x) - left,
      height: Math.min(1, 0.5 + (region.top + region.height - 0.5) * y) - top,
    };
  };
}
