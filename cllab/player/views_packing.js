// Packing: weights that get an owner, task by task. A few of them as bars here, a layer in views_packing_layer.js, a
// frozen weight that drifts in views_packing_drift.js.

VIEWS.packing = {
  ms: 1000,
  create(context) {
    const { trace, stage } = context;
    const make = { weights: packingWeights, layer: packingLayer, drift: packingDrift }[trace.shows];
    let built = null;
    return { show };

    /** The drawing is built once per width and palette; a step sets its parts, a frame moves them. */
    function show(at, from) {
      const colours = context.colours();
      const key = `${stage.clientWidth}|${colours.join()}`;
      if (built?.key !== key || !stage.contains(built.nodes[0])) {
        built = { key, ...make(context, colours) };
        stage.replaceChildren(...built.nodes);
      }
      built.settle(at);
      return (u) => built.draw(u, at, from);
    }
  },
};

/** How many weights have owner 0, 1, ... T. */
function packingCounts(owner, T) {
  const counts = Array(T + 1).fill(0);
  for (const o of owner) counts[Number(o)] += 1;
  return counts;
}

function packingSum(values) {
  return values.reduce((sum, value) => sum + value, 0);
}

/** How far a weight was moved, to three digits. */
function packingMove(change) {
  return number(Number(change.toPrecision(3)), 10);
}

function packingCount(n, what) {
  return `${n} ${what}${n === 1 ? "" : "s"}`;
}

/** The numbers that hold for a few weights and for a layer. */
function packingFacts(trace, step) {
  const T = trace.tasks.length;
  const counts = packingCounts(step.owner, T);
  const n = packingSum(counts);
  const owned = counts.slice(1).filter((count, t) => count > 0 || t < step.task);
  const bits = Math.ceil(Math.log2(T + 1));
  return [
    ["free", `${counts[0]} of ${n}`, "weights with owner o = 0: the next task may train them"],
    [
      "owned",
      owned.length > 1 ? `${owned.join(" + ")} = ${n - counts[0]}` : n - counts[0],
      "weights of task 1, 2, ...: kept after pruning, and frozen for good",
    ],
    ["owner map", packingCount(bits, "bit") + " a weight", `⌈log₂(T + 1)⌉ with T = ${T} tasks: each owner, and free`],
  ];
}

/** A few weights: bars with their values over cells with their owners, and below what each task reads. */
function packingWeights(context, colours) {
  const { trace, stage, explain } = context;
  const { steps, tasks } = trace;
  const n = steps[0].w.length;
  const wide = stage.clientWidth >= 1000;
  const room = wide ? Math.floor(stage.clientWidth / 2) - 12 : Math.min(760, stage.clientWidth);
  const width = Math.min(64, Math.floor(room / n));
  const place = { top: 22, bottom: 142, value: 158, cell: 166, index: 214, height: 220 };
  const most = Math.max(0.1, ...steps.flatMap((step) => step.w.map(Math.abs)));
  const y = linear([-most, most], [place.bottom, place.top]);
  const size = [n * width, place.height];
  const picture = svg("svg", { class: "packing-weights", width: size[0], height: size[1], viewBox: `0 0 ${size.join(" ")}`, role: "img" });
  picture.append(svg("line", { class: "grid", x1: 0, x2: size[0], y1: y(0), y2: y(0) }));
  let step = steps[0];
  const weights = steps[0].w.map((_, i) => packingWeight(i, width, place, () => packingTell(trace, step, i), explain));
  picture.append(...weights.map((weight) => weight.node));
  const facts = el("div");
  const table = packingReaders(trace, colours, room, explain);
  const grid = el(
    "div",
    { class: "packing-grid", style: wide ? "grid-template-columns:repeat(2,minmax(0,1fr))" : null },
    el("div", {}, picture, packingLegend(trace, colours)),
    table.node,
  );
  return { nodes: [facts, grid], settle, draw };

  function settle(at) {
    step = steps[at];
    facts.replaceChildren(readouts(packingFacts(trace, step), explain));
    weights.forEach((weight, i) => weight.settle(step, i, colours));
    table.settle(step);
    picture.setAttribute("aria-label", `${trace.alt} Owners: ${step.owner.map((o) => o || "free").join(", ")}.`);
  }

  function draw(u, at, from) {
    weights.forEach((weight, i) => {
      const value = mix(steps[from].w[i], steps[at].w[i], u);
      fill(weight.bar, { y: Math.min(y(0), y(value)).toFixed(1), height: Math.abs(y(value) - y(0)).toFixed(1) }, []);
    });
  }
}

function packingState(step, i) {
  const owner = step.owner[i];
  const training = ["train", "rank"].includes(step.phase) && owner === 0;
  const settling = ["prune", "retrain"].includes(step.phase) && owner === step.task + 1;
  return { owner, training, frozen: owner > 0 && !settling, rank: step.ranked ? step.ranked.indexOf(i) : -1 };
}

/** One weight: rank, bar, value, cell with its owner, lock, number. */
function packingWeight(i, width, place, tell, explain) {
  const middle = (i + 0.5) * width;
  const text = (y, attributes = {}) => svg("text", { x: middle, y, "text-anchor": "middle", ...attributes });
  const rank = text(13);
  const bar = svg("rect", { x: i * width + 5, width: width - 10 });
  const value = text(place.value);
  const cell = svg("rect", { x: i * width + 1.5, y: place.cell, width: width - 3, height: 32, rx: 4 });
  const label = text(place.cell + 21, { "font-weight": 600, class: "halo" });
  const lock = svg("path", {
    d: "M2 5V4a2.5 2.5 0 0 1 5 0v1h1v5H1V5ZM3.2 5H5.8V4a1.3 1.3 0 0 0-2.6 0Z",
    transform: `translate(${(i + 1) * width - 11} ${place.cell + 1})`,
    fill: "currentColor",
  });
  const touch = svg("rect", { x: i * width, y: 0, width, height: place.height, fill: "transparent" });
  const position = text(place.index, { opacity: 0.7 });
  position.textContent = i;
  const node = explain(svg("g", {}, touch, rank, bar, value, cell, label, lock, position), tell);
  return { node, bar, settle };

  function settle(step, index, colours) {
    const { owner, training, frozen, rank: ranked } = packingState(step, index);
    const task = owner || step.task + 1;
    const colour = owner || training ? colourOf(colours, task - 1) : "currentColor";
    const stays = ranked >= 0 && ranked < step.kept;
    rank.textContent = ranked < 0 ? "" : stays ? `${ranked + 1}.` : `(${ranked + 1}.)`;
    rank.setAttribute("font-weight", stays ? 700 : 400);
    value.textContent = owner || training ? number(step.w[index], 2) : "0";
    fill(bar, { fill: colour, "fill-opacity": training ? 0.25 : 0.9, stroke: colour, "stroke-dasharray": training ? "3 2" : "none" }, []);
    fill(cell, { fill: owner ? colour : "transparent", "fill-opacity": 0.35, stroke: colour, "stroke-width": owner ? 2 : 1,
      "stroke-dasharray": owner ? "none" : "3 2", "stroke-opacity": owner || training ? 1 : 0.4 }, []);
    label.textContent = owner ? owner : training ? `${task}?` : width < 34 ? "–" : "free";
    label.setAttribute("opacity", owner || training ? 1 : 0.6);
    lock.style.display = frozen ? "" : "none";
    const unread = step.phase === "read" && (owner === 0 || owner > step.task + 1);
    node.setAttribute("opacity", unread ? 0.2 : 1);
  }
}

function packingTell(trace, step, i) {
  const { owner, training, frozen, rank } = packingState(step, i);
  const lines = [`weight ${i}: ${number(step.w[i], 4)}`];
  if (rank >= 0) {
    const n = step.ranked.length;
    lines.push(`|w| = ${number(Math.abs(step.w[i]), 4)} has rank ${rank + 1} of ${n}; ${step.kept} are kept: ${rank < step.kept ? "stays" : "goes"}`);
  }
  if (training) lines.push(`free, and trained by ${trace.tasks[step.task]}`);
  else if (owner === 0) lines.push(step.phase === "prune" && rank >= 0 ? "pruned: 0, and free again" : "free: owner 0");
  else {
    const readers = trace.tasks.slice(owner - 1);
    lines.push(`owner ${owner}${frozen ? ", frozen" : ", still to be frozen"}`);
    lines.push(`read by ${readers.join(", ")}`);
  }
  return lines.join("\n");
}

/** What each task reads, as strips of cells: owners 1 .. t, and beside it its own mask alone. */
function packingReaders(trace, colours, room, explain) {
  const n = trace.steps[0].w.length;
  const cell = Math.max(4, Math.min(14, Math.floor((room - 170) / (2 * n))));
  const head = (name, about) => explain(el("th", {}, name), about);
  const titles = el(
    "tr",
    {},
    el("th", {}, ""),
    head("owns", "weights with o = t"),
    head("reads o = 1 … t", "what task t answers with: θ · 1{1 ≤ o ≤ t}"),
    head("o = t alone: wrong", "wrong: θ ⊙ M_t, its own mask alone, is another network, without what the older tasks gave it"),
  );
  const body = el("tbody");
  const rows = trace.tasks.map((name, t) => {
    const strips = [0, 1].map(() => Array.from({ length: n }, (_, i) => svg("rect", { x: i * cell + 0.5, y: 0.5, width: cell - 1, height: 13 })));
    const drawn = strips.map((rects) => svg("svg", { width: n * cell, height: 14, "aria-hidden": "true" }, ...rects));
    const texts = [0, 1, 2].map(() => el("span"));
    const owns = el("td", { class: "value" }, texts[0]);
    const cells = drawn.map((strip, k) => el("td", {}, el("div", { class: "packing-strip" }, strip, texts[k + 1])));
    const title = el("th", { scope: "row" }, el("span", { class: "named" }, swatch(t, colourOf(colours, t)), name));
    const line = el("tr", {}, title, owns, ...cells);
    body.append(line);
    return { t, strips, texts, line };
  });
  const caption = el("caption", {}, "What each task reads");
  const node = el("table", { class: "packing-table" }, caption, el("thead", {}, titles), body);
  return { node, settle };

  function settle(step) {
    const counts = packingCounts(step.owner, trace.tasks.length);
    for (const { t, strips, texts, line } of rows) {
      const known = counts[t + 1] > 0;
      texts[0].textContent = known ? counts[t + 1] : "–";
      texts[1].textContent = known ? packingSum(counts.slice(1, t + 2)) : "";
      texts[2].textContent = known ? counts[t + 1] : "";
      strips.forEach((rects, alone) =>
        rects.forEach((rect, i) => {
          const owner = step.owner[i];
          const read = known && owner > 0 && (alone ? owner === t + 1 : owner <= t + 1);
          fill(rect, { fill: read ? colourOf(colours, owner - 1) : "transparent", stroke: "currentColor", "stroke-opacity": read ? 0.6 : 0.25 }, []);
        }),
      );
      line.classList.toggle("chosen", step.phase === "read" && step.task === t);
    }
  }
}

function packingLegend(trace, colours) {
  const row = el("div", { class: "legend" });
  trace.tasks.forEach((name, t) => row.append(el("span", {}, swatch(t, colourOf(colours, t)), `owner ${t + 1}`)));
  row.append(el("span", {}, "dashed: being trained, or free"), el("span", {}, "lock: frozen"), el("span", {}, "bar, and number below it: the weight's value"), el("span", {}, "1. 2. 3.: rank by |w|, in brackets: goes"));
  return row;
}
