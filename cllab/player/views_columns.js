// Progressive columns: the growing graph, the weights with which the newest column reads, and (views_columns_charts.js)
// how many parameters there are and what the reading is worth.

VIEWS.columns = {
  ms: 260,
  create(context) {
    const { trace, stage, explain } = context;
    const lastOf = trace.tasks.map((_, k) => trace.steps.findLastIndex((step) => step.task === k));
    let built = null;
    return { show };

    /** Built once per width and palette; a step changes lines, cells and numbers. */
    function show(at, from) {
      const key = `${stage.clientWidth}|${context.colours().join()}`;
      if (built?.key !== key || !stage.contains(built.parts[0].node)) built = build(key, context.colours());
      const frames = built.parts.map((part) => part.draw(at, from));
      return (u) => {
        for (const frame of frames) frame?.(u);
      };
    }

    function build(key, colours) {
      const wide = stage.clientWidth >= 700;
      const left = wide ? Math.floor(stage.clientWidth * 0.5) : stage.clientWidth;
      const room = wide ? stage.clientWidth - left - 24 : stage.clientWidth;
      const given = [trace, colours, explain, lastOf];
      const numbers = columnsNumbers(trace, explain);
      const graph = columnsGraph(left, ...given);
      const maps = columnsMaps(left, ...given);
      const worth = columnsWorth(room, ...given);
      const growth = columnsGrowth(room, ...given);
      const note = "Thickness of a line: its share of what enters the layer. Dashed boxes are frozen.";
      const columns = wide ? `grid-template-columns:${left}px minmax(0,1fr)` : null;
      const grid = el(
        "div",
        { class: "columns-grid", style: columns },
        el("div", {}, graph.node, el("div", { class: "columns-note" }, note), maps.node),
        el("div", {}, worth.node, growth.node),
      );
      stage.replaceChildren(numbers.node, grid);
      return { key, parts: [graph, numbers, maps, worth, growth] };
    }
  },
};

/** The entry that shows column k at step `at`: its own last one once it is frozen, none before it is there. */
function columnsStep(trace, lastOf, at, k) {
  const now = trace.steps[at];
  if (now.task < k) return null;
  return now.task === k ? now : trace.steps[lastOf[k]];
}

/** What part of that which enters layer i of a column comes from column j (j = k: from itself). */
function columnsShare(step, i, j) {
  if (!step) return 0;
  const read = i > 0 ? step.read[i - 1] : [];
  const all = step.own[i] + read.reduce((sum, r) => sum + r, 0);
  return all > 0 ? (j === step.task ? step.own[i] : read[j]) / all : 0;
}

function columnsWhole(n) {
  return n.toLocaleString("en-GB");
}

function columnsTotal(trace, k) {
  return trace.growth[trace.laterals === "linear" ? 0 : 1].values[k];
}

function columnsNumbers(trace, explain) {
  const node = el("div");
  return { node, draw };

  function draw(at) {
    const { task: k, moved } = trace.steps[at];
    const total = columnsTotal(trace, k),
      alone = trace.growth[2].values[k];
    const pairs = (k * (k + 1)) / 2;
    node.replaceChildren(
      readouts(
        [
          ["columns", k + 1, `${k} frozen, 1 learning; ${pairs} ${pairs === 1 ? "pair" : "pairs"} of columns`],
          [
            "parameters",
            columnsWhole(total),
            `${k + 1} × ${columnsWhole(alone / (k + 1))} in the columns + ${columnsWhole(total - alone)} in laterals = ${columnsWhole(total)}`,
          ],
          [
            "multiplications per answer",
            columnsWhole(trace.cost[k]),
            `an answer for ${trace.tasks[k]} runs the hidden layers of ${k + 1} columns, with their laterals, and one last layer\nfor the first task it takes ${columnsWhole(trace.cost[0])}`,
          ],
          ["old answers moved", number(moved), "largest change of any old column's output since its task ended: frozen columns read no newer ones"],
        ],
        explain,
      ),
    );
  }
}

// --- the graph --------------------------------------------------------------------------------------------

function columnsGraph(width, trace, colours, explain, lastOf) {
  const T = trace.tasks.length,
    L = trace.sizes.length - 1;
  const gap = 62,
    top = 46,
    base = top + L * gap;
  const height = base + 30;
  const pitch = width / T;
  const box = { w: Math.min(76, pitch * 0.56), h: 26 };
  const x = (k) => pitch * (k + 0.5);
  const y = (i) => base - (i + 1) * gap + 12; // layer i; the input is layer -1
  const node = drawing(width, height, trace.alt);
  node.append(
    svg("rect", { x: 4, y: base - 2, width: width - 8, height: 24, rx: 5, fill: "none", stroke: "currentColor" }),
    svg("text", { x: width / 2, y: base + 14, "text-anchor": "middle" }, `input x, ${trace.sizes[0]} features`),
  );
  const below = svg("g"),
    above = svg("g");
  node.append(below, above);
  const edges = [];
  let shown = 0; // the step that the tips speak of
  const columns = trace.tasks.map((name, k) => column(name, k));
  return { node, draw };

  function column(name, k) {
    const colour = colourOf(colours, k);
    const lines = svg("g"),
      boxes = svg("g");
    const state = svg("text", { x: x(k), y: 34, "text-anchor": "middle" });
    const title = svg("text", { x: x(k), y: 16, "text-anchor": "middle", "font-weight": 600, style: `fill:${colour}` });
    title.append(columnsShort(name, pitch / 7));
    boxes.append(explain(title, `column ${k + 1}: ${name}`), state);
    for (let i = 0; i < L; i++) {
      const down = i ? y(i - 1) - box.h / 2 : base - 2;
      edge(lines, k, i, k, `M${x(k)} ${down}V${y(i) + box.h / 2}`, colour);
      for (let j = 0; i > 0 && j < k; j++) {
        const [x0, y0, x1, y1] = [x(j) + box.w / 2, y(i - 1), x(k) - box.w / 2, y(i)];
        const bend = Math.min(60, (x1 - x0) / 2);
        edge(lines, k, i, j, `M${x0} ${y0}C${x0 + bend} ${y0} ${x1 - bend} ${y1} ${x1} ${y1}`, colourOf(colours, j));
      }
      const shape = { x: x(k) - box.w / 2, y: y(i) - box.h / 2, width: box.w, height: box.h, rx: 6 };
      const unit = i === L - 1 ? " out" : " units";
      const text = `${trace.sizes[i + 1]}${box.w < 56 ? "" : unit}`;
      const place = svg(
        "g",
        {},
        svg("rect", { ...shape, class: "columns-box", stroke: colour, "stroke-width": 2 }),
        svg("text", { x: x(k), y: y(i) + 4, "text-anchor": "middle" }, text),
      );
      boxes.append(explain(place, () => tellLayer(k, i)));
      if (i > 0 && k > 0 && trace.laterals === "adapter")
        boxes.append(svg("circle", { cx: x(k) - box.w / 2, cy: y(i), r: 5, class: "columns-box", stroke: colour }));
    }
    below.append(lines);
    above.append(boxes);
    return { lines, state, boxes };
  }

  function edge(parent, k, i, j, d, stroke) {
    const line = svg("path", { d, fill: "none", stroke, "stroke-linecap": "round" });
    edges.push({ line, k, i, j });
    parent.append(explain(line, () => tellEdge(k, i, j)));
  }

  function draw(at, from) {
    shown = at;
    columns.forEach(({ state, boxes }, k) => {
      const { task, finished } = trace.steps[at];
      state.textContent = k === task ? "learning" : k < task ? `frozen, ${fixed(finished[k])}` : "";
      boxes.classList.toggle("columns-frozen", k < task);
    });
    return (u) => {
      columns.forEach(({ lines, boxes }, k) => {
        const [a, b] = [from, at].map((s) => (trace.steps[s].task >= k ? 1 : 0));
        for (const group of [lines, boxes])
          fill(group, { opacity: mix(a, b, u).toFixed(3), visibility: a || b ? "visible" : "hidden" }, []);
      });
      for (const { line, k, i, j } of edges) {
        const [a, b] = [from, at].map((s) => columnsShare(columnsStep(trace, lastOf, s, k), i, j));
        const share = mix(a, b, u);
        const still = trace.steps[at].task > k ? 0.6 : 1;
        line.setAttribute("stroke-width", (0.6 + 9 * share).toFixed(2));
        line.setAttribute("opacity", (still * (0.15 + 0.85 * Math.min(1, 2 * share))).toFixed(3));
      }
    };
  }

  function tellEdge(k, i, j) {
    const step = columnsStep(trace, lastOf, shown, k);
    if (!step) return "";
    const value = j === k ? step.own[i] : step.read[i - 1][j];
    const parts = [step.own[i], ...(i > 0 ? step.read[i - 1] : [])];
    const what =
      j === k
        ? "from below, mean length of W h"
        : trace.laterals === "linear"
          ? `from column ${j + 1}, ${trace.tasks[j]}: mean length of U h`
          : `from column ${j + 1}, ${trace.tasks[j]}: mean change of the adapter's answer without it`;
    return `${what} = ${fixed(value)}\nshare ${fixed(value)} / (${parts.map((p) => fixed(p)).join(" + ")}) = ${fixed(columnsShare(step, i, j))}`;
  }

  function tellLayer(k, i) {
    const [n, out] = [trace.sizes[i], trace.sizes[i + 1]];
    const own = `layer ${i + 1} of column ${k + 1}: W has ${out} × ${n} weights, ${out} biases`;
    if (i === 0 || k === 0) return `${own}, no laterals`;
    if (trace.laterals === "linear") return `${own}\nlaterals: ${k} × ${out} × ${n} = ${columnsWhole(k * out * n)} weights`;
    const m = trace.width ?? n;
    return `${own}\nadapter of width ${m}: V ${m} × ${k * n}, U ${out} × ${m} = ${columnsWhole(m * (k * n + out))} weights, ${k} scalars`;
  }
}

function columnsShort(text, letters) {
  return text.length <= letters ? text : `${text.slice(0, Math.max(2, Math.floor(letters) - 1))}…`;
}

// --- the weights of the newest column ---------------------------------------------------------------------

function columnsMaps(width, trace, colours, explain) {
  const node = el("div", { class: "columns-maps" });
  const above = trace.sizes.length - 2;
  const most = trace.tasks.length;
  const cell = Math.max(2, Math.min(7, Math.floor((width - 30 - 8 * most) / (most * Math.max(...trace.sizes.slice(1, -1))))));
  return { node, draw };

  function draw(at) {
    const step = trace.steps[at];
    node.replaceChildren(el("div", { class: "heading" }, `Weights into column ${step.task + 1}, ${trace.tasks[step.task]}`));
    for (let i = above; i > 0; i--) {
      const { rows, own, read } = step.maps[i - 1];
      const name = i === above ? "last layer" : `layer ${i + 1}`;
      const row = el("div", { class: "columns-row" }, el("span", { class: "columns-name" }, name));
      read.forEach((cells, j) => row.append(map(cells, rows, i, j, step)));
      row.append(map(own, rows, i, step.task, step));
      node.append(row);
    }
    const far = number(trace.brightest, 2);
    const what = trace.laterals === "linear" ? "from: laterals U" : "from: laterals, α U V";
    node.append(el("div", { class: "columns-note" }, `A cell is a weight: empty for 0, full colour for ±${far}. ${what}; own: W.`));
  }

  function map(cells, rows, i, j, step) {
    const columns = trace.sizes[i];
    const size = `width:${columns * cell}px;height:${rows * cell}px`;
    const canvas = el("canvas", { width: columns, height: rows, style: size, role: "img" });
    const rgb = rgbOf(colourOf(colours, j));
    const image = canvas.getContext("2d").createImageData(columns, rows);
    // the square root lets small weights be seen
    [...cells].forEach((digit, c) => image.data.set([...rgb, Math.round(255 * Math.sqrt(parseInt(digit, 36) / 35))], 4 * c));
    canvas.getContext("2d").putImageData(image, 0, 0);
    const mean = [...cells].reduce((sum, digit) => sum + parseInt(digit, 36), 0) / cells.length / 35;
    const what = j === step.task ? "own W" : trace.laterals === "linear" ? `U from column ${j + 1}` : `α U V from column ${j + 1}`;
    const text = `${what}, ${rows} × ${columns}: mean |weight| ${fixed(mean * trace.brightest, 3)}`;
    canvas.setAttribute("aria-label", text);
    const from = j === step.task ? "own" : `from ${j + 1}`;
    return explain(el("span", { class: "columns-map" }, canvas, el("small", {}, from)), text);
  }
}

function rgbOf(hex) {
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}
