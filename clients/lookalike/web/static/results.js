// What was found: searches, the grid, more of it while one scrolls.

import { $, TIERS, aspect, count, h, icon, nameOf, odds, thumbnailOf } from "./dom.js";
import { ask, get } from "./api.js";
import { hasQuery, listen, mark, searchRequest, state, condition } from "./state.js";
import { dragItem, takeItem } from "./query.js";
import { explainTile, forgetExplanations } from "./explain.js";
import { openDetail } from "./detail.js";
import { showWhereError } from "./filters.js";

const FIRST = 40;
const PAGE = 60;
const LATE_MS = 600;
const JUDGED = 160; // of the best; what lies beyond is weak anyhow

const run = { controller: null, limit: FIRST, isFull: false, isBusy: false, token: "", number: 0 };
let mostHits = 1000;
let hits = [];
const known = new Set();

export const currentHits = () => hits;

export function setMostHits(most) {
  mostHits = most || mostHits;
}

// Say that something went wrong, in sight and aloud; nothing to retry unless `again` is.
export function tell(message, again = null) {
  $("problem").hidden = !message;
  $("problem-text").textContent = message;
  $("retry").hidden = !again;
}

export function mountResults() {
  $("retry").addEventListener("click", refresh);
  $("grid").addEventListener("keydown", arrows);
  const watcher = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) more();
  }, { rootMargin: "900px" });
  watcher.observe($("more"));
  listen((why) => {
    if (why === "quiet") return;
    renderMarks();
    refresh();
  });
}

export function refresh() {
  run.limit = FIRST;
  run.token = "";
  load(true);
}

function more() {
  if (run.isBusy || !run.isFull) return;
  if (hasQuery()) {
    if (run.limit >= mostHits) return;
    run.limit = Math.min(run.limit * 2, mostHits);
  }
  load(false);
}

async function load(isNew) {
  run.controller?.abort();
  run.controller = new AbortController();
  run.number += 1;
  const { number } = run;
  run.isBusy = true;
  $("busy").classList.add("on");
  if (isNew) $("grid").classList.add("stale");
  try {
    const begin = performance.now();
    const answer = hasQuery() ? await search(run.controller.signal) : await browse();
    if (number !== run.number) return;
    tell("");
    showWhereError("");
    if (isNew) clear();
    append(answer.found);
    describe(answer, performance.now() - begin);
    if (hasQuery()) judge(run.controller.signal);
  } catch (error) {
    if (number !== run.number || error.name === "AbortError") return;
    fail(error);
  } finally {
    if (number === run.number) {
      run.isBusy = false;
      $("busy").classList.remove("on");
      $("grid").classList.remove("stale");
      requestAnimationFrame(moreIfInSight);
    }
  }
}

// The observer speaks only when something changes; a short first page stays in sight.
function moreIfInSight() {
  if ($("more").getBoundingClientRect().top < innerHeight + 600) more();
}

async function search(signal) {
  const [request, picture] = searchRequest(run.limit);
  const answer = await ask("/v1/search", request, picture, signal);
  run.isFull = answer.hits.length >= run.limit;
  return { found: answer.hits, info: answer.info };
}

// Hits are shown at once; what they are worth takes the server longer, and follows.
// The pictures go first: judging would take their share of the server's time.
async function judge(signal) {
  await firstPictures();
  if (signal.aborted) return;
  const [request, picture] = searchRequest(Math.min(run.limit, JUDGED), true);
  const answer = await ask("/v1/search", request, picture, signal).catch(() => null);
  if (!answer || signal.aborted) return;
  const judged = new Map(answer.hits.map((hit) => [hit.id, hit]));
  for (const element of $("grid").children) {
    const worth = judged.get(element.dataset.id);
    const hit = hits.find((one) => one.id === element.dataset.id);
    if (!worth || !hit) continue;
    hit.tier = worth.tier;
    hit.false_match_rate = worth.false_match_rate;
    element.querySelector(".caption").replaceWith(caption(hit, nameOf(hit)));
    element.querySelector(".tile").setAttribute("aria-label", spoken(hit, nameOf(hit)));
  }
}

function firstPictures() {
  const images = [...$("grid").querySelectorAll("img")].slice(0, 12);
  const loaded = (image) => image.complete || new Promise((resolve) => image.addEventListener("load", resolve, { once: true }));
  const late = new Promise((resolve) => { setTimeout(resolve, LATE_MS); });
  return Promise.race([Promise.all(images.map(loaded)), late]);
}

async function browse() {
  const where = condition();
  const page = await get("/v1/items", { collection: state.collection, limit: PAGE, where, page_token: run.token });
  run.token = page.next_page_token;
  run.isFull = Boolean(run.token);
  return { found: page.items };
}

function fail(error) {
  run.isFull = false;
  if (error.reason === "FILTER_INVALID") {
    showWhereError(error.message);
    tell("");
    return;
  }
  if (error.reason === "COLLECTION_NOT_FOUND" && !hasQuery()) {
    clear();
    describe({ found: [] }, 0);
    return;
  }
  clear();
  $("nothing").hidden = true;
  $("found-meta").textContent = "";
  const lasting = ["IMAGE_UNDECODABLE", "IMAGE_FORMAT_UNSUPPORTED", "IMAGE_TOO_LARGE", "IMAGE_TOO_COSTLY", "ITEM_NOT_FOUND"];
  tell(error.message, !lasting.includes(error.reason));
}

function clear() {
  hits = [];
  known.clear();
  forgetExplanations();
  $("grid").replaceChildren();
}

function append(found) {
  const fresh = found.filter((hit) => !known.has(hit.id));
  const first = hits.length === 0;
  for (const hit of fresh) known.add(hit.id);
  hits = hits.concat(fresh);
  $("grid").append(...fresh.map((hit, i) => card(hit, first && i === 0)));
}

function describe({ found, info }, ms) {
  const isSearch = hasQuery();
  $("found-title").textContent = isSearch ? "Looks alike" : "In this collection";
  $("grid").setAttribute("aria-label", isSearch ? "Hits, the best first" : "Items by id");
  const parts = [];
  if (isSearch) {
    parts.push(run.isFull && run.limit < mostHits ? `best ${hits.length}` : count(hits.length, "hit"));
    if (info.matched_count !== undefined && condition()) parts.push(`${count(info.matched_count, "picture")} pass the filter`);
    parts.push(`${Math.max(1, Math.round(ms))} ms`);
    if (info.truncated) parts.push("the text was longer than the model reads");
  } else if (found.length) {
    parts.push("start from any of them, or bring a picture");
  }
  $("found-meta").textContent = parts.join(" · ");
  $("found-meta").title = isSearch ? timing(info) : "";
  $("nothing").hidden = hits.length > 0;
  if (!hits.length) sayNothing(isSearch);
}

function timing(info) {
  const stages = ["decode", "queue", "embed", "index", "fetch", "rank", "total"];
  return stages.map((stage) => `${stage} ${(info[`${stage}_ms`] ?? 0).toFixed(1)} ms`).join(", ");
}

function sayNothing(isSearch) {
  const filtered = condition() || state.rate;
  $("nothing-title").textContent = isSearch || filtered ? "Nothing passes" : "There is nothing here yet";
  $("nothing-sub").textContent = isSearch || filtered
    ? "Loosen the filters, or allow more false matches."
    : "Add some pictures; they can be found as soon as they are in.";
}

// ---------------------------------------------------------------- cards

function card(hit, isFirst) {
  const name = nameOf(hit);
  const tile = h("button", { type: "button", class: "tile", title: hit.id, "aria-label": spoken(hit, name), draggable: true });
  const source = thumbnailOf(hit, state.collection);
  if (source) {
    const image = h("img", { alt: "", decoding: "async", draggable: false });
    const shown = () => {
      image.classList.add("in");
      if (isFirst) performance.mark("lookalike-first-result");
    };
    image.addEventListener("load", shown, { once: true });
    image.loading = isFirst ? "eager" : "lazy";
    image.src = source;
    tile.append(image);
  } else {
    tile.append(h("span", { class: "tile-none" }, "no thumbnail"));
  }
  const boxes = h("span", { class: "boxes", "aria-hidden": "true" });
  tile.append(boxes);
  if (hit.duplicate_count) tile.append(h("span", { class: "folded" }, `+${hit.duplicate_count}`));
  tile.addEventListener("click", () => openDetail(hit));
  tile.addEventListener("dragstart", (event) => dragItem(event, hit));
  explainTile(tile, boxes, hit);
  return h("li", { class: "card", dataset: { id: hit.id }, vars: { "--ar": aspect(hit.image).toFixed(4) } },
    tile, h("div", { class: "acts" }, ...acts(hit, name)), caption(hit, name));
}

function acts(hit, name) {
  const press = (sign) => state.marks.get(hit.id)?.sign === sign;
  const act = (kind, label, f, pressed) => h("button", {
    type: "button", class: kind === "minus" ? "act no" : "act", title: label, "aria-label": `${label}: ${name}`,
    "aria-pressed": pressed === undefined ? null : String(pressed), onclick: f,
  }, icon(kind));
  return [
    act("like", "More like this", () => takeItem(hit)),
    act("plus", "Like: pull towards", () => mark(hit, 1), press(1)),
    act("minus", "Dislike: push away", () => mark(hit, -1), press(-1)),
  ];
}

function caption(hit, name) {
  if (hit.score === undefined) return h("div", { class: "caption" }, h("div", {}, h("span", { class: "name" }, name)));
  const tier = TIERS[hit.tier];
  const rate = hit.false_match_rate;
  return h("div", { class: "caption" },
    h("div", {}, h("span", { class: "name" }, name),
      h("span", { class: "score", title: `score ${hit.score}` }, hit.score.toFixed(2))),
    h("div", { class: "worth" },
      tier ? h("span", { class: "tier", dataset: { tier: hit.tier }, title: tier[1] }, tier[0]) : null,
      rate === undefined ? null : h("span", { class: "chance", title: `About ${odds(rate)} unrelated pictures would score as high` }, odds(rate).replace(/ of$/, ""))));
}

function spoken(hit, name) {
  if (hit.score === undefined) return name;
  const tier = TIERS[hit.tier]?.[0];
  return [name, tier, `score ${hit.score.toFixed(2)}`].filter(Boolean).join(", ");
}

function renderMarks() {
  for (const element of $("grid").children) {
    const sign = state.marks.get(element.dataset.id)?.sign ?? 0;
    const [, plus, minus] = element.querySelectorAll(".act");
    plus.setAttribute("aria-pressed", String(sign > 0));
    minus.setAttribute("aria-pressed", String(sign < 0));
  }
}

// Arrow keys walk over the pictures as they lie; + and - mark, Enter opens.
function arrows(event) {
  const tile = event.target.closest(".tile");
  if (!tile) return;
  const hit = hits.find((one) => one.id === tile.parentElement.dataset.id);
  if (event.key === "+" || event.key === "-") {
    mark(hit, event.key === "+" ? 1 : -1);
    return;
  }
  const next = neighbour(tile, event.key);
  if (next) {
    event.preventDefault();
    next.focus();
  }
}

function neighbour(tile, key) {
  const tiles = [...$("grid").querySelectorAll(".tile")];
  const i = tiles.indexOf(tile);
  if (key === "ArrowRight") return tiles[i + 1];
  if (key === "ArrowLeft") return tiles[i - 1];
  if (key !== "ArrowDown" && key !== "ArrowUp") return undefined;
  const here = tile.getBoundingClientRect();
  const middle = here.left + here.width / 2;
  const others = (key === "ArrowDown" ? tiles.slice(i + 1) : tiles.slice(0, i).reverse())
    .map((one) => ({ one, rect: one.getBoundingClientRect() }))
    .filter(({ rect }) => Math.abs(rect.top - here.top) > 4);
  if (!others.length) return undefined;
  const row = others.filter(({ rect }) => Math.abs(rect.top - others[0].rect.top) < 4);
  const distance = ({ rect }) => Math.abs(rect.left + rect.width / 2 - middle);
  return row.sort((a, b) => distance(a) - distance(b))[0].one;
}
