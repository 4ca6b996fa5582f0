// The box on the query's picture: dragged with a pointer, or moved with the keys.

import { $ } from "./dom.js";
import { change, listen, state } from "./state.js";

const LEAST = 0.03; // of a side; less is a slip of the hand
const STEP = 0.02;
let drag = null;
let box = null; // what is shown; state.region once it is let go

export function mountRegion() {
  const frame = $("frame");
  frame.addEventListener("pointerdown", begin);
  frame.addEventListener("pointermove", move);
  frame.addEventListener("pointerup", end);
  frame.addEventListener("pointercancel", () => { drag = null; show(state.region); });
  $("region").addEventListener("keydown", keys);
  $("region-toggle").addEventListener("click", toggle);
  $("preview").addEventListener("load", () => {
    const { naturalWidth, naturalHeight } = $("preview");
    $("frame").style.setProperty("--ar", (naturalWidth / naturalHeight || 1).toFixed(4));
    show(state.region);
  });
  addEventListener("resize", () => show(state.region));
  listen(() => {
    $("region-hint").hidden = !(state.picture || state.item);
    show(state.region);
  });
}

const clamp = (value, least, most) => Math.min(most, Math.max(least, value));

// Where the picture is inside its frame, in pixels.
export function pictureRect() {
  const image = $("preview").getBoundingClientRect();
  const frame = $("frame").getBoundingClientRect();
  return { left: image.left - frame.left, top: image.top - frame.top, width: image.width, height: image.height };
}

function at(event) {
  const image = $("preview").getBoundingClientRect();
  return {
    x: clamp((event.clientX - image.left) / image.width, 0, 1),
    y: clamp((event.clientY - image.top) / image.height, 0, 1),
  };
}

function begin(event) {
  if (event.button !== 0 || !$("preview").naturalWidth) return;
  event.preventDefault();
  $("frame").setPointerCapture(event.pointerId);
  const start = at(event);
  const inside = box && start.x > box.left && start.x < box.left + box.width && start.y > box.top && start.y < box.top + box.height;
  drag = { start, from: inside ? { ...box } : null };
}

function move(event) {
  if (!drag) return;
  const { start, from } = drag;
  const now = at(event);
  if (from) {
    show({
      ...from,
      left: clamp(from.left + now.x - start.x, 0, 1 - from.width),
      top: clamp(from.top + now.y - start.y, 0, 1 - from.height),
    });
    return;
  }
  show({
    left: Math.min(start.x, now.x), top: Math.min(start.y, now.y),
    width: Math.abs(now.x - start.x), height: Math.abs(now.y - start.y),
  });
}

function end(event) {
  if (!drag) return;
  move(event);
  drag = null;
  const isBox = box && box.width >= LEAST && box.height >= LEAST;
  set(isBox ? box : null);
}

function keys(event) {
  const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (event.key === "Escape" || event.key === "Delete" || event.key === "Backspace") {
    event.preventDefault();
    set(null);
    $("region-toggle").focus();
  } else if (direction && box) {
    event.preventDefault();
    const [x, y] = direction.map((sign) => sign * STEP);
    const next = event.shiftKey
      ? { ...box, width: clamp(box.width + x, LEAST, 1 - box.left), height: clamp(box.height + y, LEAST, 1 - box.top) }
      : { ...box, left: clamp(box.left + x, 0, 1 - box.width), top: clamp(box.top + y, 0, 1 - box.height) };
    show(next);
    settle(next);
  }
}

let timer = 0;
function settle(next) {
  clearTimeout(timer);
  timer = setTimeout(() => set(next), 350);
}

function toggle() {
  if (state.region) {
    set(null);
  } else {
    set({ left: 0.25, top: 0.25, width: 0.5, height: 0.5 });
    $("region").focus();
  }
}

function set(region) {
  clearTimeout(timer);
  const round = (value) => Math.round(value * 1e4) / 1e4;
  const next = region && {
    left: round(region.left), top: round(region.top),
    width: Math.min(round(region.width), 1 - round(region.left)),
    height: Math.min(round(region.height), 1 - round(region.top)),
  };
  if (JSON.stringify(next) === JSON.stringify(state.region)) show(next);
  else change("query", { region: next });
}

function show(region) {
  box = region;
  const element = $("region");
  element.hidden = !region;
  $("region-toggle").textContent = region ? "Whole picture" : "Select a part";
  $("region-text").textContent = region ? "Searching by this part." : "Drag to search by a part.";
  if (!region) return;
  const rect = pictureRect();
  element.style.left = `${rect.left + region.left * rect.width}px`;
  element.style.top = `${rect.top + region.top * rect.height}px`;
  element.style.width = `${region.width * rect.width}px`;
  element.style.height = `${region.height * rect.height}px`;
  const p = (value) => `${Math.round(value * 100)} %`;
  element.setAttribute("aria-label", `Searched part: ${p(region.left)} from the left, ${p(region.top)} from the top, ${p(region.width)} wide, ${p(region.height)} high`);
}
