// Prompts: the live subnetworks of largest impact at each position of a text, or on an image or a vector.

const NOUNS = { tokens: "text", images: "image", vectors: "input" };

// Numbers of the prompts whose texts or captions hold the phrase, or else each of its words; all without a phrase.
function promptsFound(prompts, query) {
  const phrase = plain(query).trim(), all = prompts.map((_, k) => k);
  const holding = (some) => all.filter((k) => {
    const { text, caption: name } = itemLower(prompts[k].item);
    return some.every((word) => text.includes(word) || name.includes(word));
  });
  const whole = holding([phrase]);
  return whole.length ? whole : holding(phrase.split(" "));
}

const promptNow = (prompts) => Math.max(0, Math.min(prompts.length - 1, Math.trunc(state.p)));

// The view: the choice of a text stays there while the text below it changes.
function promptView() {
  const { prompts } = block.decompositions[state.d], noun = NOUNS[block.kind], article = noun === "text" ? "a" : "an";
  if (!prompts.length) return el("article", { class: "card" },
    el("p", { class: "none" }, "This decomposition has no prompts."));
  const picker = el("select", { id: "prompt", onchange: (event) => change({ p: Number(event.target.value) }, true) });
  const box = el("input", { type: "search", id: "find-text", autocomplete: "off", spellcheck: "false",
    placeholder: `Find ${article} ${noun}`, "aria-label": `Find ${article} ${noun} in this view` });
  box.addEventListener("input", () => {
    if (!state.t) before = promptNow(prompts);
    const hits = promptsFound(prompts, box.value), p = hits.includes(before) ? before : hits[0] ?? before;
    change({ t: box.value, p });
  });
  const count = el("span", { class: "dim count-texts", role: "status" }), body = el("div", {});
  const step = (by) => () => {
    const hits = promptsFound(prompts, state.t), k = hits.indexOf(promptNow(prompts)) + by;
    if (hits[k] !== undefined) change({ p: hits[k] }, true);
  };
  let listed = null, told = -1, before = promptNow(prompts); // The text that was shown before one was searched for.
  const update = () => {
    const p = promptNow(prompts), hits = promptsFound(prompts, state.t);
    if (box.value !== state.t) box.value = state.t;
    if (listed !== state.t) {
      listed = state.t;
      picker.replaceChildren(...hits.map((k) => el("option", { value: k }, `${k + 1}: ${promptName(prompts[k])}`)));
      count.textContent = !state.t ? `${plural(prompts.length, noun)}, drawn at random`
        : hits.length ? `${hits.length} of ${plural(prompts.length, noun)}` : `No ${noun} here holds this.`;
    }
    picker.value = hits.includes(p) ? p : "";
    const shown = hits.length ? p : null;
    if (told !== shown) {
      body.replaceChildren(...(hits.length ? promptOf(prompts[p]) : []));
      at("stage").scrollTop = 0;
    }
    told = shown;
  };
  update();
  watching.push(update);
  return el("article", { class: "card prompts", "aria-label": "Prompts" },
    el("div", { class: "pick walk" }, box, el("label", { for: "prompt" }, noun[0].toUpperCase() + noun.slice(1), " "),
      picker, button("Previous", step(-1)), button("Next", step(1)), count,
      button("Save as SVG", () => savePicture(`prompt-${promptNow(prompts) + 1}`))), body);
}

function promptName({ item }) {
  const title = caption(item), text = short(visible(short(itemText(item), 90)).trim(), 70);
  return title ? `${visible(short(title, 40))}: ${text}` : text;
}

// A text, shaded by the signed impact of the subnetwork that is pointed at, and the subnetworks of each position.
function promptOf({ item: i, positions, signed: own }) {
  const item = block.items[i], d = state.d, { signs } = block.decompositions[d];
  const most = largest(Object.values(own).flat());
  const strongest = largest(positions.flat().map(([, x]) => x)), values = positions.map(() => null);
  const told = el("p", { class: "told", "aria-live": "polite" });
  const impact = signs ? "signed impact" : "impact";
  let traced = null;
  const say = (text, k) => {
    const word = k === null ? "" : traced === null
      ? `${named(short(block.outputs[item.tokens[k]], 60))} at ${k}. ` : `${text}. `;
    told.textContent = word + (traced === null
      ? narrow() ? "Each number is the impact of a subnetwork; tap one to open it."
        : "Point at a subnetwork, or move the focus to it, to shade the tokens by its impact."
      : `Shaded by the ${impact} of subnetwork ${traced}.`);
    if (!item.tokens) told.textContent = traced === null ? ""
      : `Subnetwork ${traced}, ${impact}: ${signs ? signed(values[0]) : number(values[0])}.`;
  };
  const rows = positions.map((uses, k) => el("tr", {},
    el("th", { scope: "row" }, item.tokens ? [el("span", { class: "dim" }, `${k} `),
      bdi(short(named(block.outputs[item.tokens[k]]), 40), { class: "word" })] : "all of it",
    item.label?.[k] ? labelLine(item.label[k], d) : null),
    el("td", {}, uses.length ? uses.map((use) => chip(use, k)) : el("span", { class: "none" }, "none"))));
  const goTo = (k) => {
    rows.forEach((row, other) => row.classList.toggle("chosen", other === k));
    rows[k].scrollIntoView({ block: "center" });
  };
  const text = strip(i, { values, label: "Text", tell: item.tokens ? say : null, onpick: goTo });
  const trace = (id) => {
    traced = id;
    values.splice(0, values.length, ...own[id]);
    text.querySelectorAll(".token").forEach((node, k) => {
      node.className = `token ${shade(values[k], most)} ${node.classList.contains("here") ? "here" : ""}`;
    });
    say("", null);
  };
  function chip([id, x], k) {
    const sign = own[id]?.[k], kind = shade(Number.isFinite(sign) ? Math.sign(sign) * Math.abs(x) : null, strongest);
    return link({ view: "find", d, id }, [`#${id} `, el("span", { class: "num" }, number(x, 2))],
      { class: `chip ${kind}`, "data-id": id, onfocus: () => trace(id), onmouseover: () => trace(id),
        "aria-label": `Subnetwork ${id}, impact ${number(x, 2)}` + (signs ? `, signed ${signed(sign, 2)}` : ""),
        title: signs ? `signed impact ${signed(sign)}` : null });
  }
  say("", null);
  const title = item.name;
  return [el("div", { class: "stuck" }, title ? el("p", { class: "caption" }, bdi(visible(short(title, 200)))) : null,
    text, told),
  el("div", { class: "scroll" }, el("table", { class: "uses" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "position"),
      el("th", { scope: "col" }, "live subnetworks of largest impact, most first" +
        (signs ? ", coloured by its sign" : "")))),
    el("tbody", {}, rows)))];
}
