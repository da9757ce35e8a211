// Features that move: the same rows in the plane of two features while a network is trained. Uses the parts of the
// herding view; its scene `s` holds the step, the scales and what is drawn.

VIEWS.features = {
  ms: 1800,
  create(context) {
    const { trace, stage } = context;
    return {
      show(at, from) {
        const s = featureScene(context, at, from);
        axes(s);
        if (trace.unit) drawCircle(s);
        const move = drawRows(s);
        const slide = drawMeans(s);
        const { strip, leaving } = drawMemory(s);
        const facts = s.step.facts.map(([name, value]) => [name, value, `${name}: ${value}, over all test images`]);
        const columns = s.wide ? `grid-template-columns:${s.size}px minmax(0,1fr)` : null;
        stage.replaceChildren(
          el(
            "div",
            { class: "herding-grid", style: columns },
            el("div", {}, s.picture, featureLegend(s)),
            el("div", { class: "side" }, readouts(facts, s.explain), drawWrong(s)),
            strip,
          ),
        );
        return (u) => {
          move(u);
          slide(u);
          for (const slot of leaving) slot.style.opacity = mix(1, 0.4, u);
        };
      },
    };
  },
};

function featureScene(context, at, from) {
  const { trace, stage } = context;
  const step = trace.steps[at];
  const wide = stage.clientWidth >= 620;
  const size = Math.max(280, Math.min(500, stage.clientWidth * (wide ? 0.52 : 1)));
  const space = fit([trace.steps[Math.max(0, at - 1)], step].flatMap((one) => placesOf(trace, one)), size);
  const colours = context.colours();
  const stored = new Map();
  for (const list of Object.values(step.memory)) list.forEach((i, order) => stored.set(i, order + 1));
  const picture = svg("svg", {
    class: "plot",
    width: size,
    height: space.height,
    viewBox: `0 0 ${size} ${space.height}`,
    role: "img",
    "aria-label": `${trace.alt} ${step.text}`,
  });
  const layers = { grid: svg("g"), under: svg("g"), dots: svg("g"), over: svg("g") };
  picture.append(...Object.values(layers));
  return {
    ...context,
    ...space,
    trace: { ...trace, points: step.points }, // the parts of the herding view look for points there
    step: { ...step, capacity: trace.capacity },
    before: trace.steps[from],
    at,
    wide,
    size,
    picture,
    layers,
    stored,
    classes: trace.classes,
    colour: (c) => colourOf(colours, c),
  };
}

/** Where everything lies that a step shows. The scale holds a step and the one before, so that a move stays in view. */
function placesOf(trace, step) {
  const kept = new Set(Object.values(step.memory).flat());
  const rows = step.points.filter((_, i) =>
    trace.role[i] === "train" ? kept.has(i) : step.arrived.includes(trace.owner[i]),
  );
  return [...rows, ...Object.values(step.means), ...Object.values(step.before)];
}

/** Angles decide where features have length 1: the circle that all of them lie on. */
function drawCircle(s) {
  const r = s.x(1) - s.x(0);
  s.layers.grid.append(svg("circle", { class: "grid", cx: s.x(0), cy: s.y(0), r, fill: "none" }));
}

function wrongOf(step, owner, i) {
  const said = step.answers[i];
  return said !== undefined && said !== owner[i];
}

/** Test rows of the classes that have arrived, and what is in memory; returns how they move. */
function drawRows(s) {
  const { step, before, trace, x, y } = s,
    moves = [];
  trace.owner.forEach((c, i) => {
    const kept = trace.role[i] === "train";
    if (kept ? !s.stored.has(i) : !step.arrived.includes(c)) return;
    const wrong = wrongOf(step, trace.owner, i);
    const group = svg(
      "g",
      { opacity: kept || wrong ? 1 : 0.55 },
      marker(c, kept ? 6 : 4, {
        fill: s.colour(c),
        "fill-opacity": kept ? 1 : 0.45,
        stroke: kept ? "currentColor" : s.colour(c),
        "stroke-width": kept ? 1.4 : 1,
      }),
    );
    if (wrong) group.append(ring(8, 2));
    s.layers.dots.append(s.explain(group, () => tellRow(s, i)));
    moves.push((u) => {
      const [px, py] = mixPoint(before.points[i], step.points[i], u);
      group.setAttribute("transform", shiftTo(x(px), y(py)));
    });
  });
  return (u) => moves.forEach((move) => move(u));
}

/** Means of the memory, and where they were before, with an arrow from there; returns how they move. */
function drawMeans(s) {
  const { step, before, x, y } = s,
    moves = [];
  for (const [key, mean] of Object.entries(step.means)) {
    const c = Number(key),
      name = s.classes[c] ?? c,
      stale = step.before[key];
    if (isPoint(stale)) {
      const [bx, by, nx, ny] = [x(stale[0]), y(stale[1]), x(mean[0]), y(mean[1])];
      const old = { d: DIAMOND, fill: "none", stroke: s.colour(c), "stroke-width": 2.5, "stroke-dasharray": "3 2" };
      const way = number(Math.hypot(mean[0] - stale[0], mean[1] - stale[1]), 2);
      s.layers.under.append(
        svg("path", { d: arrowPath(bx, by, nx, ny), fill: "none", stroke: "currentColor", "stroke-width": 1.6 }),
      );
      s.layers.over.append(
        s.explain(
          svg(
            "g",
            { transform: shiftTo(bx, by) },
            svg("circle", { r: 10, fill: "transparent" }),
            svg("path", old),
          ),
          `mean of class ${name} with the features of before: ${point(stale)}\nthe same images are now ${way} away`,
        ),
      );
    }
    const node = svg(
      "g",
      {},
      svg("path", { d: DIAMOND, fill: s.colour(c), stroke: "currentColor", "stroke-width": 2 }),
      svg("text", { class: "halo", x: 12, y: 5, "font-weight": 700 }, name),
    );
    s.layers.over.append(s.explain(node, () => `mean of class ${name}'s exemplars, features of now: ${point(mean)}`));
    moves.push((u) => {
      const [px, py] = mixPoint(before.means[key] ?? mean, mean, u);
      node.setAttribute("transform", shiftTo(x(px), y(py)));
    });
  }
  return (u) => moves.forEach((move) => move(u));
}

/** Which class the shown test rows of each class are taken for. */
function drawWrong(s) {
  const { step, trace } = s;
  if (!Object.keys(step.answers).length) return null;
  const body = el("tbody");
  for (const c of step.arrived) {
    const rows = Object.keys(step.answers).filter((i) => trace.owner[i] === c);
    const wrong = rows.filter((i) => wrongOf(step, trace.owner, i));
    const counts = new Map();
    for (const i of wrong) counts.set(step.answers[i], (counts.get(step.answers[i]) ?? 0) + 1);
    const taken = [...counts].sort((a, b) => b[1] - a[1]).map(([said, n]) => `${n} as ${s.classes[said]}`);
    body.append(
      el(
        "tr",
        {},
        el("td", {}, el("span", { class: "named" }, swatch(c, s.colour(c)), `class ${s.classes[c]}`)),
        el("td", { class: "value" }, `${rows.length - wrong.length} of ${rows.length}`),
        el("td", {}, taken.join(", ") || "none"),
      ),
    );
  }
  return el(
    "table",
    { class: "taken" },
    el("caption", {}, "The test images in the picture"),
    header(["class"], ["right", "value"], ["taken for another"]),
    body,
  );
}

function tellRow(s, i) {
  const { step, trace } = s,
    said = step.answers[i];
  const where = `${nameOf(s, i)} at ${point(step.points[i])}`;
  if (s.stored.has(i)) return `${where}\nin memory, place ${s.stored.get(i)} of its class`;
  return said === undefined ? where : `${where}\nanswered ${s.classes[said]}`;
}

function featureLegend(s) {
  const row = el("div", { class: "legend" }),
    line = { fill: "none", stroke: "currentColor", "stroke-width": 2 };
  const sign = (word, ...parts) =>
    el(
      "span",
      {},
      svg("svg", { class: "swatch", viewBox: "-14 -14 28 28", width: 17, height: 17, "aria-hidden": "true" }, ...parts),
      word,
    );
  for (const c of s.step.arrived) row.append(el("span", {}, swatch(c, s.colour(c)), `class ${s.classes[c]}`));
  row.append(
    sign("pale: test image", marker(0, 7, { fill: "currentColor", "fill-opacity": 0.3 })),
    sign("filled: in memory", marker(0, 9, { fill: "currentColor" })),
    sign("exemplar mean", svg("path", { ...line, d: DIAMOND })),
  );
  if (Object.keys(s.step.before).length)
    row.append(sign("dashed: mean of before", svg("path", { ...line, d: DIAMOND, "stroke-dasharray": "4 3" })));
  if (Object.keys(s.step.answers).length) row.append(sign("wrong answer", ring(10, 2.5)));
  return row;
}
