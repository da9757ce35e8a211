// Routing, the flow: tokens on the left, experts on the right, a line for every assignment.

const FALL = 0.62; // how far along its line a dropped token gets

function routingFlow(model, available, colours, explain) {
  const { trace, tokens, experts, slots, rows, kinds, steps } = model;
  const place = routingPlaces(available, tokens.length, experts);
  const most = Math.max(
    ...steps.flatMap((s) => s.load.map((l, e) => Math.max(l / slots, s.importance[e] / tokens.length))),
    (trace.capacity ?? 0) / slots,
    1 / experts,
  );
  const { width, height } = place;
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  const lines = svg("g"), chips = svg("g"), bars = svg("g"), movers = svg("g");
  const sets = [], moves = [];
  const colour = (e) => colourOf(colours, e);
  picture.append(lines, chips, bars, movers);
  tokens.forEach((token, n) => {
    for (let slot = 0; slot < rows; slot++) addAssignment(n, slot, token);
    addToken(n, token);
  });
  for (let e = 0; e < experts; e++) addExpert(e);
  addBin();
  return { node: picture, settle, draw };

  function settle(still) {
    for (const set of sets) set(still);
    const name = trace.alt ?? trace.title ?? "Expert routing";
    picture.setAttribute("aria-label", `${name} ${model.now.text ?? ""}`);
  }

  function draw(u) {
    for (const move of moves) move(u);
    movers.style.display = u >= 1 ? "none" : "";
  }

  function addAssignment(n, slot, token) {
    const line = svg("path", { fill: "none" });
    const dot = marker(token.kind, 4, { stroke: "currentColor", "stroke-width": 0.8 });
    const cross = svg("text", { class: "halo", "text-anchor": "middle", "font-weight": 700 }, "×");
    cross.style.fill = DROPPED;
    lines.append(explain(line, () => tellAssignment(n, slot)));
    chips.append(cross);
    movers.append(dot);
    const port = place.tokenPort(n);
    let kept = true, source = null, goal = null;
    sets.push((still) => {
      const { now, before } = model;
      const e = now.expert[n][slot], weight = now.weight[n][slot];
      for (const part of [line, dot, cross]) part.style.display = e === undefined ? "none" : "";
      goal = e === undefined ? null : place.expertPort(e, slot, rows);
      if (!goal) return;
      kept = now.kept[n][slot];
      source = still ? goal : place.expertPort(before.expert[n]?.[slot] ?? e, slot, rows);
      cross.style.display = kept ? "none" : "";
      fill(dot, { fill: kept ? colour(e) : DROPPED }, []);
      const rerouted = kept && model.wantedBy(n, slot) !== e;
      const style = {
        class: kept ? "told" : "told dropped",
        stroke: kept ? colour(e) : DROPPED,
        "stroke-width": kept ? 1 + 2.5 * weight : 1.5,
        opacity: kept ? 0.25 + 0.65 * weight : 0.9,
        "stroke-dasharray": kept ? (rerouted ? "9 3" : "none") : "3 3",
      };
      fill(line, style, []);
    });
    moves.push((u) => {
      if (!goal) return;
      const end = mixPoint(source, goal, u);
      const along = (t) => routingBezier(port, end, t);
      line.setAttribute("d", kept ? routingCurve(port, end) : routingPart(along, FALL));
      if (!kept) {
        const [cx, cy] = along(FALL);
        cross.setAttribute("transform", `translate(${cx.toFixed(1)} ${(cy + 4).toFixed(1)})`);
      }
      if (u >= 1) return;
      let [px, py] = along(kept ? u : Math.min(FALL, u));
      if (!kept && u > FALL) py = mix(py, place.bin, ((u - FALL) / (1 - FALL)) ** 2);
      dot.setAttribute("transform", `translate(${px.toFixed(1)} ${py.toFixed(1)})`);
    });
  }

  function addToken(n, token) {
    const [x, y] = place.token(n);
    const size = { width: place.chip, height: place.tall, rx: 5 };
    const box = svg("rect", { ...size, "stroke-width": 1.5 });
    const shape = { fill: "var(--paper)", stroke: "currentColor", "stroke-width": 1.2 };
    const words = { x: (place.chip + 13) / 2, y: place.tall / 2 + 4, "text-anchor": "middle" };
    const chip = svg(
      "g",
      { transform: `translate(${x} ${y})` },
      svg("rect", { ...size, fill: "var(--paper)" }),
      box,
      marker(token.kind, 3.5, { ...shape, transform: `translate(9 ${place.tall / 2})` }),
      svg("text", words, String(token.label)),
    );
    chips.append(explain(chip, () => tellToken(n, token)));
    sets.push(() => {
      const first = model.now.expert[n].find((_, slot) => model.now.kept[n][slot]);
      const lost = first === undefined;
      const ink = lost ? DROPPED : colour(first);
      fill(box, { fill: ink, "fill-opacity": lost ? 0.08 : 0.35, stroke: ink, "stroke-dasharray": lost ? "3 2" : "none" }, []);
    });
  }

  function addExpert(e) {
    const { x, y, w, h } = place.expert(e);
    const barX = x + place.name, barW = w - place.name - 34;
    const scale = (share) => (barW * share) / most;
    const barH = Math.max(10, Math.min(18, h * 0.36)), thin = Math.max(4, barH * 0.4);
    const top = y + (h - barH - thin - 4) / 2;
    const part = { y: top, height: barH, fill: colour(e), "fill-opacity": 0.75, stroke: "var(--paper)", "stroke-width": 1 };
    const parts = kinds.map(() => svg("rect", part));
    const shapes = kinds.map((_, kind) => marker(kind, 3, { fill: "var(--paper)", stroke: "currentColor" }));
    const outline = { fill: "transparent", stroke: "currentColor", "stroke-width": 1.4 };
    const asked = svg("rect", { x: barX, y: top, height: barH, ...outline });
    const soft = svg("rect", { x: barX, y: top + barH + 3, height: thin, fill: "currentColor", opacity: 0.55 });
    const count = svg("text", { x: x + w - 6, y: top + barH - 2, "text-anchor": "end" });
    const load = svg("g", {}, ...parts, ...shapes, asked);
    if (trace.capacity && !model.chosen) {
      const cx = barX + scale(trace.capacity / slots);
      const wall = { stroke: DROPPED, "stroke-width": 2, "stroke-dasharray": "4 2" };
      load.append(svg("line", { x1: cx, x2: cx, y1: top - 4, y2: top + barH + 4, ...wall }));
    }
    const frame = { x, y: y + 2, width: w, height: h - 4, rx: 6 };
    bars.append(
      svg("rect", { ...frame, fill: "var(--paper)" }),
      svg("rect", { ...frame, fill: colour(e), "fill-opacity": 0.12, stroke: colour(e) }),
      svg("text", { x: x + 7, y: top + barH / 2 + 4, "font-weight": 600 }, place.narrow ? `E${e}` : `expert ${e}`),
      explain(load, () => tellLoad(e)),
      explain(soft, () => tellImportance(e)),
      count,
    );
    sets.push(() => {
      count.textContent = number(model.now.load[e]);
    });
    moves.push((u) => {
      const { now, before } = model;
      const long = (a, b) => Math.max(0.5, scale(mix(a, b, u))).toFixed(1);
      asked.setAttribute("width", long(before.load[e] / slots, now.load[e] / slots));
      soft.setAttribute("width", long(before.importance[e] / tokens.length, now.importance[e] / tokens.length));
      const old = model.servedBy(before, e);
      let left = barX;
      model.servedBy(now, e).forEach((count, kind) => {
        const wide = scale(mix(old[kind], count, u) / slots);
        fill(parts[kind], { x: left.toFixed(1), width: wide.toFixed(1) }, []);
        const middle = `translate(${(left + wide / 2).toFixed(1)} ${(top + barH / 2).toFixed(1)})`;
        fill(shapes[kind], { transform: middle, opacity: wide < 9 ? 0 : 1 }, []);
        left += wide;
      });
    });
  }

  function addBin() {
    const text = svg("text", { x: width / 2, y: place.bin + 5, "text-anchor": "middle" });
    picture.append(explain(text, () => routingDropped(model)));
    sets.push(() => {
      const lost = model.chosen ? model.missed() : model.now.dropped;
      const crosses = "×".repeat(Math.min(12, lost));
      text.setAttribute("font-weight", lost ? 700 : 400);
      if (model.chosen) text.textContent = `served by no expert: ${lost} of ${tokens.length} tokens ${crosses}`;
      else if (trace.capacity) text.textContent = `dropped: ${lost} of ${slots} ${crosses}`;
      else text.textContent = "no capacity limit: nothing is dropped";
    });
  }

  function tellToken(n, token) {
    const list = model.now.expert[n].map((_, slot) => tellAssignment(n, slot));
    const head = `token “${token.label}” (${kinds[token.kind] ?? `kind ${token.kind}`})`;
    return [head, ...(list.length ? list : ["no expert chose it: it passes the layer unchanged"])].join("\n");
  }

  function tellAssignment(n, slot) {
    const e = model.now.expert[n][slot], wanted = model.wantedBy(n, slot);
    const what = `“${tokens[n].label}” → expert ${e}, weight ${number(model.now.weight[n][slot])}`;
    if (!model.now.kept[n][slot]) return `${what}: dropped, expert ${e} already has its ${trace.capacity} tokens`;
    return wanted === e ? what : `${what}: rerouted, expert ${wanted} was full`;
  }

  function tellLoad(e) {
    const load = model.now.load[e], counts = model.servedBy(model.now, e);
    const served = counts.map((count, kind) => (count ? `${count} ${kinds[kind]}` : null)).filter(Boolean);
    const total = counts.reduce((a, b) => a + b, 0);
    const told = [
      model.chosen ? `places, all of them taken = ${load}` : `load = assignments asked for = ${load}`,
      `share ${load} / ${slots} = ${fixed(load / slots, 3)}`,
      `served ${total}${served.length ? `: ${served.join(", ")}` : ""}`,
    ];
    if (trace.capacity && !model.chosen) told.push(`capacity ${trace.capacity} (dashed line)`);
    if (model.now.bias) told.push(`bias b = ${number(model.now.bias[e])}, added to its probabilities for the choice alone`);
    return told.join("\n");
  }

  function tellImportance(e) {
    const sum = model.now.importance[e];
    return `importance = Σ of router probability = ${number(sum)}\nshare ${number(sum)} / ${tokens.length} tokens = ${fixed(sum / tokens.length, 3)}`;
  }
}

function routingPlaces(available, n, experts) {
  const width = Math.max(300, available);
  const narrow = width < 560;
  const columns = Math.ceil(n / 26), rows = Math.ceil(n / columns);
  const chip = narrow ? 51 : 57, gap = 4, tall = 18;
  const right = Math.max(150, Math.min(340, width * 0.4));
  const body = Math.max(rows * 21, experts * 46, 200);
  const rowHeight = Math.min(96, body / experts), firstExpert = (body - experts * rowHeight) / 2;
  const token = (i) => [
    2 + Math.floor(i / rows) * (chip + gap),
    ((i % rows) + 0.5) * (body / rows) - tall / 2,
  ];
  const expert = (e) => ({ x: width - right - 2, y: firstExpert + e * rowHeight, w: right, h: rowHeight });
  // All lines leave from the right edge of the block, one below the other where a row holds several tokens.
  const tokenPort = (i) => [
    2 + columns * (chip + gap),
    token(i)[1] + (tall * (Math.floor(i / rows) + 1)) / (columns + 1),
  ];
  const expertPort = (e, slot, k) => [expert(e).x, expert(e).y + (expert(e).h * (slot + 1)) / (k + 1)];
  const size = { width, narrow, chip, tall, height: body + 34, bin: body + 18, name: narrow ? 30 : 72 };
  return { ...size, token, expert, tokenPort, expertPort };
}

function routingBezier([x0, y0], [x1, y1], t) {
  const middle = (x0 + x1) / 2, s = 1 - t;
  return [
    s ** 3 * x0 + 3 * s * s * t * middle + 3 * s * t * t * middle + t ** 3 * x1,
    s ** 3 * y0 + 3 * s * s * t * y0 + 3 * s * t * t * y1 + t ** 3 * y1,
  ];
}

function routingCurve([x0, y0], [x1, y1]) {
  const middle = ((x0 + x1) / 2).toFixed(1);
  return `M${x0.toFixed(1)} ${y0.toFixed(1)}C${middle} ${y0.toFixed(1)} ${middle} ${y1.toFixed(1)} ${x1.toFixed(1)} ${y1.toFixed(1)}`;
}

function routingPart(along, end) {
  const points = Array.from({ length: 13 }, (_, i) => along((end * i) / 12).map((v) => v.toFixed(1)).join(" "));
  return `M${points.join("L")}`;
}
