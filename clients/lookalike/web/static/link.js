// What is asked for as a link: all but a picture of one's own, which no link can hold.

import { RATES, change, emptyQuery, listen, state } from "./state.js";
import { kept } from "./query.js";

let written = null;

function encode() {
  const link = new URLSearchParams();
  if (state.collection !== "default") link.set("c", state.collection);
  if (state.picture) link.set("picture", state.picture.key);
  if (state.item) link.set("like", state.item.id);
  if (state.text) link.set("text", state.text);
  if (state.region) link.set("part", ["left", "top", "width", "height"].map((side) => state.region[side]).join(","));
  for (const [id, { sign }] of state.marks) link.append(sign > 0 ? "plus" : "minus", id);
  if (state.where) link.set("where", state.where);
  for (const [field, values] of state.facets) for (const json of values.keys()) link.append("is", `${field}=${json}`);
  if (state.rate) link.set("chance", RATES[state.rate]);
  if (state.fold) link.set("fold", "1");
  if (state.variety) link.set("variety", "1");
  return link.toString();
}

function decode(text) {
  const link = new URLSearchParams(text);
  const patch = { ...emptyQuery(), collection: link.get("c") || "default" };
  patch.picture = kept.get(link.get("picture")) ?? null;
  if (link.has("like")) patch.item = { id: link.get("like"), item: null };
  patch.text = link.get("text") ?? "";
  patch.region = part(link.get("part"));
  for (const [name, sign] of [["plus", 1], ["minus", -1]]) {
    for (const id of link.getAll(name)) patch.marks.set(id, { sign, item: { id, image: { has_thumbnail: true } } });
  }
  patch.where = link.get("where") ?? "";
  patch.facets = chosen(link.getAll("is"));
  patch.rate = Math.max(0, RATES.indexOf(Number(link.get("chance") ?? 0)));
  patch.fold = link.get("fold") === "1";
  patch.variety = link.get("variety") === "1";
  return patch;
}

function part(text) {
  const sides = (text ?? "").split(",").map(Number);
  if (sides.length !== 4 || !sides.every((side) => side >= 0 && side <= 1)) return null;
  const [left, top, width, height] = sides;
  return { left, top, width, height };
}

function chosen(pairs) {
  const facets = new Map();
  for (const pair of pairs) {
    const at = pair.indexOf("=");
    try {
      const values = facets.get(pair.slice(0, at)) ?? new Map();
      values.set(pair.slice(at + 1), JSON.parse(pair.slice(at + 1)));
      facets.set(pair.slice(0, at), values);
    } catch {
      // A link that someone has cut; the rest of it is still good.
    }
  }
  return facets;
}

export function mountLink() {
  listen((why) => {
    const link = encode();
    if (why === "link" || link === written) return;
    written = link;
    const url = link ? `#${link}` : location.pathname;
    if (why === "query" || why === "collection") history.pushState(null, "", url);
    else history.replaceState(null, "", url);
  });
  addEventListener("popstate", follow);
}

export function follow() {
  written = location.hash.slice(1);
  change("link", decode(written));
}
