// Routing: tokens on the left, experts on the right, one training step per frame.

const DROPPED = "#D55E00";
const FALL = 0.62; // how far along its line a dropped token gets

VIEWS.routing = {
  ms: 600,
  create(context) {
    const { trace, stage, explain } = context;
    const { tokens, experts, k, steps } = trace;
    const kinds = trace.kinds ?? [];
    const slots = tokens.length * k;
    const most = Math.max(
      ...steps.flatMap((s) => s.load.map((l, e) => Math.max(l / slots, s.importance[e] / tokens.length))),
      (trace.capacity ?? 0) / slots,
      1 / experts,
    );
    const served = new Map(); // step -> [E][kinds]
    let step = null,
      before = null,
      built = null;
    return { show };

    /** The drawing is built once per width and palette; a step sets its parts, a frame moves them. */
    function show(at, from) {
      [step, before] = [steps[at], steps[from]];
      const colours = context.colours();
      const key = `${stage.clientWidth}|${colours.join()}`;
      if (built?.key !== key || !stage.contains(built.picture)) built = build(key, colours);
      for (const set of built.sets) set(at === from);
      built.picture.setAttribute(
        "aria-label",
        `${trace.alt ?? trace.title ?? "Expert routing"} ${step.text ?? ""}`,
      );
      return (u) => {
        for (const move of built.moves) move(u, mix(from, at, u));
        built.movers.style.display = u >= 1 ? "none" : "";
      };
    }

    function build(key, colours) {
      const place = layout(stage.clientWidth, tokens.length, experts);
      const picture = svg("svg", {
        width: place.width,
        height: place.height,
        viewBox: `0 0 ${place.width} ${place.height}`,
        role: "img",
      });
      const lines = svg("g"),
        chips = svg("g"),
        bars = svg("g"),
        movers = svg("g");
      const made = { key, picture, movers, sets: [], moves: [] };
      const kindColour = (kind) => colourOf(colours, kind);
      picture.append(lines, chips, bars, movers);
      tokens.forEach((token, n) => {
        for (let slot = 0; slot < k; slot++) addAssignment(n, slot, token);
        addToken(n, token);
      });
      for (let e = 0; e < experts; e++) addExpert(e);
      addBin();
      const top = el("div");
      made.sets.push(() => top.replaceChildren(readouts(facts(), explain)));
      stage.replaceChildren(top, picture, legend(kindColour), shares(colours, made));
      return made;

      function addAssignment(n, slot, token) {
        const line = svg("path", { fill: "none" });
        const dot = marker(token.kind, 4, { stroke: "currentColor", "stroke-width": 0.8 });
        const cross = svg("text", { class: "halo", "text-anchor": "middle", "font-weight": 700 }, "×");
        cross.style.fill = DROPPED;
        lines.append(explain(line, () => tellAssignment(n, slot)));
        chips.append(cross);
        movers.append(dot);
        const port = place.tokenPort(n);
        let kept = true,
          source = null,
          goal = null;
        made.sets.push((still) => {
          const e = step.expert[n][slot],
            weight = step.weight[n][slot];
          kept = step.kept[n][slot];
          goal = place.expertPort(e, slot, k);
          source = still ? goal : place.expertPort(before.expert[n]?.[slot] ?? e, slot, k);
          const rerouted = kept && wantedBy(n, slot) !== e;
          const colour = kept ? kindColour(token.kind) : DROPPED;
          cross.style.display = kept ? "none" : "";
          fill(dot, { fill: colour }, []);
          fill(
            line,
            {
              class: kept ? "told" : "told dropped",
              stroke: colour,
              "stroke-width": kept ? 1 + 2.5 * weight : 1.5,
              opacity: kept ? 0.25 + 0.65 * weight : 0.9,
              "stroke-dasharray": kept ? (rerouted ? "9 3" : "none") : "3 3",
            },
            [],
          );
        });
        made.moves.push((u) => {
          const end = mixPoint(source, goal, u);
          const reach = kept ? u : Math.min(FALL, u);
          const along = (t) => bezier(port, end, t);
          line.setAttribute("d", kept ? curvePath(port, end) : partialPath(along, FALL));
          if (!kept) {
            const [cx, cy] = along(FALL);
            cross.setAttribute("transform", `translate(${cx.toFixed(1)} ${(cy + 4).toFixed(1)})`);
          }
          if (u >= 1) return;
          let [px, py] = along(reach);
          if (!kept && u > FALL) py = mix(py, place.bin, ((u - FALL) / (1 - FALL)) ** 2);
          dot.setAttribute("transform", `translate(${px.toFixed(1)} ${py.toFixed(1)})`);
        });
      }

      function addToken(n, token) {
        const [x, y] = place.token(n),
          size = { width: place.chip, height: place.tall, rx: 5 };
        const box = svg("rect", { ...size, fill: kindColour(token.kind), "stroke-width": 1.5 });
        const chip = svg(
          "g",
          { transform: `translate(${x} ${y})` },
          svg("rect", { ...size, fill: "var(--paper)" }),
          box,
          marker(token.kind, 3.5, {
            fill: kindColour(token.kind),
            stroke: "currentColor",
            "stroke-width": 0.8,
            transform: `translate(9 ${place.tall / 2})`,
          }),
          svg(
            "text",
            { x: (place.chip + 13) / 2, y: place.tall / 2 + 4, "text-anchor": "middle" },
            String(token.label),
          ),
        );
        chips.append(
          explain(chip, () =>
            [
              `token “${token.label}” (${kinds[token.kind] ?? `kind ${token.kind}`})`,
              ...Array.from({ length: k }, (_, slot) => tellAssignment(n, slot)),
            ].join("\n"),
          ),
        );
        made.sets.push(() => {
          const lost = step.kept[n].every((kept) => !kept);
          fill(
            box,
            {
              "fill-opacity": lost ? 0.08 : 0.3,
              stroke: lost ? DROPPED : kindColour(token.kind),
              "stroke-dasharray": lost ? "3 2" : "none",
            },
            [],
          );
        });
      }

      function addExpert(e) {
        const { x, y, w, h } = place.expert(e);
        const barX = x + place.name,
          barW = w - place.name - 34;
        const scale = (share) => (barW * share) / most;
        const barH = Math.max(10, Math.min(18, h * 0.36)),
          thin = Math.max(4, barH * 0.4);
        const top = y + (h - barH - thin - 4) / 2;
        const parts = kinds.map((_, kind) =>
          svg("rect", {
            y: top,
            height: barH,
            fill: kindColour(kind),
            "fill-opacity": 0.75,
            stroke: "var(--paper)",
            "stroke-width": 0.5,
          }),
        );
        const asked = svg("rect", {
          x: barX,
          y: top,
          height: barH,
          fill: "transparent",
          stroke: "currentColor",
          "stroke-width": 1.4,
        });
        const soft = svg("rect", {
          x: barX,
          y: top + barH + 3,
          height: thin,
          fill: "currentColor",
          opacity: 0.55,
        });
        const count = svg("text", { x: x + w - 6, y: top + barH - 2, "text-anchor": "end" });
        const load = svg("g", {}, ...parts, asked);
        if (trace.capacity) {
          const cx = barX + scale(trace.capacity / slots);
          load.append(
            svg("line", {
              x1: cx,
              x2: cx,
              y1: top - 4,
              y2: top + barH + 4,
              stroke: DROPPED,
              "stroke-width": 2,
              "stroke-dasharray": "4 2",
            }),
          );
        }
        const frame = { x, y: y + 2, width: w, height: h - 4, rx: 6 };
        bars.append(
          svg("rect", { ...frame, fill: "var(--paper)" }),
          svg("rect", { ...frame, fill: "var(--wash)", stroke: "var(--line)" }),
          svg(
            "text",
            { x: x + 7, y: top + barH / 2 + 4, "font-weight": 600 },
            place.narrow ? `E${e}` : `expert ${e}`,
          ),
          explain(load, () => tellLoad(e)),
          explain(soft, () => tellImportance(e)),
          count,
        );
        made.sets.push(() => {
          count.textContent = number(step.load[e]);
        });
        made.moves.push((u) => {
          asked.setAttribute(
            "width",
            Math.max(0.5, scale(mix(before.load[e], step.load[e], u) / slots)).toFixed(1),
          );
          soft.setAttribute(
            "width",
            Math.max(0.5, scale(mix(before.importance[e], step.importance[e], u) / tokens.length)).toFixed(1),
          );
          const old = servedBy(before, e);
          let left = barX;
          servedBy(step, e).forEach((now, kind) => {
            const width = scale(mix(old[kind], now, u) / slots);
            fill(parts[kind], { x: left.toFixed(1), width: width.toFixed(1) }, []);
            left += width;
          });
        });
      }

      function addBin() {
        const text = svg("text", { x: place.width / 2, y: place.bin + 5, "text-anchor": "middle" });
        picture.append(explain(text, tellDropped));
        made.sets.push(() => {
          text.setAttribute("font-weight", step.dropped ? 700 : 400);
          text.textContent = trace.capacity
            ? `dropped: ${step.dropped} of ${slots} ${"×".repeat(Math.min(12, step.dropped))}`
            : "no capacity limit: nothing is dropped";
        });
      }
    }

    // --- what the numbers mean --------------------------------------------------------------------

    function facts() {
      const list = [
        ["training step", number(step.step), "how many optimiser steps were taken before this routing"],
      ];
      if (typeof step.accuracy === "number")
        list.push(["accuracy", fixed(step.accuracy, 3), "share of correct predictions at this step"]);
      for (const [name, value] of Object.entries(step.losses ?? {})) {
        list.push([
          `${name} loss`,
          number(value),
          trace.formulas?.[name] ?? `the term “${name}” of the loss that is differentiated`,
        ]);
      }
      list.push(["dropped", `${step.dropped} of ${slots}`, tellDropped]);
      return list;
    }

    function wantedBy(n, slot) {
      return step.wanted?.[n]?.[slot] ?? step.expert[n][slot];
    }

    /** How many assignments of each kind expert `e` really gets in step `s`. */
    function servedBy(s, e) {
      if (!served.has(s)) {
        const counts = Array.from({ length: experts }, () => kinds.map(() => 0));
        tokens.forEach((token, n) =>
          s.expert[n].forEach((chosen, slot) => {
            if (s.kept[n][slot]) counts[chosen][token.kind] += 1;
          }),
        );
        served.set(s, counts);
      }
      return served.get(s)[e];
    }

    function tellDropped() {
      return `dropped = assignments that found no place\n${step.dropped} / (${tokens.length} tokens × k = ${k}) = ${fixed((100 * step.dropped) / slots, 1)} %`;
    }

    function tellAssignment(n, slot) {
      const e = step.expert[n][slot],
        wanted = wantedBy(n, slot);
      const what = `“${tokens[n].label}” → expert ${e}, weight ${number(step.weight[n][slot])}`;
      if (!step.kept[n][slot])
        return `${what}: dropped, expert ${e} already has its ${trace.capacity} tokens`;
      return wanted === e ? what : `${what}: rerouted, expert ${wanted} was full`;
    }

    function tellLoad(e) {
      const counts = servedBy(step, e),
        total = counts.reduce((a, b) => a + b, 0);
      const parts = counts
        .map((count, kind) => (count ? `${count} ${kinds[kind]}` : null))
        .filter(Boolean)
        .join(", ");
      const limit = trace.capacity ? `\ncapacity ${trace.capacity} (dashed line)` : "";
      return `load = assignments asked for = ${step.load[e]}\nshare ${step.load[e]} / ${slots} = ${fixed(step.load[e] / slots, 3)}\nserved ${total}${parts ? `: ${parts}` : ""}${limit}`;
    }

    function tellImportance(e) {
      const sum = step.importance[e];
      return `importance = Σ of router probability = ${number(sum)}\nshare ${number(sum)} / ${tokens.length} tokens = ${fixed(sum / tokens.length, 3)}`;
    }

    function legend(kindColour) {
      const line = (attributes, word) =>
        el(
          "span",
          {},
          svg(
            "svg",
            { class: "swatch", viewBox: "0 0 24 12", width: 24, height: 12, "aria-hidden": "true" },
            svg("path", {
              d: "M1 6H23",
              fill: "none",
              stroke: "currentColor",
              "stroke-width": 2,
              ...attributes,
            }),
          ),
          word,
        );
      const row = el("div", { class: "legend" });
      kinds.forEach((name, kind) => row.append(el("span", {}, swatch(kind, kindColour(kind)), name)));
      row.append(
        el("span", {}, "▭ outline: load asked for"),
        el("span", {}, "▮ filled: served"),
        el("span", {}, "▬ thin: importance"),
      );
      if (trace.capacity)
        row.append(
          line({ stroke: DROPPED, "stroke-dasharray": "4 2" }, "capacity"),
          line({ stroke: DROPPED, "stroke-dasharray": "3 3" }, "× dropped"),
        );
      if (trace.overflow === "reroute") row.append(line({ "stroke-dasharray": "9 3" }, "rerouted"));
      return row;
    }

    /** Every expert's share of the load over all steps: collapse is one line at the top. */
    function shares(colours, made) {
      const width = Math.max(300, stage.clientWidth),
        height = 132,
        area = { left: 40, right: width - 34, top: 22, bottom: 100 };
      const picture = svg("svg", {
        width,
        height,
        viewBox: `0 0 ${width} ${height}`,
        role: "img",
        "aria-label": "share of the load of every expert over training",
      });
      const x = linear([0, Math.max(1, steps.length - 1)], [area.left, area.right]);
      const y = linear(
        [0, Math.min(1, 1.05 * Math.max(...steps.flatMap((s) => s.load.map((l) => l / slots))))],
        [area.bottom, area.top],
      );
      for (const v of ticks([0, y.invert(area.top)], 3)) {
        picture.append(
          svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(v), y2: y(v) }),
          svg("text", { x: area.left - 6, y: y(v) + 4, "text-anchor": "end" }, number(v)),
        );
      }
      picture.append(svg("text", { x: area.left, y: 12 }, "share of the load, per expert"));
      for (const i of ticks([0, steps.length - 1], 5).filter(Number.isInteger)) {
        picture.append(
          svg("text", { x: x(i), y: area.bottom + 15, "text-anchor": "middle" }, number(steps[i].step)),
        );
      }
      picture.append(
        svg(
          "text",
          { x: (area.left + area.right) / 2, y: height - 3, "text-anchor": "middle" },
          "training step",
        ),
      );
      const ends = [];
      for (let e = 0; e < experts; e++) {
        const path = steps
          .map((s, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(s.load[e] / slots).toFixed(1)}`)
          .join("");
        picture.append(
          svg("path", {
            d: path,
            fill: "none",
            stroke: colourOf(colours, e),
            "stroke-width": 1.8,
            "stroke-dasharray": DASHES[e % DASHES.length],
          }),
        );
        ends.push({ y: y(steps.at(-1).load[e] / slots), text: `E${e}` });
      }
      for (const end of spread(ends, 11, area))
        picture.append(svg("text", { x: area.right + 5, y: end.y + 4 }, end.text));
      const cursor = svg("line", {
        y1: area.top,
        y2: area.bottom,
        stroke: "currentColor",
        "stroke-width": 1.5,
      });
      picture.append(cursor);
      made.moves.push((u, position) =>
        cursor.setAttribute("transform", `translate(${x(position).toFixed(1)} 0)`),
      );
      return picture;
    }
  },
};

function layout(available, n, experts) {
  const width = Math.max(300, available);
  const narrow = width < 560;
  const columns = Math.ceil(n / 26),
    rows = Math.ceil(n / columns);
  const chip = narrow ? 36 : 46,
    gap = 4,
    tall = 18;
  const right = Math.max(150, Math.min(340, width * 0.4));
  const body = Math.max(rows * 21, experts * 46, 200);
  const rowHeight = Math.min(96, body / experts),
    firstExpert = (body - experts * rowHeight) / 2;
  const token = (i) => [
    2 + Math.floor(i / rows) * (chip + gap),
    ((i % rows) + 0.5) * (body / rows) - tall / 2,
  ];
  const expert = (e) => ({ x: width - right - 2, y: firstExpert + e * rowHeight, w: right, h: rowHeight });
  return {
    width,
    narrow,
    chip,
    tall,
    token,
    expert,
    height: body + 34,
    bin: body + 18,
    name: narrow ? 30 : 72,
    // All lines leave from the right edge of the block, one below the other where a row holds several tokens.
    tokenPort: (i) => [
      2 + columns * (chip + gap),
      token(i)[1] + (tall * (Math.floor(i / rows) + 1)) / (columns + 1),
    ],
    expertPort: (e, slot, k) => {
      const box = expert(e);
      return [box.x, box.y + (box.h * (slot + 1)) / (k + 1)];
    },
  };
}

function bezier([x0, y0], [x1, y1], t) {
  const middle = (x0 + x1) / 2,
    s = 1 - t;
  return [
    s ** 3 * x0 + 3 * s * s * t * middle + 3 * s * t * t * middle + t ** 3 * x1,
    s ** 3 * y0 + 3 * s * s * t * y0 + 3 * s * t * t * y1 + t ** 3 * y1,
  ];
}

function curvePath([x0, y0], [x1, y1]) {
  const middle = ((x0 + x1) / 2).toFixed(1);
  return `M${x0.toFixed(1)} ${y0.toFixed(1)}C${middle} ${y0.toFixed(1)} ${middle} ${y1.toFixed(1)} ${x1.toFixed(1)} ${y1.toFixed(1)}`;
}

function partialPath(curve, end) {
  const parts = [];
  for (let i = 0; i <= 12; i++)
    parts.push(
      curve((end * i) / 12)
        .map((v) => v.toFixed(1))
        .join(" "),
    );
  return `M${parts.join("L")}`;
}
