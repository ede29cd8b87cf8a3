// Export: one subnetwork as CSV, JSON or safetensors, and the view as a picture.

function exportMenu(d, s) {
  const name = `subnetwork-${s.id}${block.decompositions[1] ? `-of-${d + 1}` : ""}`,
    { weights } = block.decompositions[d];
  const item = (label, make, type, ending) => button(label, (event) => {
    event.target.closest("details").open = false;
    const made = make();
    if (made !== null) save(made, type, `${name}.${ending}`);
  });
  return el("details", { class: "export", "aria-label": `Export subnetwork ${s.id}` }, el("summary", {}, "Export"),
    el("div", { class: "menu" },
    item("CSV, samples and push", () => csvOf(d, s), "text/csv", "csv"),
      item("JSON, everything", () => jsonOf(d, s), "application/json", "json"),
    weights ? item("safetensors, v_in and v_out", () => safetensorsOf(d, s), "application/octet-stream", "safetensors")
      : el("p", { class: "none" }, "Weights are not in this page."),
    button("Picture of this card, SVG", (event) => { event.target.closest("details").open = false;
      savePicture(name, event.target.closest("article")); })));
}

function save(content, type, name) {
  const anchor = el("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 60000);
  say(`Saved ${name}`);
}

// One line per sample and moved output: what it is, then the real output at each delta.
function csvOf(d, s) {
  const deltas = deltasOf(d, s), head = ["set", "rank", "item", "position", "text", "token", "impact", "signed",
    "output", "output_name", "derivative", "before", ...deltas.map((x) => `real at ${x}`)];
  const lines = [head];
  for (const [set, samples] of [["top", s.top], ["random", s.random]]) samples.forEach((e, rank) => {
    const lead = [set, rank + 1, e.item, e.position, itemText(e.item), sampleWord(e), e.impact,
      e.signed[e.position] ?? null];
    if (!e.moved.length) lines.push(lead);
    e.moved.forEach(([output, slope], j) => lines.push([...lead, output, block.outputs[output], slope, e.before[j],
      ...e.real.map((row) => row[j])]));
  });
  // A text that begins like a formula is one to a spreadsheet, unless an apostrophe stands before it.
  const safe = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
  const cell = (x) => (x === null || x === undefined ? "" : typeof x === "number" ? String(x)
    : `"${safe(wellFormed(x)).replace(/"/g, '""')}"`);
  return lines.map((line) => line.map(cell).join(",") + "\r\n").join("");
}

// The record of the subnetwork with the names and items that its numbers point to.
function jsonOf(d, s) {
  const { subnetworks, prompts, weights, ...decomposition } = block.decompositions[d];
  const used = [...s.top, ...s.random], outputs = new Set(used.flatMap((e) =>
    [...e.moved.map(([output]) => output), ...(block.items[e.item].tokens ?? [])]));
  return JSON.stringify({ format: block.format, title: block.title, facts: block.facts, kind: block.kind,
    tensors: block.tensors, inputs: block.inputs ?? undefined, decomposition, subnetwork: s,
    outputs: Object.fromEntries([...outputs].sort((a, b) => a - b).map((id) => [id, block.outputs[id]])),
    items: Object.fromEntries(used.map((e) => [e.item, block.items[e.item]])) }, null, 1);
}

// One row of v_in and v_out in the layout of safetensors: length of the header, header, numbers.
function safetensorsOf(d, s) {
  const { layout, v_in, v_out } = block.decompositions[d].weights, size = 4 * numbersOf(layout);
  const row = (text) => bytesOf(text).subarray(size * s.id, size * (s.id + 1));
  const rows = [row(v_in), row(v_out)];
  const meta = { id: String(s.id), layout: JSON.stringify(layout), title: wellFormed(block.title) };
  let header = JSON.stringify({ __metadata__: meta,
    v_in: { dtype: "F32", shape: [1, size / 4], data_offsets: [0, size] },
    v_out: { dtype: "F32", shape: [1, size / 4], data_offsets: [size, 2 * size] } });
  let text = new TextEncoder().encode(header);
  if (text.length % 8) text = new TextEncoder().encode(header + " ".repeat(8 - (text.length % 8)));
  const file = new Uint8Array(8 + text.length + 2 * size);
  new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true);
  file.set(text, 8);
  rows.forEach((bytes, k) => file.set(bytes, 8 + text.length + k * size));
  return file;
}

// How many numbers one direction has: of each tensor the core (Tucker form), then a factor per axis.
function numbersOf({ form, tensors }) {
  return tensors.reduce((sum, [, shape, ranks]) => {
    const factors = shape.reduce((n, size, axis) => n + ranks[axis] * size, 0);
    return sum + factors + (form === "cp" && shape.length ? 0 : ranks.reduce((n, r) => n * r, 1));
  }, 0);
}

// The view as SVG: each box, text line, chart and image where the page shows it.
function savePicture(name, view = at("stage").firstElementChild) {
  const area = view.getBoundingClientRect(), ground = getComputedStyle(document.body).backgroundColor;
  const out = svg("svg", { xmlns: "http://www.w3.org/2000/svg", width: area.width, height: area.height,
    viewBox: `0 0 ${area.width} ${area.height}` },
    svg("rect", { width: "100%", height: "100%", fill: ground }));
  trace(view, out, area);
  save(new XMLSerializer().serializeToString(out), "image/svg+xml", `${name}.svg`);
}

const NOT_DRAWN = "button.back, details.export, details.means:not([open]), .permalink, .unseen, option";

function trace(node, out, area) {
  if (node.nodeType === Node.TEXT_NODE) return traceText(node, out, area);
  if (node.nodeType !== Node.ELEMENT_NODE || node.matches(NOT_DRAWN)) return;
  const style = getComputedStyle(node), box = node.getBoundingClientRect(), x = box.left - area.left,
    y = box.top - area.top;
  if (style.display === "none" || (box.width === 0 && box.height === 0)) return;
  if (node.tagName === "svg") return out.append(styledCopy(node, x, y, box));
  if (node.tagName === "IMG") return out.append(svg("image",
    { href: node.src, x, y, width: box.width, height: box.height }));
  boxes(node, style, out, area);
  if (node.tagName === "INPUT" && node.type !== "range") return out.append(written(node.value || node.placeholder,
    x + 6, y + box.height * 0.7, style));
  if (node.tagName === "INPUT") return out.append(svg("line",
    { x1: x, x2: x + box.width, y1: y + box.height / 2, y2: y + box.height / 2, stroke: "gray", "stroke-width": 2 }),
    svg("circle", { cx: x + (box.width * node.value) / node.max, cy: y + box.height / 2, r: 7,
      fill: style.accentColor }));
  if (node.tagName === "SELECT") return out.append(written(node.selectedOptions[0]?.textContent ?? "", x + 6,
    y + box.height * 0.7, style));
  const clip = style.overflowX === "visible" ? out : clipping(out, x, y, box);
  node.childNodes.forEach((child) => trace(child, clip, area));
}

// The ground and the frame of an element; of one that runs over lines, of each line.
function boxes(node, style, out, area) {
  const clear = /, 0\)$/.test(style.backgroundColor), width = parseFloat(style.borderTopWidth);
  const around = width > 0 && parseFloat(style.borderLeftWidth) > 0;
  const shadow = /^(rgb\S*?\(.*?\)) 0px 0px 0px ([\d.]+)px$/.exec(style.boxShadow);
  const stroke = around ? [style.borderTopColor, width] : shadow ? [shadow[1], Number(shadow[2])] : null;
  for (const { left, top, width: w, height: h } of node.getClientRects()) {
    const x = left - area.left, y = top - area.top;
    if (!clear || stroke) out.append(svg("rect", { x, y, width: w, height: h,
      rx: parseFloat(style.borderTopLeftRadius) || 0,
      fill: clear ? "none" : style.backgroundColor, stroke: stroke?.[0], "stroke-width": stroke?.[1] }));
    if (width > 0 && !around) out.append(svg("line", { x1: x, x2: x + w, y1: y, y2: y, stroke: style.borderTopColor,
      "stroke-width": width }));
  }
}

let clips = 0;

function clipping(out, x, y, box) {
  const id = `clip${++clips}`, group = svg("g", { "clip-path": `url(#${id})` });
  out.append(svg("clipPath", { id }, svg("rect", { x, y, width: box.width, height: box.height })), group);
  return group;
}

function written(text, x, y, style) {
  return svg("text", { x, y, fill: style.color, "font-family": style.fontFamily, "font-size": style.fontSize,
    "font-weight": style.fontWeight, "xml:space": "preserve" },
    text.replace(/[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, "\ufffd"));
}

// Text line by line, as the page broke it; an underline, where there is one, as its own line.
function traceText(node, out, area) {
  if (!node.data.trim()) return;
  const range = document.createRange(), style = getComputedStyle(node.parentElement), lines = [],
    marks = Array.from(node.data.slice(0, 4000));
  let from = 0;
  for (const character of marks) {
    range.setStart(node, from);
    range.setEnd(node, from += character.length);
    const box = range.getClientRects()[0], last = lines.at(-1);
    if (!box) continue;
    if (last && Math.abs(last.box.top - box.top) < 2) { last.text += character; last.right = box.right; }
    else lines.push({ text: character, box, right: box.right });
  }
  for (const { text, box, right } of lines) {
    const x = box.left - area.left, bottom = box.bottom - area.top;
    if (text.trim()) out.append(written(text, x, bottom - 0.24 * box.height, style));
    if (style.textDecorationLine === "underline") out.append(svg("line",
      { x1: x, x2: right - area.left, y1: bottom, y2: bottom, stroke: style.textDecorationColor,
      "stroke-width": parseFloat(style.textDecorationThickness) || 1,
        "stroke-dasharray": style.textDecorationStyle === "dashed" ? "4 3" : null }));
  }
}

const DRAWN = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family"];

function styledCopy(chart, x, y, box) {
  const copy = chart.cloneNode(true), from = [chart, ...chart.querySelectorAll("*")],
    to = [copy, ...copy.querySelectorAll("*")];
  from.forEach((node, k) => { const style = getComputedStyle(node);
    for (const key of DRAWN) to[k].setAttribute(key, style[key.replace(/-(.)/g, (_, c) => c.toUpperCase())]); });
  for (const [key, value] of Object.entries({ x, y, width: box.width, height: box.height })) copy.setAttribute(key,
    value);
  return copy;
}
