// Low rank: the overlap O = A_1 A_2^T of two adapters while the second trains, one column per run.

function lowRankOverlap(context, colours) {
  const { trace, stage, explain } = context;
  const { runs, steps } = trace;
  const beside = stage.clientWidth >= 300 * runs.length ? runs.length : 1;
  const room = Math.floor((stage.clientWidth - 24 * (beside - 1)) / beside) - 2;
  const news = (r) => steps.map((step) => step.runs[r].new);
  const strip = lowRankMost(runs.flatMap((run, r) => [run.past, ...news(r)]));
  const limit = lowRankMost(steps.flatMap((step) => step.runs.map((run) => run.O)));
  const grid = el("div", { class: "lowrank-grid", style: `grid-template-columns:repeat(${beside},minmax(0,1fr))` });
  const lanes = runs.map((run, r) => lane(run, r));
  grid.append(...lanes.map((one) => one.node));
  const n = stage.clientWidth >= 760 ? Math.min(3, Math.max(2, trace.charts.length)) : 1;
  const charts = trace.charts.map((chart) =>
    lowRankChart(Math.floor((stage.clientWidth - 20 * (n - 1)) / n), {
      label: chart.y_label, x_label: trace.x_label, xs: steps.map((step) => step.x), lines: chart.lines, colours, explain,
    }),
  );
  const columns = `grid-template-columns:repeat(${n},minmax(0,1fr))`;
  const below = el("div", { class: "lowrank-grid", style: columns }, ...charts.map((chart) => chart.node));
  const scales = [lowRankScale(stage, strip, "A₁ and A₂"), lowRankScale(stage, limit, "O")];
  return { nodes: [grid, ...scales, below], settle, draw };

  function lane(run, r) {
    const inputs = run.past[0].length;
    const row = (name) => (i, j, v) => `${name}, row ${i + 1}, input ${j + 1}: ${number(v, 4)}`;
    const rows = (matrix, name) =>
      heatMap({ rows: matrix.length, columns: inputs, room, limit: strip, label: name, stage, explain, tall: 18, tell: row(name) });
    const first = rows(run.past, "A₁");
    const second = rows(steps[0].runs[r].new, "A₂");
    const shape = { rows: run.past.length, columns: steps[0].runs[r].new.length };
    const O = heatMap({ ...shape, room: Math.min(room, 52 * shape.columns), limit, label: "O = A₁ A₂ᵀ", stage, explain, tall: 24, most: 52, tell: dot });
    first.paint((i, j) => run.past[i][j]);
    const about = "Σ runs over all cells of O.\ncos: of the angle between a row of A₁ and a row of A₂; unlike O it does not shrink with the rows";
    const sum = explain(el("p", { class: "lowrank-sum" }), about);
    const node = el(
      "div",
      {},
      el("h4", { class: "lowrank-run" }, run.name),
      el("h4", {}, "A₁, frozen"), first.node,
      el("h4", {}, "A₂, in training"), second.node,
      el("h4", {}, "O = A₁ A₂ᵀ"), O.node,
      sum,
    );
    let at = 0;
    return { node, settle, draw };

    /** Of an angle between a row of A_1 and one of A_2: unlike O it does not shrink with the rows. */
    function cosine(now) {
      const length = (row) => Math.hypot(...row) || 1;
      const found = now.O.flatMap((row, i) => row.map((v, j) => Math.abs(v) / (length(run.past[i]) * length(now.new[j]))));
      return Math.max(...found);
    }

    function dot(i, j, v) {
      return `row ${i + 1} of A₁ · row ${j + 1} of A₂ = ${number(v, 4)}`;
    }

    function settle(step) {
      at = step;
      const now = steps[at].runs[r];
      const square = now.O.flat().reduce((total, v) => total + v * v, 0);
      sum.textContent = `Σ |O| = ${number(now.overlap, 4)}, Σ O² = ${number(square, 4)}, largest |cos| = ${number(cosine(now), 3)}`;
    }

    function draw(position) {
      const low = Math.floor(position + 1e-9),
        high = Math.min(steps.length - 1, Math.ceil(position - 1e-9));
      const between = (part) => (i, j) =>
        mix(steps[low].runs[r][part][i][j], steps[high].runs[r][part][i][j], position - low);
      second.paint(between("new"));
      O.paint(between("O"));
    }
  }

  function settle(at) {
    for (const one of lanes) one.settle(at);
  }

  function draw(position) {
    for (const one of lanes) one.draw(position);
    for (const chart of charts) chart.draw(position);
  }
}
