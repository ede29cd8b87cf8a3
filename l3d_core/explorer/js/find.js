// Find: search, filters, order, counts, and the list of subnetworks.

const CHUNK = 60; // Rows made at once; more follow as the reader scrolls.
const COLUMNS = [
  { key: "id", head: "id", of: (s) => s.id, text: (s) => `#${s.id}`, rising: true },
  { key: "p_active", head: "P_act", of: (s) => s.p_active },
  { key: "impact", head: "impact", of: (s) => s.impact },
  { key: "coherence", head: "coherence", of: (s) => s.coherence[0] ?? null },
  { key: "norm", head: "norm", of: (s) => s.norm },
];
const rowsMade = new Map();
let found = [], watcher = null;
let asked = null; // The query of the list, and how items and subnetworks fit it; null when there is none.

const at = (id) => document.getElementById(id);

function buildFind() {
  at("search").addEventListener("input", (event) => 
    change({ q: event.target.value, id: null, ...BY_DEFAULT, ...AFRESH }));
  for (const key of ["live", "tensor", "token"]) at(key).addEventListener("change",
    (event) => change({ [key]: event.target.value }));
  at("clear").addEventListener("click", () => { change({ q: "", live: "", tensor: "", token: "", ...BY_DEFAULT });
    at("search").focus(); });
  block.tensors.forEach((name, k) => at("tensor").append(el("option", { value: k }, visible(short(name, 80)))));
  at("heads").append(...COLUMNS.map(({ key, head, rising }) => button(head, () => {
    const dir = sortKey() === key ? (state.dir === "asc" ? "desc" : "asc") : rising ? "asc" : "desc";
    change({ sort: key, dir });
  }, { "data-key": key, class: `head ${key}` })));
  at("heads").append(button("match", () => change(BY_DEFAULT), { "data-key": "match", class: "head match" }));
  at("rows").addEventListener("keydown", listKeys);
  at("rows").addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (row) open({ id: Number(row.dataset.id) });
  });
  watcher = new IntersectionObserver((seen) => { if (seen.some((entry) =>
    entry.isIntersecting)) showRows(at("rows").children.length + CHUNK); });
}

let tokensOf = null;

// The token filter lists what the samples of the chosen decomposition stand on, and what they move most.
function fillTokens() {
  if (tokensOf === state.d) return;
  tokensOf = state.d;
  const group = (label, prefix, key) => {
    const counts = tally(index[state.d].entries.flatMap((entry) => [...entry[key]]));
    counts.sort((a, b) => (a[0] < b[0] ? -1 : 1));
    return el("optgroup", { label }, counts.map(([word, n]) =>
      el("option", { value: prefix + word }, `${named(short(word, 40))} (${n})`)));
  };
  at("token").replaceChildren(el("option", { value: "" }, "any"), group("Strongest on", "on:", "on"),
    group("Moves most", "moves:", "moves"));
}

function accepts(entry) {
  if (state.live !== "" && entry.s.live !== (state.live === "1")) return false;
  if (state.tensor !== "" && entry.tensor !== Number(state.tensor)) return false;
  if (state.token === "") return true;
  const [kind, word] = [state.token.split(":")[0], state.token.slice(state.token.indexOf(":") + 1)];
  return (kind === "on" ? entry.on : entry.moves).has(word);
}

// The order unless the reader chooses a column: the best fit first where something is searched for, else by impact.
const BY_DEFAULT = { sort: null, dir: "desc" };
const columnsOf = (d) => COLUMNS.filter(({ key }) => index[d].some[key] ?? true);

function sortKey() {
  if (columnsOf(state.d).some(({ key }) => key === state.sort)) return state.sort;
  return plain(state.q).trim() ? "match" : "impact";
}

// Subnetworks whose texts hold the whole phrase; if there are none, those with each of its words, or with most of them
// in one text.
function search(entries, query) {
  const phrase = plain(query).trim();
  if (!phrase) { asked = null; return entries; }
  const words = [...new Set(phrase.split(" "))], whole = entries.filter((entry) => entry.text.includes(phrase));
  const exact = whole.length > 0 || words.length < 2;
  if (asked?.phrase !== phrase || asked.exact !== exact) asked = { phrase, exact, phrases: exact ? [phrase] : words,
    id: /^#?\d+$/.test(phrase) ? Number(phrase.replace("#", "")) : null, items: new Map(), fits: new Map() };
  return exact ? whole : entries.filter((entry) => words.every((word) => entry.text.includes(word))
    || (fitOf(entry).words > 1 && 2 * fitOf(entry).words >= words.length));
}

const hasAll = (text) => asked.phrases.every((phrase) => text.includes(phrase));

const LETTER = /[\p{L}\p{N}]/u;

// Where in an item's text the phrases stand, how many of them do, and whether its text and caption have all. Single
// words of a phrase count where no letter goes before or follows.
function itemFit(i) {
  if (asked.items.has(i)) return asked.items.get(i);
  const own = itemLower(i), spans = [], alone = (from, to) => asked.exact ||
    !(LETTER.test(own.text[from - 1] ?? "") || LETTER.test(own.text[to] ?? ""));
  let words = 0;
  for (const phrase of asked.phrases) {
    const before = spans.length;
    for (let from = own.text.indexOf(phrase); from >= 0; from = own.text.indexOf(phrase, from + 1))
      if (alone(from, from + phrase.length)) spans.push([from, from + phrase.length]);
    words += Number(spans.length > before);
  }
  const fit = { spans, words, starts: own.starts, holds: hasAll(own.text + "\0" + own.caption) };
  asked.items.set(i, fit);
  return fit;
}

const touches = ([from, to], starts, k) => from < starts[k + 1] && to > starts[k];
const holdsPhrase = (sample) => asked !== null && itemFit(sample.item).holds;

// Whether the sample's own token lies within what is searched for; an image or a vector is one sample as a whole.
function framed(sample) {
  const { spans, starts, holds } = itemFit(sample.item);
  return holds && (!block.items[sample.item].tokens || spans.some((span) => touches(span, starts, sample.position)));
}

// The tokens of a sample that what is searched for stands on.
function heldTokens(sample) {
  const { tokens } = block.items[sample.item];
  if (!tokens || asked === null) return [];
  const { spans, starts } = itemFit(sample.item);
  return tokens.map((_, k) => k).filter((k) => spans.some((span) => touches(span, starts, k)));
}

// In how many top samples of a subnetwork the phrase is where.
function fitOf(entry) {
  if (asked.fits.has(entry)) return asked.fits.get(entry);
  const { s } = entry, moved = [], fit = { within: 0, holds: 0, outputs: 0, labels: 0 };
  fit.words = asked.exact ? 0 : Math.max(0, ...s.top.map((e) => itemFit(e.item).words));
  s.top.forEach((e, k) => {
    if (holdsPhrase(e)) { fit.holds++; if (framed(e)) fit.within++; }
    if (hasAll(entry.labels[k])) fit.labels++;
    const hit = e.moved.filter(([output, slope]) => slope && hasAll(lowerOutput(output)));
    if (hit.length) fit.outputs++;
    moved.push(...hit.map(([output]) => output));
  });
  fit.moves = tally(moved)[0];
  fit.note = hasAll(plain(s.note));
  fit.id = hasAll(`#${s.id}`);
  fit.rank = [Number(asked.id === s.id), fit.words, fit.within, fit.holds, fit.outputs, fit.labels, Number(fit.note),
    Number(fit.id), s.impact ?? -1];
  asked.fits.set(entry, fit);
  return fit;
}

// Why a subnetwork is a hit, in short.
function whyOf(entry) {
  const fit = fitOf(entry), n = entry.s.top.length, why = [];
  if (fit.id) why.push(["id"]);
  if (fit.holds) why.push([`${asked.exact ? "" : "all words "}in ${fit.holds} of ${plural(n, "top sample")}` +
    (fit.within && block.kind === "tokens" ? `, at the framed token in ${fit.within}` : "")]);
  if (fit.moves) why.push(["moves ", bdi(short(outputName(fit.moves[0]), 24), { class: "word" }),
    ` in ${fit.moves[1]} of ${n}`]);
  if (fit.labels) why.push([`label in ${fit.labels} of ${n}`]);
  if (fit.note) why.push(["note"]);
  if (!asked.exact && !fit.holds && fit.words > 1)
    why.unshift([`${fit.words} of ${asked.phrases.length} words in one top sample`]);
  if (!why.length) why.push(["each word, in different places"]);
  return el("span", { class: "why" }, why.flatMap((some, k) => (k ? ["; ", ...some] : some)));
}

function order(entries) {
  const key = sortKey();
  if (key === "match") {
    const worse = (a, b) => { const k = a.findIndex((x, i) => x !== b[i]); return k < 0 ? 0 : b[k] - a[k]; };
    return [...entries].sort((a, b) => worse(fitOf(a).rank, fitOf(b).rank) || a.s.id - b.s.id);
  }
  const { of } = COLUMNS.find((column) => column.key === key), sign = state.dir === "asc" ? 1 : -1;
  const known = (x) => x !== null && x !== undefined;
  return [...entries].sort((a, b) => {
    const x = of(a.s), y = of(b.s);
    if (known(x) !== known(y)) return known(x) ? -1 : 1;
    return (known(x) && x !== y ? sign * (x - y) : 0) || a.s.id - b.s.id;
  });
}

// Heads say what their column means and which of them is the order.
function showHeads() {
  const now = sortKey(), columns = columnsOf(state.d);
  for (const head of at("heads").children) {
    const { key } = head.dataset, on = key === now, name = key === "match" ? "match" : COLUMNS.find((column) =>
      column.key === key).head;
    head.hidden = key === "match" ? asked === null || !found.length : !columns.some((column) => column.key === key);
    head.setAttribute("aria-pressed", on);
    if (key === "match") {
      head.textContent = on ? "match: the best fit is first" : "match: set the best fit first";
      head.title = "First by top samples with the phrase at their framed token, then by those with it anywhere";
      head.setAttribute("aria-label", `Sort by match${on ? ", now the best fit first" : ""}`);
      continue;
    }
    head.dataset.dir = on ? state.dir : "";
    head.title = termOf(state.d, name) ?? "";
    head.setAttribute("aria-label", `Sort by ${name}${on ? (state.dir === "asc" ? ", now rising" : ", now falling")
      : ""}`);
  }
}

function refreshList() {
  const { entries } = index[state.d];
  fillTokens();
  if (![...at("token").options].some(({ value }) => value === state.token)) state.token = "";
  found = order(search(entries.filter(accepts), state.q));
  for (const key of ["live", "tensor", "token"]) if (at(key).value !== state[key]) at(key).value = state[key];
  if (at("search").value !== state.q) at("search").value = state.q;
  showHeads();
  at("rows").replaceChildren();
  showRows(CHUNK);
  at("rows").scrollTop = 0;
  const live = entries.filter((entry) => entry.s.live).length,
    filtered = Boolean(state.q || state.live || state.tensor || state.token);
  const text = filtered ? `${found.length} of ${plural(entries.length, "subnetwork")}`
    : plural(entries.length, "subnetwork");
  const how = !asked || asked.exact ? "" : "; none has the whole phrase, these have its words";
  at("count").textContent = text + (filtered ? "" : `, ${live} live`) + how;
  at("clear").hidden = !filtered;
}

function showRows(upTo) {
  const list = at("rows"), from = list.children.length;
  list.append(...found.slice(from, upTo).map(rowOf));
  if (from === 0) markChosen();
  watcher.disconnect();
  if (list.lastElementChild && list.children.length < found.length) watcher.observe(list.lastElementChild);
  if (!found.length) list.append(el("p", { class: "none" },
    "Nothing matches. Search for fewer words or clear the filters."));
}

// The sample a row shows: the first that fits best what is searched for, or else the strongest.
function shownSample({ s }) {
  if (!asked) return s.top[0];
  const most = asked.exact ? 1 : fitOf(entryAt(state.d, s.id)).words;
  return s.top.find(framed) ?? s.top.find(holdsPhrase) ?? s.top.find((e) => most && itemFit(e.item).words === most)
    ?? s.top[0];
}

function rowOf(entry) {
  const { s, d } = entry, key = `${d}:${s.id}:${state.view}:${asked ? Number(asked.exact) + asked.phrase : ""}`;
  if (rowsMade.size > 5000) rowsMade.clear();
  if (!rowsMade.has(key)) rowsMade.set(key, makeRow(entry, shownSample(entry)));
  const row = rowsMade.get(key);
  row.tabIndex = -1;
  row.setAttribute("aria-selected", "false");
  return row;
}

function makeRow(entry, sample) {
  const { s } = entry, cells = columnsOf(entry.d).map(({ key, of, text }) =>
    el("span", { class: key }, text ? text(s) : number(of(s))));
  const [match, cosine] = entry.matches[0] ?? [];
  const pair = match === undefined ? null : el("span", { class: "pair" }, `↔ #${match} (${signed(cosine, 2)})`);
  const why = asked ? whyOf(entry) : null;
  const said = `Subnetwork ${s.id}${s.live ? "" : ", dead"}, P_act ${number(s.p_active)}, impact ${number(s.impact)}` +
    (sample ? `, strongest on ${named(short(sampleWord(sample), 40))}` : "") +
    (match === undefined ? "" : `, matches ${match}`) + (why ? `; found: ${why.textContent}` : "");
  return el("div", { class: `row ${s.live ? "" : "dead"}`, role: "option", id: `row-${entry.d}-${s.id}`,
    "data-id": s.id, "aria-label": said },
    el("span", { class: "cells" }, cells), why,
    el("span", { class: "snippet" }, s.live ? null : el("span", { class: "badge" }, "dead"), pair,
      s.note ? el("bdi", { class: "rownote" }, visible(short(s.note, 80))) : null,
        sample ? snippet(sample) : el("span", { class: "none" }, "no samples")));
}

// A few tokens around a sample's own position and what was searched for, on one line.
function snippet(sample, before = 7, after = 5) {
  const item = block.items[sample.item], title = caption(sample.item);
  const called = title ? bdi(visible(short(title, 60)), { class: "caption" }) : null;
  if (!item.tokens) return el("span", { class: "words" }, called,
    item.image ? picture(item, { class: "stamp", alt: "" }) : null, bdi(visible(short(itemText(sample.item), 60))));
  const { spans, starts } = asked ? itemFit(sample.item) : { spans: [] };
  const best = spans.find((span) => touches(span, starts, sample.position)) ?? spans[0];
  const held = best ? item.tokens.map((_, k) => k).filter((k) => touches(best, starts, k)) : [];
  const from = Math.max(0, held.length ? Math.min(held[0], sample.position) - 3 : sample.position - before);
  const to = Math.max(sample.position, held.at(-1) ?? 0) + after + 1, words = item.tokens.slice(from, to);
  const kind = (k) => `${k === sample.position ? "peak" : ""} ` +
    (spans.some((span) => touches(span, starts, k)) ? "hit" : "");
  return el("span", { class: "words" }, called, from ? "…" : null,
    words.map((id, k) => bdi(visible(short(block.outputs[id], 40)), { class: kind(from + k) })),
    to < item.tokens.length ? "…" : null);
}

// Marks the chosen row and lets Tab reach it, or else the first.
function markChosen(focus = false) {
  const list = at("rows"), place = found.findIndex((entry) => entry.s.id === chosenId());
  if (focus && place >= list.children.length) showRows(place + CHUNK);
  for (const row of list.querySelectorAll('[aria-selected="true"], [tabindex="0"]')) { row.setAttribute("aria-selected",
    "false"); row.tabIndex = -1; }
  const id = chosenId(), row = list.querySelector(`[data-id="${Number(id)}"]`);
  if (row && id !== null) row.setAttribute("aria-selected", "true");
  const reach = row ?? list.querySelector(".row");
  if (reach) reach.tabIndex = 0;
  if (focus && reach) { reach.focus(); reach.scrollIntoView({ block: "nearest" }); }
}

// Arrow keys go through the list; on a wide page the card follows, on a narrow one Enter opens it.
function listKeys(event) {
  const row = event.target.closest(".row");
  if (!row) return;
  const place = found.findIndex((entry) => entry.s.id === Number(row.dataset.id));
  const goal = { ArrowDown: place + 1, ArrowUp: place - 1, PageDown: place + 10, PageUp: place - 10, Home: 0,
    End: found.length - 1 }[event.key];
  if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open({ id: Number(row.dataset.id) }, true);
    }
  if (goal === undefined) return;
  event.preventDefault();
  const next = Math.max(0, Math.min(found.length - 1, goal));
  if (next >= at("rows").children.length) showRows(next + CHUNK);
  const other = at("rows").children[next];
  if (narrow()) { row.tabIndex = -1; other.tabIndex = 0; other.focus(); }
  else { change({ id: Number(other.dataset.id), ...AFRESH }); other.focus(); other.scrollIntoView({ block: "nearest" });
    }
}
