// Low rank: a change of weights as a sum of rank-one terms, with heat maps and charts that the merge and the overlap
// (views_lowrank_merge.js, views_lowrank_overlap.js) use too.

VIEWS.lowrank = {
  ms: 300,
  create(context) {
    const { trace, stage } = context;
    const make = { rank: lowRankSum, merge: lowRankMerge, overlap: lowRankOverlap }[trace.shows];
    let built = null;
    return { show };

    /** The drawing is built once per width and palette; a step repaints its maps and changes its numbers. */
    function show(at, from) {
      const colours = context.colours();
      const key = `${stage.clientWidth}|${colours.join()}|${lowRankDark(stage)}`;
      if (built?.key !== key || !stage.contains(built.nodes[0])) {
        built = { key, ...make(context, colours) };
        stage.replaceChildren(...built.nodes);
      }
      built.settle(at);
      return (u) => built.draw(mix(from, at, u));
    }
  },
};

/** A change of weights, its best B A of rank r, and what is left over. */
function lowRankSum(context, colours) {
  const { trace, stage, explain } = context;
  const { delta, A, B, sigma, steps } = trace;
  const [rows, columns, whole] = [delta.length, delta[0].length, sigma.length];
  const wide = stage.clientWidth >= 760;
  const room = Math.floor((stage.clientWidth - (wide ? 40 : 16)) / (wide ? 3 : 2));
  const limit = lowRankMost([delta]);
  const near = delta.map((row) => row.map(() => 0)); // B A at the position drawn last
  const about = (name) => (i, j, value) =>
    `${name}\n${trace.names[0]} ${i}, ${trace.names[1]} ${j}: ${number(value, 5)}`;
  const given = { rows, columns, room, limit, stage, explain };
  const maps = {
    delta: heatMap({ ...given, label: "the change ΔW", tell: about("ΔW") }),
    near: heatMap({ ...given, label: "the approximation B A", tell: about("B A") }),
    left: heatMap({ ...given, label: "what is left, ΔW − B A", tell: about("ΔW − B A") }),
  };
  maps.delta.paint((i, j) => delta[i][j]);
  const captions = { near: el("h4"), left: el("h4") };
  const panel = (caption, map) => el("div", {}, caption, map.node);
  const panels = [
    panel(el("h4", {}, `ΔW, ${rows} × ${columns}`), maps.delta),
    panel(captions.near, maps.near),
    panel(captions.left, maps.left),
  ];
  const half = wide ? Math.floor((stage.clientWidth - 24) / 2) : stage.clientWidth;
  const bars = lowRankBars(wide ? half : room, sigma, colours, explain);
  const chart = lowRankChart(wide ? half : stage.clientWidth, {
    label: "error and accuracy at every rank", x_label: "rank r", xs: steps.map((step) => step.rank), lines: trace.lines, colours, explain,
  });
  const store = lowRankStore(stage.clientWidth, trace, colours, explain);
  const columnsOf = (n) => `grid-template-columns:repeat(${n},minmax(0,1fr))`;
  const grid = (n, ...children) => el("div", { class: "lowrank-grid", style: columnsOf(n) }, ...children);
  const facts = el("div");
  const parts = wide
    ? [grid(3, ...panels), lowRankScale(stage, limit), store.node, grid(2, bars.node, chart.node)]
    : [grid(2, ...panels, el("div", {}, bars.node)), lowRankScale(stage, limit), store.node, chart.node];
  return { nodes: [facts, ...parts], settle, draw };

  function settle(at) {
    const step = steps[at];
    facts.replaceChildren(readouts(lowRankFacts(trace, step), explain));
    captions.near.textContent = `B A, rank ${step.rank}`;
    captions.left.textContent = "Left: ΔW − B A";
  }

  /** Between two steps the next rank-one term is added in part. */
  function draw(position) {
    const r = Math.floor(position + 1e-9);
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++) {
        let sum = 0;
        for (let k = 0; k < r; k++) sum += B[i][k] * A[k][j];
        if (r < whole) sum += (position - r) * B[i][r] * A[r][j];
        near[i][j] = sum;
      }
    maps.near.paint((i, j) => near[i][j]);
    maps.left.paint((i, j) => delta[i][j] - near[i][j]);
    bars.draw(position);
    chart.draw(position);
    store.draw(position);
  }
}

function lowRankFacts(trace, step) {
  const [d_out, d_in] = [trace.delta.length, trace.delta[0].length];
  const share = (100 * step.parameters) / (d_in * d_out);
  const squares = trace.sigma.map((s) => s * s);
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const [left, all] = [sum(squares.slice(step.rank)), sum(squares)];
  return [
    ["r", step.rank, "the rank: how many rank-one terms, each a column of B times a row of A"],
    [
      "r (d_in + d_out)",
      step.parameters,
      `numbers in A and B: ${step.rank} · (${d_in} + ${d_out}) = ${step.parameters}\nin ΔW: ${d_in} · ${d_out} = ${d_in * d_out}`,
    ],
    ["share", `${number(share, 1)} %`, `${step.parameters} / ${d_in * d_out}`],
    [
      "relative error",
      fixed(step.error, 4),
      `‖ΔW − B A‖ / ‖ΔW‖ = √(Σ of the σ² left out / Σ of all σ²)\n‖·‖ is the Frobenius norm: √ of the sum of squares\n= √(${number(left, 5)} / ${number(all, 5)}) = ${fixed(step.error, 4)}`,
    ],
  ];
}

/** One bar per singular value; those within the rank are filled. */
function lowRankBars(width, sigma, colours, explain) {
  const height = 170;
  const area = { left: 34, right: width - 4, top: 22, bottom: height - 34 };
  const node = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  const x = linear([0, sigma.length], [area.left, area.right]);
  const y = linear([0, sigma[0] || 1], [area.bottom, area.top]);
  const total = sigma.reduce((sum, s) => sum + s * s, 0);
  node.append(svg("text", { x: 0, y: 12, "font-weight": 600 }, "singular values σ of ΔW"));
  for (const value of ticks([0, sigma[0] || 1], 3))
    node.append(
      svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(value), y2: y(value) }),
      svg("text", { x: area.left - 5, y: y(value) + 4, "text-anchor": "end" }, number(value, 2)),
    );
  const step = Math.max(1, Math.ceil(sigma.length / (width / 40)));
  const bars = sigma.map((s, k) => {
    const colour = colourOf(colours, 0);
    const frame = { x: x(k) + 1, y: y(s), width: Math.max(1, x(k + 1) - x(k) - 2), height: area.bottom - y(s) };
    const bar = svg("rect", { ...frame, stroke: colour, fill: colour, "fill-opacity": 0 });
    const touch = svg("rect", { x: x(k), y: area.top, width: x(k + 1) - x(k), height: area.bottom - area.top, fill: "transparent" });
    const share = total ? (100 * s * s) / total : 0;
    node.append(bar, explain(touch, `σ${k + 1} = ${number(s, 4)}: the size of rank-one term ${k + 1}\nits share of Σ σ²: ${number(share, 1)} %`));
    if (k % step === 0)
      node.append(svg("text", { x: (x(k) + x(k + 1)) / 2, y: area.bottom + 14, "text-anchor": "middle" }, k + 1));
    return bar;
  });
  node.append(svg("text", { x: (area.left + area.right) / 2, y: height - 4, "text-anchor": "middle" }, "k (filled: within the rank)"));
  return { node, draw };

  function draw(position) {
    bars.forEach((bar, k) => bar.setAttribute("fill-opacity", Math.max(0, Math.min(1, position - k)).toFixed(2)));
    const kept = Math.round(position);
    node.setAttribute("aria-label", `${sigma.length} singular values, from ${number(sigma[0], 3)} down to ${number(sigma.at(-1), 3)}; ${kept} within the rank`);
  }
}

/** A bar that grows by d_in + d_out numbers per rank, and a mark where ΔW itself stands. */
function lowRankStore(width, trace, colours, explain) {
  const height = 52;
  const [each, full] = [trace.delta.length + trace.delta[0].length, trace.delta.length * trace.delta[0].length];
  const most = Math.max(each * trace.sigma.length, full);
  const x = linear([0, most], [0, width - 2]);
  const bar = svg("rect", { x: 0, y: 18, height: 14, fill: colourOf(colours, 0) });
  const at = Math.min(x(full), width - 2);
  const node = svg(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" },
    svg("text", { x: 0, y: 12, "font-weight": 600 }, "numbers in A and B"),
    svg("rect", { x: 0, y: 18, width: width - 2, height: 14, fill: "none", stroke: "currentColor", "stroke-opacity": 0.3 }),
    bar,
    svg("line", { x1: at, x2: at, y1: 14, y2: 36, stroke: "currentColor", "stroke-width": 2 }),
    svg("text", { x: at, y: 45, "text-anchor": at > 90 ? "end" : "start" }, `ΔW: ${full}`),
  );
  explain(node, `each rank adds d_in + d_out = ${each} numbers; ΔW has ${full}`);
  return { node, draw };

  function draw(position) {
    bar.setAttribute("width", x(each * position).toFixed(1));
    node.setAttribute("aria-label", `${Math.round(position) * each} numbers in A and B, ${full} in the change itself`);
  }
}

// --- heat maps --------------------------------------------------------------------------------------------

function lowRankDark(stage) {
  const [r, g, b] = (getComputedStyle(stage).color.match(/[\d.]+/g) ?? [0, 0, 0]).map(Number);
  return 0.299 * r + 0.587 * g + 0.114 * b > 128;
}

/** Colours of negative and positive numbers: blue and orange, which no kind of colour blindness mixes up. */
function lowRankSigns(stage) {
  return lowRankDark(stage) ? [[86, 180, 233], [230, 159, 0]] : [[0, 114, 178], [213, 94, 0]];
}

function lowRankMost(matrices) {
  let most = 0;
  for (const matrix of matrices) for (const row of matrix) for (const v of row) most = Math.max(most, Math.abs(v));
  return most || 1;
}

/**
 * A matrix as cells: the stronger the colour, the larger the number, up to `limit`. Where cells are large enough they
 * hold their numbers. tell(i, j, value) is shown where one points. tall: the least height of a cell.
 */
function heatMap({ rows, columns, room, limit, label, stage, explain, tell, tall = 0, most = 46 }) {
  const cell = Math.min(most, room / columns);
  const [w, h] = [cell, Math.max(tall, Math.min(cell, most))];
  const signs = lowRankSigns(stage);
  const readable = w >= 32 && h >= 18;
  const canvas = el("canvas", { width: columns, height: rows, style: `width:${columns * w}px;height:${rows * h}px` });
  const brush = canvas.getContext("2d");
  const node = el("div", { class: "heat", role: "img", style: `width:${columns * w}px;height:${rows * h}px` }, canvas);
  const texts = [];
  if (readable) {
    const layer = svg("svg", { width: columns * w, height: rows * h, "aria-hidden": "true" });
    for (let i = 0; i < rows * columns; i++) {
      const [x, y] = [((i % columns) + 0.5) * w, (Math.floor(i / columns) + 0.5) * h + 4];
      texts.push(svg("text", { x, y, "text-anchor": "middle" }));
    }
    layer.append(...texts);
    node.append(layer);
  }
  let read = () => 0;
  explain(node, (event) => {
    const rect = node.getBoundingClientRect();
    const place = (where, from, size, n) => Math.max(0, Math.min(n - 1, Math.floor(((where - from) / size) * n)));
    const i = place(event.clientY ?? rect.top, rect.top, rect.height, rows);
    const j = place(event.clientX ?? rect.left, rect.left, rect.width, columns);
    return tell(i, j, read(i, j));
  });
  return { node, paint };

  function paint(value) {
    read = value;
    const image = brush.createImageData(columns, rows);
    let square = 0;
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++) {
        const v = value(i, j);
        square += v * v;
        const at = 4 * (i * columns + j);
        image.data.set(signs[v < 0 ? 0 : 1], at);
        image.data[at + 3] = Math.round((readable ? 150 : 255) * Math.min(1, Math.abs(v) / limit) ** 0.75);
        if (readable) texts[i * columns + j].textContent = number(v, w >= 40 ? 3 : 2);
      }
    brush.putImageData(image, 0, 0);
    node.setAttribute("aria-label", `${label}: ${rows} x ${columns}, Frobenius norm ${number(Math.sqrt(square), 4)}`);
  }
}

/** What the colours mean. */
function lowRankScale(stage, limit, of = "colours") {
  const sample = (sign, strength) => {
    const [r, g, b] = lowRankSigns(stage)[sign];
    return el("span", { class: "heat-sample", style: `background:rgba(${r},${g},${b},${strength})` });
  };
  const span = (...children) => el("span", {}, ...children);
  return el(
    "div",
    { class: "legend" },
    span(`${of}:`),
    span(sample(0, 1), `−${number(limit, 3)}`),
    span(sample(0, 0.4), sample(0, 0), sample(1, 0.4), "0 in the middle"),
    span(sample(1, 1), number(limit, 3)),
  );
}

// --- a chart with a cursor --------------------------------------------------------------------------------

function lowRankStroke(colours, line, i) {
  return {
    fill: "none",
    stroke: colourOf(colours, line.colour ?? i),
    "stroke-width": 2.2,
    "stroke-dasharray": DASHES[(line.dash ?? i) % DASHES.length],
  };
}

function lowRankChart(width, { label, x_label, xs, lines, colours, explain, height = 170 }) {
  const area = { left: 40, right: width - 14, top: 22, bottom: height - 34 };
  const values = lines.flatMap((line) => line.values).filter((v) => typeof v === "number");
  const top = Math.max(...values, 0) || 1;
  const x = linear([xs[0], Math.max(xs.at(-1), xs[0] + 1)], [area.left, area.right]);
  const least = Math.min(...values, top);
  const low = least > 0.6 * top ? Math.floor(10 * least - 0.01) / 10 : 0; // lines that are all high are drawn larger
  const y = linear([low, top + 0.04 * (top - low)], [area.bottom, area.top]);
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  picture.append(svg("text", { x: 0, y: 12, "font-weight": 600 }, label));
  for (const value of ticks([low, top], 3))
    picture.append(
      svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(value), y2: y(value) }),
      svg("text", { x: area.left - 5, y: y(value) + 4, "text-anchor": "end" }, number(value, 3)),
    );
  for (const value of ticks([xs[0], xs.at(-1)], width < 420 ? 4 : 8))
    picture.append(svg("text", { x: x(value), y: area.bottom + 14, "text-anchor": "middle" }, number(value)));
  picture.append(svg("text", { x: (area.left + area.right) / 2, y: height - 4, "text-anchor": "middle" }, x_label));
  lines.forEach((line, i) => {
    const d = line.values.map((v, t) => `${x(xs[t]).toFixed(1)} ${y(v).toFixed(1)}`).join("L");
    picture.append(svg("path", { ...lowRankStroke(colours, line, i), d: `M${d}` }));
  });
  const cursor = svg("line", { y1: area.top, y2: area.bottom, stroke: "currentColor", "stroke-width": 1.5 });
  const touch = svg("rect", { x: area.left, y: area.top, width: area.right - area.left, height: area.bottom - area.top, fill: "transparent" });
  picture.append(cursor, explain(touch, told));
  const legend = el("div", { class: "legend" });
  lines.forEach((line, i) => {
    const sample = svg(
      "svg",
      { class: "swatch", viewBox: "0 0 30 12", width: 30, height: 12, "aria-hidden": "true" },
      svg("path", { d: "M1 6H29", ...lowRankStroke(colours, line, i) }),
    );
    const item = el("span", {}, sample, line.name);
    legend.append(line.about ? explain(item, line.about) : item);
  });
  return { node: el("div", {}, picture, legend), draw };

  function told(event) {
    const where = x.invert((event.clientX ?? 0) - picture.getBoundingClientRect().left);
    const t = xs.reduce((best, value, i) => (Math.abs(value - where) < Math.abs(xs[best] - where) ? i : best), 0);
    return [`${x_label} ${number(xs[t])}`, ...lines.map((line) => `${line.name}: ${number(line.values[t], 4)}`)].join("\n");
  }

  function draw(position) {
    const low = Math.min(xs.length - 1, Math.floor(position)),
      high = Math.min(xs.length - 1, low + 1);
    const px = x(mix(xs[low], xs[high], position - low)).toFixed(1);
    fill(cursor, { x1: px, x2: px }, []);
    const t = Math.min(xs.length - 1, Math.round(position));
    const now = lines.map((line) => `${line.name} ${number(line.values[t], 3)}`).join(", ");
    picture.setAttribute("aria-label", `${label} at ${x_label} ${number(xs[t])}: ${now}`);
  }
}
