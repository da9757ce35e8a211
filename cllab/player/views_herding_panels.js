// Herding, beside the plot: numbers, table of distances, memory, legend, and every number's formula.

function drawFacts(s) {
  const { step } = s,
    facts = [];
  if (s.hasClass && step.phase !== "arrive") {
    if (isPoint(step.target)) {
      facts.push(["k", number(step.k), "k: how many exemplars of the class are chosen after this choice"]);
      facts.push(["target", point(step.target), () => tellTarget(s)]);
    }
    if (isPoint(step.mean)) facts.push(["mean", point(step.mean), () => tellMean(s)]);
    if (isPoint(step.class_mean))
      facts.push(["class mean μ", point(step.class_mean), "μ: the mean of all points of the class"]);
    if (typeof step.error === "number") facts.push(["error", number(step.error), () => tellError(s)]);
  }
  return readouts(facts, s.explain);
}

function drawDistances(s) {
  const { step, trace } = s;
  if (!step.candidates?.length || !step.distances) return null;
  const members = trace.points.map((_, i) => i).filter((i) => trace.owner[i] === step.class);
  const long = members.length > 10;
  const rows = (long ? step.candidates : members).map((i) => ({ i, d: distanceOf(trace, step, i) }));
  if (long) rows.sort((a, b) => a.d - b.d);
  const shown = rows.slice(0, long ? 8 : 10),
    body = el("tbody");
  for (const { i, d } of shown) {
    const chosen = i === step.chosen,
      tied = step.tied?.includes(i);
    const note =
      d === null
        ? `taken, #${s.stored.get(i)}`
        : [tied && "tie", chosen && "chosen"].filter(Boolean).join(", ");
    const row = el(
      "tr",
      { class: d === null ? "taken" : chosen ? "chosen" : tied ? "tied" : null, tabindex: 0 },
      el(
        "td",
        {},
        el(
          "span",
          { class: "named" },
          swatch(trace.owner[i], s.colour(trace.owner[i])),
          thumbnail(trace, i),
          nameOf(s, i),
        ),
      ),
      s.coordinates ? el("td", {}, point(trace.points[i])) : null,
      el("td", { class: "value" }, number(d)),
      el("td", {}, note),
    );
    body.append(s.explain(row, () => tellPoint(s, i)));
  }
  if (rows.length > shown.length)
    body.append(
      el("tr", {}, el("td", { colspan: 4 }, `and ${rows.length - shown.length} more, farther away`)),
    );
  const heads = [["point"], s.coordinates ? ["φ(x)"] : null, ["d² to target", "value"], [""]].filter(Boolean);
  const caption = `Candidates of class ${s.classes[step.class] ?? step.class}${long ? ", nearest first" : ""}`;
  return el("table", {}, el("caption", {}, caption), header(...heads), body);
}

function header(...cells) {
  return el(
    "thead",
    {},
    el("tr", {}, ...cells.map(([word, kind]) => el("th", { class: kind, scope: word ? "col" : null }, word))),
  );
}

/** The memory, one row of slots per class; `leaving` are the slots that truncation removes in this step. */
function drawMemory(s) {
  const { step, trace, at } = s;
  const lists = Object.entries(step.memory ?? {});
  const used = lists.reduce((sum, [, list]) => sum + list.length, 0);
  const { capacity, quota } = step;
  const limits = `Memory: ${used} of ${capacity} slots used${quota ? `, up to ${quota} per class` : ""}`;
  const heading = el("div", { class: "heading" }, capacity ? limits : `Memory: ${used} points`);
  const strip = el("div", { class: "memory" }, heading),
    leaving = [];
  if (capacity && quota)
    s.explain(heading, `m = ⌊K / t⌋ = ${quota}: K = ${capacity} slots shared by the t classes seen so far`);
  for (const [key, list] of lists) {
    const c = Number(key),
      name = `class ${s.classes[c] ?? c}`;
    const row = el(
      "div",
      { class: "slots", role: "list", "aria-label": `memory of ${name}` },
      el("span", { class: "named" }, swatch(c, s.colour(c)), name),
    );
    list.forEach((i, order) => row.append(slot(s, i, c, `#${order + 1}`)));
    const before = step.phase === "truncate" && at > 0 ? (trace.steps[at - 1].memory?.[key] ?? []) : [];
    const removed = before.filter((i) => !list.includes(i)).map((i) => slot(s, i, c, "× removed"));
    for (const node of removed) node.classList.add("removed");
    leaving.push(...removed);
    row.append(...removed);
    for (let free = list.length; free < (quota ?? 0) && free < 40; free++) {
      row.append(
        el(
          "span",
          { class: "slot free", role: "listitem", "aria-label": `slot ${free + 1}, free` },
          `${free + 1}`,
        ),
      );
    }
    strip.append(row);
  }
  return { strip, leaving };
}

function slot(s, i, c, note) {
  const node = el(
    "span",
    { class: "slot", role: "listitem", "data-point": i, style: `border-color:${s.colour(c)}` },
    thumbnail(s.trace, i),
    el("span", {}, nameOf(s, i)),
    el("small", {}, note),
  );
  return s.explain(node, () => tellPoint(s, i));
}

function drawLegend(s) {
  const sign = (word, ...parts) =>
    el(
      "span",
      {},
      svg(
        "svg",
        { class: "swatch", viewBox: "-14 -14 28 28", width: 17, height: 17, "aria-hidden": "true" },
        ...parts,
      ),
      word,
    );
  const row = el("div", { class: "legend" });
  s.classes.forEach((name, c) => {
    if (s.arrived.includes(c)) row.append(el("span", {}, swatch(c, s.colour(c)), `class ${name}`));
  });
  const line = { fill: "none", stroke: "currentColor", "stroke-width": 2 };
  row.append(
    sign("class mean μ", svg("path", { ...line, d: "M-10 0H10M0 -10V10", "stroke-width": 6 })),
    sign("mean of the chosen", svg("path", { ...line, d: DIAMOND })),
    sign("target", ring(9, 2), svg("path", { ...line, d: TARGET })),
    sign("filled: in memory", marker(0, 8, { fill: "currentColor" })),
  );
  if (s.arrived.some((c) => !s.available.has(c))) {
    row.append(sign("dashed: data gone", marker(0, 9, { ...line, "stroke-dasharray": "3 3" })));
  }
  return row;
}

/** The chosen point flies from the plot into its slot. */
function prepareFlight(s, strip, flyer) {
  const i = s.step.chosen;
  const target = s.hasChoice && s.from < s.at ? strip.querySelector(`[data-point="${i}"]`) : null;
  if (!target) return () => {};
  const base = s.stage.getBoundingClientRect(),
    plot = s.picture.getBoundingClientRect(),
    goal = target.getBoundingClientRect();
  const [px, py] = pixel(s, i);
  const start = [plot.left - base.left + px, plot.top - base.top + py];
  const end = [goal.left - base.left + goal.width / 2, goal.top - base.top + goal.height / 2];
  flyer.replaceChildren(swatch(s.trace.owner[i], s.colour(s.trace.owner[i])));
  return (u) => {
    const [fx, fy] = mixPoint(start, end, u);
    flyer.hidden = u >= 1;
    flyer.style.transform = `translate(${(fx - 7).toFixed(1)}px, ${(fy - 7).toFixed(1)}px) scale(1.6)`;
    target.style.opacity = u >= 1 ? 1 : 0.25;
  };
}

// --- every number with its formula ------------------------------------------------------------------

function tellPoint(s, i) {
  const { step, trace } = s,
    p = trace.points[i];
  const name = `${nameOf(s, i)} at ${point(p)}, class ${s.classes[trace.owner[i]] ?? trace.owner[i]}`;
  const d = step.candidates?.includes(i) && isPoint(step.target) ? distanceOf(trace, step, i) : null;
  if (d === null) return s.stored.has(i) ? `${name}\nin memory at place ${s.stored.get(i)}` : name;
  if (!s.flat)
    return `${name}\nd² = ‖target − φ(x)‖² = ${number(d)}\nover all features; the plot shows two directions`;
  return `${name}\nd² = ${squares(step.target, p)} = ${number(d)}`;
}

function tellTarget(s) {
  const { step } = s;
  const chosen = (step.memory?.[step.class] ?? []).slice(0, step.k - 1);
  const sum = chosen.reduce(([a, b], i) => [a + s.trace.points[i][0], b + s.trace.points[i][1]], [0, 0]);
  const rest = chosen.length ? ` − ${point(sum)}` : "";
  return (
    `target = k·μ − sum of the chosen\n= ${step.k}·${point(step.class_mean)}${rest} = ${point(step.target)}\n` +
    "An exemplar here would make the mean exactly μ."
  );
}

function tellMean(s) {
  const { step } = s;
  const chosen = (step.memory?.[step.class] ?? []).slice(0, s.hasChoice ? step.k : step.k - 1);
  const sum =
    chosen
      .slice(0, 6)
      .map((i) => point(s.trace.points[i]))
      .join(" + ") + (chosen.length > 6 ? " + …" : "");
  return `mean of the ${chosen.length} chosen\n= (${sum}) / ${chosen.length} = ${point(step.mean)}`;
}

function tellError(s) {
  const { step } = s,
    value = number(step.error);
  if (!s.flat || !isPoint(step.mean) || !isPoint(step.class_mean))
    return `error = ‖mean − μ‖ = ${value}, over all features`;
  return `error = ‖mean − μ‖ = √(${squares(step.mean, step.class_mean)}) = ${value}`;
}

function tellQuery(s, q, mean, d) {
  return `d = √(${squares(q, mean)}) = ${number(d)}${s.flat ? "" : "\nin the two directions that the plot shows"}`;
}

function squares(a, b) {
  return [0, 1]
    .map((axis) => `(${fixed(a[axis])} − ${fixed(b[axis]).replace("−", "-")})²`.replace("− -", "+ "))
    .join(" + ");
}

// --- what the trace says ----------------------------------------------------------------------------

function nameOf(s, i) {
  return String(s.trace.names?.[i] ?? i);
}

/** For every step the classes whose data have been seen so far. */
function arrivals(trace) {
  const seen = new Set();
  return trace.steps.map((step) => {
    if (step.class !== null && step.class !== undefined) seen.add(step.class);
    for (const key of Object.keys(step.memory ?? {})) seen.add(Number(key));
    for (const c of step.available ?? []) seen.add(c);
    return [...seen];
  });
}

/** The squared distance of point `i`; `distances` runs over the points of the step's class, null once chosen. */
function distanceOf(trace, step, i) {
  if (!step.distances || trace.owner[i] !== step.class) return null;
  let row = 0;
  for (let j = 0; j < i; j++) if (trace.owner[j] === step.class) row++;
  return step.distances[row] ?? null;
}

/** Whether d² can be recomputed from the two drawn coordinates; else the features have more of them. */
function distancesArePlane(trace) {
  if (typeof trace.plane === "boolean") return trace.plane;
  const step = trace.steps.find((s) => isPoint(s.target) && s.candidates?.length && s.distances);
  if (!step) return true;
  const i = step.candidates[0],
    [px, py] = trace.points[i];
  return (
    Math.abs((px - step.target[0]) ** 2 + (py - step.target[1]) ** 2 - distanceOf(trace, step, i)) < 0.01
  );
}

/** The square grey image (values from 0, white, to 16, black) of point `i`; null where the trace has none. */
function thumbnail(trace, i) {
  const values = trace.images?.[i];
  if (!values) return null;
  const side = Math.round(Math.sqrt(values.length));
  const canvas = el("canvas", { width: side, height: side, "aria-hidden": "true" });
  const brush = canvas.getContext("2d"),
    pixels = brush.createImageData(side, side);
  values.forEach((value, k) => {
    const grey = 255 - value * 15.9;
    pixels.data.set([grey, grey, grey, 255], 4 * k);
  });
  brush.putImageData(pixels, 0, 0);
  return canvas;
}
