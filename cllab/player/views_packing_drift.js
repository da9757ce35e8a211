// Packing, a frozen weight: its gradient is 0, and four optimisers move it all the same, unless it is put back.

function packingDrift(context, colours) {
  const { trace, stage, explain } = context;
  const columns = stage.clientWidth >= 900 ? 4 : stage.clientWidth >= 330 ? 2 : 1;
  const width = Math.floor((stage.clientWidth - 16 * (columns - 1)) / columns);
  const values = trace.paths.flatMap((path) => [...path.masked, ...path.restored]);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = 0.06 * (high - low) || 0.05;
  const charts = trace.paths.map((path) => packingPath(path, width, [low - pad, high + pad], trace, colours, explain));
  const grid = el("div", { class: "packing-drifts", style: `grid-template-columns:repeat(${columns},${width}px)` });
  grid.append(...charts.map((chart) => chart.node));
  const sample = (name, attributes) =>
    el("span", {}, svg("svg", { class: "swatch", viewBox: "0 0 30 12", width: 30, height: 12, "aria-hidden": "true" },
      svg("path", { d: "M1 6H29", fill: "none", ...attributes })), name);
  const legend = el(
    "div",
    { class: "legend" },
    sample("gradient set to 0, nothing else", packingLine(colours, "masked")),
    sample("put back after every step", packingLine(colours, "restored")),
  );
  return {
    nodes: [grid, legend],
    settle: (at) => charts.forEach((chart) => chart.settle(at)),
    draw: (u, at, from) => charts.forEach((chart) => chart.draw(mix(from, at, u))),
  };
}

function packingLine(colours, way) {
  return way === "masked"
    ? { stroke: colourOf(colours, 4), "stroke-width": 2.4 }
    : { stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": "7 3" };
}

function packingPath(path, width, range, trace, colours, explain) {
  const height = 162;
  const last = trace.steps.length - 1;
  const area = { left: 46, right: width - 10, top: 20, bottom: height - 30 };
  const x = linear([0, last], [area.left, area.right]);
  const y = linear(range, [area.bottom, area.top]);
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  picture.append(svg("text", { x: 0, y: 10 }, "weight w"));
  for (const value of ticks(range, 4))
    picture.append(
      svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(value), y2: y(value) }),
      svg("text", { x: area.left - 5, y: y(value) + 4, "text-anchor": "end" }, number(value, 10)),
    );
  for (const value of ticks([0, last], Math.min(last, 3)).filter(Number.isInteger))
    picture.append(svg("text", { x: x(value), y: area.bottom + 14, "text-anchor": "middle" }, value));
  picture.append(svg("text", { x: (area.left + area.right) / 2, y: height - 3, "text-anchor": "middle" }, "steps since the freeze"));
  const ways = ["masked", "restored"].map((way, k) => {
    const line = svg("path", { fill: "none", ...packingLine(colours, way) });
    const dot = marker(k ? 0 : 1, 5, { fill: packingLine(colours, way).stroke, stroke: "currentColor", "stroke-width": 0.8 });
    picture.append(line, dot);
    return { values: path[way], line, dot };
  });
  const before = path.before ? `one step with the gradient ${number(path.before)} before the freeze` : "a new optimiser";
  const heading = explain(el("h4", { tabindex: 0 }, path.name), `${path.about}\n${before}, lr = ${number(trace.lr)}`);
  const moved = el("div", { class: "packing-moved" });
  let step = 0;
  explain(moved, () => `w = ${number(path.masked[step], 6)} after ${packingCount(step, "step")}\nmoved by w − 1 = ${number(path.masked[step] - 1, 6)}\nput back: w = ${number(path.restored[step], 6)}`);
  return { node: el("div", {}, heading, picture, moved), settle, draw };

  function settle(at) {
    step = at;
    const gone = path.masked[at] - 1;
    moved.textContent = `moved ${packingMove(gone)}, put back ${packingMove(path.restored[at] - 1)}`;
    moved.classList.toggle("violated", gone !== 0);
    picture.setAttribute("aria-label", `${path.name}: the frozen weight after ${packingCount(at, "step")} is ${number(path.masked[at], 6)}, put back ${number(path.restored[at], 6)}`);
  }

  function draw(position) {
    const low = Math.min(last, Math.floor(position)), part = position - low;
    for (const { values, line, dot } of ways) {
      const now = mix(values[low], values[Math.min(last, low + 1)], part);
      const points = [...values.slice(0, low + 1).map((v, t) => [x(t), y(v)]), [x(position), y(now)]];
      line.setAttribute("d", `M${points.map((p) => p.map((v) => v.toFixed(1)).join(" ")).join("L")}`);
      dot.setAttribute("transform", `translate(${x(position).toFixed(1)} ${y(now).toFixed(1)})`);
    }
  }
}
