// The card of one subnetwork: what it is, its samples, and its measures; push.js has the push.

let meansOpen = false; // What numbers mean stays open from card to card.
const watching = []; // What is told when delta, the sample, the output, the search or the text changes.

function cardOf(d, id, { beside = false } = {}) {
  const entry = entryAt(d, id);
  if (!entry) return el("article", { class: "card" }, el("p", { class: "none" }, `There is no subnetwork ${id} here.`));
  const { s } = entry, parts = [headOf(entry, beside), summaryOf(entry)];
  if (s.top.length || s.random.length) parts.push(samplesOf(entry));
  parts.push(pushOf(entry), el("div", { class: "parts" }, measuresOf(entry)));
  return el("article", { class: "card", "aria-labelledby": `card-${d}`, "data-d": d, "data-id": id }, parts);
}

// Copies the address of a link, which has nothing of what the list is narrowed to; some pages may not.
function copyLink(event) {
  const { href } = event.currentTarget, card = event.target.closest(".card");
  event.preventDefault();
  if (state.view === "find") change({ id: Number(card.dataset.id) }, true);
  const shown = () => say(`The link ends in ${href.slice(href.indexOf("#"))}`);
  navigator.clipboard ? navigator.clipboard.writeText(href).then(() => say("Link copied"), shown) : shown();
}

// Does what depends on the search now, and again whenever that changes.
function onSearch(update) {
  update();
  watching.push(update);
}

const fact = (d, name, ...value) => el("div", {}, el("dt", { title: termOf(d, name) }, name), el("dd", {}, ...value));

function headOf({ s, d, matches }, beside) {
  const deltas = deltasOf(d, s), [near, cosine] = s.nearest[0] ?? [];
  const name = block.decompositions.length > 1 ? `${visible(short(block.decompositions[d].name, 60))}: ` : "";
  const other = block.decompositions[1 - d];
  return el("header", { class: "cardhead" },
    beside ? null : button("← List", () => back(), { class: "back" }),
    el("h2", { id: `card-${d}`, tabindex: -1 }, name, `Subnetwork ${s.id} `,
      s.live ? null : el("span", { class: "badge" }, "dead"),
      el("a", { href: address({ view: "find", d, id: s.id }), class: "permalink", onclick: copyLink,
        "aria-label": `Permanent link to subnetwork ${s.id}`, title: "Permanent link to this subnetwork" }, "link")),
    exportMenu(d, s),
    s.note ? el("p", { class: "cardnote" }, bdi(visible(s.note))) : null,
    el("dl", { class: "figures" }, fact(d, "P_act", number(s.p_active)), fact(d, "impact", number(s.impact)),
      index[d].some.norm ? fact(d, "norm", number(s.norm)) : null,
      deltas.length && s.top.length ? fact(d, "linear prediction",
        button(s.linear ? holdsShort(s.linear, deltas) : unheld(s),
          () => at(`push-${d}`).scrollIntoView({ block: "start" }), { class: "quiet jump", title: "Go to the push" }))
        : null,
      near === undefined ? null : fact(d, "nearest by |cosine|",
        link({ view: "find", d, id: near }, `#${near}`, { "aria-label": `Nearest: subnetwork ${near}` }),
        ` ${signed(cosine, 2)}`),
      matches.length && other ? fact(d, `match in ${visible(short(other.name, 30))}`,
        link({ view: "compare", d: 0, id: d ? matches[0][0] : s.id, with: d ? s.id : matches[0][0] },
          `#${matches[0][0]}`), ` ${signed(matches[0][1], 2)}`) : null),
    termsOf(block.decompositions[d].terms));
}

// Why there is no range in which a linear prediction holds.
const unheld = (s) => (s.top.some((e) => e.moved.length) && still(s) ? "moves nothing" : "unknown");

function termsOf(terms) {
  if (!terms.length) return null;
  return el("details", { class: "means", open: meansOpen, "aria-label": "What these numbers mean",
    ontoggle: (event) => { meansOpen = event.target.open; } },
    el("summary", {}, "What these numbers mean"),
    el("dl", { class: "terms" }, terms.map(([term, meaning]) => el("div", {},
      el("dt", {}, bdi(visible(term))), el("dd", {}, bdi(visible(meaning)))))));
}

// What most top samples have alike. What one of them alone has is left out, unless nothing is there more often.
function summaryOf({ s }) {
  if (!s.top.length) return el("p", { class: "summary" }, "This subnetwork has no samples.");
  const n = s.top.length, one = (word, count, k) => [k ? ", " : "", bdi(word, { class: "word" }), ` (${count})`];
  const often = (pairs) => (pairs[0]?.[1] > 1 ? pairs.filter(([, count]) => count > 1) : pairs).slice(0, 3);
  const list = (pairs, name) => often(pairs).flatMap(([word, count], k) => one(name(word), count, k));
  const up = outputsMoved(s, 1), down = outputsMoved(s, -1), name = (id) => short(outputName(id), 40);
  const line = (label, nodes) => (nodes.length ? el("div", {}, el("dt", {}, label), el("dd", {}, nodes)) : null);
  return el("div", { class: "summary" }, el("dl", {},
    line("Strongest on", list(samplesOn(s), (word) => named(short(word, 40)))),
    line("A positive delta raises", list(up, name)),
    line(up.length ? "and lowers" : "A positive delta lowers", list(down, name))),
  el("p", { class: "note" }, "To first order. In brackets: in how many of the " +
    `${n} top samples, among the outputs moved most.`));
}

function samplesOf(entry) {
  const { s } = entry, most = largest(s.top.flatMap((e) => e.signed)),
    told = el("p", { class: "told", "aria-live": "polite" }, "");
  const tell = (text) => { told.textContent = text; };
  const { signs } = block.decompositions[entry.d];
  const read = `Beside each sample: impact${signs ? ", in brackets the mean with its sign" : ""}. ` +
    "Below it: outputs moved most, to first order, per unit of delta.";
  const bold = el("span", {}, "What is searched for is bold. ");
  onSearch(() => { bold.hidden = asked === null; });
  const column = (title, kind, samples) => el("section", { class: "samples", "aria-label": title }, el("h4", {}, title),
    samples.length ? folded(title.toLowerCase(), samples.findLastIndex((e) => holdsPhrase(e)) >= FOLD, samples,
      (e, k) => sampleOf(entry, e, `${kind}${k}`, most, tell)) : el("p", { class: "none" }, "None."));
  return section("Samples", null, el("div", { class: "key" },
    block.kind === "tokens" ? el("span", {}, el("bdi", { class: "token plus plus4" }, signs ? "positive" : "large"),
      ...(signs ? [" and ", el("bdi", { class: "token minus minus4" }, "negative")] : []),
      " impact; the sample's own token is ",
      el("bdi", { class: "token at" }, "framed"), ". ", bold, read)
      : el("span", {}, read),
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
    label = labelOf(e), title = block.items[e.item].name;
  const moved = e.moved.filter(([, slope]) => slope).map(([output, slope]) =>
    el("li", { class: slope < 0 ? "down" : "up" },
    bdi(short(outputName(output), 24), { class: "word" }), ` ${signed(slope, 2)}`));
  const push = deltasOf(d, s).length && e.moved.length
    ? button("Push", () => { change({ s: key, out: 0 }); at(`push-${d}`).scrollIntoView({ block: "nearest" });
    at(`push-${d}`).querySelector("input").focus({ preventScroll: true }); },
    { class: "quiet", "aria-label": `Push ${name.toLowerCase()}`,
      title: "Show what pushing the weights does to this sample" }) : null;
  const text = strip(e.item, { values: e.signed, at: e.position, most, label: name, tell });
  onSearch(() => {
    const held = heldTokens(e);
    text.querySelectorAll(".token").forEach((token, k) => token.classList.toggle("held", held.includes(k)));
  });
  return el("li", { class: "sample" },
    el("div", { class: "samplehead" }, el("span", { class: "num", title: "impact" }, number(e.impact)),
      el("span", { class: "dim rank" }, `${kind.toLowerCase()} ${Number(key.slice(1)) + 1}`),
      block.decompositions[d].signs ? el("span", { class: "dim rank sign", title: "mean with its sign" },
        `(${signed(e.signed[e.position], 2)})`) : null,
      push),
    title ? el("p", { class: "caption" }, bdi(visible(short(title, 200)))) : null,
    text,
    label ? labelLine(label, d) : null,
    moved.length ? el("ul", { class: "moved", "aria-label": "Outputs moved most, change per unit of delta" }, moved)
      : el("p", { class: "label" }, "moves no output"));
}

// What a sample is, on one line: kinds dim, values as text.
function labelLine(text, d) {
  const parts = labelParts(text, d).map(([kind, value]) => el("span", { class: "part1" },
    kind ? el("span", { class: "dim" }, bdi(visible(kind)), " ") : null,
    bdi(kind ? named(short(value, 80)) : visible(short(value, 200)))));
  return el("p", { class: "labels", title: visible(short(text, 300)) }, parts);
}

function measuresOf({ s, d }) {
  const decomposition = block.decompositions[d], found = [impactOf(s)];
  if (s.coherence.length) found.push(coherenceOf(s, decomposition));
  if (s.share.length) found.push(shareOf(s));
  if (s.nearest.length) found.push(nearestOf(s, d));
  const known = s.history.filter(Number.isFinite);
  if (known.length > 1) found.push(section("P_act over training", null,
    curve(s.history, `P_act over training: from ${number(s.history[0])} to ${number(s.history.at(-1))}.`, "start",
    "end")));
  const facts = [["method", decomposition.method], ...decomposition.facts];
  found.push(section("This decomposition", null, el("dl", { class: "facts2" }, facts.map(([key, value]) =>
    el("div", {}, el("dt", {}, bdi(visible(String(key)))), el("dd", {}, bdi(visible(String(value)))))))));
  return found;
}

// The histogram counts finite impacts; how many samples have none is told by the number of samples of the page.
function impactOf({ histogram: { edges, counts } }) {
  const counted = counts.reduce((sum, n) => sum + n, 0);
  const all = Number(block.facts.findLast(([name]) => name === "samples")?.[1]), lost = all - counted;
  const said = lost > 0 ? `${plural(lost, "sample")} ${lost === 1 ? "has" : "have"} no finite impact.` : null;
  if (!counted && !said) return null;
  return section("Impact", said, counted ? histogram({ edges, counts }) : null);
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
  const along = visible(short(block.decompositions[d].along, 40));
  return section("Nearest subnetworks", `By |cosine| of ${along}, largest first.`,
    bars(rows, ["subnetwork", "size", "cosine"], 1));
}
