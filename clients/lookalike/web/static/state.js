// What is asked for, in one place; who wants to know of changes listens.

const listeners = [];

export const RATES = [0, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0001];
const VARIETY = 0.5;
// Measured on 2,257 photographs, 133 queries with one wrong hit disliked: with weight 0 / -0.3 /
// -0.5 / -1, hits of the query's own kind 35 / 36 / 32 / 11 %, of the disliked kind 17 / 5 / 3 / 0 %.
const DISLIKE = -0.3;
const DISLIKES = -0.6; // all of them together

const EMPTY = {
  picture: null, // {blob, name, url, key}
  item: null, // {id, item}: more like this
  text: "",
  region: null, // {left, top, width, height} of the picture's sides
  marks: new Map(), // id -> {sign: 1 | -1, item}
};

export const state = {
  collection: "default",
  ...EMPTY,
  where: "",
  facets: new Map(), // field -> Map of JSON text -> value
  rate: 0, // index into RATES
  fold: false,
  variety: false,
};

export function listen(f) {
  listeners.push(f);
}

// Change some of it; `why` goes to the listeners ("query", "filter", "collection", "link").
export function change(why, patch) {
  Object.assign(state, patch);
  for (const f of listeners) f(why);
}

export const emptyQuery = () => ({ ...EMPTY, marks: new Map() });

export function hasQuery() {
  const liked = [...state.marks.values()].some((mark) => mark.sign > 0);
  return Boolean(state.picture || state.item || state.text || liked);
}

// Scores of a text, or of several things at once, are of another scale.
export const isOneThing = () => !state.text && !state.marks.size && !(state.picture && state.item);

export function mark(item, sign) {
  const marks = new Map(state.marks);
  if (marks.get(item.id)?.sign === sign) marks.delete(item.id);
  else marks.set(item.id, { sign, item });
  change("query", { marks });
}

// The request of a search, and the picture that goes with it.
export function searchRequest(limit, judge = false) {
  const inputs = [];
  const region = state.region ? { region: state.region } : {};
  if (state.picture) inputs.push({ image: "@image", ...region });
  if (state.item) inputs.push({ item_id: state.item.id, ...region });
  if (state.text) inputs.push({ text: state.text });
  const disliked = [...state.marks.values()].filter((one) => one.sign < 0).length;
  const away = Math.max(DISLIKE, DISLIKES / disliked);
  for (const [id, { sign }] of state.marks) inputs.push({ item_id: id, weight: sign > 0 ? 1 : away });
  const query = inputs.length === 1 && !inputs[0].weight ? inputs[0] : { parts: inputs };
  const request = { collection: state.collection, limit, ...query };
  if (judge) request.judge = true;
  const where = condition();
  if (where) request.where = where;
  if (state.rate && isOneThing()) request.max_false_match_rate = RATES[state.rate];
  if (state.fold) request.fold_duplicates = true;
  if (state.variety) request.diversity = VARIETY;
  return [request, state.picture?.blob ?? null];
}

// The condition that the text and the chosen values make together.
export function condition() {
  const parts = state.where ? [state.where] : [];
  for (const [field, values] of state.facets) {
    const name = `\`${field.replace(/[\\`]/g, "\\$&")}\``;
    // A list has the value as an element; anything else is equal to it.
    const tests = [...values.keys()].flatMap((json) => [`${name} = ${json}`, `${name} contains ${json}`]);
    if (tests.length) parts.push(tests.join(" or "));
  }
  return parts.length > 1 ? parts.map((part) => `(${part})`).join(" and ") : parts[0] ?? "";
}

export function filterCount() {
  let n = (state.where ? 1 : 0) + (state.rate ? 1 : 0) + (state.fold ? 1 : 0) + (state.variety ? 1 : 0);
  for (const values of state.facets.values()) n += values.size;
  return n;
}
