// Small tools for the document, numbers and names. No HTML is ever made from text.

export const $ = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

// h("p", {class: "note", onclick: f, dataset: {..}}, "text", child, ...)
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name === "vars") for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

const whole = new Intl.NumberFormat("en");
export const count = (n, word) => `${whole.format(n)} ${word}${n === 1 ? "" : "s"}`;

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB"];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) { n /= 1000; i += 1; }
  return `${n.toFixed(i && n < 10 ? 1 : 0)} ${units[i]}`;
}

// 0.0004 -> "0.04 %"
export function percent(share) {
  const p = share * 100;
  if (p > 0 && p < 0.001) return "< 0.001 %";
  return `${Number(p.toPrecision(2))} %`;
}

// 0.00083 -> "1 in 1,200"; the share of unrelated pictures that score as high.
export function odds(share) {
  if (share <= 0) return "none of";
  if (share > 0.15) return `${Math.round(share * 100)} % of`;
  return `1 in ${whole.format(Math.round(Number((1 / share).toPrecision(2))))}`;
}

// A name for people: the metadata's own, or the end of the id.
export function nameOf(item) {
  const own = item.metadata?.name ?? item.metadata?.title;
  if (typeof own === "string" && own) return own;
  return shortId(item.id);
}

export function shortId(id) {
  if (id.startsWith("sha256:")) return id.slice(7, 19);
  const end = id.slice(id.lastIndexOf("/") + 1);
  return end || id;
}

export function thumbnailOf(item, collection) {
  if (!item.image?.has_thumbnail) return null;
  return imageUrl(item.id, collection, { v: item.image.sha256?.slice(0, 12) ?? "" });
}

export function imageUrl(id, collection, extra = {}) {
  const query = new URLSearchParams({ collection, ...extra });
  return `/v1/items/${encodeURIComponent(id)}/image?${query}`;
}

export const TIERS = {
  same_picture: ["Same picture", "The same picture, perhaps cropped, resized, recoloured or written on."],
  same_scene: ["Same scene", "The same scene or object: far beyond what unrelated pictures score."],
  similar: ["Similar", "Similar: beyond what nearly all unrelated pictures score."],
  weak: ["Weak", "Weak: unrelated pictures score as high."],
};

export function aspect(image) {
  const ratio = image?.width && image?.height ? image.width / image.height : 4 / 3;
  return Math.min(2.4, Math.max(0.6, ratio));
}

export function debounced(wait, f) {
  let timer = 0;
  const run = (...args) => {
    clearTimeout(timer);
    timer = setTimeout(f, wait, ...args);
  };
  run.cancel = () => clearTimeout(timer);
  return run;
}
