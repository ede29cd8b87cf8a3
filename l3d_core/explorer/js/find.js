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
let found = [], exact = true, watcher = null;

const at = (id) => document.getElementById(id);

function buildFind() {
  at("search").addEventListener("input", (event) => change({ q: event.target.value }));
  for (const key of ["live", "tensor", "token"]) at(key).addEventListener("change",
    (event) => change({ [key]: event.target.value }));
  at("clear").addEventListener("click", () => { change({ q: "", live: "", tensor: "", token: "" });
    at("search").focus(); });
  block.tensors.forEach((name, k) => at("tensor").append(el("option", { value: k }, visible(short(name, 80)))));
  at("heads").append(...COLUMNS.map(({ key, head, rising }) => button(head, () => {
    const dir = state.sort === key ? (state.dir === "asc" ? "desc" : "asc") : rising ? "asc" : "desc";
    change({ sort: key, dir });
  }, { "data-key": key, class: `head ${key}` })));
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

// Subnetworks whose texts hold the whole phrase; if there are none, those that hold each of its words.
function search(entries, query) {
  exact = true;
  const phrase = plain(query).trim();
  if (!phrase) return entries;
  const whole = entries.filter((entry) => entry.text.includes(phrase));
  const words = phrase.split(" ");
  if (whole.length || words.length < 2) return whole;
  exact = false;
  return entries.filter((entry) => words.every((word) => entry.text.includes(word)));
}

function order(entries) {
  const { of } = COLUMNS.find((column) => column.key === state.sort), sign = state.dir === "asc" ? 1 : -1;
  const known = (x) => x !== null && x !== undefined;
  return [...entries].sort((a, b) => {
    const x = of(a.s), y = of(b.s);
    if (known(x) !== known(y)) return known(x) ? -1 : 1;
    return (known(x) && x !== y ? sign * (x - y) : 0) || a.s.id - b.s.id;
  });
}

function refreshList() {
  const { entries } = index[state.d];
  fillTokens();
  if (![...at("token").options].some(({ value }) => value === state.token)) state.token = "";
  found = order(search(entries.filter(accepts), state.q));
  for (const key of ["live", "tensor", "token"]) if (at(key).value !== state[key]) at(key).value = state[key];
  if (at("search").value !== state.q) at("search").value = state.q;
  for (const head of at("heads").children) {
    const on = head.dataset.key === state.sort;
    head.setAttribute("aria-pressed", on);
    head.dataset.dir = on ? state.dir : "";
    head.setAttribute("aria-label",
      `Sort by ${head.textContent}${on ? (state.dir === "asc" ? ", now rising" : ", now falling") : ""}`);
  }
  at("rows").replaceChildren();
  showRows(CHUNK);
  at("rows").scrollTop = 0;
  const live = entries.filter((entry) => entry.s.live).length,
    filtered = Boolean(state.q || state.live || state.tensor || state.token);
  const text = filtered ? `${found.length} of ${plural(entries.length, "subnetwork")}`
    : plural(entries.length, "subnetwork");
  const how = exact ? "" : "; none has the whole phrase, these have each word";
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

// The sample a row shows: the first whose text holds the phrase searched for, or else the strongest.
const shownSample = (entry) => entry.s.top.find(holdsPhrase) ?? entry.s.top[0];

function holdsPhrase(sample) {
  const phrase = plain(state.q).trim();
  return phrase !== "" && itemLower(sample.item).includes(phrase);
}

function rowOf(entry) {
  const { s, d } = entry, sample = shownSample(entry), phrase = sample && holdsPhrase(sample) ? state.q : "";
  const key = `${d}:${s.id}:${sample ? s.top.indexOf(sample) : ""}:${state.view}:${phrase}`;
  if (rowsMade.size > 5000) rowsMade.clear();
  if (!rowsMade.has(key)) rowsMade.set(key, makeRow(entry, sample));
  const row = rowsMade.get(key);
  row.tabIndex = -1;
  row.setAttribute("aria-selected", "false");
  return row;
}

function makeRow(entry, sample) {
  const { s } = entry, cells = COLUMNS.map(({ key, of, text }) =>
    el("span", { class: key }, text ? text(s) : number(of(s))));
  const [match, cosine] = entry.matches[0] ?? [];
  const pair = match === undefined ? null : el("span", { class: "pair" }, `↔ #${match} (${signed(cosine, 2)})`);
  const said = `Subnetwork ${s.id}${s.live ? "" : ", dead"}, P_act ${number(s.p_active)}, impact ${number(s.impact)}` +
    (sample ? `, strongest on ${named(short(sampleWord(sample), 40))}` : "") +
    (match === undefined ? "" : `, matches ${match}`);
  return el("div", { class: `row ${s.live ? "" : "dead"}`, role: "option", id: `row-${entry.d}-${s.id}`,
    "data-id": s.id, "aria-label": said },
    el("span", { class: "cells" }, cells),
    el("span", { class: "snippet" }, s.live ? null : el("span", { class: "badge" }, "dead"), pair,
      s.note ? el("bdi", { class: "rownote" }, visible(short(s.note, 80))) : null,
        sample ? snippet(sample) : el("span", { class: "none" }, "no samples")));
}

// Which tokens of a sample's text hold the phrase searched for, first and last; null where it is not in it.
function foundTokens(sample) {
  if (!holdsPhrase(sample)) return null;
  const words = block.items[sample.item].tokens.map((id) => block.outputs[id].toLowerCase());
  const escaped = plain(state.q).trim().replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replace(/ /g, "\\s+");
  const match = new RegExp(escaped).exec(words.join("")), held = [];
  let from = 0;
  words.forEach((word, k) => {
    if (match && from < match.index + match[0].length && from + word.length > match.index) held.push(k);
    from += word.length;
  });
  return held.length ? [held[0], held.at(-1)] : null;
}

// A few tokens around a sample's own position, or around what was searched for, on one line.
function snippet(sample, before = 7, after = 5) {
  const item = block.items[sample.item];
  if (!item.tokens) return el("span", { class: "words" },
    item.image ? picture(item, { class: "stamp", alt: "" }) : null,
    bdi(visible(short(item.values ? itemText(sample.item) : item.name ?? "", 60))));
  const held = foundTokens(sample), from = Math.max(0, held ? held[0] - 3 : sample.position - before);
  const to = Math.max(sample.position, held ? held[1] : 0) + after + 1, words = item.tokens.slice(from, to);
  const kind = (k) => `${k === sample.position ? "peak" : ""} ${held && k >= held[0] && k <= held[1] ? "hit" : ""}`;
  return el("span", { class: "words" }, from ? "…" : null,
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
