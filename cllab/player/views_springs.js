// Elastic weights: two weights on springs. One plane per Fisher (views_springs_plane.js), the losses per step, the numbers.

const SPRING_WAYS = {
  penalty: { name: "penalty", about: "the springs' gradient is part of the step", colour: 4, shape: 2, dash: "7 3" },
  proximal: { name: "proximal", about: "after each step, θ moves to where springs and step balance", colour: 2, shape: 0 },
  free: { name: "no springs", about: "plain fine-tuning: λ = 0", colour: null, shape: 3, dash: "2 3" },
};

VIEWS.springs = {
  ms: 150,
  create(context) {
    const { trace, stage, explain } = context;
    let built = null;
    return { show };

    /** The drawing is built once per width and palette; a step moves its heads and changes its numbers. */
    function show(at, from) {
      const key = `${stage.clientWidth}|${context.colours().join()}`;
      if (built?.key !== key || !stage.contains(built.parts[0].node)) built = build(key, context.colours());
      const frames = built.parts.map((part) => part.draw(at, from));
      return (u) => {
        for (const frame of frames) frame?.(u);
      };
    }

    function build(key, colours) {
      const made = trace.panels.length > 1 ? several(colours) : single(colours);
      stage.replaceChildren(...made.nodes);
      return { key, parts: made.parts };
    }

    /** One Fisher: the plane, and beside it the losses and the numbers of every path. */
    function single(colours) {
      const wide = stage.clientWidth >= 660;
      const size = Math.max(250, Math.min(470, Math.floor(stage.clientWidth * (wide ? 0.48 : 1))));
      const room = wide ? stage.clientWidth - size - 24 : stage.clientWidth;
      const [panel] = trace.panels;
      const plane = springsPlane(size, trace, panel, colours, explain);
      const table = springsTable(trace, panel, colours, explain);
      const charts = ["old", "new"].map((part, i) => springsChart(room, part, i, trace, panel, colours));
      const side = el("div", { class: "side" }, table.node, ...charts.map((chart) => chart.node));
      const columns = wide ? `grid-template-columns:${size}px minmax(0,1fr)` : null;
      const grid = el("div", { class: "springs-grid", style: columns }, el("div", {}, plane.node), side);
      const facts = springsFacts(trace, panel);
      return { nodes: [readouts(facts, explain), grid, springsLegend(trace, panel, colours)], parts: [plane, table, ...charts] };
    }

    /** Several Fishers: a small plane for each, with its numbers below. */
    function several(colours) {
      const columns = stage.clientWidth >= 800 ? trace.panels.length : stage.clientWidth >= 330 ? 2 : 1;
      const size = Math.max(140, Math.min(400, Math.floor((stage.clientWidth - 14 * (columns - 1)) / columns)));
      const grid = el("div", { class: "springs-panels", style: `grid-template-columns:repeat(${columns},${size}px)` });
      const parts = trace.panels.flatMap((panel) => {
        const plane = springsPlane(size, trace, panel, colours, explain);
        const caption = springsCaption(trace, panel);
        grid.append(el("div", {}, el("h4", {}, panel.name), plane.node, caption.node));
        return [plane, caption];
      });
      return { nodes: [grid, springsLegend(trace, trace.panels[0], colours)], parts };
    }
  },
};

/** Where a path is at a step: its last place once it was given up. */
function springsIndex(way, at) {
  return Math.min(at, way.theta.length - 1);
}

function springsWays(trace, panel) {
  return [trace.free, ...panel.paths];
}

function springsColour(colours, name) {
  const { colour } = SPRING_WAYS[name];
  return colour === null ? "currentColor" : colourOf(colours, colour);
}

/** Readable for ordinary numbers as for those of a path that explodes. */
function springsNumber(value, digits = 3) {
  const size = Math.abs(value);
  if (size >= 1e5 || (size > 0 && size < 1e-3))
    return value.toExponential(1).replaceAll("-", "−").replace("e+", "e");
  return size >= 1000 ? fixed(value, 0) : number(value, digits);
}

function springsPair(p) {
  return `(${p.map((v) => springsNumber(v)).join(", ")})`;
}

function springsFacts(trace, panel) {
  const most = Math.max(...panel.F);
  const factors = panel.F.map((F) => springsNumber(1 - trace.lr * trace.lam * F)).join(" and ");
  const axes = panel.F.map((F) => (F > 0 ? springsNumber(1 / Math.sqrt(trace.n * F)) : "∞")).join(" and ");
  const product = `lr · λ · max F = ${number(trace.lr)} · ${number(trace.lam)} · ${springsNumber(most)}`;
  const limit = panel.product > 2 ? "above 2: the springs alone diverge" : "2 or less: the springs alone do not diverge";
  return [
    [
      "lr · λ · max F",
      springsNumber(panel.product),
      `${product} = ${springsNumber(panel.product)}, ${limit}\nA penalty step multiplies the deviations by 1 − lr λ F = ${factors}`,
    ],
    ["F", springsPair(panel.F), `how much each weight mattered to task ${trace.names[0]}\naxes of the ellipse, 1/√(nF) with n = ${trace.n}: ${axes}`],
    ["λ", number(trace.lam), "stiffness: every spring pulls with −λ F (θ − θ*)"],
    ["lr", number(trace.lr), "learning rate of the plain gradient steps"],
  ];
}

// --- the numbers of every path ------------------------------------------------------------------------

function springsTable(trace, panel, colours, explain) {
  const [A, B] = trace.names;
  const heads = ["path", "θ₁", "θ₂", `loss ${A}`, `loss ${B}`, "pull"];
  const row = (name, i) => el("th", i ? { class: "value" } : {}, name);
  const body = el("tbody");
  const lines = springsWays(trace, panel).map((way) => {
    const cells = heads.slice(1).map(() => el("td", { class: "value" }));
    const { name, shape, about } = SPRING_WAYS[way.name];
    const head = el("th", { scope: "row" }, el("span", { class: "named" }, swatch(shape, springsColour(colours, way.name)), name));
    body.append(el("tr", {}, explain(head, about), ...cells));
    return { way, cells };
  });
  const caption = el("caption", {}, "Now");
  const node = el("table", { class: "springs-table" }, caption, el("thead", {}, el("tr", {}, ...heads.map(row))), body);
  return { node, draw };

  function draw(at) {
    caption.textContent = `After ${at} ${at === 1 ? "step" : "steps"}`;
    for (const { way, cells } of lines) {
      const t = springsIndex(way, at);
      const values = [...way.theta[t], way.old[t], way.new[t], Math.hypot(...way.pull[t])];
      cells.forEach((cell, i) => (cell.textContent = springsNumber(values[i])));
      const stopped = way.given_up !== null && at >= way.given_up;
      explain(cells[4], `pull −λ F (θ − θ*) = ${springsPair(way.pull[t])}${stopped ? `\ngiven up after step ${way.given_up}` : ""}`);
      cells[0].parentNode.classList.toggle("violated", way.left !== null && at >= way.left);
    }
  }
}

function springsCaption(trace, panel) {
  const node = el("div", { class: "springs-caption" });
  return { node, draw };

  function draw(at) {
    const [way] = panel.paths;
    const t = springsIndex(way, at);
    const [A, B] = trace.names;
    node.replaceChildren(
      el("div", {}, `F = ${springsPair(panel.F)}`),
      el("div", {}, `loss ${A} ${springsNumber(way.old[t])}, ${B} ${springsNumber(way.new[t])}`),
    );
  }
}

// --- a loss per step ----------------------------------------------------------------------------------

function springsChart(width, part, i, trace, panel, colours) {
  const height = 118;
  const area = { left: 40, right: width - 10, top: 20, bottom: height - 20 };
  const ways = springsWays(trace, panel);
  const calm = ways.filter((way) => way.left === null);
  const most = Math.max(...(calm.length ? calm : ways).flatMap((way) => (calm.length ? way[part] : way[part].slice(0, 2))));
  const last = trace.steps.length - 1;
  const x = linear([0, last], [area.left, area.right]);
  const y = linear([0, 1.1 * most || 1], [area.bottom, area.top]);
  const name = `loss ${trace.names[i]}`;
  const node = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  node.append(svg("text", { x: 0, y: 12, "font-weight": 600, style: `fill:${colourOf(colours, i)}` }, name));
  for (const value of ticks([0, 1.1 * most || 1], 3))
    node.append(
      svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(value), y2: y(value) }),
      svg("text", { x: area.left - 5, y: y(value) + 4, "text-anchor": "end" }, number(value, 3)),
    );
  for (const value of ticks([0, last], 4))
    node.append(svg("text", { x: x(value), y: height - 5, "text-anchor": "middle" }, value));
  node.append(svg("text", { x: area.right, y: 12, "text-anchor": "end" }, "per optimiser step"));
  const within = { x: area.left, y: area.top, width: area.right - area.left, height: area.bottom - area.top };
  const inner = svg("svg", { ...within, viewBox: Object.values(within).join(" "), "aria-hidden": "true" }); // clips
  for (const way of ways) {
    const d = way[part].map((v, t) => `${x(t).toFixed(1)} ${Math.max(-1e4, y(v)).toFixed(1)}`).join("L");
    const line = { stroke: springsColour(colours, way.name), "stroke-dasharray": SPRING_WAYS[way.name].dash };
    inner.append(svg("path", { d: `M${d}`, fill: "none", "stroke-width": way.name === "free" ? 1.4 : 2.2, ...line }));
  }
  const cursor = svg("line", { y1: area.top, y2: area.bottom, stroke: "currentColor", "stroke-width": 1 });
  node.append(inner, cursor);
  return { node, draw };

  function draw(at, from) {
    const told = ways.map((way) => `${SPRING_WAYS[way.name].name} ${springsNumber(way[part][springsIndex(way, at)])}`);
    node.setAttribute("aria-label", `${name} after ${at} steps: ${told.join(", ")}`);
    return (u) => cursor.setAttribute("transform", `translate(${x(mix(from, at, u)).toFixed(1)} 0)`);
  }
}
