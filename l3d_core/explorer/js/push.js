// The push: what adding delta times what the model is pushed along to the weights does, computed before, with the
// linear prediction beside.

function pushOf({ s, d }) {
  const deltas = deltasOf(d, s), along = visible(short(block.decompositions[d].along, 40));
  const title = `Push: the weights plus delta times ${along}`;
  const pushed = [...s.top.map((e, k) => [`t${k}`, e]),
    ...s.random.map((e, k) => [`r${k}`, e])].filter(([, e]) => e.moved.length && e.real.length);
  if (!deltas.length || !pushed.length) return section(title, null,
    el("p", { class: "none" }, "No push was computed for this subnetwork."));
  const slider = el("input", { type: "range", min: 0, max: deltas.length - 1, step: 1,
    "aria-label": `delta for subnetwork ${s.id}`, "aria-keyshortcuts": "ArrowLeft ArrowRight" });
  slider.addEventListener("input", () => change({ delta: deltas[Number(slider.value)] }));
  const value = el("output", { class: "delta" }),
    ticks = el("div", { class: "ticks", "aria-hidden": "true" }, el("span", {}, signed(deltas[0])),
    el("span", {}, signed(deltas.at(-1))));
  const step = (by) => () => change({ delta: deltas[Math.max(0,
    Math.min(deltas.length - 1, nearestDelta(deltas, d) + by))] });
  const picker = el("select", { "aria-label": "Sample",
    onchange: (event) => change({ s: event.target.value, out: 0 }) },
    pushed.map(([key, e]) => el("option", { value: key },
      `${key[0] === "t" ? "top" : "random"} ${Number(key.slice(1)) + 1}: ${named(short(sampleWord(e), 30))}`)));
  const one = el("div", { class: "one" }), now = el("p", { class: "now" }), table = el("div", { class: "all" });
  const verdict = el("p", { class: "verdict" }, verdictOf(s, deltas));
  const update = () => {
    const k = nearestDelta(deltas, d), [key, e] = pushed.find(([name]) => name === state.s) ?? pushed[0];
    slider.value = k;
    slider.setAttribute("aria-valuetext", `delta ${signed(deltas[k])}`);
    value.textContent = `delta = ${signed(deltas[k])}`;
    picker.value = key;
    one.replaceChildren(plotOf(e, deltas, k), outputsOf(e, deltas, k));
    table.replaceChildren(samplesTable(pushed, deltas, k, key));
    const off = median(s.top.map((x) => offBy(x, deltas, k)));
    now.textContent = deltas[k] === 0 ? "At delta = 0 nothing is changed."
      : `At delta = ${signed(deltas[k])} it is off by ${percent(off)} (median of the top samples' most moved outputs).`;
  };
  update();
  watching.push(update);
  const part = section(title, null, verdict,
    el("div", { class: "slide" }, button("−", step(-1), { "aria-label": "Smaller delta" }),
    el("div", { class: "track" }, slider, ticks),
    button("+", step(1), { "aria-label": "Larger delta" }), value), now,
  el("div", { class: "pick" }, el("label", {}, "Sample ", picker),
    el("span", { class: "key2" }, svgKey("line"), " real change ", svgKey("linear"), " linear prediction ",
    svgKey("holds"), " holds within 20 % on this sample, for the output moved most")), one,
  el("h4", {}, "All samples at this delta: the output that each moves most to first order"), table,
  el("p", { class: "note units" },
    `Before: the output at delta = 0${block.distribution ? ", a logit; changes are in logits too" : ""}. ` +
    "Off by: how far the linear change is from the real one, as a share of the real change."));
  part.id = `push-${d}`;
  part.classList.add("push");
  return part;
}

// Two cards share one delta; where it is of the other card's grid alone, the same share of the grid is meant here.
function nearestDelta(deltas, d) {
  const other = document.querySelector(`.card[data-d="${1 - d}"]`), end = Math.max(...deltas);
  const s = other && entryAt(1 - d, Number(other.dataset.id))?.s, theirs = s ? deltasOf(1 - d, s) : [];
  const foreign = !deltas.includes(state.delta) && theirs.includes(state.delta);
  const goal = state.delta === null ? end / 2 : foreign ? (state.delta / Math.max(...theirs)) * end : state.delta;
  return deltas.reduce((best, delta, k) => (Math.abs(delta - goal) < Math.abs(deltas[best] - goal) ? k : best), 0);
}

function svgKey(kind) {
  return svg("svg", { viewBox: "0 0 22 8", width: 22, height: 8, "aria-hidden": "true" },
    kind === "holds" ? svg("rect", { x: 0, y: 0, width: 22, height: 8, class: "holds" })
      : svg("path", { d: "M0 4L22 4", class: kind }));
}

function verdictOf(s, deltas) {
  if (!s.linear) return unheld(s) === "unknown" ? "It is not known how far the linear prediction holds."
    : "The subnetwork moves no output of its top samples, to first order.";
  const { linear } = s, fails = failsAt(linear, deltas).filter((x) => x !== null).map((x) => signed(x));
  const at = `delta = ${fails.join(linear[0] === linear[1] ? " and " : " and at ")}`;
  const range = `from delta = ${signed(linear[0])} to ${signed(linear[1])}`;
  if (!fails.length) return `The linear prediction holds at every delta tried, ${range}, for the median top sample ` +
    "(off by at most 20 %).";
  if (linear[0] === linear[1]) return el("span", {}, "The linear prediction ",
    el("strong", {}, `fails at the first step${fails.length > 1 ? " on both sides" : ""}, at ${at}`),
    " (off by more than 20 % for the median top sample).");
  return el("span", {}, `The linear prediction holds ${range} for the median top sample; `,
    el("strong", {}, `it first fails at ${at}`), " (off by more than 20 %).");
}

function plotOf(e, deltas, k) {
  const j = Math.min(state.out, e.moved.length - 1), name = short(outputName(e.moved[j][0]), 40);
  const real = deltas.map((_, i) => realChange(e, i, j)), linear = deltas.map((delta) => linearChange(e, delta, j));
  return el("figure", { class: "plot" }, el("figcaption", {}, "Change of ", bdi(name, { class: "word" }),
    " against delta"),
    pushPlot(deltas, real, linear, k, name, j === 0 ? linearOf(e, deltas) : null));
}

// Both tables tell the same of an output: its level before, and its real and linear change at this delta.
const CHANGES = ["before", "real change", "linear change", "off\u00a0by"];
const changesOf = (e, deltas, k, j) => [number(e.before[j]), signed(realChange(e, k, j)),
  signed(linearChange(e, deltas[k], j)), percent(offBy(e, deltas, k, j))].map((text) =>
  el("td", { class: "num" }, text));

function outputsTable(head, rows) {
  const right = [...CHANGES, "probability"];
  const names = head.map((text) => el("th", { scope: "col", class: right.includes(text) ? "num" : null },
    text || el("span", { class: "unseen" }, "size")));
  return el("div", { class: "scroll" }, el("table", { class: "outputs" }, el("thead", {}, el("tr", {}, names)),
    el("tbody", {}, rows)));
}

// Outputs of the chosen sample at this delta; probabilities before and after where outputs are a distribution.
function outputsOf(e, deltas, k) {
  const shown = block.distribution && e.normaliser, zero = deltas.indexOf(0);
  const chance = (y, i) => (i >= 0 && Number.isFinite(y) ? percent(Math.exp(y - (e.normaliser[i] ?? NaN))) : "–");
  const rows = e.moved.map(([output], j) => {
    const name = button(bdi(short(outputName(output), 40), { class: "word" }), () => change({ out: j }),
      { class: "quiet out", "aria-pressed": String(j === Math.min(state.out, e.moved.length - 1)),
        "aria-label": `Draw output ${short(outputName(output), 40)}` });
    const chances = shown ? `${chance(e.before[j], zero)}\u00a0→ ${chance(e.real[k]?.[j], k)}` : null;
    return el("tr", {}, el("th", { scope: "row" }, name), changesOf(e, deltas, k, j),
      shown ? el("td", { class: "num chance" }, chances) : null);
  });
  return outputsTable(["output", ...CHANGES, ...(shown ? ["probability"] : [])], rows);
}

function samplesTable(pushed, deltas, k, chosen) {
  const most = largest(pushed.map(([, e]) => realChange(e, k, 0)).filter(Number.isFinite));
  const rows = pushed.map(([key, e]) => {
    const held = linearOf(e, deltas), kind = key[0] === "t" ? "top" : "random";
    const pick = button(`${kind} ${Number(key.slice(1)) + 1}`, () => change({ s: key, out: 0 }),
      { class: "quiet pick1", "aria-pressed": String(key === chosen) });
    return el("tr", { class: key === chosen ? "chosen" : null },
      el("th", { scope: "row" }, pick, " ", bdi(short(named(sampleWord(e)), 24), { class: "word" })),
      el("td", {}, bdi(short(outputName(e.moved[0][0]), 24), { class: "word" })),
      el("td", { class: "bar" }, meter(realChange(e, k, 0), most)), changesOf(e, deltas, k, 0),
      el("td", { class: "holding" }, held ? holdsShort(held, deltas) : "–"));
  });
  return outputsTable(["sample", "output", "", ...CHANGES, "linear prediction"], rows);
}
