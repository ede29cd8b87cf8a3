// The card of one subnetwork: what it is, its samples, the push, and its measures.

const watching = []; // What is told when delta, the sample or the output changes.

function cardOf(d, id, { beside = false } = {}) {
  const entry = entryAt(d, id);
  if (!entry) return el("article", { class: "card" }, el("p", { class: "none" }, `There is no subnetwork ${id} here.`));
  const { s } = entry, parts = [headOf(entry, beside), summaryOf(entry)];
  if (s.top.length || s.random.length) parts.push(samplesOf(entry));
  parts.push(pushOf(entry), el("div", { class: "parts" }, measuresOf(entry)));
  return el("article", { class: "card", "aria-labelledby": `card-${d}`, "data-d": d, "data-id": id }, parts);
}

const fact = (name, ...value) => el("div", {}, el("dt", {}, name), el("dd", {}, ...value));

function headOf({ s, d, matches }, beside) {
  const deltas = deltasOf(d, s), [near, cosine] = s.nearest[0] ?? [];
  const name = block.decompositions.length > 1 ? `${visible(short(block.decompositions[d].name, 60))}: ` : "";
  const other = block.decompositions[1 - d];
  return el("header", { class: "cardhead" },
    beside ? null : button("← List", () => back(), { class: "back" }),
    el("h2", { id: `card-${d}`, tabindex: -1 }, name, `Subnetwork ${s.id}`,
      s.live ? null : el("span", { class: "badge" }, "dead"),
      el("a", { href: address({ view: "find", d, id: s.id }), class: "permalink",
        "aria-label": `Permanent link to subnetwork ${s.id}`, title: "Permanent link" }, "#")),
    takeMenu(d, s),
    s.note ? el("p", { class: "cardnote" }, bdi(visible(s.note))) : null,
    el("dl", { class: "figures" }, fact("P_act", number(s.p_active)), fact("impact", number(s.impact)),
      fact("norm", number(s.norm)),
      deltas.length && s.top.length ? fact("linear prediction",
        button(failsShort(s, deltas), () => at(`push-${d}`).scrollIntoView({ block: "start" }),
        { class: "quiet jump", title: "Go to the push" })) : null,
      near === undefined ? null : fact("nearest",
        link({ view: "find", d, id: near }, `#${near}`, { "aria-label": `Nearest: subnetwork ${near}` }),
        ` ${signed(cosine, 2)}`),
      matches.length && other ? fact(`match in ${visible(short(other.name, 30))}`,
        link({ view: "compare", d: 0, id: d ? matches[0][0] : s.id, with: d ? s.id : matches[0][0] },
          `#${matches[0][0]}`), ` ${signed(matches[0][1], 2)}`) : null));
}

function failsShort(s, deltas) {
  const from = failsFrom(s.linear_until, deltas);
  return !judged(s, deltas) ? "unknown" : still(s) ? "moves nothing" : from === null ? "holds at all tried" : `first fails at |delta| = ${number(from)}`;
}

function summaryOf({ s }) {
  if (!s.top.length) return el("p", { class: "summary" }, "This subnetwork has no samples.");
  const n = s.top.length, one = (word, count, k) => [k ? ", " : "", bdi(word, { class: "word" }), ` (${count})`];
  const list = (pairs, name) => pairs.slice(0, 3).flatMap(([word, count], k) => one(name(word), count, k));
  const up = outputsMoved(s, 1), down = outputsMoved(s, -1), name = (id) => short(outputName(id), 40);
  const line = (label, nodes) => (nodes.length ? el("div", {}, el("dt", {}, label), el("dd", {}, nodes)) : null);
  return el("div", { class: "summary" }, el("dl", {},
    line("Strongest on", list(samplesOn(s), (word) => named(short(word, 40)))),
    line("A positive delta raises", list(up, name)), line("and lowers", list(down, name))),
  el("p", { class: "note" }, `In brackets: in how many of the ${n} top samples, among the outputs that move most.`));
}

function samplesOf(entry) {
  const { s } = entry, most = largest(s.top.flatMap((e) => e.signed)),
    told = el("p", { class: "told", "aria-live": "polite" }, "");
  const tell = (text) => { told.textContent = text; };
  const column = (title, kind, samples) => el("section", { class: "samples", "aria-label": title }, el("h4", {}, title),
    samples.length ? folded(title.toLowerCase(), samples.findLastIndex((e) => holdsPhrase(e)) >= FOLD, samples,
      (e, k) => sampleOf(entry, e, `${kind}${k}`, most, tell)) : el("p", { class: "none" }, "None."));
  return section("Samples", null, el("div", { class: "key" },
    block.kind === "tokens" ? el("span", {}, el("bdi", { class: "token plus plus4" }, "positive"), " and ",
    el("bdi", { class: "token minus minus4" }, "negative"), " impact; the sample's own token is ",
      el("bdi", { class: "token at" }, "framed"), ". Below: outputs moved most, per unit of delta.")
      : el("span", {}, "In bold: impact, in brackets with its sign. Below: outputs moved most, per unit of delta."),
  told),
  el("div", { class: "both" }, column("Top samples", "t", s.top), column("Random samples", "r", s.random)));
}

const FOLD = 5; // Samples shown before the reader asks for all.

function folded(title, open, samples, make) {
  const list = el("ol", {}, samples.slice(0, open ? samples.length : FOLD).map(make)),
    rest = samples.length - list.children.length;
  const show = () => {
    list.append(...samples.slice(FOLD).map((e, k) => make(e, k + FOLD)));
    more.remove();
    list.children[FOLD].querySelector("[tabindex], button")?.focus();
  };
  const more = button(`Show ${rest} more`, show, { class: "quiet", "aria-label": `Show ${rest} more ${title}` });
  return el("div", {}, list, rest ? more : null);
}

function sampleOf({ s, d }, e, key, most, tell) {
  const kind = key[0] === "t" ? "Top" : "Random", name = `${kind} sample ${Number(key.slice(1)) + 1}`,
    label = labelOf(e);
  const moved = e.moved.filter(([, slope]) => slope).map(([output, slope]) =>
    el("li", { class: slope < 0 ? "down" : "up" },
    bdi(short(outputName(output), 24), { class: "word" }), ` ${signed(slope, 2)}`));
  const push = deltasOf(d, s).length && e.moved.length
    ? button("Push", () => { change({ s: key, out: 0 }); at(`push-${d}`).scrollIntoView({ block: "nearest" });
    at(`push-${d}`).querySelector("input").focus({ preventScroll: true }); },
    { class: "quiet", "aria-label": `Push ${name.toLowerCase()}`,
      title: "Show what pushing the weights does to this sample" }) : null;
  return el("li", { class: "sample" },
    el("div", { class: "samplehead" }, el("span", { class: "num", title: "impact" }, number(e.impact)),
      el("span", { class: "dim rank" }, `${kind.toLowerCase()} ${Number(key.slice(1)) + 1}`),
      block.kind === "tokens" ? null : el("span", { class: "dim rank" }, `(${signed(e.signed[0], 2)})`), push),
    strip(e.item, { values: e.signed, at: e.position, most, label: name, tell }),
    label ? el("p", { class: "label" }, bdi(visible(short(label, 200)))) : null,
    moved.length ? el("ul", { class: "moved", "aria-label": "Outputs moved most, change per unit of delta" }, moved)
      : el("p", { class: "label" }, "moves no output"));
}

function measuresOf({ s, d }) {
  const decomposition = block.decompositions[d], found = [];
  if (s.histogram?.counts?.length) found.push(section("Impact", null, histogram(s.histogram)));
  if (s.coherence.length) found.push(coherenceOf(s, decomposition));
  if (s.share.length) found.push(shareOf(s));
  if (s.nearest.length) found.push(nearestOf(s, d));
  if (s.history.length > 1) found.push(section("P_act over training", null,
    curve(s.history, `P_act over training: from ${number(s.history[0])} to ${number(s.history.at(-1))}.`, "start",
    "end")));
  const facts = [["method", decomposition.method], ...decomposition.facts];
  found.push(section("This decomposition", null, el("p", { class: "reading" },
    bdi(visible(decomposition.reading ?? ""))),
    el("dl", { class: "facts2" }, facts.map(([key, value]) =>
      el("div", {}, el("dt", {}, bdi(visible(String(key)))), el("dd", {}, bdi(visible(String(value)))))))));
  return found;
}

function coherenceOf(s, decomposition) {
  const groups = s.coherence.map((value, k) => {
    const [name, against] = decomposition.baselines[k];
    const rows = [[bdi("this subnetwork"), value, number(value), "self"],
      ...Object.entries(against).map(([key, x]) => [bdi(visible(key)), x, number(x), "other"])];
    return [el("p", { class: "note" }, bdi(visible(name))), bars(rows, ["of", "size", "coherence"])];
  });
  return section("Coherence against baselines", null, ...groups.flat());
}

function shareOf(s) {
  const order = s.share.map((x, k) => [x, k]).sort((a, b) => b[0] - a[0]),
    rest = order.slice(8).reduce((sum, [x]) => sum + x, 0);
  const rows = order.slice(0, 8).map(([x, k]) => [bdi(visible(block.tensors[k]), { class: "mono" }), x, percent(x)]);
  if (order.length > 8) rows.push([`${order.length - 8} more`, rest, percent(rest)]);
  return section("Share of the squared norm", null, bars(rows, ["tensor", "size", "share"]));
}

function nearestOf(s, d) {
  const rows = s.nearest.map(([id, cosine]) => {
    const near = entryAt(d, id), word = near ? samplesOn(near.s)[0]?.[0] : undefined;
    return [el("span", {}, link({ view: "find", d, id }, `#${id}`,
      { "aria-label": `Subnetwork ${id}, cosine ${signed(cosine, 2)}` }),
      word === undefined ? null : el("span", { class: "dim" }, " on ", bdi(short(named(word), 24)))), cosine,
        signed(cosine, 2)];
  });
  return section("Nearest subnetworks", "cosine of v_out", bars(rows, ["subnetwork", "size", "cosine"], 1));
}

// The push: what adding delta times v_out to the weights does, computed before, with the linear prediction beside.

function pushOf({ s, d }) {
  const deltas = deltasOf(d, s), title = "Push: the weights plus delta times v_out";
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
    Math.min(deltas.length - 1, nearestDelta(deltas) + by))] });
  const picker = el("select", { "aria-label": "Sample",
    onchange: (event) => change({ s: event.target.value, out: 0 }) },
    pushed.map(([key, e]) => el("option", { value: key },
      `${key[0] === "t" ? "top" : "random"} ${Number(key.slice(1)) + 1}: ${named(short(sampleWord(e), 30))}`)));
  const one = el("div", { class: "one" }), now = el("p", { class: "now" }), table = el("div", { class: "all" });
  const verdict = el("p", { class: "verdict" }, verdictOf(s, deltas));
  const update = () => {
    const k = nearestDelta(deltas), [key, e] = pushed.find(([name]) => name === state.s) ?? pushed[0];
    slider.value = k;
    slider.setAttribute("aria-valuetext", `delta ${signed(deltas[k])}`);
    value.textContent = `delta = ${signed(deltas[k])}`;
    picker.value = key;
    one.replaceChildren(plotOf(e, deltas, k), outputsOf(e, deltas, k));
    table.replaceChildren(samplesTable(pushed, deltas, k, key));
    const off = median(s.top.map((x) => offBy(x, deltas, k)));
    now.textContent = deltas[k] === 0 ? "At delta = 0 nothing is changed."
      : `At this delta it is off by ${percent(off)} (median of the top samples' most moved outputs).`;
  };
  update();
  watching.push(update);
  const part = section(title, null, verdict,
    el("div", { class: "slide" }, button("−", step(-1), { "aria-label": "Smaller delta" }),
    el("div", { class: "track" }, slider, ticks),
    button("+", step(1), { "aria-label": "Larger delta" }), value), now,
  el("div", { class: "pick" }, el("label", {}, "Sample ", picker),
    el("span", { class: "key2" }, svgKey("line"), " real change ", svgKey("linear"), " linear prediction ",
    svgKey("holds"), " holds within 20 %")), one,
  el("h4", {}, "All samples at this delta: change of the output each moves most"), table);
  part.id = `push-${d}`;
  part.classList.add("push");
  return part;
}

function nearestDelta(deltas) {
  const goal = state.delta ?? Math.max(...deltas) / 2;
  return deltas.reduce((best, delta, k) => (Math.abs(delta - goal) < Math.abs(deltas[best] - goal) ? k : best), 0);
}

function svgKey(kind) {
  return svg("svg", { viewBox: "0 0 22 8", width: 22, height: 8, "aria-hidden": "true" },
    kind === "holds" ? svg("rect", { x: 0, y: 0, width: 22, height: 8, class: "holds" })
      : svg("path", { d: "M0 4L22 4", class: kind }));
}

function verdictOf(s, deltas) {
  const until = s.linear_until, from = failsFrom(until, deltas);
  if (!judged(s, deltas)) return "There are no top samples to judge the linear prediction by.";
  if (still(s)) return "The subnetwork moves no output of its top samples, to first order.";
  const every = "The linear prediction is within 20 % of the real change at every delta tried";
  if (from === null) return `${every}, up to |delta| = ${number(until)}.`;
  const start = el("strong", {}, `at |delta| = ${number(from)}, on one side at least, it is off by more than 20 %`);
  return until === null ? el("span", {}, "The linear prediction does not hold at any delta tried: ", start,
    " (median of the top samples).")
    : el("span", {}, `The linear prediction holds up to |delta| = ${number(until)}; `, start,
      " (median of the top samples).");
}

function plotOf(e, deltas, k) {
  const j = Math.min(state.out, e.moved.length - 1), name = short(outputName(e.moved[j][0]), 40);
  const real = deltas.map((_, i) => realChange(e, i, j)), linear = deltas.map((delta) => linearChange(e, delta, j));
  return el("figure", { class: "plot" }, el("figcaption", {}, "Change of ", bdi(name, { class: "word" }),
    " against delta"),
    pushPlot(deltas, real, linear, k, name, j === 0 ? linearUntil(e, deltas) : null));
}

// Outputs of the chosen sample: before, real and linear at this delta; probabilities where outputs are a distribution.
function outputsOf(e, deltas, k) {
  const shown = block.distribution && e.normaliser, zero = deltas.indexOf(0);
  const chance = (y, i) => (shown && i >= 0 && Number.isFinite(y) ? percent(Math.exp(y - (e.normaliser[i] ?? NaN)))
    : "–");
  const head = ["output", "before", "real", "linear", "off by", ...(shown ? ["probability"] : [])];
  const rows = e.moved.map(([output], j) => {
    const name = button(bdi(short(outputName(output), 40), { class: "word" }), () => change({ out: j }),
      { class: "quiet out", "aria-pressed": String(j === Math.min(state.out, e.moved.length - 1)),
        "aria-label": `Draw output ${short(outputName(output), 40)}` });
    const chances = shown ? [el("td", { class: "num chance" },
      `${chance(e.before[j], zero)} → ${chance(e.real[k]?.[j], k)}`)] : [];
    return el("tr", {}, el("th", { scope: "row" }, name),
      ...[number(e.before[j]), number(e.real[k]?.[j]), number((e.before[j] ?? NaN) + linearChange(e, deltas[k], j)),
      percent(offBy(e, deltas, k, j))].map((text) => el("td", { class: "num" }, text)), ...chances);
  });
  return el("div", { class: "scroll" }, el("table", { class: "outputs" },
    el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, rows)));
}

function samplesTable(pushed, deltas, k, chosen) {
  const most = largest(pushed.map(([, e]) => realChange(e, k, 0)).filter(Number.isFinite));
  const head = ["sample", "output", "", "real", "linear", "off by", "first fails at"];
  const rows = pushed.map(([key, e]) => {
    const real = realChange(e, k, 0), linear = linearChange(e, deltas[k], 0),
      from = failsFrom(linearUntil(e, deltas), deltas), kind = key[0] === "t" ? "top" : "random";
    const pick = button(`${kind} ${Number(key.slice(1)) + 1}`, () => change({ s: key, out: 0 }),
      { class: "quiet pick1", "aria-pressed": String(key === chosen) });
    return el("tr", { class: key === chosen ? "chosen" : null },
      el("th", { scope: "row" }, pick, " ", bdi(short(named(sampleWord(e)), 24), { class: "word" })),
      el("td", {}, bdi(short(outputName(e.moved[0][0]), 24), { class: "word" })),
        el("td", { class: "bar" }, meter(real, most)),
      ...[signed(real), signed(linear), percent(offBy(e, deltas, k)),
        from === null ? "none tried" : number(from)].map((text) => el("td", { class: "num" }, text)));
  });
  return el("div", { class: "scroll" }, el("table", { class: "outputs" },
    el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" },
    text || el("span", { class: "unseen" }, "size"))))), el("tbody", {}, rows)));
}
