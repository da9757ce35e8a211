// Gradient projection: arrows that are dragged in the plane, the cone of allowed directions, and three answers.
// The plane is drawn in views_projection_plane.js; views_projection_solve.js computes while arrows move.

const CONE_ANSWERS = { turn: "in turn", agem: "A-GEM", gem: "GEM" };
const DOT_TOLERANCE = 1e-6; // of a dot: Python's numbers come with six digits
const KKT_CONDITIONS = [
  ["v ≥ γ", "every row gets at least the margin γ, which is 0 unless you raise it"],
  ["G u ≥ 0", "u makes no obtuse angle with any row"],
  ["(v − γ) (G u) = 0", "only a row that binds, whose dot with u is 0, gets more than γ"],
  ["u − g = Gᵀv", "u differs from g by multiples of the rows only"],
];
const arrowsOn = new WeakMap(); // stage -> the arrows as the person left them; a new trace does not end a drag

VIEWS.projection = {
  ms: 3000,
  create(context) {
    const { trace, stage, explain } = context;
    const { steps, margin, ridge } = trace;
    const live = liveArrows(stage, trace);
    const home = JSON.stringify(arrowsGiven(trace));
    let at = 0;
    live.drawn = () => draw(at, at)(1);
    live.changed = (done) => {
      clearTimeout(live.timer);
      context.setQuery(live.arrows.flat(), false);
      live.drawn();
      if (done !== null) live.timer = setTimeout(report, done);
    };
    return {
      show(step, from) {
        at = step;
        return draw(step, from);
      },
    };

    function report() {
      live.reported.push(JSON.stringify(live.arrows.flat()));
      context.setQuery([...live.arrows.flat(), ++live.reports], true); // numbered, so that none equals the one before
      live.drawn();
    }

    /** What is known about the arrows as they stand: Python's numbers where they are its own, else computed here. */
    function scene(step) {
      const [g, ...G] = live.arrows;
      const atHome = JSON.stringify(live.arrows) === home;
      const found = atHome ? trace : projectionAnswers(g, G, margin, ridge);
      const phase = steps[step].phase;
      const shown = Object.keys(CONE_ANSWERS).slice(0, ["cone", "turn", "agem", "gem"].indexOf(phase));
      const focus = phase === "cone" ? { u: g, dots: G.map((row) => dotOf(row, g)) } : found[phase];
      const violated = focus.dots.map((dot) => dot < -DOT_TOLERANCE);
      return { g, G, found, phase, shown, focus, violated, margin, ridge, colours: context.colours() };
    }

    function draw(step, from) {
      const s = scene(step);
      const wide = stage.clientWidth >= 660;
      const size = Math.max(270, Math.min(480, Math.floor(stage.clientWidth * (wide ? 0.5 : 1))));
      const reach = live.held ? live.plane.reach : planeReach(s);
      const key = [size, s.colours, live.arrows.length, reach].join();
      if (live.plane?.key !== key) live.plane = { key, ...projectionPlane(size, reach, live, explain) };
      const plane = live.plane;
      if (!stage.contains(plane.picture)) {
        const columns = wide ? `grid-template-columns:${size}px minmax(0,1fr)` : null;
        stage.replaceChildren(
          el("div", { class: "projection-grid", style: columns }, el("div", {}, plane.picture), plane.side),
        );
        plane.restoreFocus();
      }
      plane.picture.setAttribute("aria-label", `${trace.alt ?? ""} ${verdictOf(s)}`);
      plane.side.replaceChildren(
        el("p", { class: "verdict", "aria-live": live.held ? "off" : "polite" }, verdictOf(s)),
        dotTable(s, explain),
        ...conditionList(s, explain),
        projectionLegend(s),
      );
      return plane.draw(s, from < step);
    }
  },
};

/** The arrows of a stage. A trace that only repeats what was reported from here does not undo later moves. */
function liveArrows(stage, trace) {
  const given = arrowsGiven(trace);
  const live = arrowsOn.get(stage) ?? { reported: [], reports: 0, held: null, focus: null, timer: 0, limit: 3 };
  arrowsOn.set(stage, live);
  const echo = live.reported.indexOf(JSON.stringify(given.flat()));
  if (echo >= 0) live.reported.splice(0, echo + 1);
  if (echo < 0 || !(live.reported.length || live.held)) {
    if (echo < 0) [live.reported, live.held] = [[], null];
    live.arrows = given;
    live.limit = Math.max(3, ...given.flat().map((x) => Math.ceil(Math.abs(x))));
  }
  return live;
}

function arrowsGiven(trace) {
  return [trace.gradient, ...trace.constraints].map((p) => [...p]);
}

// --- the numbers beside the plane -------------------------------------------------------------------

function dotTable(s, explain) {
  const head = el("tr", {}, el("th", {}, "row of G"), el("th", { class: "value" }, "· g"));
  for (const name of s.shown)
    head.append(el("th", { class: `value ${name === s.phase ? "now" : ""}` }, `· ${CONE_ANSWERS[name]}`));
  if (s.phase === "gem") head.append(el("th", { class: "value" }, "v"));
  const body = el("tbody");
  s.G.forEach((row, k) => {
    const line = el("tr", {}, el("th", { scope: "row" }, `${rowName(k)} = ${briefPoint(row)}`));
    const vectors = [["g", s.g], ...s.shown.map((name) => [CONE_ANSWERS[name], s.found[name].u])];
    for (const [name, u] of vectors) line.append(dotCell(k, row, name, u, explain));
    const v = s.found.gem.v;
    if (s.phase === "gem") line.append(el("td", { class: "value" }, v ? briefNumber(v[k]) : "–"));
    body.append(line);
  });
  const caption = el("caption", {}, "Dots with the rows: below 0 the step would raise that loss");
  return el("table", { class: "dots" }, caption, el("thead", {}, head), body);
}

function dotCell(k, row, name, u, explain) {
  const dot = dotOf(row, u);
  const wrong = dot < -DOT_TOLERANCE;
  const cell = el("td", { class: `value ${wrong ? "violated" : ""}` }, `${briefNumber(dot)} ${wrong ? "✗" : "✓"}`);
  const sum = `${number(row[0])} · ${number(u[0])} + ${number(row[1])} · ${number(u[1])}`;
  return explain(cell, `${rowName(k)} · ${name === "g" ? "g" : `u (${name})`} = ${sum} = ${number(dot)}`);
}

/** The four conditions of optimality, ticked, and what u is made of. */
function conditionList(s, explain) {
  if (s.phase !== "gem") return [];
  const { residuals } = s.found.gem;
  if (!residuals.length) return [el("p", {}, "No row objects, so nothing is solved: u = g.")];
  const list = el("ul", { class: "conditions" });
  KKT_CONDITIONS.forEach(([formula, about], i) => {
    const met = residuals[i] <= 10 * DOT_TOLERANCE;
    const text = `${met ? "✓" : "✗"} ${formula}${met ? "" : `, missed by ${number(residuals[i])}`}`;
    const item = el("li", { class: met ? "" : "violated", tabindex: 0 }, text);
    const missed = residuals[i] < DOT_TOLERANCE ? "less than 0.000001" : number(residuals[i], 6);
    list.append(explain(item, `${about}\nmissed by ${missed}`));
  });
  return [el("p", { class: "conditions-title" }, "Conditions of Karush, Kuhn and Tucker"), list];
}

/** What the step shown says about the arrows, with the numbers. */
function verdictOf(s) {
  const wrong = s.violated.flatMap((bad, k) => (bad ? [`${rowName(k)} (dot ${number(s.focus.dots[k])})`] : []));
  const u = s.focus.u;
  if (s.phase === "cone")
    return wrong.length
      ? `g = ${briefPoint(u)} violates ${wrong.join(" and ")}.`
      : `g = ${briefPoint(u)} lies in the cone: no row objects, and every answer is g itself.`;
  const still = wrong.length ? ` still violates ${wrong.join(" and ")}` : "";
  if (s.phase === "turn") {
    const way = s.found.turn.path.map(briefPoint).join(" → ");
    const [here, gem] = [u, s.found.gem.u].map((end) => distanceBetween(end, s.g));
    if (still) return `In turn: ${way};${still}.`;
    if (Math.abs(here - gem) < 1e-5) return `In turn: ${way}; this time as near to g as GEM.`;
    return `In turn: ${way}; allowed, and ${number(here)} from g, where GEM is ${number(gem)} from it.`;
  }
  if (s.phase === "agem") {
    const mean = `mean r = ${briefPoint(s.found.agem.reference)}`;
    return `A-GEM: u = ${briefPoint(u)}, ${mean};${still || " no row is violated"}.`;
  }
  const { v } = s.found.gem;
  const parts = (v ?? []).flatMap((v_k, k) => (v_k > DOT_TOLERANCE ? [`${number(v_k)} ${rowName(k)}`] : []));
  const made = parts.length ? ` = g + ${parts.join(" + ")}` : "";
  const atTip = v && Math.hypot(...u) < 10 * DOT_TOLERANCE;
  const rest = atTip ? ": the nearest point is the tip of the cone, and the weights stay" : "";
  return `GEM: u = ${briefPoint(u)}${made}${rest}${still ? `;${still}` : ""}.`;
}

function projectionLegend(s) {
  const row = el("div", { class: "legend" });
  const sample = (attributes) =>
    svg(
      "svg",
      { class: "swatch", viewBox: "0 0 30 12", width: 30, height: 12, "aria-hidden": "true" },
      svg("path", { d: "M1 6H29", fill: "none", ...attributes }),
    );
  row.append(
    el("span", {}, el("span", { class: "cone-sample" }), "cone: G u ≥ 0"),
    el("span", {}, sample({ stroke: colourOf(s.colours, 4), "stroke-width": 3 }), "✗ violated"),
  );
  for (const name of s.shown) row.append(el("span", {}, sample(answerStroke(s.colours, name)), CONE_ANSWERS[name]));
  return row;
}

function answerStroke(colours, name) {
  return {
    turn: { stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": "2 4", opacity: 0.75 },
    agem: { stroke: colourOf(colours, 5), "stroke-width": 2.6, "stroke-dasharray": "8 4" },
    gem: { stroke: colourOf(colours, 3), "stroke-width": 3.6 },
  }[name];
}

function rowName(k) {
  return `g${"₁₂₃"[k]}`;
}

function briefPoint(p) {
  return `(${p.map((x) => number(x)).join(", ")})`;
}

/** For cells of the table: three digits after the point, four for small numbers. */
function briefNumber(x) {
  return number(x, Math.abs(x) < 0.01 ? 4 : 3);
}

function distanceBetween(a, b) {
  return Math.hypot(a[0] - b[0], a[1] - b[1]);
}
