// Routing, who serves what: kinds of token by experts as a heat map, and how specialised the experts are.

function routingHeat(model, available, colours, explain) {
  const { kinds, experts, tokens, steps } = model;
  const area = { left: 74, top: 36 };
  const cell = { w: Math.min(58, (available - area.left - 4) / experts), h: 27 };
  const width = area.left + experts * cell.w + 2, height = area.top + kinds.length * cell.h + 4;
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  picture.append(svg("text", { x: 0, y: 12, "font-weight": 600 }, "tokens of each kind, by expert"));
  const whole = kinds.map((_, kind) => Math.max(1, tokens.filter((token) => token.kind === kind).length));
  const cells = [];
  for (let e = 0; e < experts; e++) {
    const x = area.left + (e + 0.5) * cell.w;
    picture.append(svg("text", { x, y: area.top - 6, "text-anchor": "middle", "font-weight": 600 }, `E${e}`));
    kinds.forEach((_, kind) => addCell(e, kind));
  }
  kinds.forEach((name, kind) => {
    const y = area.top + (kind + 0.5) * cell.h;
    const shape = { fill: "transparent", stroke: "currentColor", transform: `translate(8 ${y})` };
    picture.append(marker(kind, 4, shape), svg("text", { x: 18, y: y + 4 }, name));
  });
  const known = typeof steps[0].specialisation === "number";
  const how = known ? routingSpecialisation(model, explain) : null;
  return { node: el("div", { class: "routing-heat" }, picture, how?.node), settle, draw };

  function addCell(e, kind) {
    const x = area.left + e * cell.w, y = area.top + kind * cell.h;
    const frame = { x: x + 1, y: y + 1, width: cell.w - 2, height: cell.h - 2, rx: 3 };
    const tint = svg("rect", { ...frame, fill: colourOf(colours, e), stroke: "currentColor", "stroke-opacity": 0.25 });
    const count = svg("text", { class: "halo", x: x + cell.w / 2, y: y + cell.h / 2 + 4, "text-anchor": "middle" });
    const node = svg("g", { class: "routing-cell" }, tint, count);
    picture.append(explain(node, () => tellCell(e, kind)));
    cells.push({ e, kind, tint, count });
  }

  function settle() {
    const { now } = model;
    for (const { e, kind, count } of cells) {
      const served = model.servedBy(now, e)[kind];
      count.textContent = served;
      count.setAttribute("opacity", served ? 1 : 0.45);
    }
    const rows = kinds.map((name, kind) => {
      const parts = Array.from({ length: experts }, (_, e) => [e, model.servedBy(now, e)[kind]]);
      return `${name}: ${parts.filter(([, n]) => n).map(([e, n]) => `${n} by E${e}`).join(", ") || "none"}`;
    });
    picture.setAttribute("aria-label", `tokens of each kind by expert. ${rows.join("; ")}`);
    how?.settle();
  }

  function draw(u, position) {
    for (const { e, kind, tint } of cells) {
      const served = mix(model.servedBy(model.before, e)[kind], model.servedBy(model.now, e)[kind], u);
      tint.setAttribute("fill-opacity", (0.75 * Math.min(1, served / whole[kind])).toFixed(3));
    }
    how?.draw(u, position);
  }

  function tellCell(e, kind) {
    const served = model.servedBy(model.now, e);
    const all = served.reduce((a, b) => a + b, 0);
    const total = Array.from({ length: experts }, (_, other) => model.servedBy(model.now, other)[kind]);
    const sum = total.reduce((a, b) => a + b, 0);
    return `expert ${e} serves ${served[kind]} of the ${sum} assignments of kind “${kinds[kind]}”\nof all that expert ${e} serves: ${served[kind]} of ${all}`;
  }
}

/** The number from 0 to 1 as a bar. */
function routingSpecialisation(model, explain) {
  const width = 196, height = 16;
  const bar = svg("rect", { x: 0, y: 0, height, fill: "var(--accent)", "fill-opacity": 0.65 });
  const frame = svg("rect", { x: 0.5, y: 0.5, width: width - 1, height: height - 1, fill: "none", stroke: "currentColor" });
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, bar, frame);
  const value = el("span");
  const node = el("div", { class: "routing-special", tabindex: 0 }, value, picture);
  explain(node, tell);
  return { node, settle, draw };

  function settle() {
    value.textContent = `specialisation = ${fixed(model.now.specialisation, 2)}`;
  }

  function draw(u) {
    bar.setAttribute("width", (width * mix(model.before.specialisation, model.now.specialisation, u)).toFixed(1));
  }

  function tell() {
    const { kinds, experts, now } = model;
    const n = Array.from({ length: experts }, (_, e) => model.servedBy(now, e).reduce((a, b) => a + b, 0));
    const total = n.reduce((a, b) => a + b, 0);
    return [
      `I(kind; expert) / H(kind) = ${fixed(now.specialisation, 4)}, of the ${total} counts on the left`,
      "1: the expert's number tells the kind of token; 0: it tells nothing (as when one expert serves all)",
      `${total} tokens spread at random over ${experts} experts give about ${fixed(routingChance(kinds.length, experts, total), 2)}`,
    ].join("\n");
  }
}

/** What tokens of K equally frequent kinds give when they are spread at random: (K - 1)(E - 1) / (2 n ln K). */
function routingChance(K, E, n) {
  return K > 1 ? Math.min(1, ((K - 1) * (E - 1)) / (2 * n * Math.log(K))) : 0;
}
