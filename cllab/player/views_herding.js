// Herding: points in feature space, what the next exemplar should be, and a query for nearest class mean.
// One scene `s` per step holds the step, the scales and what is drawn; the functions below draw its parts.

VIEWS.herding = {
  ms: 1500,
  create(context) {
    const { trace, stage } = context;
    const flat = distancesArePlane(trace);
    const fixedParts = {
      ...context,
      flat,
      classes: trace.classes ?? [],
      arrivals: arrivals(trace),
      shift: dodge(trace.points, trace.owner),
      labelled: trace.points.length <= 30,
      // names such as "(1, 0)" already say where the point is
      coordinates: flat && !String(trace.names?.[0] ?? "").startsWith("("),
    };

    return {
      show(at, from) {
        const s = setScene(fixedParts, at, from);
        axes(s);
        drawPoints(s);
        const aim = drawAim(s);
        const side = el("div", { class: "side" }, drawLoss(s) ?? drawFacts(s), drawDistances(s));
        const { strip, leaving } = drawMemory(s);
        const flyer = el("div", { class: "flyer", "aria-hidden": "true", hidden: "" });
        const columns = s.wide ? `grid-template-columns:${s.size}px minmax(0,1fr)` : null;
        stage.replaceChildren(
          el(
            "div",
            { class: "herding-grid", style: columns },
            el("div", {}, s.picture, drawLegend(s)),
            side,
            strip,
          ),
          flyer,
        );
        if (s.askable) askWith(s, side);
        const flight = prepareFlight(s, strip, flyer);
        return (u) => {
          aim(u);
          flight(u);
          for (const slot of leaving) {
            slot.style.opacity = mix(1, 0.4, u);
            slot.style.transform = `translateY(${mix(0, 6, u)}px)`;
          }
        };
      },
    };
  },
};

function setScene(parts, at, from) {
  const { trace, stage } = parts;
  const step = trace.steps[at];
  const wide = stage.clientWidth >= 620;
  const size = Math.max(280, Math.min(500, stage.clientWidth * (wide ? 0.52 : 1)));
  const space = scales(trace, [parts.query(), trace.query], size);
  const colours = parts.colours();
  const stored = new Map(); // point -> its place in the memory of its class, from 1
  for (const list of Object.values(step.memory ?? {})) list.forEach((i, order) => stored.set(i, order + 1));
  const picture = svg("svg", {
    class: "plot",
    width: size,
    height: space.height,
    viewBox: `0 0 ${size} ${space.height}`,
    role: "img",
    tabindex: 0,
    "aria-label": `${trace.alt ?? trace.title ?? "Herding"} ${step.text ?? ""}`,
  });
  const layers = { grid: svg("g"), under: svg("g"), dots: svg("g"), over: svg("g"), asked: svg("g") };
  picture.append(...Object.values(layers));
  return {
    ...parts,
    ...space,
    at,
    from,
    step,
    before: trace.steps[from],
    wide,
    size,
    picture,
    layers,
    stored,
    colour: (c) => colourOf(colours, c),
    hasClass: step.class !== null && step.class !== undefined,
    hasChoice: step.chosen !== null && step.chosen !== undefined,
    arrived: parts.arrivals[at],
    available: new Set(step.available ?? parts.arrivals[at]),
    askable: Object.keys(step.means ?? {}).length > 0 && trace.ask !== false && step.phase !== "train",
  };
}

// --- the plot ---------------------------------------------------------------------------------------

function axes(s) {
  const { x, y, area, trace } = s;
  for (const v of ticks([x.invert(area.left), x.invert(area.right)])) {
    s.layers.grid.append(
      svg("line", { class: "grid", x1: x(v), x2: x(v), y1: area.top, y2: area.bottom }),
      svg("text", { x: x(v), y: area.bottom + 15, "text-anchor": "middle" }, number(v)),
    );
  }
  for (const v of ticks([y.invert(area.bottom), y.invert(area.top)])) {
    s.layers.grid.append(
      svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(v), y2: y(v) }),
      svg("text", { x: area.left - 6, y: y(v) + 4, "text-anchor": "end" }, number(v)),
    );
  }
  const middle = [(area.left + area.right) / 2, (area.top + area.bottom) / 2];
  s.layers.grid.append(
    svg("text", { x: middle[0], y: s.height - 8, "text-anchor": "middle" }, trace.x_label ?? "feature 1"),
    svg(
      "text",
      { transform: `translate(12 ${middle[1]}) rotate(-90)`, "text-anchor": "middle" },
      trace.y_label ?? "feature 2",
    ),
  );
}

function drawPoints(s) {
  const { step, trace } = s;
  trace.points.forEach((p, i) => {
    const c = trace.owner[i];
    if (!s.arrived.includes(c)) return;
    const held = s.stored.has(i),
      here = s.available.has(c),
      other = s.hasClass && step.class !== c;
    const shape = marker(c, held ? 7 : 6, {
      fill: s.colour(c),
      "fill-opacity": held ? 1 : here ? 0.35 : 0,
      stroke: held ? "currentColor" : s.colour(c),
      "stroke-width": held ? 1.2 : 1.6,
      "stroke-dasharray": here || held ? null : "2 2",
    });
    const [px, py] = pixel(s, i);
    const group = svg(
      "g",
      { transform: shiftTo(px, py), opacity: held ? 1 : other ? 0.5 : here ? 1 : 0.6 },
      shape,
    );
    if (i === step.chosen) group.append(ring(12, 2.5));
    else if (step.tied?.includes(i)) group.append(ring(12, 1.5, "3 2"));
    else if (i === step.loss?.row) group.append(ring(12, 2.5));
    const order = held ? `#${s.stored.get(i)} ` : "";
    const word = s.labelled ? order + (trace.names?.[i] ?? "") : i === step.chosen ? order : "";
    const left = s.shift[i] < 0 || px > s.area.right - 50;
    if (word) {
      group.append(
        svg(
          "text",
          { class: "halo name", x: left ? -8 : 8, y: left ? 18 : -9, "text-anchor": left ? "end" : "start" },
          word,
        ),
      );
    }
    s.layers.dots.append(s.explain(group, () => tellPoint(s, i)));
  });
}

/** The class mean, the mean of the chosen, the target and its distances; returns how they move. */
function drawAim(s) {
  const { step, before, x, y } = s;
  if (!s.hasClass || !isPoint(step.class_mean) || step.phase === "ncm") return () => {};
  const colour = s.colour(step.class);
  const same = before.class === step.class && s.from < s.at;
  const goal = [x(step.class_mean[0]), y(step.class_mean[1])];
  const spokes = (isPoint(step.target) ? (step.candidates ?? []) : []).map((i) => {
    const best = i === step.chosen || step.tied?.includes(i),
      [x2, y2] = pixel(s, i);
    const line = svg("line", {
      x2,
      y2,
      stroke: "currentColor",
      "stroke-width": best ? 1.8 : 1,
      opacity: best ? 0.8 : 0.18,
    });
    s.layers.under.append(line);
    return line;
  });
  const cross = svg(
    "g",
    { transform: shiftTo(...goal) },
    svg("path", { d: "M-9 0H9M0 -9V9", stroke: "currentColor", "stroke-width": 6 }),
    svg("path", { d: "M-8 0H8M0 -8V8", stroke: colour, "stroke-width": 4 }),
  );
  const arrow = svg("path", { fill: "none", stroke: "currentColor", "stroke-width": 2 });
  const aim = svg(
    "g",
    {},
    ring(9, 1.5),
    svg("path", { d: TARGET, stroke: "currentColor", "stroke-width": 1.5 }),
    svg("circle", { r: 10, fill: "transparent" }),
  );
  const mean = svg(
    "g",
    {},
    svg("path", { d: DIAMOND, fill: colour, stroke: "currentColor", "stroke-width": 2 }),
  );
  s.layers.over.append(s.explain(cross, `class mean μ = ${point(step.class_mean)}`));
  if (isPoint(step.target)) s.layers.over.append(s.explain(aim, () => tellTarget(s)));
  if (isPoint(step.mean))
    s.layers.over.append(
      arrow,
      s.explain(mean, () => tellMean(s)),
    );
  return (u) => {
    const early = Math.min(1, 2 * u),
      late = Math.max(0, 2 * u - 1); // first the target moves, then the mean
    if (isPoint(step.target)) {
      const [tx, ty] = mixPoint(same ? before.target : null, step.target, early);
      aim.setAttribute("transform", shiftTo(x(tx), y(ty)));
      for (const line of spokes) fill(line, { x1: x(tx).toFixed(2), y1: y(ty).toFixed(2) }, []);
    }
    if (isPoint(step.mean)) {
      const [mx, my] = mixPoint(same ? before.mean : null, step.mean, late);
      mean.setAttribute("transform", shiftTo(x(mx), y(my)));
      arrow.setAttribute("d", arrowPath(x(mx), y(my), ...goal));
    }
  };
}

// --- the query point --------------------------------------------------------------------------------

/** Lets the person place a query point by pointer or arrow keys; its answer stands in `side`. */
function askWith(s, side) {
  const { picture, area, x, y, step } = s;
  let dragging = false;
  const set = (p, done) => {
    const [low, high] = [x.invert(area.left), x.invert(area.right)],
      [bottom, top] = [y.invert(area.bottom), y.invert(area.top)];
    const inside = [Math.max(low, Math.min(high, p[0])), Math.max(bottom, Math.min(top, p[1]))];
    s.setQuery(
      inside.map((v) => Number(v.toFixed(2))),
      done,
    );
    drawQuery(s, side);
  };
  const place = (event, done) => {
    const rect = picture.getBoundingClientRect();
    set([x.invert(event.clientX - rect.left), y.invert(event.clientY - rect.top)], done);
  };
  picture.classList.add("asks");
  picture.addEventListener("pointerdown", (event) => {
    dragging = true;
    if (event.isTrusted) picture.setPointerCapture(event.pointerId);
    place(event, false);
  });
  picture.addEventListener("pointermove", (event) => {
    if (dragging) place(event, false);
  });
  picture.addEventListener("pointerup", (event) => {
    if (dragging) place(event, true);
    dragging = false;
  });
  picture.addEventListener("pointercancel", () => {
    dragging = false;
  });
  picture.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation(); // in the plot the arrows move the point, elsewhere they step
    const [qx, qy] = queryOf(s) ?? centre(step.means);
    const length = event.shiftKey ? 0.5 : 0.1;
    set([qx + move[0] * length, qy + move[1] * length], true);
  });
  drawQuery(s, side);
}

/** A test step shows its own point until the person places another one there. */
function queryOf(s) {
  if (s.step.phase === "test" && s.queryAt() !== s.at) return s.step.query;
  if (isPoint(s.query())) return s.query();
  if (s.step.phase !== "ncm") return null;
  return [s.step.query, s.trace.query].find(isPoint) ?? centre(s.step.means);
}

function drawQuery(s, side) {
  const { x, y, classes, layers } = s;
  const q = queryOf(s);
  layers.asked.replaceChildren();
  side.querySelector(".answers")?.remove();
  s.picture.classList.toggle("querying", Boolean(q));
  if (!q) return;
  const [qx, qy] = [x(q[0]), y(q[1])];
  const answers = nearest(s.step.means, q),
    best = answers[0].d;
  const words = svg("g"),
    body = el("tbody");
  for (const { c, mean, d } of [...answers].reverse()) {
    const winner = d <= best + 1e-9,
      [mx, my] = [x(mean[0]), y(mean[1])],
      right = mx > s.area.right - 80;
    layers.asked.append(
      svg("line", {
        x1: qx,
        y1: qy,
        x2: mx,
        y2: my,
        stroke: winner ? s.colour(c) : "currentColor",
        "stroke-width": winner ? 3.5 : 1.2,
        "stroke-dasharray": winner ? null : "4 4",
        opacity: winner ? 1 : 0.6,
      }),
      svg("path", {
        d: DIAMOND,
        fill: s.colour(c),
        stroke: "currentColor",
        "stroke-width": 2,
        transform: shiftTo(mx, my),
      }),
    );
    words.append(
      svg(
        "text",
        {
          class: "halo",
          x: mx + (right ? -13 : 13),
          y: my + 5,
          "text-anchor": right ? "end" : "start",
          "font-weight": winner ? 700 : 400,
        },
        `${classes[c] ?? c}: ${fixed(d, 3)}`,
      ),
    );
    const row = el(
      "tr",
      { class: winner ? "chosen" : null, tabindex: 0 },
      el("td", {}, el("span", { class: "named" }, swatch(c, s.colour(c)), `class ${classes[c] ?? c}`)),
      el("td", {}, point(mean)),
      el("td", { class: "value" }, fixed(d, 4)),
      el("td", {}, winner ? "nearest" : ""),
    );
    body.prepend(s.explain(row, tellQuery(s, q, mean, d)));
  }
  layers.asked.append(
    svg(
      "g",
      { transform: shiftTo(qx, qy) },
      svg("circle", { r: 22, fill: "transparent" }),
      ring(9, 2.5),
      svg("text", { class: "halo", y: 4, "text-anchor": "middle", "font-weight": 700 }, "?"),
    ),
    words,
  );
  const winners = answers.filter(({ d }) => d <= best + 1e-9).map(({ c }) => classes[c] ?? c);
  const verdict = winners.length > 1 ? `a tie between ${winners.join(" and ")}` : `class ${winners[0]}`;
  side.append(
    el(
      "table",
      { class: "answers" },
      el("caption", {}, `Query ${point(q)}: ${verdict}`),
      header(["class"], ["memory mean"], ["distance", "value"], [""]),
      body,
    ),
  );
}

function nearest(means, q) {
  return Object.entries(means)
    .filter(([, mean]) => isPoint(mean))
    .map(([key, mean]) => ({ c: Number(key), mean, d: Math.hypot(q[0] - mean[0], q[1] - mean[1]) }))
    .sort((a, b) => a.d - b.d || a.c - b.c);
}

function centre(means) {
  const all = Object.values(means).filter(isPoint);
  return [0, 1].map((axis) => all.reduce((sum, p) => sum + p[axis], 0) / (all.length || 1));
}

// --- geometry ---------------------------------------------------------------------------------------

const TARGET = "M-13 0H-4M4 0H13M0 -13V-4M0 4V13";
const DIAMOND = "M0 -9L9 0L0 9L-9 0Z";

/** The scales that show everything the trace draws, and `asked` points where these lie outside. */
function scales(trace, asked, size) {
  const drawn = trace.steps.flatMap((step) => [step.target, step.mean, step.class_mean, step.query]);
  const all = [...trace.points, ...drawn].filter(isPoint);
  const space = fit(all, size);
  const outside = asked.filter(isPoint).filter(([px, py]) => {
    const [qx, qy] = [space.x(px), space.y(py)];
    const { left, right, top, bottom } = space.area;
    return qx < left - 2 || qx > right + 2 || qy < top - 2 || qy > bottom + 2;
  });
  return outside.length ? fit([...all, ...outside], size) : space;
}

/** Equal units on both axes: a circle is a circle, and distances can be judged by eye. */
function fit(points, size) {
  const domain = (axis) => {
    const values = points.map((p) => p[axis]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const pad = 0.09 * (high - low || 1);
    return [low - pad, high + pad];
  };
  const margin = { left: 44, right: 16, top: 14, bottom: 42 };
  const across = size - margin.left - margin.right;
  const [dx, dy] = [domain(0), domain(1)];
  const [spanX, spanY] = [dx[1] - dx[0], dy[1] - dy[0]];
  const tall = Math.max(0.6 * across, Math.min(1.05 * across, (across * spanY) / spanX));
  const unit = Math.min(across / spanX, tall / spanY); // pixels
  const widen = ([low, high], pixels) => [-1, 1].map((side) => (low + high + (side * pixels) / unit) / 2);
  const area = { left: margin.left, right: size - margin.right, top: margin.top, bottom: margin.top + tall };
  return {
    area,
    height: area.bottom + margin.bottom,
    x: linear(widen(dx, across), [area.left, area.right]),
    y: linear(widen(dy, tall), [area.bottom, area.top]),
  };
}

/** Points of two classes at one place are drawn side by side: an offset in pixels per point. */
function dodge(points, owner) {
  const places = new Map();
  points.forEach((p, i) => places.set(p.join(), [...(places.get(p.join()) ?? []), i]));
  return points.map((p, i) => {
    const all = places.get(p.join());
    if (all.every((j) => owner[j] === owner[i])) return 0;
    return all.indexOf(i) % 2 ? 7 : -7;
  });
}

function pixel(s, i) {
  const [px, py] = s.trace.points[i];
  return [s.x(px) + s.shift[i], s.y(py)];
}

function shiftTo(px, py) {
  return `translate(${px.toFixed(2)} ${py.toFixed(2)})`;
}

function ring(r, width, dash) {
  return svg("circle", {
    r,
    fill: "none",
    stroke: "currentColor",
    "stroke-width": width,
    "stroke-dasharray": dash,
  });
}

function arrowPath(x1, y1, x2, y2) {
  const length = Math.hypot(x2 - x1, y2 - y1);
  if (length < 14) return "M0 0";
  const [ux, uy] = [(x2 - x1) / length, (y2 - y1) / length];
  const [ex, ey] = [x2 - 6 * ux, y2 - 6 * uy];
  const tip = `${ex.toFixed(1)} ${ey.toFixed(1)}`;
  const wing = (side) =>
    `${(ex - 8 * ux + side * 5 * uy).toFixed(1)} ${(ey - 8 * uy - side * 5 * ux).toFixed(1)}`;
  return `M${x1.toFixed(1)} ${y1.toFixed(1)}L${tip}M${wing(1)}L${tip}L${wing(-1)}`;
}
