// What the page shows: the unpacked block, names and numbers as text, and what is derived from the block once.

let block = null;
const index = []; // Per decomposition: {byId: Map, entries: [entry]}.

async function unpack(text) {
  const packed = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : bytesOf(text);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

function bytesOf(base64) {
  const raw = atob(base64), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

// Text of data, made harmless to read: what has no glyph gets one; line breaks and lone surrogates are shown as signs.
function visible(text) {
  if (text === "") return "∅";
  if (/^[\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+$/.test(text))
    return Array.from(text.slice(0, 4), (c) => `U+${c.charCodeAt(0).toString(16).toUpperCase()}`).join(" ");
  return wellFormed(text).replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, (c) => {
    const code = c.charCodeAt(0), sign = { "\n": "⏎", "\t": "⇥", "\u007f": "␡" }[c];
    return sign ?? (code < 32 ? String.fromCharCode(0x2400 + code) : "\ufffd");
  });
}

function wellFormed(text) {
  return text.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd");
}

// The name of an output or a token where it stands alone: spaces at its ends can be seen.
function named(text) {
  return visible(text).replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));
}

function short(text, length) {
  const all = Array.from(text.length > 4 * length ? text.slice(0, 4 * length) : text);
  return all.length > length ? all.slice(0, length - 1).join("") + "…" : text;
}

const outputName = (id) => named(block.outputs[id]);

function number(x, digits = 3) {
  if (x === null || x === undefined || !Number.isFinite(x)) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  const text = size >= 1e5 || size < 1e-3 ? x.toExponential(digits - 2) : String(Number(x.toPrecision(digits)));
  return text.replace("e+", "e").replace(/-/g, "−");
}

const signed = (x, digits = 3) => (x > 0 ? "+" : "") + number(x, digits);
function percent(x) {
  if (Number.isNaN(x)) return "–";
  const text = x >= 9.995 ? "> 999 %" : x > 0 && x < 1e-4 ? "< 0.01 %" : `${number(100 * x, x >= 1 ? 3 : 2)} %`;
  return text.replace(/ /g, "\u00a0");
}

const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const largest = (values) => values.reduce((most, x) => Math.max(most, Math.abs(x ?? 0)), 0);

// Items: texts, images, vectors. Each position of a text is one sample.
function pieces(item) {
  if (item.tokens) return item.tokens.map((id) => block.outputs[id]);
  return [item.name ?? ""];
}

const lowered = new Map();
const plain = (text) => text.toLowerCase().replace(/\s+/g, " ");

function itemText(i) {
  const item = block.items[i];
  if (item.tokens) return pieces(item).join("");
  if (item.values) return item.values.map((x, k) => (x ? inputName(k) : "")).filter(Boolean).join(", ") || "all zero";
  return item.name ?? "";
}

function itemLower(i) {
  if (!lowered.has(i)) lowered.set(i, plain(itemText(i)));
  return lowered.get(i);
}

const inputName = (k) => block.inputs?.[k] ?? `input ${k}`;
const labelOf = (sample) => block.items[sample.item].label?.[sample.position] ?? "";

// What a sample is called where there is room for one word: its token, the name of its image.
function sampleWord(sample) {
  const item = block.items[sample.item];
  if (item.tokens) return block.outputs[item.tokens[sample.position]] ?? "";
  if (item.values) {
    if (!largest(item.values)) return "all zero";
    const most = item.values.reduce((best, x, k) => (Math.abs(x ?? 0) > Math.abs(item.values[best] ?? 0) ? k : best),
      0);
    return inputName(most);
  }
  return item.name ?? "";
}

function buildIndex() {
  block.decompositions.forEach((decomposition, d) => {
    const entries = decomposition.subnetworks.map((subnetwork) => entryOf(subnetwork, d));
    index.push({ entries, byId: new Map(entries.map((entry) => [entry.s.id, entry])) });
  });
  for (const [i, j, cosine] of block.matches ?? []) {
    index[0].byId.get(i)?.matches.push([j, cosine]);
    index[1]?.byId.get(j)?.matches.push([i, cosine]);
  }
  const weigh = (a, b) => Math.abs(b[1]) - Math.abs(a[1]);
  index.forEach(({ entries }) => entries.forEach((entry) => entry.matches.sort(weigh)));
}

function entryOf(s, d) {
  const text = [`#${s.id}`, s.note];
  const on = new Set(), moves = new Set();
  for (const sample of s.top) {
    text.push(itemText(sample.item), labelOf(sample));
    on.add(sampleWord(sample));
    for (const [output] of sample.moved) text.push(block.outputs[output]);
    if (sample.moved.length) moves.add(block.outputs[sample.moved[0][0]]);
  }
  const most = s.share.reduce((best, x, k) => (x > s.share[best] ? k : best), 0);
  return { s, d, text: plain(text.join("\0")), on, moves, tensor: s.share.length ? most : null, matches: [] };
}

const entryAt = (d, id) => index[d]?.byId.get(id);

// How often each word stands at the samples' own positions, most first.
function tally(words) {
  const counts = new Map();
  for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]);
}

const samplesOn = (s) => tally(s.top.map(sampleWord));

// Outputs that a positive delta raises or lowers, by in how many top samples they are among the most moved.
function outputsMoved(s, sign) {
  return tally(s.top.flatMap((e) => e.moved.filter(([, slope]) => slope * sign > 0).map(([output]) => output)));
}

// The push: real and linear change of output number j of a sample at delta number k.
const deltasOf = (d, s) => s.deltas ?? block.decompositions[d].deltas ?? [];
const realChange = (e, k, j) => (e.real[k]?.[j] ?? NaN) - (e.before[j] ?? NaN);
const linearChange = (e, delta, j) => delta * (e.moved[j]?.[1] ?? NaN);

function offBy(e, deltas, k, j = 0) {
  const real = realChange(e, k, j), linear = linearChange(e, deltas[k], j);
  if (deltas[k] === 0 || !Number.isFinite(real) || !Number.isFinite(linear)) return NaN;
  return real === linear ? 0 : Math.abs(linear - real) / Math.abs(real);
}

const TOLERANCE = 0.2;

// The largest |delta| up to which, in both directions, the linear prediction of a sample's most moved output holds.
function linearUntil(e, deltas) {
  const order = deltas.map((delta, k) => k).filter((k) => deltas[k] !== 0).sort((a, b) =>
    Math.abs(deltas[a]) - Math.abs(deltas[b]));
  let until = null;
  for (let i = 0; i < order.length; ) {
    const size = Math.abs(deltas[order[i]]), same = [];
    while (i < order.length && Math.abs(deltas[order[i]]) === size) same.push(order[i++]);
    if (!same.every((k) => offBy(e, deltas, k) <= TOLERANCE)) return until;
    until = size;
  }
  return until;
}

// The smallest |delta| of the grid beyond one that still holds; null when there is none.
function failsFrom(until, deltas) {
  const sizes = deltas.map(Math.abs).filter((x) => x > (until ?? 0)).sort((a, b) => a - b);
  return sizes.length ? sizes[0] : null;
}

// Whether anything is known of how far the linear prediction of a subnetwork is off.
const judged = (s, deltas) => s.top.some((e) => deltas.some((_, k) => !Number.isNaN(offBy(e, deltas, k))));

// Whether a subnetwork moves no output of any top sample, to first order.
const still = (s) => s.top.every((e) => e.moved.every(([, slope]) => slope === 0));

function median(values) {
  const known = values.filter((x) => !Number.isNaN(x)).sort((a, b) => a - b), n = known.length;
  return n === 0 ? NaN : n % 2 ? known[(n - 1) / 2] : (known[n / 2 - 1] + known[n / 2]) / 2;
}
