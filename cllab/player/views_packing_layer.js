// Packing, a real layer: every weight a cell, a tile for each unit, coloured by its owner; and what each task gets.

function packingLayer(context, colours) {
  const { trace, stage, explain } = context;
  const { steps } = trace;
  const wide = stage.clientWidth >= 760;
  const room = wide ? Math.floor(stage.clientWidth * 0.52) : stage.clientWidth;
  const map = packingMap(trace, room, colours, explain);
  const side = wide ? stage.clientWidth - room - 24 : room;
  const bar = packingShares(trace, Math.min(560, side), colours, explain);
  const table = packingTable(trace, colours, explain);
  const legend = packingLayerLegend(trace, colours);
  const grid = el(
    "div",
    { class: "packing-grid", style: wide ? `grid-template-columns:${room}px minmax(0,1fr)` : null },
    el("div", {}, map.node, legend.node),
    el("div", {}, bar.node, table.node),
  );
  const facts = el("div");
  return { nodes: [facts, grid], settle, draw };

  function settle(at) {
    facts.replaceChildren(readouts(packingFacts(trace, steps[at]), explain));
    map.settle(steps[at]);
    legend.settle(steps[at]);
    table.settle(at);
  }

  function draw(u, at, from) {
    bar.draw(u, at, from);
  }
}

/** The cells. A unit's weights stand in a tile of `trace.tile` rows and columns. */
function packingMap(trace, room, colours, explain) {
  const [rows, columns] = trace.tile;
  const gap = 4;
  const across = Math.max(1, Math.min(trace.units, Math.round(Math.sqrt((1.5 * trace.units * rows) / columns))));
  const cell = Math.max(1, Math.min(12, Math.floor(room / across - gap) / columns));
  const size = cell >= 3 ? Math.floor(cell) : cell;
  const [w, h] = [columns * size + gap, rows * size + gap];
  const width = Math.round(across * w - gap), height = Math.round(Math.ceil(trace.units / across) * h - gap);
  const canvas = el("canvas", { width, height, role: "img", style: `width:${width}px;height:${height}px` });
  const brush = canvas.getContext("2d");
  let step = trace.steps[0];
  return { node: explain(el("div", { class: "packing-map" }, canvas), tell), settle };

  function settle(now) {
    step = now;
    const ink = getComputedStyle(canvas).color;
    brush.clearRect(0, 0, width, height);
    const free = packingTrainsFree(step);
    for (let k = 0; k < step.owner.length; k++) {
      const owner = Number(step.owner[k]);
      const strength = Math.sqrt(parseInt(step.w[k], 36) / 35);
      const [x, y] = at(k);
      brush.fillStyle = owner ? colourOf(colours, owner - 1) : ink;
      brush.globalAlpha = owner ? 0.3 + 0.7 * strength : free ? 0.08 + 0.6 * strength : 0.05;
      const edge = size >= 4 ? 1 : 0;
      brush.fillRect(x, y, size - edge, size - edge);
    }
    brush.globalAlpha = 1;
    const counts = packingCounts(step.owner, trace.tasks.length);
    const told = trace.tasks.map((name, t) => `task ${t + 1} owns ${counts[t + 1]}`).join(", ");
    canvas.setAttribute("aria-label", `${trace.alt} Now ${told}, ${counts[0]} are free.`);
  }

  function at(k) {
    const unit = Math.floor(k / (rows * columns)), inner = k % (rows * columns);
    return [
      (unit % across) * w + (inner % columns) * size,
      Math.floor(unit / across) * h + Math.floor(inner / columns) * size,
    ];
  }

  function tell(event) {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [(event.clientX ?? box.left) - box.left, (event.clientY ?? box.top) - box.top];
    const unit = Math.floor(y / h) * across + Math.min(across - 1, Math.max(0, Math.floor(x / w)));
    const [i, j] = [Math.floor((y % h) / size), Math.floor((x % w) / size)];
    if (unit < 0 || unit >= trace.units || i < 0 || i >= rows || j < 0 || j >= columns) return "between two units";
    const k = unit * rows * columns + i * columns + j;
    const owner = Number(step.owner[k]);
    const about = (trace.largest * parseInt(step.w[k], 36)) / 35;
    const where = rows > 1 ? `input in row ${i + 1}, column ${j + 1}` : `input ${j + 1}`;
    const free = packingTrainsFree(step) ? `free, trained by task ${step.task + 1}` : "free, and 0";
    const whose = owner ? `owner: task ${owner}; read by task ${owner}${owner < trace.tasks.length ? " and all later ones" : ""}` : free;
    return `unit ${unit + 1}, ${where}\n|w| ≈ ${number(about, 3)}\n${whose}`;
  }
}

/** One bar: the shares of all tasks, and what is free. */
function packingShares(trace, width, colours, explain) {
  const T = trace.tasks.length;
  const x = linear([0, trace.steps[0].owner.length], [0, width]);
  const parts = Array.from({ length: T + 1 }, (_, t) =>
    svg("rect", { y: 18, height: 20, fill: t < T ? colourOf(colours, t) : "transparent", "fill-opacity": 0.8,
      stroke: "currentColor", "stroke-opacity": 0.4 }),
  );
  let counts = [];
  parts.forEach((part, t) =>
    explain(part, () => `${t < T ? `task ${t + 1} owns` : "free:"} ${counts[(t + 1) % (T + 1)]} of ${packingSum(counts)} weights, ${number((100 * counts[(t + 1) % (T + 1)]) / packingSum(counts), 1)} %`),
  );
  const title = svg("text", { x: 0, y: 12, "font-weight": 600 }, "the layer's weights, by owner");
  const node = svg("svg", { width, height: 46, viewBox: `0 0 ${width} 46`, role: "img" }, title, ...parts);
  return { node, draw };

  function draw(u, at, from) {
    const [before, now] = [from, at].map((step) => packingCounts(trace.steps[step].owner, T));
    counts = now;
    let left = 0;
    parts.forEach((part, t) => {
      const value = mix(before[(t + 1) % (T + 1)], now[(t + 1) % (T + 1)], u);
      fill(part, { x: x(left).toFixed(1), width: Math.max(0, x(value)).toFixed(1) }, []);
      left += value;
    });
    node.setAttribute("aria-label", `weights by owner: ${now.slice(1).join(", ")}; free ${now[0]}`);
  }
}

/** Per task: what it owns and reads, its accuracy, that of its own mask alone, and how far its weights have drifted. */
function packingTable(trace, colours, explain) {
  const heads = [
    ["task", ""],
    ["owns", "weights with o = t in this layer"],
    ["reads", "weights with o = 1 … t in this layer"],
    ["accuracy", "on the task's test rows, with the weights it reads; when it was learned → now, where that differs"],
    ["M_t alone", "accuracy with its own weights alone, θ ⊙ M_t: the wrong way to read"],
    ["moved", "largest change of one of its weights since it was frozen"],
  ];
  const body = el("tbody");
  const lines = trace.tasks.map((name, t) => {
    const cells = heads.slice(1).map(() => el("td", { class: "value" }, "–"));
    const title = el("span", { class: "named" }, swatch(t, colourOf(colours, t)), name);
    body.append(el("tr", {}, el("th", { scope: "row" }, title), ...cells));
    return cells;
  });
  const row = el("tr", {}, ...heads.map(([name, about], i) => {
    const head = el("th", i ? { class: "value" } : {}, name);
    return about ? explain(head, about) : head;
  }));
  const node = el("table", { class: "packing-table" }, el("thead", {}, row), body);
  return { node, settle };

  function settle(at) {
    const step = trace.steps[at];
    const counts = packingCounts(step.owner, trace.tasks.length);
    lines.forEach((cells, t) => {
      const owns = counts[t + 1];
      const values = [
        owns || "–",
        owns ? packingSum(counts.slice(1, t + 2)) : "–",
        accuracy(t, at),
        fixed(step.own[t], 3),
        t < step.moved.length ? number(step.moved[t], 4) : "–",
      ];
      cells.forEach((cell, i) => (cell.textContent = values[i]));
      cells[4].classList.toggle("violated", step.moved[t] > 0);
      cells[2].classList.toggle("violated", values[2].includes("→"));
    });
  }

  /** Now, and before it where it was another one when the task was learned. */
  function accuracy(t, at) {
    const learned = trace.steps.find((step) => step.phase === "freeze" && step.task === t);
    const [then, now] = [learned?.reads[t], trace.steps[at].reads[t]].map((value) => fixed(value, 3));
    return trace.steps[at].reads.length > t && then !== now ? `${then} → ${now}` : now;
  }
}

function packingLayerLegend(trace, colours) {
  const row = el("div", { class: "legend" });
  trace.tasks.forEach((name, t) => row.append(el("span", {}, swatch(t, colourOf(colours, t)), `task ${t + 1}`)));
  const free = el("span");
  row.append(free, el("span", {}, "the stronger the colour, the larger |w|"));
  return { node: row, settle: (step) => (free.textContent = packingTrainsFree(step) ? "grey: free, being trained" : "blank: free, 0") };
}

/** Whether the free weights are being trained; after that they are 0. */
function packingTrainsFree(step) {
  return ["start", "train"].includes(step.phase);
}
