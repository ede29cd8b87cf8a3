// The view as a whole: its state in the address, the comparison, the keys, the start.

const DEFAULTS = { view: "find", d: 0, id: null, with: null, q: "", sort: null, dir: "desc", live: "", tensor: "",
  token: "", p: 0, t: "", delta: null, s: "", out: 0 };
const NUMBERS = ["d", "id", "with", "p", "delta", "out"];
const AFRESH = { with: null, s: "", out: 0, delta: null }; // What belongs to one card and not to the next.
const state = { ...DEFAULTS };
let drawn = "", waiting = null, later = null, said = null;

// Tells the reader, in sight for a while and to screen readers, that something was done.
function say(text) {
  const place = at("say");
  place.textContent = text;
  place.classList.remove("unseen");
  clearTimeout(said);
  said = setTimeout(() => place.classList.add("unseen"), 3000);
}

const narrow = () => matchMedia("(max-width: 760px)").matches;

function address(of) {
  const params = new URLSearchParams();
  for (const [key, value] of Object.entries(of)) if (key in DEFAULTS && value !== DEFAULTS[key]
    && value !== undefined) params.set(key, wellFormed(String(value)));
  return `#${params}`;
}

// The state that an address tells; what makes no sense in it falls back to the default.
function readAddress(hash) {
  const params = new URLSearchParams(hash.replace(/^#/, "")), read = { ...DEFAULTS };
  for (const key of Object.keys(DEFAULTS)) {
    if (!params.has(key)) continue;
    const text = params.get(key), x = Number(text);
    if (!NUMBERS.includes(key)) read[key] = text;
    else if (text !== "" && Number.isFinite(x)) read[key] = x;
  }
  if (!index[read.d]) read.d = 0;
  if (!["find", "prompts", "compare"].includes(read.view) || (read.view === "compare" && !index[1])) read.view = "find";
  if (!COLUMNS.some((column) => column.key === read.sort)) read.sort = null;
  if (read.view === "prompts" && !block.decompositions.some((d) => d.prompts.length)) read.view = "find";
  if (read.view === "compare") read.d = 0;
  if (!(Number.isInteger(read.out) && read.out >= 0)) read.out = 0;
  if (block.tensors[Number(read.tensor)] === undefined) read.tensor = "";
  if (!["asc", "desc"].includes(read.dir)) read.dir = "desc";
  if (!["", "0", "1"].includes(read.live)) read.live = "";
  return read;
}

// A link to a view of its own; followed here it keeps what the list is narrowed to.
function link(goal, text, props = {}) {
  const follow = (event) => {
    if (event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    change({ ...AFRESH, ...goal }, true);
    heading();
  };
  return el("a", { href: address(goal), onclick: follow, ...props }, text);
}

function writeAddress(push, of = state) {
  clearTimeout(waiting);
  waiting = null;
  const hash = address(of);
  if (hash === (location.hash || "#")) return;
  try {
    history[push ? "pushState" : "replaceState"](null, "", hash);
  } catch {
    location.replace(hash); // Pages without an address of their own, as in some frames.
  }
}

// Changes the state and shows it; the address follows at once for a step that Back should undo, else after a pause.
function change(some, push = false) {
  const before = { ...state };
  Object.assign(state, some);
  if (push && waiting !== null) writeAddress(false, before); // So that Back leads to what was typed last.
  if (push) writeAddress(true);
  else { clearTimeout(waiting); waiting = setTimeout(() => writeAddress(false), 120); }
  render(before);
}

function open(goal, focus = false) {
  change({ ...goal, ...AFRESH }, true);
  if (focus || narrow()) heading();
}

const heading = () => document.querySelector(".card h2")?.focus();

function back() {
  change({ id: null, ...AFRESH }, true);
  markChosen(true);
}

const LISTED = ["view", "d", "q", "sort", "dir", "live", "tensor", "token"];

function render(before = null) {
  const changed = (keys) => before === null || keys.some((key) => before[key] !== state[key]);
  document.body.dataset.view = state.view;
  document.body.classList.toggle("opened", state.id !== null);
  if (changed(["view", "d"])) showTabs();
  if (changed(LISTED) && state.view !== "prompts") { performance.mark("search-start"); refreshList();
    performance.measure("search", "search-start"); }
  else if (changed(["id"])) markChosen();
  const shown = state.view === "prompts" ? `p${state.d}`
    : `${state.view}/${state.d}/${chosenId()}/${state.with}`;
  clearTimeout(later);
  if (shown !== drawn) {
    const show = () => { drawn = shown; showStage(); };
    // While the reader types, the list answers first and the card follows.
    if (before && before.q !== state.q) later = setTimeout(show, 150);
    else show();
  }
  else if (changed(["q", "delta", "s", "out", "p", "t"])) watching.forEach((update) => update());
}

// The subnetwork whose card is shown: the chosen one, or on a wide page the first of the list.
function chosenId() {
  if (state.id !== null || narrow()) return state.id;
  const first = (state.view === "compare" && found.find((entry) => entry.matches.length)) || found[0];
  return first?.s.id ?? null;
}

function showStage() {
  watching.length = 0;
  const id = chosenId(), stage = at("stage");
  if (state.view === "prompts") stage.replaceChildren(promptView());
  else if (id === null) stage.replaceChildren();
  else if (state.view === "compare") stage.replaceChildren(compareView(id));
  else stage.replaceChildren(cardOf(state.d, id));
  stage.scrollTop = 0;
  if (narrow()) scrollTo(0, 0);
}

function showTabs() {
  const names = block.decompositions.map((decomposition) => visible(short(decomposition.name, 40)));
  const views = [["find", "Subnetworks"], ...(block.decompositions.some((d) => d.prompts?.length)
    ? [["prompts", "Prompts"]] : []), ...(index[1] ? [["compare", "Compare"]] : [])];
  at("views").hidden = views.length < 2;
  at("views").replaceChildren(...views.map(([view, name]) =>
    button(name, () => change({ view, ...(view === "compare" ? { d: 0 } : {}),
    ...(state.d && view === "compare" ? { id: null } : {}), with: null }, true),
    { "aria-current": state.view === view ? "page" : null })));
  at("which").hidden = names.length < 2 || state.view === "compare";
  at("which").replaceChildren(...names.map((name, d) =>
    button(bdi(name), () => change({ d, id: null, token: "" }, true), { "aria-pressed": String(state.d === d) })));
}

// Compare: a subnetwork of each decomposition side by side, matched by cosine unless the reader takes another.
function compareView(id) {
  const entry = entryAt(0, id), names = block.decompositions.map((decomposition) =>
    visible(short(decomposition.name, 40)));
  const [match, cosine] = entry?.matches[0] ?? [], other = state.with ?? match;
  const picker = el("select", { "aria-label": `Subnetwork of ${names[1]}`,
    onchange: (event) => change({ id, with: event.target.value === "" ? null : Number(event.target.value) }, true) },
    other === undefined ? el("option", { value: "" }, "choose one") : null,
    index[1].entries.map(({ s }) => el("option", { value: s.id, selected: s.id === other }, `#${s.id}`)));
  const said = match === undefined ? `Subnetwork ${id} of ${names[0]} has no match in ${names[1]}.`
    : `Subnetwork ${id} of ${names[0]} matches subnetwork ${match} of ${names[1]}, cosine ${signed(cosine, 2)}.`;
  const rest = index[1].entries.filter((x) => !x.matches.length);
  return el("div", { class: "compare" }, el("div", { class: "comparehead" }, el("p", {}, said),
    el("label", {}, `Beside it, of ${names[1]}: `, picker),
    narrow() ? button("← List", () => back(), { class: "back" }) : null),
  el("div", { class: "pairs" }, cardOf(0, id, { beside: true }),
    other === undefined ? el("p", { class: "none" }, "Choose a subnetwork to set beside it.")
    : cardOf(1, other, { beside: true })),
  rest.length ? el("p", { class: "note rest" }, `Without a match in ${names[0]}: `,
    rest.slice(0, 40).flatMap(({ s }, k) => [k ? ", " : "", link({ view: "compare", id, with: s.id }, `#${s.id}`)]),
    rest.length > 40 ? ` and ${rest.length - 40} more` : "") : null);
}

function keys(event) {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "range";
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && !typing) {
    event.preventDefault();
    if (state.view === "prompts") change({ view: "find" }, true);
    if (narrow() && state.id !== null) back();
    at("search").focus();
    at("search").select();
  } else if (event.key === "Escape") {
    const menu = document.querySelector("details.export[open]");
    if (menu) { menu.open = false; menu.querySelector("summary").focus(); }
    else if (event.target === at("search") && state.q) change({ q: "", ...BY_DEFAULT });
    else if (event.target === at("search")) event.target.blur();
    else if (narrow() && state.id !== null) back();
    else markChosen(true);
  }
}

async function start() {
  const [packed, ...numbers] = at("block").textContent.trim().split("\n");
  block = await unpack(packed);
  at("block").remove();
  // The numbers of directions stand beside the block as they are: they are long and asked for seldom.
  for (const { weights } of block.decompositions)
    if (weights) [weights.v_in, weights.v_out] = numbers.splice(0, 2);
  buildIndex();
  buildFind();
  at("facts").append(...block.facts.map(([key, value]) =>
    el("span", {}, el("span", { class: "dim" }, bdi(visible(String(key))), " "),
    bdi(visible(short(String(value), 300))))));
  Object.assign(state, readAddress(location.hash));
  render();
  const follow = () => { const before = { ...state }; Object.assign(state, readAddress(location.hash)); render(before);
    };
  addEventListener("hashchange", () => { follow(); heading(); });
  addEventListener("popstate", follow);
  addEventListener("keydown", keys);
  addEventListener("click", ({ target }) => document.querySelectorAll("details.export[open]").forEach((menu) => {
    if (!menu.contains(target)) menu.open = false;
  }));
  const fold = () => { at("about").open = !narrow(); };
  fold();
  matchMedia("(max-width: 760px)").addEventListener("change", () => { fold(); drawn = ""; render(); });
  at("skip").addEventListener("click", heading);
  requestAnimationFrame(() => setTimeout(() => performance.mark("ready")));
}

start().catch((error) => {
  const needs = "It needs a browser of 2023 or later, and the whole file.";
  at("count").textContent = `This page could not be read (${error.message}). ${needs}`;
});
