// Elements and charts. Data enters the page as text nodes and checked attributes alone, never as markup.

function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

function fill(node, props, children) {
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : wellFormed(String(value)));
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

const bdi = (text, props = {}) => el("bdi", props, text);
const button = (label, onclick, props = {}) => el("button", { type: "button", onclick, ...props }, label);

function section(title, note, ...children) {
  return el("section", { class: "part" }, el("h3", {}, title), note ? el("p", { class: "note" }, note) : null,
    ...children);
}

// How strongly a token is shaded: five steps. The underline says the sign where colour does not, from the second on.
function shade(x, most) {
  if (!Number.isFinite(x) || x === 0 || !most) return "";
  const step = Math.min(5, Math.ceil((5 * Math.abs(x)) / most));
  return (x > 0 ? "plus plus" : "minus minus") + step;
}

const PICTURE = /^data:image\/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/=]+$/;

function picture(item, props = {}) {
  const name = visible(short(item.name ?? "", 200)) || "picture";
  if (!PICTURE.test(item.image)) return el("span", { class: "token" }, name);
  return el("img", { src: item.image, alt: name, class: "thumb", ...props });
}

// Values of a vector's entries as bars.
function vector(item) {
  const most = largest(item.values), n = item.values.length, width = Math.max(120, Math.min(260, 10 * n)),
    step = width / n;
  const below = item.values.some((x) => x < 0), height = below ? 48 : 25;
  const bars = item.values.map((x, k) => {
    const size = most ? (22 * Math.abs(x ?? 0)) / most : 0;
    return svg("rect", { x: k * step, y: x < 0 ? 24 : 24 - size, width: Math.max(1, step - 1), height: size,
      class: x < 0 ? "minus-bar" : "plus-bar" },
      svg("title", {}, `${visible(inputName(k))} = ${number(x)}`));
  });
  const said = item.values.map((x, k) => [k, x]).filter(([, x]) => x).sort((a, b) =>
    Math.abs(b[1]) - Math.abs(a[1])).slice(0, 4);
  const text = said.map(([k, x]) => `${visible(inputName(k))} = ${number(x)}`).join(", ") || "all zero";
  return el("span", { class: "vector" },
    svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": text },
      svg("line", { x1: 0, x2: width, y1: 24, y2: 24, class: "axis" }), ...bars),
    el("span", { class: "values" }, text));
}

// A text with its tokens shaded, an image or a vector. Arrow keys go from token to token; `tell` gets what each is.
function strip(i, { values = [], at = null, most = 0, label, tell = null, onpick = null } = {}) {
  const item = block.items[i];
  if (!item.tokens) return el("div", { class: "strip other" }, item.values ? vector(item) : picture(item));
  const tokens = item.tokens.map((id, k) =>
    el("bdi", { class: `token ${shade(values[k], most)} ${k === at ? "at" : ""} ` +
      (block.outputs[id].length < 40 ? "whole" : ""), "data-k": k },
      visible(block.outputs[id])));
  if (!tell) return el("div", { class: "strip" }, tokens.length ? tokens : el("span", { class: "none" }, "empty text"));
  const say = (k) => tell(k === null ? ""
    : `${named(short(block.outputs[item.tokens[k]], 60))} at ${k}: ${signed(values[k])}`, k);
  let here = null;
  const go = (k) => {
    if (here !== null) tokens[here].classList.remove("here");
    here = k;
    if (k !== null) tokens[k].classList.add("here");
    say(k);
  };
  const keys = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -tokens.length, End: tokens.length }[event.key];
    if (event.key === "Enter" && onpick && here !== null) onpick(here);
    if (!step || !tokens.length) return;
    event.preventDefault();
    go(Math.max(0, Math.min(tokens.length - 1, (here ?? (at ?? 0) - Math.sign(step)) + step)));
  };
  const pick = (event) => {
    if (!onpick || !event.target.dataset.k) return;
    go(Number(event.target.dataset.k));
    onpick(here);
  };
  const over = (event) => event.target.dataset.k && say(Number(event.target.dataset.k));
  return el("div", { class: "strip", tabindex: 0, role: "group",
    "aria-label": `${label}: ${visible(short(itemText(i), 300))}. Arrow keys go from token to token` +
      (onpick ? ", Enter to its row." : "."),
    onkeydown: keys, onclick: pick, onfocus: () => go(at ?? (tokens.length ? 0 : null)), onblur: () => go(null),
    onmouseover: over, onmouseleave: () => say(null) },
  tokens.length ? tokens : el("span", { class: "none" }, "empty text"));
}

// Charts: 300 units wide, text in the page's own font.
function frame(label, height, ...children) {
  return svg("svg", { viewBox: `0 0 300 ${height}`, class: "chart", role: "img", "aria-label": label }, ...children);
}

const mark = (x, y, text, props = {}) => svg("text", { x, y, ...props }, text);
const path = (points, props) => svg("path",
  { d: points.map(([x, y], k) => `${k ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join(""), fill: "none", ...props });

function histogram({ edges, counts }) {
  const most = Math.max(1, ...counts), few = Math.min(most, ...counts.filter((n) => n > 0));
  const log = most > 50 * few, high = (n) => (log ? Math.log1p(n) / Math.log1p(most) : n / most) * 84;
  const step = 280 / Math.max(1, counts.length), middle = Math.round(counts.length / 2);
  const bars = counts.map((n, k) => svg("rect", { x: 10 + k * step, y: 96 - high(n), width: Math.max(0.5, step - 1),
    height: high(n), class: "plus-bar" },
    svg("title", {}, `${number(edges[k])} to ${number(edges[k + 1])}: ${plural(n, "sample")}`)));
  const total = counts.reduce((sum, n) => sum + n, 0);
  const label =
    `Histogram of impact over ${plural(total, "sample")}, from ${number(edges[0])} to ${number(edges.at(-1))}.`;
  return frame(label, 126, ...bars, svg("line", { x1: 10, x2: 290, y1: 96.5, y2: 96.5, class: "axis" }),
    mark(10, 110, counts.length > 1 ? `≤ ${number(edges[1], 2)}` : number(edges[0], 2)),
    mark(150, 110, number(edges[middle], 2), { "text-anchor": "middle" }),
    mark(290, 110, number(edges.at(-1), 2), { "text-anchor": "end" }),
    mark(150, 124, counts.length > 1 ? "impact, log scale" : "impact", { "text-anchor": "middle", class: "dim" }),
    mark(290, 10, `${log ? "count, log scale" : "count"}, most ${most}`, { "text-anchor": "end", class: "dim" }));
}

function curve(values, label, left, right) {
  const most = largest(values) || 1, n = values.length;
  const points = values.map((x, k) => [34 + (256 * k) / Math.max(1, n - 1), 90 - (76 * x) / most])
    .filter((_, k) => Number.isFinite(values[k]));
  const dot = points.at(-1);
  return frame(label, 112, svg("line", { x1: 34, x2: 290, y1: 90.5, y2: 90.5, class: "axis" }),
    path(points, { class: "line" }),
    svg("circle", { cx: dot[0], cy: dot[1], r: 3, class: "dot" }),
    mark(30, 18, number(most, 2), { "text-anchor": "end" }), mark(30, 94, "0", { "text-anchor": "end" }),
    mark(34, 106, left, { class: "dim" }), mark(290, 106, right, { "text-anchor": "end", class: "dim" }));
}

// A table of names, bars and numbers; `rows` are [name node, value, text, class].
function bars(rows, head, most = largest(rows.map((row) => row[1]))) {
  const line = ([name, value, text, kind]) => el("tr", { class: kind ?? null }, el("th", { scope: "row" }, name),
    el("td", { class: "bar" }, meter(value, most)), el("td", { class: "num" }, text));
  return el("table", { class: "bars" }, el("thead", {},
    el("tr", {}, head.map((text) => el("th", { scope: "col" }, el("span", { class: "unseen" }, text))))),
    el("tbody", {}, rows.map(line)));
}

function meter(value, most) {
  const size = most && Number.isFinite(value) ? (100 * Math.abs(value)) / most : 0;
  return svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true", class: "meter" },
    svg("rect", { x: 0, y: 0, width: size, height: 8, class: value < 0 ? "minus-bar" : "plus-bar" }));
}

// Real change (line and dots) and linear prediction (dashed) of one output against delta.
function pushPlot(deltas, real, linear, chosen, name, held) {
  const low = Math.min(...deltas), high = Math.max(...deltas), known = real.filter(Number.isFinite);
  const reach = Math.max(largest(known), 1e-12) * 1.15, X = (d) => 36 + (254 * (d - low)) / (high - low || 1),
    Y = (y) => 76 - (62 * y) / reach;
  const ends = clipped(low, high, linear, deltas, reach).map(([d, y]) => [X(d), Y(y)]);
  const points = deltas.map((d, k) => [X(d), Y(real[k])]).filter(([, y]) => Number.isFinite(y));
  const shown = Number.isFinite(real[chosen]);
  const label = `Change of ${name} against delta. At delta ${signed(deltas[chosen])}: ` +
    `real ${signed(real[chosen])}, linear ${signed(linear[chosen])}.`;
  return frame(label, 166,
    held ? svg("rect", { x: X(held[0]), y: 10, width: X(held[1]) - X(held[0]), height: 132, class: "holds" }) : null,
    svg("line", { x1: 36, x2: 290, y1: 76, y2: 76, class: "axis" }),
      svg("line", { x1: X(0), x2: X(0), y1: 10, y2: 142, class: "axis" }),
    svg("line", { x1: X(deltas[chosen]), x2: X(deltas[chosen]), y1: 10, y2: 142, class: "now" }),
    path(ends, { class: "linear" }), path(points, { class: "line" }),
    points.map(([cx, cy]) => svg("circle", { cx, cy, r: 1.8, class: "dot" })),
    shown ? svg("circle", { cx: X(deltas[chosen]), cy: Y(real[chosen]), r: 4, class: "dot" }) : null,
    ...[1, 0, -1].map((side) => mark(32, Y((side * reach) / 1.15) + 3, side ? signed((side * reach) / 1.15, 2) : "0",
      { "text-anchor": "end" })),
    mark(36, 155, signed(low), { class: "dim" }), mark(163, 164, "delta", { "text-anchor": "middle", class: "dim" }),
    mark(290, 155, signed(high), { "text-anchor": "end", class: "dim" }));
}

// The straight line through zero, cut where it leaves the plot.
function clipped(low, high, linear, deltas, reach) {
  const k = deltas.findIndex((d) => d !== 0), slope = linear[k] / deltas[k];
  if (!Number.isFinite(slope)) return [];
  const edge = slope === 0 ? Infinity : reach / Math.abs(slope);
  return [Math.max(low, -edge), Math.min(high, edge)].map((d) => [d, d * slope]);
}
