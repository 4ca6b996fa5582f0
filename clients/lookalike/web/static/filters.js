// Narrowing down: chance matches, folding, variety, facets, a condition as text.

import { $, h, percent } from "./dom.js";
import { get } from "./api.js";
import { RATES, change, filterCount, hasQuery, isOneThing, listen, state } from "./state.js";

const MOST_FIELDS = 6;
const MOST_VALUES = 10;
let counted = ""; // what the shown facets were counted for
let isMissing = false;
let itemCount = 0;
let isCalibrated = false;

export function mountFilters() {
  $("rate").addEventListener("input", () => sayRate(Number($("rate").value)));
  $("rate").addEventListener("change", () => change("filter", { rate: Number($("rate").value) }));
  $("fold").addEventListener("change", () => change("filter", { fold: $("fold").checked }));
  $("variety").addEventListener("change", () => change("filter", { variety: $("variety").checked }));
  const set = () => {
    const where = $("where").value.trim();
    if (where !== state.where) change("filter", { where });
  };
  $("where-form").addEventListener("submit", (event) => { event.preventDefault(); set(); });
  $("where").addEventListener("change", set);
  if (matchMedia("(max-width: 60rem)").matches) $("filters").open = false;
  listen(render);
}

// Show what is wrong with the condition, with the server's mark under the place.
export function showWhereError(message) {
  $("where-error").hidden = !message;
  $("where-error").textContent = message;
  $("where").setAttribute("aria-invalid", String(Boolean(message)));
  if (!message) return;
  $("filters").open = true;
  $("where-error").scrollIntoView({ block: "nearest" });
}

export function setCollection(collection) {
  itemCount = collection?.item_count ?? 0;
  countFacets();
}

// Whether it is known what unrelated pictures of the collection score.
export function setCalibrated(known) {
  isCalibrated = known;
  render();
}

function whyNoRate() {
  if (!isCalibrated) return "There are too few pictures to tell what unrelated ones score.";
  if (hasQuery() && !isOneThing()) return "For one picture alone: words and mixtures score on another scale.";
  return "";
}

function sayRate(i) {
  const text = i ? `at most ${percent(RATES[i])}` : "any";
  $("rate-value").textContent = text;
  $("rate").setAttribute("aria-valuetext", text);
}

function render() {
  const reason = whyNoRate();
  $("rate").disabled = Boolean(reason);
  $("rate-reason").textContent = reason;
  $("rate").value = state.rate;
  sayRate(state.rate);
  $("fold").checked = state.fold;
  $("variety").checked = state.variety;
  if (document.activeElement !== $("where")) $("where").value = state.where;
  const n = filterCount();
  $("filter-count").hidden = !n;
  $("filter-count").textContent = n;
  for (const input of $("facets").querySelectorAll("input")) {
    input.checked = state.facets.get(input.name)?.has(input.value) ?? false;
  }
}

async function countFacets() {
  const key = state.collection;
  if (isMissing || counted === key) return;
  counted = key;
  try {
    const { fields } = await get("/v1/values", { collection: key, limit: MOST_VALUES });
    if (counted === key) $("facets").replaceChildren(...fields.filter(isUseful).slice(0, MOST_FIELDS).map(facet));
    render();
  } catch (error) {
    isMissing = error.isMissing === true;
    counted = isMissing ? key : "";
    $("facets").replaceChildren();
  }
}

export function recountFacets() {
  counted = "";
  countFacets();
}

// A value that all items have tells none of them apart.
const isUseful = ({ values }) => values.some(({ count }) => count > 1 && count < itemCount);

function facet(field) {
  const option = ({ value, count }) => {
    const json = JSON.stringify(value);
    const input = h("input", { type: "checkbox", name: field.field, value: json });
    input.addEventListener("change", () => choose(field.field, json, value, input.checked));
    return h("label", { class: "option" }, input, h("span", {}, String(value), h("small", {}, String(count))));
  };
  return h("fieldset", { class: "facet" }, h("legend", {}, field.field), h("div", { class: "options" }, ...field.values.map(option)));
}

function choose(field, json, value, isOn) {
  const facets = new Map([...state.facets].map(([name, values]) => [name, new Map(values)]));
  const values = facets.get(field) ?? new Map();
  if (isOn) values.set(json, value);
  else values.delete(json);
  if (values.size) facets.set(field, values);
  else facets.delete(field);
  change("filter", { facets });
}
