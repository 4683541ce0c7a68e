// The moving half of explorable.py, pasted into each explorable. No library, no request, no global name.
// First what all of them share, then one function for each: gaugeSlider, superimposition, contextTree,
// trainingTime, dissolving.

/** The element to draw in: the one this script stands in, or else the first of its kind without a drawing. */
function mount(key) {
  const script = document.currentScript;
  const own = script && script.closest(".explorable");
  const root = own || document.querySelector(`.explorable[data-key="${key}"]:not([data-ready])`);
  root.dataset.ready = "yes";
  root.querySelectorAll(".still, .stage").forEach((old) => old.remove());
  // JupyterLab would otherwise take arrow keys and letters for its own: as shortcuts, and where they bubble up to.
  const stage = make("div", { class: "stage", "data-lm-suppress-shortcuts": "true" });
  stage.addEventListener("keydown", (event) => event.stopPropagation());
  root.prepend(stage); // before the script, which thus finds and replaces it in a page saved after it ran
  // Pages change themes in many ways; what arrives here is the colour of the text. Controls follow it.
  const follow = () => {
    const [r, g, b] = getComputedStyle(root).color.match(/[\d.]+/g).map(Number);
    stage.style.colorScheme = 0.3 * r + 0.6 * g + 0.1 * b > 128 ? "dark" : "light";
  };
  follow();
  ["pointerenter", "focusin"].forEach((event) => stage.addEventListener(event, follow));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", follow);
  return stage;
}

/** An element with attributes and children; strings become text, never markup. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "circle", "line", "text", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** A number with its sign, for the eye. Values for tests stand unrounded in data- attributes. */
function nats(value, digits = 1) {
  const size = Math.abs(value).toFixed(digits);
  return (Number(size) === 0 ? "" : value < 0 ? "−" : "+") + size;
}

function slider(label, min, max, step, value, changed) {
  const input = make("input", { type: "range", min, max, step, value, "aria-label": label });
  const shown = make("output");
  input.addEventListener("input", () => changed(Number(input.value)));
  return { box: make("label", { class: "slide" }, make("span", {}, label), input, shown), input, shown };
}

function choice(label, options, changed) {
  const select = make("select", {}, ...options.map((name, i) => make("option", { value: i }, name)));
  select.addEventListener("change", () => changed(Number(select.value)));
  return { box: make("label", {}, make("span", {}, label), select), select };
}

function button(label, pressed) {
  const node = make("button", { type: "button" }, label);
  node.addEventListener("click", pressed);
  return node;
}

const chance = (p) => (p < 0.01 ? p.toExponential(0).replace("-", "−") : p.toFixed(2));

/** Where on a scale from low to high a value lies, in per cent. */
const share = (value, low, high) => (100 * (value - low)) / (high - low);

// ------------------------------------------------------------------------------------------ gauge slider (00)

/** Spills and probabilities of a text from logits to which g[t] has been added after each context t. */
function energies(data, g) {
  return data.tokens.map((_, t) => {
    const f = data.logit[t] + g[t], before = data.V[t] + g[t], after = data.V[t + 1] + g[t + 1];
    return { s: f - after, p: Math.exp(f - before) };
  });
}

function gaugeSlider(stage, data) {
  const names = Object.keys(data.h), trained = energies(data, data.V.map(() => 0));
  const turned = (h, lambda) => data.h[h].map((value) => lambda * value);
  const ends = names.flatMap((h) => [-1, 1].flatMap((end) => energies(data, turned(h, end)).map((e) => e.s)));
  const [low, high] = [Math.min(0, ...ends), Math.max(0, ...ends)];
  const state = { h: names[0], lambda: 0, token: data.shown };

  const cards = data.tokens.map((token, t) => spillCard(token, () => { state.token = t; draw(); }));
  const table = candidateTable(data);
  const knob = slider("λ", -1, 1, 0.02, 0, (value) => { state.lambda = value; draw(); });
  const jump = (value) => { state.lambda = knob.input.value = value; draw(); };
  const question = "Add to all logits after each context c:  g(c) = λ ·";
  const which = choice(question, names, (i) => { state.h = names[i]; draw(); });
  const named = button("", () => jump(data.named[state.h][0]));
  const said = make("p", { "aria-live": "polite" });

  function draw() {
    const g = turned(state.h, state.lambda), now = energies(data, g);
    now.forEach((e, t) => cards[t].draw(e, low, high, t === state.token));
    table.draw(state.token, g[state.token]);
    const [place, meaning] = data.named[state.h], there = Math.abs(state.lambda - place) < 1e-9;
    named.textContent = `λ = ${nats(place, 0)}: ${meaning}`;
    knob.shown.textContent = nats(state.lambda, 2);
    const moved = Math.max(...now.map((e, t) => Math.abs(e.p - trained[t].p)));
    Object.assign(stage.dataset, { lambda: state.lambda, moved });
    const where = state.lambda === 0 ? "As trained" : there ? `λ = ${nats(place, 0)}, ${meaning}` : "In this gauge";
    said.textContent = `${where}: ${rangeOf(data.tokens, now.map((e) => e.s))} `
      + (state.lambda === 0 ? "Which bars will move when you slide λ?" : moved < 1e-12
        ? "No probability has moved (not by 10⁻¹²)." : `A probability has moved by ${moved}.`);
  }
  stage.append(which.box, knob.box, make("div", { class: "row" }, button("as trained", () => jump(0)), named),
    make("div", { class: "key" }, key("above", "spill s, above"), key("below", "or below zero, in nats"),
      key("prob", "probability p")),
    make("div", { class: "cards" }, ...cards.map((card) => card.node)), said, table.node);
  draw();
}

function rangeOf(tokens, spills) {
  const low = Math.min(...spills), high = Math.max(...spills), sum = spills.reduce((a, b) => a + b, 0);
  if (high - low < 1e-6) return `every spill is ${nats(low)} nats.`;
  const at = (value) => `${nats(value)} (“${tokens[spills.indexOf(value)]}”)`;
  return `spills run from ${at(low)} to ${at(high)} nats and add up to ${nats(sum)}.`;
}

const key = (kind, label) => make("span", {}, make("i", { class: kind }), label);

/** A token with the bar of its spill above it and the bar of its probability beneath. */
function spillCard(token, pressed) {
  const bar = make("i"), number = make("b"), zero = make("u"), part = make("i", { class: "prob" }), percent = make("b");
  const node = button("", pressed);
  node.className = "card";
  node.append(make("span", { class: "well" }, zero, bar, number), make("span", { class: "token" }, token),
    make("span", { class: "cup" }, part), percent);
  return { node, draw(e, low, high, chosen) {
    const top = share(high - Math.max(e.s, 0), 0, high - low), height = share(Math.abs(e.s), 0, high - low);
    zero.style.top = `${share(high, 0, high - low)}%`;
    Object.assign(bar.style, { top: `${top}%`, height: `${height}%` });
    bar.className = e.s > 0 ? "above" : "below";
    number.style.top = e.s > 1e-9 ? `calc(${top}% - 1.25em)` : `calc(${top + height}% + .1em)`;
    number.textContent = nats(e.s);
    part.style.height = `${100 * e.p}%`;
    percent.textContent = chance(e.p);
    Object.assign(node.dataset, e);
    node.setAttribute("aria-pressed", chosen);
    node.setAttribute("aria-label", `${token}: spill ${nats(e.s)} nats, probability ${chance(e.p)}`);
  } };
}

/** The likeliest tokens of one step: their shifted logits and, from these, their probabilities. */
function candidateTable(data) {
  const head = make("p"), body = make("div", { class: "candidates" }), node = make("div", {}, head, body);
  return { node, draw(t, g) {
    const context = data.tokens.slice(0, t).join(" ");
    head.textContent = `What the model would have said ${t ? `after “${context}”` : "at the start"} `
      + "(choose another token above). First the logits f + g, which move, then the probabilities:";
    body.replaceChildren(...data.candidates[t].flatMap(([token, logit]) => {
      const f = logit + g, p = Math.exp(f - (data.V[t] + g)), fill = make("i", { class: "prob" });
      fill.style.width = `${100 * p}%`;
      const row = make("span", { class: "tray", "data-f": f, "data-p": p }, fill);
      return [make("span", { class: "token" }, token), make("b", {}, nats(f)), row, make("b", {}, chance(p))];
    }));
  } };
}

// --------------------------------------------------------------------------------------- superimposition (01)

const READINGS = {
  "the joint: one constant for all four": { quadruple: 1, below: ["p(c)", "p(c, x)", "p(c, x)", "p(c, x, y)"] },
  "the conditional: a constant for each factor": { quadruple: 2, below: ["1", "p(x | c)", "1", "p(y | c, x)"] },
};
const CHAIN = ["V(c)", "f(x; c)", "V(c, x)", "f(y; c, x)"];

function superimposition(stage, data) {
  const names = Object.keys(data.books), readings = Object.values(READINGS);
  const values = Object.values(data.books).flat(2), low = Math.min(...values) - 0.8, high = Math.max(...values) + 0.4;
  const state = { book: names[0], reading: 0, shift: [0, 0] };
  const lanes = CHAIN.map(lane);
  const heads = [make("p"), make("p")], step = spillStrip(data.x), said = make("p", { "aria-live": "polite" });
  function set(factor, value) {
    state.shift = state.shift.map((old, k) => (state.reading && k !== factor ? old : value));
    draw();
  }
  const sliders = [0, 1].map((factor) => slider("", -1, 1, "any", 0, (value) => set(factor, value)));
  const back = () => { state.shift = [0, 0]; draw(); };
  const books = choice("Whose book?", names, (i) => { state.book = names[i]; back(); });
  const over = choice("Lay it over", Object.keys(READINGS), (i) => { state.reading = i; set(0, state.shift[0]); });

  function story() {
    const book = data.books[state.book];
    return { numbers: book[0], below: book[readings[state.reading].quadruple] };
  }
  function best() {
    const { numbers, below } = story(), off = below.map((value, i) => value - numbers[i]);
    const [first, second] = [(off[0] + off[1]) / 2, (off[2] + off[3]) / 2];
    state.shift = state.reading ? [first, second] : [(first + second) / 2, (first + second) / 2];
    draw();
  }
  function draw() {
    const { numbers, below } = story(), moved = numbers.map((value, i) => value + state.shift[i >> 1]);
    const off = [0, 1].map((k) => (moved[2 * k] + moved[2 * k + 1] - below[2 * k] - below[2 * k + 1]) / 2);
    lanes.forEach((one, i) => one.draw(readings[state.reading].below[i], below[i], moved[i], low, high));
    sliders.forEach((one, k) => aim(one, k, state, numbers, low, high));
    step.draw(numbers[1] - numbers[2], moved[1], moved[2], low, high);
    say(heads, said, state, off, numbers[1] - numbers[2]);
    Object.assign(stage.dataset, { first: off[0], second: off[1], spill: numbers[1] - numbers[2] });
  }
  stage.append(books.box, over.box, sliders[0].box, sliders[1].box,
    make("div", { class: "row" }, button("put it where it fits best", best), button("put it back", back)),
    make("div", { class: "factor" }, heads[0], lanes[0].node, lanes[1].node), step.node,
    make("div", { class: "factor" }, heads[1], lanes[2].node, lanes[3].node), ruler(low, high), said);
  draw();
}

/** Boxes are 5 em wide and must not stick out at either end. */
const place = (percent) => `calc(2.6em + (100% - 5.2em) * ${percent / 100})`;
const span = (a, b) => ({ left: place(Math.min(a, b)), width: `calc((100% - 5.2em) * ${Math.abs(a - b) / 100})` });

/** One number of the chain: a hollow box for the probability, and the grey box that slides over it. */
function lane(name) {
  const [hollow, label, grey] = ["hollow", "under", "grey"].map((kind) => make("span", { class: kind }));
  const gap = make("i", { class: "gap" }), node = make("div", { class: "lane" }, label, gap, hollow, grey);
  grey.textContent = name;
  return { node, draw(symbol, below, value, low, high) {
    const [a, b] = [share(below, low, high), share(value, low, high)];
    label.textContent = symbol;
    hollow.style.left = label.style.left = place(a);
    grey.style.left = place(b);
    Object.assign(gap.style, span(a, b));
    node.classList.toggle("fits", Math.abs(value - below) < 0.005);
    Object.assign(node.dataset, { below, value });
  } };
}

/** The step between the grey boxes of Term 2 and Term 1: the spill, as long as they slide together. */
function spillStrip(x) {
  const words = make("span"), bar = make("i"), node = make("div", { class: "strip" }, words, bar);
  return { node, draw(spill, first, second, low, high) {
    const apart = first - second, taken = spill - apart; // two sliders may have taken a part of the spill away
    words.textContent = `spill of ${x}, Term 1 − Term 2: ${nats(spill, 2)}`
      + (Math.abs(taken) < 0.005 ? "" : ` = ${nats(apart, 2)} in the boxes, ${nats(taken, 2)} in the sliders`);
    Object.assign(bar.style, span(share(first, low, high), share(second, low, high)));
    bar.className = apart > 0 ? "above" : "below";
  } };
}

/** Give a slider the room that keeps its boxes on the scale, its place and its words. */
function aim({ box, input, shown }, k, state, numbers, low, high) {
  const mine = state.reading ? numbers.slice(2 * k, 2 * k + 2) : numbers;
  Object.assign(input, { min: low - Math.min(...mine), max: high - Math.max(...mine), step: 0.005 });
  input.value = state.shift[k];
  box.hidden = k === 1 && !state.reading;
  const label = state.reading ? `slide the ${k ? "second" : "first"} factor` : "slide all four";
  box.firstChild.textContent = label;
  input.setAttribute("aria-label", label);
  const factor = Math.exp(state.shift[k]), by = factor < 1 ? `÷ ${digits(1 / factor)}` : `× ${digits(factor)}`;
  shown.textContent = by;
  input.setAttribute("aria-valuetext", by);
}

const digits = (value) => String(Number(value.toPrecision(3)));

function say(heads, said, state, off, spill) {
  const fits = off.map((value) => Math.abs(value) < 0.005);
  ["first", "second"].forEach((name, k) => {
    heads[k].textContent = `${name} factor: ${fits[k] ? "✓ fits" : `off by ${nats(off[k], 2)} nats`}`;
  });
  const verdict = fits[0] && fits[1] ? "Everything fits." : state.reading
    ? "Each factor has its own slider, so each can be made to fit."
    : Math.abs(spill) < 1e-9 ? "One constant will do: keep sliding." : "No single constant fits both factors.";
  const left = `What is left over is ${nats(off[0], 2)} and ${nats(off[1], 2)}; their difference is the spill, `;
  said.textContent = `${state.book}: ${verdict} ` + (state.reading
    ? "The conditional reading says nothing about the two constants, so it says nothing about the spill."
    : `${left}${nats(spill, 2)}, wherever you slide.`);
}

/** The scale beneath the boxes, in powers of ten. */
function ruler(low, high) {
  const node = make("div", { class: "ruler", "aria-hidden": "true" });
  for (let power = Math.ceil(low / Math.LN10); power <= high / Math.LN10; power++) {
    const tick = make("span", {}, String(Number((10 ** power).toPrecision(1))));
    tick.style.left = place(share(power * Math.LN10, low, high));
    node.append(tick);
  }
  return node;
}

// ------------------------------------------------------------------------------------------ context tree (02)

const GAUGES = ["as trained", "centred", "conditional", "joint"];
const MEANING = ["V is what training left", "V = log |V| + K", "V = 0, and s = log p", "V = log p(c), and every s = 0"];

/** Heights and spills at a place between the gauges: 0 as trained, 1 centred, 2 conditional, 3 joint. */
function lifted(nodes, place) {
  const k = Math.min(2, Math.floor(place)), part = place - k;
  const g = nodes.map((node) => (1 - part) * node.g[k] + part * node.g[k + 1]);
  return nodes.map((node, i) => {
    const up = node.parent, f = up < 0 ? NaN : node.logprob + nodes[up].V + g[up], height = node.V + g[i];
    return { height, s: f - height, p: Math.exp(f - (up < 0 ? NaN : nodes[up].V + g[up])) };
  });
}

function contextTree(stage, nodes) {
  const leaves = nodes.flatMap((_, i) => (nodes.some((node) => node.parent === i) ? [] : [i]));
  const path = (i) => (i < 0 ? [] : [...path(nodes[i].parent), i]);
  const words = (i) => path(i).slice(1).map((k) => nodes[k].token).join(" ");
  const every = nodes.flatMap((node) => node.g.map((g) => node.V + g)), limits = [Math.min(...every), Math.max(...every)];
  const state = { place: 0, end: leaves[0] };
  const picture = make("svg", { role: "img" }), said = make("p", { "aria-live": "polite" });
  const knob = slider("gauge", 0, 3, 0.01, 0, (value) => { state.place = value; draw(); });
  const walk = choice("Walk to", leaves.map(words), (i) => { state.end = leaves[i]; draw(); });
  const pick = (i) => { state.end = i; walk.select.value = leaves.indexOf(i); draw(); };
  const glide = glider((place) => { state.place = knob.input.value = place; draw(); });
  const stops = make("div", { class: "stops" }, ...GAUGES.map((name, k) => button(name, () => glide(state.place, k))));

  function draw() {
    const now = lifted(nodes, state.place), way = path(state.end), near = Math.round(state.place);
    const there = Math.abs(state.place - near) < 1e-9;
    drawTree(picture, nodes, now, limits, way, pick);
    knob.input.setAttribute("aria-valuetext", there ? GAUGES[near] : "in between");
    [...stops.children].forEach((stop, k) => stop.setAttribute("aria-pressed", there && k === near));
    const spills = way.slice(1).map((i) => now[i].s), total = spills.reduce((a, b) => a + b, 0);
    const first = now[0].height, last = now[state.end].height, log_p = nodes[state.end].logp;
    said.textContent = (there ? `${GAUGES[near]}: ${MEANING[near]}. ` : "Between two gauges. ")
      + `The walk to “${words(state.end)}” spills ${spills.map((s) => nats(s)).join(", ")}: together ${nats(total)}`
      + ` = log p ${nats(log_p)}, plus V at the start ${nats(first)}, minus V at the end ${nats(last)}.`;
    Object.assign(stage.dataset, { place: state.place, total, walk: log_p + first - last });
  }
  const legend = "height of a dot: V(c) · width of a branch: probability · number above a dot: spill of the step to it";
  stage.append(walk.box, knob.box, stops, make("div", { class: "key" }, legend), picture, said);
  new ResizeObserver(draw).observe(picture);
  draw();
}

/** Go from one value to another in half a second, or at once for those who asked their system for less motion. */
function glider(moved) {
  let frame = 0;
  return (from, to) => {
    cancelAnimationFrame(frame);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return moved(to);
    const start = performance.now(), step = (time) => {
      const part = Math.min(1, Math.max(0, time - start) / 500);
      moved(part === 1 ? to : from + (to - from) * part);
      if (part < 1) frame = requestAnimationFrame(step);
    };
    frame = requestAnimationFrame(step);
  };
}

function drawTree(picture, nodes, now, [low, high], way, pick) {
  const wide = Math.max(280, picture.clientWidth || 700), tall = 380, narrow = wide < 600;
  const column = (i) => i + 2 * nodes[i].depth, last = column(nodes.length - 1); // levels stand a little apart
  const left = narrow ? 44 : 88; // room for the root's words
  const x = (i) => left + ((wide - left - 28) * column(i)) / last;
  const y = (value) => tall - 62 - ((tall - 92) * (value - low)) / (high - low || 1);
  picture.setAttribute("viewBox", `0 0 ${wide} ${tall}`);
  picture.setAttribute("aria-label", `A tree of ${nodes.length} contexts; heights are V`);
  const branches = [], knots = [], spills = [];
  nodes.forEach((node, i) => {
    const on = way.includes(i), { height, s, p } = now[i], up = node.parent, kind = on ? " on" : "";
    knots.push(knot(node, i, x(i), y(height), on, narrow, pick));
    if (up < 0) return;
    const line = `M${x(up)},${y(now[up].height)}L${x(i)},${y(height)}`;
    const look = { d: line, "stroke-width": 1.5 + 14 * p, class: `branch${kind}`, "data-s": s, "data-p": p };
    branches.push(make("path", look));
    if (on || !narrow) spills.push(make("text", { x: x(i), y: y(height) - 10, class: `spill${kind}` }, nats(s)));
  });
  picture.replaceChildren(...scaleOf(low, high, y, wide), ...branches, ...knots, ...spills);
}

/** A context: a dot at its height, its last token beneath; it can be pressed. */
function knot(node, i, x, y, on, narrow, pick) {
  const turn = narrow ? `rotate(55 ${x} ${y + 12})` : "";
  const look = { x, y: y + (narrow ? 14 : 20), class: narrow ? "word turned" : "word", transform: turn };
  const parts = [make("circle", { cx: x, cy: y, r: 5 }), make("text", look, node.token)];
  const dot = make("g", { class: on ? "knot on" : "knot", "data-node": i }, ...parts);
  if (i > 0) dot.addEventListener("click", () => pick(i));
  return dot;
}

/** The axis of V: a few round numbers, zero among them. */
function scaleOf(low, high, y, wide) {
  const step = [1, 2, 5, 10, 20].find((size) => high - low < 7 * size) || 50;
  const lines = [make("text", { x: 4, y: 14, class: "tick" }, "V (nats)")];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) {
    const line = { x1: 30, x2: wide - 4, y1: y(value), y2: y(value), class: value ? "grid" : "grid zero" };
    lines.push(make("line", line), make("text", { x: 26, y: y(value) + 4, class: "tick end" }, nats(value, 0)));
  }
  return lines;
}

// ------------------------------------------------------------------------------------------ training time (06)

const ACROSS = ["log p(c), fixed by the language", "log τ = log p(c) + log t, the context's clock"];

/** V at a place of a recorded curve: between two points on their straight line, beyond the ends as at the ends. */
function onCurve(at, V, place) {
  const i = at.findIndex((value) => value >= place);
  if (i < 1) return i === 0 ? V[0] : V[V.length - 1];
  return V[i - 1] + ((V[i] - V[i - 1]) * (place - at[i - 1])) / (at[i] - at[i - 1]);
}

function trainingTime(stage, data) {
  const names = Object.keys(data.curves), [first, last] = data.decades;
  const state = { decade: data.start, name: names[0], across: 0 };
  const picture = make("svg", { role: "img" }), said = make("p", { "aria-live": "polite" });
  const watch = choice("Watch", names, (i) => { state.name = names[i]; draw(); });
  const across = choice("Draw V against", ACROSS, (i) => { state.across = i; draw(); });
  const knob = slider("training time t", first, last, 0.05, data.start, (value) => { state.decade = value; draw(); });
  const glide = glider((decade) => { state.decade = knob.input.value = decade; draw(); });
  const marks = [first, (first + last) / 2, last];
  const stops = make("div", { class: "stops" }, ...marks.map((mark) => button(time(mark), () => glide(state.decade, mark))));

  function draw() {
    const age = state.decade * Math.LN10, at = (name, log_p) => onCurve(data.log_tau, data.curves[name], log_p + age);
    const contexts = names.flatMap((name) => data.log_p.map((log_p) => ({ name, log_p, V: at(name, log_p) })));
    const never = at(state.name, -Infinity), often = Math.max(...data.log_p), rare = Math.min(...data.log_p);
    const slope = at(state.name, often) - at(state.name, often - 1);
    drawAges(picture, data, state, age, contexts, never);
    knob.shown.textContent = time(state.decade);
    knob.input.setAttribute("aria-valuetext", time(state.decade));
    const here = (log_p) => `${at(state.name, log_p).toFixed(1)} at log p = ${nats(log_p, 0)}`;
    said.textContent = `${time(state.decade)}, ${state.name}: V runs from ${here(rare)} to ${here(often)}. At that end one `
      + `nat of log p is worth ${slope.toFixed(2)} nats of V. A context that never comes stays at ${never.toFixed(1)}.`;
    Object.assign(stage.dataset, { decade: state.decade, never, slope });
  }
  stage.append(watch.box, knob.box, stops, across.box, picture, said);
  new ResizeObserver(draw).observe(picture);
  draw();
}

const time = (decade) => `t = ${Number((10 ** decade).toPrecision(2)).toLocaleString("en-US")}`;

function drawAges(picture, data, state, age, contexts, never) {
  const wide = Math.max(280, picture.clientWidth || 700), tall = 380, move = state.across ? 0 : age;
  const rare = Math.min(...data.log_p), often = Math.max(...data.log_p), ages = data.decades.map((d) => d * Math.LN10);
  const [from, to] = state.across ? [rare + ages[0], often + ages[1]] : [rare - 0.5, often + 0.5];
  const high = Math.max(...Object.values(data.curves).flat()), low = never - 1;
  const x = (value) => 40 + ((wide - 100) * (value - from)) / (to - from);
  const y = (value) => tall - 44 - ((tall - 66) * (value - low)) / (high - low);
  const curves = [], labels = [], watchedLast = (a, b) => (a.name === state.name) - (b.name === state.name);
  for (const { name, V } of Object.entries(data.curves).map(([name, V]) => ({ name, V })).sort(watchedLast)) {
    const on = name === state.name ? " on" : "", points = data.log_tau.map((u, i) => [u - move, V[i]]);
    const shown = points.filter(([u]) => u >= from && u <= to).map(([u, v]) => `${x(u)},${y(v)}`);
    curves.push(make("path", { d: `M${shown.join("L")}`, class: `branch${on}`, "stroke-width": on ? 3 : 2 }));
    labels.push({ name, on, y: y(onCurve(data.log_tau, V, to + move)) + 4 });
  }
  labels.sort((a, b) => b.y - a.y).forEach((label, i) => { // from below, each at least a line above the last
    if (i) label.y = Math.min(label.y, labels[i - 1].y - 13);
  });
  const words = labels.map(({ name, on, y }) => make("text", { x: wide - 56, y, class: `side${on}` }, name));
  const dots = contexts.sort(watchedLast).map(({ name, log_p, V }) => make("circle", { cx: x(log_p + age - move), cy: y(V), r: 4,
    class: name === state.name ? "dot on" : "dot", "data-v": V, "data-x": log_p + age - move }));
  const line = { x1: 30, x2: wide - 60, y1: y(never), y2: y(never), class: "never", "data-v": never };
  picture.setAttribute("viewBox", `0 0 ${wide} ${tall}`);
  picture.setAttribute("aria-label", `V of ${contexts.length} contexts against ${ACROSS[state.across]}`);
  const foot = make("text", { x: wide / 2, y: tall - 6 }, state.across ? "log τ (nats)" : "log p(c) (nats)");
  picture.replaceChildren(...scaleOf(low, high, y, wide), ...marksOf(from, to, x, tall), foot, make("line", line),
    ...curves, ...dots, ...words);
}

/** Round numbers beneath an axis from left to right. */
function marksOf(from, to, x, tall) {
  const step = [2, 5, 10].find((size) => to - from < 8 * size) || 20, marks = [];
  for (let value = Math.ceil(from / step) * step; value <= to; value += step) {
    marks.push(make("text", { x: x(value), y: tall - 24 }, nats(value, 0)));
  }
  return marks;
}

// ------------------------------------------------------------------------------------ a picture dissolving (05)

/** V, m, K and the probabilities of logits: V = m + log n + K. */
function potentials(f) {
  const most = Math.max(...f), sum = (values) => values.reduce((a, b) => a + b);
  const V = most + Math.log(sum(f.map((z) => Math.exp(z - most)))), m = sum(f) / f.length;
  return { V, m, K: V - m - Math.log(f.length), p: f.map((z) => Math.exp(z - V)) };
}

const plain = (value) => nats(value, 2).replace("+", "");

function dissolving(stage, data) {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), noise = bytes(data.noise);
  const names = Object.keys(data.pictures), last = data.pictures[names[0]].logits.length - 1, state = { name: names[0] };
  const table = make("div", { class: "candidates" }), said = make("p", { "aria-live": "polite" });
  const canvas = make("canvas", { width: data.width, height: noise.length / 3 / data.width, role: "img", class: "pixels" });
  const which = choice("Picture", names, (i) => { state.name = names[i]; draw(Number(knob.input.value)); });
  const knob = slider("share of noise", 0, 1, 1 / last, data.start, draw);
  const glide = glider((amount) => { knob.input.value = amount; draw(Number(knob.input.value)); });
  const marks = { whole: 0, half: 0.5, "all noise": 1 };
  const stops = make("div", { class: "stops" }, ...Object.entries(marks).map(([name, mark]) =>
    button(name, () => glide(Number(knob.input.value), mark))));

  function draw(wanted) {
    const i = Math.round(wanted * last), amount = i / last, { pixels, logits } = data.pictures[state.name], f = logits[i], { V, m, K, p } = potentials(f);
    paint(canvas, bytes(pixels), noise, amount);
    table.replaceChildren(...data.classes.flatMap((name, y) => {
      const fill = make("i", { class: "prob" });
      fill.style.width = `${100 * p[y]}%`;
      const row = make("span", { class: "tray", "data-f": f[y], "data-p": p[y] }, fill);
      return [make("span", { class: "token" }, name), make("b", {}, nats(f[y])), row, make("b", {}, chance(p[y]))];
    }));
    const best = p.indexOf(Math.max(...p)), percent = `${Math.round(100 * amount)} %`;
    knob.shown.textContent = percent;
    knob.input.setAttribute("aria-valuetext", `${percent} noise`);
    canvas.setAttribute("aria-label", `${state.name} with ${percent} noise`);
    said.textContent = `${state.name}, ${percent} noise: ${data.classes[best]} with probability ${chance(p[best])}. `
      + `V = m + log ${f.length} + K = ${[m, Math.log(f.length), K].map(plain).join(" + ")} = ${plain(V)} nats. `
      + `Half of the known pictures have more than ${plain(data.typical)}.`;
    Object.assign(stage.dataset, { amount, v: V, m, k: K });
  }
  stage.append(which.box, knob.box, stops, make("div", { class: "beside" }, canvas, table), said);
  draw(data.start);
}

/** Each value of the picture, red, green, blue, part of the way to that of the noise. */
function paint(canvas, whole, noise, amount) {
  const pen = canvas.getContext("2d", { willReadFrequently: true }), shown = pen.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < whole.length; i += 1) {
    shown.data[i + Math.floor(i / 3)] = (1 - amount) * whole[i] + amount * noise[i];
  }
  for (let i = 3; i < shown.data.length; i += 4) shown.data[i] = 255;
  pen.putImageData(shown, 0, 0);
}
