// What the page shows: the unpacked block, names and numbers as text, and what is derived from the block once.

let block = null;
// Per decomposition: {byId: Map, entries: [entry], some: {norm, coherence}}, whether there is something to show of
// these. Norms that are all alike, as where directions are normalised, tell nothing apart.
const index = [];

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
  if (/^[\u00a0\u00ad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]+$/.test(text))
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
  const text = size >= 1e5 || size < 1e-3 ? x.toExponential(digits - 1) : String(Number(x.toPrecision(digits)));
  return text.replace("e+", "e").replace(/-/g, "−");
}

const signed = (x, digits = 3) => (x > 0 ? "+" : "") + number(x, digits);
function percent(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  const text = x >= 9.995 ? "> 999 %" : `${number(100 * x, x >= 0.1 ? 3 : 2)} %`;
  return text.replace(/ /g, "\u00a0");
}

const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const largest = (values) => values.reduce((most, x) => Math.max(most, Math.abs(x ?? 0)), 0);

// Items: texts, images, vectors. Each position of a text is one sample.
const lowered = new Map();
// Texts are compared without case and with one space for many; the two small sigmas are one letter.
const plain = (text) => text.toLowerCase().replace(/ς/g, "σ").replace(/\s+/g, " ");

function itemText(i) {
  const item = block.items[i];
  if (item.tokens) return item.tokens.map((id) => block.outputs[id]).join("");
  if (item.values) return item.values.map((x, k) => (x ? inputName(k) : "")).filter(Boolean).join(", ") || "all zero";
  return item.name ?? "";
}

// The name of a text or a vector; that of an image is its text.
const caption = (i) => (block.items[i].image ? "" : block.items[i].name ?? "");

// The text of an item as it is searched, where in it each token starts, and its caption.
function itemLower(i) {
  if (lowered.has(i)) return lowered.get(i);
  const { tokens } = block.items[i], starts = [];
  let text = "";
  if (tokens) for (const id of tokens) {
    const word = lowerOutput(id);
    starts.push(text.length);
    text += text.endsWith(" ") && word.startsWith(" ") ? word.slice(1) : word;
  } else text = plain(itemText(i));
  starts.push(tokens ? text.length : 0);
  const own = { text, starts, caption: plain(caption(i)) };
  lowered.set(i, own);
  return own;
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
    const norms = new Set(decomposition.subnetworks.map((s) => number(s.norm)));
    const some = { norm: norms.size > 1, coherence: decomposition.subnetworks.some((s) => s.coherence.length) };
    index.push({ entries, byId: new Map(entries.map((entry) => [entry.s.id, entry])), some });
  });
  for (const [i, j, cosine] of block.matches ?? []) {
    index[0].byId.get(i)?.matches.push([j, cosine]);
    index[1]?.byId.get(j)?.matches.push([i, cosine]);
  }
  const weigh = (a, b) => Math.abs(b[1]) - Math.abs(a[1]);
  index.forEach(({ entries }) => entries.forEach((entry) => entry.matches.sort(weigh)));
}

function entryOf(s, d) {
  const text = [`#${s.id}`, s.note], labels = s.top.map((sample) => plain(labelOf(sample)));
  const on = new Set(), moves = new Set();
  for (const sample of s.top) {
    text.push(itemText(sample.item), caption(sample.item));
    on.add(wellFormed(sampleWord(sample)));
    for (const [output, slope] of sample.moved) if (slope) text.push(block.outputs[output]);
    if (sample.moved[0]?.[1]) moves.add(wellFormed(block.outputs[sample.moved[0][0]]));
  }
  const most = s.share.reduce((best, x, k) => (x > s.share[best] ? k : best), 0);
  return { s, d, text: [plain(text.join("\0")), ...labels].join("\0"), labels, on, moves,
    tensor: s.share.length ? most : null, matches: [] };
}

const loweredOutputs = new Map();
function lowerOutput(id) {
  if (!loweredOutputs.has(id)) loweredOutputs.set(id, plain(block.outputs[id]));
  return loweredOutputs.get(id);
}

const entryAt = (d, id) => index[d]?.byId.get(id);

// How often each word is there, most first.
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

// The deltas between which the linear prediction of a sample's most moved output holds, from 0 outward on each side
// until it first fails; null where nothing is known or nothing is moved.
function linearOf(e, deltas) {
  if (!e.moved.some(([, slope]) => slope) || deltas.every((_, k) => Number.isNaN(offBy(e, deltas, k)))) return null;
  const reach = (side) => {
    const order = deltas.map((_, k) => k).filter((k) => deltas[k] * side > 0).sort((a, b) =>
      side * (deltas[a] - deltas[b]));
    const first = order.findIndex((k) => !(offBy(e, deltas, k) <= TOLERANCE));
    return first === 0 || !order.length ? 0 : deltas[order.at(first === -1 ? -1 : first - 1)];
  };
  return [reach(-1), reach(1)];
}

// The deltas of the grid at which it first fails below 0 and above 0; null on a side where it never does.
function failsAt([low, high], deltas) {
  const below = deltas.filter((x) => x < low), above = deltas.filter((x) => x > high);
  return [below.length ? Math.max(...below) : null, above.length ? Math.min(...above) : null];
}

// Where a linear prediction holds, in few words.
function holdsShort(linear, deltas) {
  if (failsAt(linear, deltas).every((x) => x === null)) return "holds at all tried";
  return linear[0] === linear[1]
    ? `fails at ${failsAt(linear, deltas).filter((x) => x !== null).map((x) => signed(x)).join(" and ")}`
    : `holds from ${signed(linear[0])} to ${signed(linear[1])}`;
}

// Whether a subnetwork moves no output of any top sample, to first order.
const still = (s) => s.top.every((e) => e.moved.every(([, slope]) => slope === 0));

// What is not known is taken for the largest, as where it is judged how far a linear prediction holds.
function median(values) {
  if (values.every(Number.isNaN)) return NaN;
  const all = values.map((x) => (Number.isNaN(x) ? Infinity : x)).sort((a, b) => a - b), n = all.length;
  return n % 2 ? all[(n - 1) / 2] : (all[n / 2 - 1] + all[n / 2]) / 2;
}

const termOf = (d, name) => block.decompositions[d].terms.find(([term]) => plain(term) === plain(name))?.[1] ?? null;

// The kinds of labels, from the names of what coherences are of, and a label as pairs of a kind and a value.
function labelParts(text, d) {
  const kinds = block.decompositions[d].baselines.map(([name]) => name.replace(/^coherence: /, ""));
  const starts = kinds.map((kind) => [text.startsWith(`${kind}: `) ? 0 : text.indexOf(`; ${kind}: `), kind])
    .filter(([from]) => from >= 0).sort((a, b) => a[0] - b[0]);
  if (starts[0]?.[0] !== 0) return [["", text]];
  return starts.map(([from, kind], k) =>
    [kind, text.slice(from + (from ? 2 : 0) + kind.length + 2, starts[k + 1]?.[0] ?? text.length)]);
}
