// Routing, over the whole training: every expert's share of the load. Collapse is one line at the top.

function routingShares(model, available, colours) {
  const { steps, experts, slots } = model;
  const width = Math.max(280, available), height = 170;
  const area = { left: 40, right: width - 34, top: 22, bottom: height - 32 };
  const about = "share of the load of every expert over training";
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": about });
  const most = Math.min(1, 1.05 * Math.max(...steps.flatMap((s) => s.load.map((l) => l / slots))));
  const x = linear([0, Math.max(1, steps.length - 1)], [area.left, area.right]);
  const y = linear([0, most], [area.bottom, area.top]);
  for (const v of ticks([0, most], 3)) {
    picture.append(
      svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(v), y2: y(v) }),
      svg("text", { x: area.left - 6, y: y(v) + 4, "text-anchor": "end" }, number(v)),
    );
  }
  picture.append(svg("text", { x: 0, y: 12, "font-weight": 600 }, "share of the load, per expert"));
  for (const i of ticks([0, steps.length - 1], 5).filter(Number.isInteger))
    picture.append(svg("text", { x: x(i), y: area.bottom + 15, "text-anchor": "middle" }, number(steps[i].step)));
  const below = { x: (area.left + area.right) / 2, y: height - 3, "text-anchor": "middle" };
  picture.append(svg("text", below, "training step"));
  const ends = [];
  for (let e = 0; e < experts; e++) {
    const path = steps.map((s, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(s.load[e] / slots).toFixed(1)}`).join("");
    const pen = { stroke: colourOf(colours, e), "stroke-width": 1.8, "stroke-dasharray": DASHES[e % DASHES.length] };
    picture.append(svg("path", { d: path, fill: "none", ...pen }));
    ends.push({ y: y(steps.at(-1).load[e] / slots), text: `E${e}` });
  }
  for (const end of spread(ends, 11, area)) picture.append(svg("text", { x: area.right + 5, y: end.y + 4 }, end.text));
  const cursor = svg("line", { y1: area.top, y2: area.bottom, stroke: "currentColor", "stroke-width": 1.5 });
  picture.append(cursor);
  return { node: el("div", {}, picture), draw };

  function draw(u, position) {
    cursor.setAttribute("transform", `translate(${x(position).toFixed(1)} 0)`);
  }
}
