// Which collection, and how it is doing.

import { $, count, h } from "./dom.js";
import { get } from "./api.js";
import { change, emptyQuery, listen, state } from "./state.js";
import { recountFacets, setCalibrated, setCollection } from "./filters.js";

const CALM_MS = 6000;
const BUSY_MS = 1500;
let collections = null; // not heard yet
let timer = 0;

export const currentCollection = () => collections?.find((one) => one.name === state.collection);

export function mountCollections() {
  $("collection").addEventListener("change", () => {
    change("collection", { ...emptyQuery(), collection: $("collection").value, facets: new Map() });
    present();
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
  listen((why) => { if (why === "link") present(); });
}

export async function poll() {
  clearTimeout(timer);
  try {
    const before = currentCollection()?.item_count;
    collections = (await get("/v1/collections")).collections;
    present();
    if (before !== undefined && before !== currentCollection()?.item_count) recountFacets();
  } catch (error) {
    status("bad", error.reason === "SERVER_UNAVAILABLE" ? "the server is away" : "not reachable");
  }
  if (!document.hidden) timer = setTimeout(poll, isBusy() ? BUSY_MS : CALM_MS);
}

const isBusy = () => !collections || collections.some((one) => one.state !== "ready" || one.index_status?.building);

function present() {
  if (!collections) return;
  const select = $("collection");
  const names = collections.map((one) => one.name);
  if (!names.includes(state.collection)) names.unshift(state.collection);
  const shown = [...select.options].map((option) => option.value);
  if (names.join("\n") !== shown.join("\n")) select.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
  select.value = state.collection;
  const current = currentCollection();
  setCollection(current);
  calibrate(current);
  presentText(current);
  presentStatus(current);
}

// What scores mean is learned by the server when it is asked for; the list is without it.
let calibrated = "";
async function calibrate(collection) {
  const key = collection ? `${collection.name} ${collection.item_count}` : "";
  if (key === calibrated) return;
  calibrated = key;
  const found = key ? await get(`/v1/collections/${encodeURIComponent(collection.name)}`).catch(() => ({})) : {};
  if (key === calibrated) setCalibrated(Boolean(found.calibration));
}

function presentText(collection) {
  const can = collection?.modalities?.includes("text") ?? false;
  $("text").disabled = !can;
  $("text-reason").textContent = can || !collection
    ? (collection ? "" : "There is no collection of this name yet.")
    : `The model here, ${collection.model}, knows pictures only; words need one like CLIP.`;
}

const STATES = {
  loading: ["busy", "is loading"],
  recovering: ["busy", "is rebuilding its index"],
  model_mismatch: ["bad", "was made with another model"],
};

function presentStatus(collection) {
  if (!collection) {
    status("ready", "nothing stored yet");
    return;
  }
  const pictures = count(collection.item_count, "picture");
  const [kind, words] = STATES[collection.state] ?? ["ready", ""];
  if (words) status(kind, `${pictures} · ${words}`);
  else if (collection.index_status?.building) status("busy", `${pictures} · indexing`);
  else status("ready", pictures);
}

function status(kind, text) {
  $("status").dataset.state = kind;
  if ($("status-text").textContent !== text) $("status-text").textContent = text;
}
