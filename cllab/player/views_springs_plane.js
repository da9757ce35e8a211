// Elastic weights: the plane of two weights, with both losses' contours, the Fisher's ellipse, and the paths.

/** {node, draw(at, from) -> frame(u)}: a square of `size` pixels for one panel of a springs trace. */
function springsPlane(size, trace, panel, colours, explain) {
  const small = size < 300;
  const margin = small ? 24 : 34;
  const [x0, x1, y0, y1] = trace.extent;
  const x = linear([x0, x1], [margin, size - 4]);
  const y = linear([y0, y1], [size - margin, 4]);
  const within = (p) => p[0] >= x0 && p[0] <= x1 && p[1] >= y0 && p[1] <= y1;
  const side = size - margin - 4;
  const node = svg("svg", { class: "plane", width: size, height: size, viewBox: `0 0 ${size} ${size}`, role: "img" });
  const inner = svg("svg", { x: margin, y: 4, width: side, height: side, "aria-hidden": "true" });
  inner.setAttribute("viewBox", `${margin} 4 ${side} ${side}`); // clips what leaves the picture
  const moving = svg("g");
  node.append(axes(), inner, moving);
  addContours();
  addEllipse();
  const still = trace.free.theta.map(place).join("L");
  const dots = { stroke: "currentColor", "stroke-width": 1.4, "stroke-dasharray": "2 3", opacity: 0.75 };
  inner.append(explain(svg("path", { d: `M${still}`, fill: "none", ...dots }), "without springs: plain fine-tuning"));
  const trails = panel.paths.map((way) => {
    const dash = SPRING_WAYS[way.name].dash ?? null;
    const line = svg("path", { fill: "none", stroke: springsColour(colours, way.name), "stroke-width": 2.4, "stroke-dasharray": dash });
    inner.append(line);
    return line;
  });
  addMarks();
  const reach = pullScale();
  return { node, draw };

  function axes() {
    const group = svg("g");
    for (const value of ticks([x0, x1], small ? 3 : 5))
      group.append(
        svg("line", { class: "grid", x1: x(value), x2: x(value), y1: 4, y2: size - margin }),
        svg("text", { x: x(value), y: size - margin + 14, "text-anchor": "middle" }, number(value, 2)),
      );
    for (const value of ticks([y0, y1], small ? 3 : 5))
      group.append(
        svg("line", { class: "grid", x1: margin, x2: size - 4, y1: y(value), y2: y(value) }),
        svg("text", { x: margin - 4, y: y(value) + 4, "text-anchor": "end" }, number(value, 2)),
      );
    if (!small)
      group.append(
        svg("text", { x: size - 4, y: size - 4, "text-anchor": "end" }, "weight θ₁"),
        svg("text", { x: margin + 5, y: 17, class: "halo" }, "weight θ₂"),
      );
    return group;
  }

  function addContours() {
    trace.contours.forEach((lines, i) => {
      const d = lines.map((line) => `M${line.map(place).join("L")}`).join("");
      const dash = i ? "5 3" : null;
      const stroke = { stroke: colourOf(colours, i), "stroke-width": 1.1, "stroke-dasharray": dash, opacity: 0.65 };
      inner.append(explain(svg("path", { d, fill: "none", ...stroke }), `equal loss ${trace.names[i]}`));
    });
  }

  /** sum_i n F_i (theta_i - theta*_i)^2 = 1: axes 1 / sqrt(n F_i), endless where F_i is 0. */
  function addEllipse() {
    const longest = 20 * (x1 - x0);
    const [rx, ry] = panel.F.map((F) => Math.min(longest, 1 / Math.sqrt(Math.max(trace.n * F, 1e-12))));
    const [cx, cy] = trace.marks.old;
    const shape = svg("ellipse", {
      class: "fisher",
      cx: x(cx),
      cy: y(cy),
      rx: (x(rx) - x(0)).toFixed(1),
      ry: (y(0) - y(ry)).toFixed(1),
      fill: colourOf(colours, 0),
      "fill-opacity": 0.14,
      stroke: colourOf(colours, 0),
      "stroke-width": 2,
    });
    const told = [rx, ry].map((r) => (r === longest ? "∞" : springsNumber(r))).join(" and ");
    inner.append(explain(shape, `Fisher ellipse, axes 1/√(nF) = ${told} (n = ${trace.n}): short where the spring is stiff`));
  }

  function addMarks() {
    const [A, B] = trace.names;
    const told = [
      ["old", 0, 0, `θ*: where task ${A} left the weights`, "θ*"],
      ["new", 1, 1, `minimum of loss ${B} alone`, B],
      ["joint", 6, 3, `minimum of loss ${A} + loss ${B}: both tasks trained together`, `${A}+${B}`],
    ];
    for (const [name, shape, colour, about, label] of told) {
      const p = trace.marks[name];
      const fill = name === "joint" ? "currentColor" : colourOf(colours, colour);
      const mark = marker(shape, small ? 4 : 5, { fill, stroke: "var(--paper)", "stroke-width": 1 });
      const text = svg("text", { class: "halo", x: 8, y: -6, "font-weight": 600 }, label);
      const group = svg("g", { transform: `translate(${x(p[0])} ${y(p[1])})` }, mark, text);
      inner.append(explain(group, `${about}, ${springsPair(p)}`));
    }
  }

  /** Pixels per unit of pull: the longest pull of the calmest path takes a fifth of the plane. */
  function pullScale() {
    const longest = panel.paths.map((way) => Math.max(...way.pull.map((p) => Math.hypot(...p))));
    const least = Math.min(...longest);
    return least > 0 ? side / 5 / least : 0;
  }

  /** Far places stay far, but within what a drawing can hold. */
  function place(p) {
    const far = 30 * (x1 - x0);
    const near = (v, a, b) => Math.max(a - far, Math.min(b + far, v));
    return `${x(near(p[0], x0, x1)).toFixed(1)} ${y(near(p[1], y0, y1)).toFixed(1)}`;
  }

  function draw(at, from) {
    const frames = panel.paths.map((way, k) => drawPath(way, trails[k], at, from));
    moving.replaceChildren(...frames.flatMap((frame) => frame.nodes));
    node.setAttribute("aria-label", `${panel.name}: ${trace.alt} ${trace.steps[at].text}`);
    return (u) => {
      for (const frame of frames) frame.move(u);
    };
  }

  function drawPath(way, trail, at, from) {
    const t = springsIndex(way, at);
    const before = way.theta[Math.abs(at - from) === 1 ? springsIndex(way, from) : t];
    const colour = springsColour(colours, way.name);
    const out = !within(way.theta[t]);
    const shape = marker(SPRING_WAYS[way.name].shape, 6, { fill: colour, stroke: "currentColor", "stroke-width": 1.2 });
    const head = svg("g", { class: `head ${way.name}` }, shape);
    const gone = way.left !== null && at >= way.left ? `left at step ${way.left}` : "outside";
    const right = way.theta[t][0] > (x0 + x1) / 2;
    const beside = { x: right ? -10 : 10, y: 4, "text-anchor": right ? "end" : "start" };
    if (out) head.append(svg("text", { class: "halo violated", ...beside }, small ? "✗" : `✗ ${gone}`));
    const pull = svg("line", { stroke: colourOf(colours, 3), "stroke-width": 2.6, "stroke-linecap": "round" });
    const arrow = svg("path", { d: "M0 0L-8 4L-8 -4Z", fill: colourOf(colours, 3) });
    const force = way.pull[t].map((v, i) => (i ? -1 : 1) * v * reach);
    const length = Math.min(Math.hypot(...force), side / 2);
    const angle = Math.atan2(force[1], force[0]);
    const told = `${SPRING_WAYS[way.name].name}: θ = ${springsPair(way.theta[t])}\npull −λ F (θ − θ*) = ${springsPair(way.pull[t])}`;
    explain(head, told);
    const nodes = out || length < 3 ? [head] : [pull, arrow, head];
    return { nodes, move };

    function move(u) {
      const last = way.left ?? t; // a path that left leaves one line out of the picture, not a hundred
      const done = way.theta.slice(0, Math.min(last + 1, before === way.theta[t] ? t + 1 : t));
      const now = mixPoint(before, way.theta[t], u);
      trail.setAttribute("d", `M${[...done, ...(t > last ? [] : [now])].map(place).join("L")}`);
      const px = Math.max(margin + 8, Math.min(size - 12, x(now[0])));
      const py = Math.max(small ? 12 : 34, Math.min(size - margin - 8, y(now[1])));
      const [hx, hy] = out ? [px, py] : [x(now[0]), y(now[1])];
      head.setAttribute("transform", `translate(${hx.toFixed(1)} ${hy.toFixed(1)})`);
      const tip = [hx + length * Math.cos(angle), hy + length * Math.sin(angle)];
      fill(pull, { x1: hx, y1: hy, x2: tip[0] - 6 * Math.cos(angle), y2: tip[1] - 6 * Math.sin(angle) }, []);
      arrow.setAttribute("transform", `translate(${tip[0].toFixed(1)} ${tip[1].toFixed(1)}) rotate(${((angle * 180) / Math.PI).toFixed(1)})`);
    }
  }
}

function springsLegend(trace, panel, colours) {
  const row = el("div", { class: "legend" });
  const sample = (attributes) =>
    svg(
      "svg",
      { class: "swatch", viewBox: "0 0 30 12", width: 30, height: 12, "aria-hidden": "true" },
      svg("path", { d: "M1 6H29", fill: "none", "stroke-width": 2.2, ...attributes }),
    );
  trace.names.forEach((name, i) => {
    row.append(el("span", {}, sample({ stroke: colourOf(colours, i), "stroke-dasharray": i ? "5 3" : null }), `loss ${name}`));
  });
  const ellipse = svg("ellipse", { cx: 15, cy: 6, rx: 13, ry: 5, fill: colourOf(colours, 0), "fill-opacity": 0.2, stroke: colourOf(colours, 0) });
  const oval = svg("svg", { class: "swatch", viewBox: "0 0 30 12", width: 30, height: 12, "aria-hidden": "true" }, ellipse);
  row.append(el("span", {}, oval, "Fisher ellipse, axes 1/√(nF)"));
  for (const way of springsWays(trace, panel)) {
    const { name, dash } = SPRING_WAYS[way.name];
    row.append(el("span", {}, sample({ stroke: springsColour(colours, way.name), "stroke-dasharray": dash ?? null }), name));
  }
  row.append(el("span", {}, sample({ stroke: colourOf(colours, 3) }), "the springs' pull"));
  const [A, B] = trace.names;
  row.append(el("span", {}, `θ*, ${B}, ${A}+${B}: best for ${A}, for ${B}, for both together`));
  return row;
}
