// Progressive columns: what the laterals are worth, and how the parameters grow with the number of columns.

const COLUMN_WAYS = [
  { name: "with", text: "with laterals", about: "the column as it is", colour: 0, dash: null },
  { name: "alone", text: "trained without", about: "a column without laterals, same first weights, same rows in the same order", colour: 4, dash: "7 3" },
  { name: "cut", text: "laterals cut", about: "the same column with its laterals set to 0: a plain network", colour: 2, dash: "2 3" },
];

/** Test accuracy of the column that learns: one stretch per task. */
function columnsWorth(width, trace, colours, explain, lastOf) {
  const height = 190;
  const area = { left: 36, right: width - 8, top: 34, bottom: height - 22 };
  const last = Math.max(1, trace.steps.length - 1);
  const x = linear([0, last], [area.left, area.right]);
  const y = linear([0, 1], [area.bottom, area.top]);
  const picture = drawing(width, height, "Test accuracy of the column that learns, task after task");
  picture.append(svg("text", { x: 0, y: 12, "font-weight": 600 }, "Test accuracy of the learning column"));
  for (const value of [0, 0.25, 0.5, 0.75, 1])
    picture.append(
      svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(value), y2: y(value) }),
      svg("text", { x: area.left - 5, y: y(value) + 4, "text-anchor": "end" }, number(value, 2)),
    );
  trace.tasks.forEach((name, k) => {
    const first = k ? lastOf[k - 1] + 1 : 0;
    const [x0, x1] = [x(first), x(lastOf[k])];
    picture.append(
      svg("line", { x1: x0, x2: x1, y1: area.bottom + 1, y2: area.bottom + 1, stroke: colourOf(colours, k), "stroke-width": 5 }),
      svg("text", { x: (x0 + x1) / 2, y: height - 6, "text-anchor": "middle" }, columnsShort(name, (x1 - x0) / 6.5)),
    );
    for (const way of [...COLUMN_WAYS].reverse()) {
      const d = trace.steps
        .slice(first, lastOf[k] + 1)
        .map((step, s) => `${x(first + s).toFixed(1)} ${y(step.accuracy[way.name]).toFixed(1)}`);
      picture.append(
        svg("path", { d: `M${d.join("L")}`, fill: "none", stroke: colourOf(colours, way.colour), "stroke-width": 2.2, "stroke-dasharray": way.dash }),
      );
    }
  });
  const cursor = svg("line", { y1: area.top, y2: area.bottom, stroke: "currentColor" });
  picture.append(cursor);
  const keys = COLUMN_WAYS.map((way) => {
    const value = el("span");
    const sample = svg("svg", { class: "swatch", viewBox: "0 0 26 10", width: 26, height: 10, "aria-hidden": "true" });
    sample.append(svg("path", { d: "M1 5H25", stroke: colourOf(colours, way.colour), "stroke-width": 2.4, "stroke-dasharray": way.dash }));
    return { way, value, node: explain(el("span", { tabindex: 0 }, sample, way.text, value), way.about) };
  });
  const node = el("div", {}, picture, el("div", { class: "legend" }, ...keys.map((key) => key.node)));
  return { node, draw };

  function draw(at, from) {
    for (const { way, value } of keys) value.textContent = fixed(trace.steps[at].accuracy[way.name]);
    return (u) => cursor.setAttribute("transform", `translate(${x(mix(from, at, u)).toFixed(1)} 0)`);
  }
}

/** Parameters over the number of columns: the laterals make it a parabola. */
function columnsGrowth(width, trace, colours, explain) {
  const height = 190;
  const area = { left: 48, right: width - 8, top: 26, bottom: height - 32 };
  const lines = trace.growth;
  const most = lines[0].values.length;
  const top = Math.max(...lines.flatMap((line) => line.values));
  const x = linear([1, Math.max(2, most)], [area.left, area.right - 10]);
  const y = linear([0, top * 1.05], [area.bottom, area.top]);
  const picture = drawing(width, height, "Parameters over the number of columns");
  picture.append(svg("text", { x: 0, y: 12, "font-weight": 600 }, "Parameters over columns K"));
  for (const value of ticks([0, top], 4))
    picture.append(
      svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(value), y2: y(value) }),
      svg("text", { x: area.left - 5, y: y(value) + 4, "text-anchor": "end" }, value && top >= 1e4 ? `${value / 1000}k` : value),
    );
  for (let K = 1; K <= most; K++) picture.append(svg("text", { x: x(K), y: area.bottom + 16, "text-anchor": "middle" }, K));
  const strokes = lines.map((_, i) => ({ stroke: colourOf(colours, [0, 1, 4, 3][i]), "stroke-dasharray": DASHES[i] }));
  lines.forEach((line, i) => {
    const d = line.values.map((value, k) => `${x(k + 1).toFixed(1)} ${y(value).toFixed(1)}`).join("L");
    picture.append(svg("path", { d: `M${d}`, fill: "none", "stroke-width": 2.2, ...strokes[i] }));
  });
  const cursor = svg("line", { y1: area.top, y2: area.bottom, stroke: "currentColor" });
  const dot = svg("circle", { r: 5, fill: "currentColor" });
  picture.append(cursor, dot);
  const keys = lines.map((line, i) => {
    const value = el("span");
    const sample = svg("svg", { class: "swatch", viewBox: "0 0 26 10", width: 26, height: 10, "aria-hidden": "true" });
    sample.append(svg("path", { d: "M1 5H25", "stroke-width": 2.4, ...strokes[i] }));
    return { line, value, node: explain(el("span", { tabindex: 0 }, sample, line.name, value), line.about) };
  });
  const node = el("div", {}, picture, el("div", { class: "legend" }, ...keys.map((key) => key.node)));
  return { node, draw };

  function draw(at, from) {
    const k = trace.steps[at].task;
    for (const { line, value } of keys) value.textContent = columnsWhole(line.values[k]);
    const [a, b] = [from, at].map((step) => trace.steps[step].task);
    return (u) => {
      const px = mix(x(a + 1), x(b + 1), u).toFixed(1);
      cursor.setAttribute("transform", `translate(${px} 0)`);
      dot.setAttribute("cx", px);
      dot.setAttribute("cy", mix(y(columnsTotal(trace, a)), y(columnsTotal(trace, b)), u).toFixed(1));
    };
  }
}
