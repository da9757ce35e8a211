// Low rank: ways to merge adapters, each a table of weights for the products B_i A_j.

const MERGE_SMALL = "₁₂₃";

function lowRankMerge(context, colours) {
  const { trace, stage, explain } = context;
  const { adapters, cells, steps } = trace;
  const [n, rows, columns, r] = [adapters.length, cells[0][0].length, cells[0][0][0].length, adapters[0].A.length];
  const results = steps.map((step) => mergeResult(step, cells));
  const right = results[steps.findIndex((step) => step.phase === "delta")];
  const wide = stage.clientWidth >= 760;
  const half = wide ? Math.floor(stage.clientWidth * 0.56) : stage.clientWidth;
  // a row of the table: B_i, r cells wide, and n products of `columns` cells
  const cell = Math.min(44, (half - 24 * n - 8) / (n * columns + r));
  const limit = lowRankMost([...cells.flat(), right]);
  const strips = lowRankMost(adapters.flatMap((adapter) => [adapter.A, adapter.B]));
  const map = (label, shape, most, tell) =>
    heatMap({ rows: shape[0], columns: shape[1], room: cell * shape[1], limit: most, label, stage, explain, tell, most: cell });
  const factor = (name, matrix) => {
    const made = map(name, [matrix.length, matrix[0].length], strips, (i, j, v) => `${name}[${i + 1}, ${j + 1}] = ${number(v, 5)}`);
    made.paint((i, j) => matrix[i][j]);
    return el("div", {}, el("h4", {}, name), made.node);
  };
  const table = el("div", { class: "lowrank-table", style: `grid-template-columns:repeat(${n + 1},max-content)` });
  table.append(el("div"), ...adapters.map((adapter, j) => factor(`A${MERGE_SMALL[j]}`, adapter.A)));
  let now = steps[0];
  const products = [];
  adapters.forEach((adapter, i) => {
    table.append(factor(`B${MERGE_SMALL[i]}`, adapter.B));
    adapters.forEach((_, j) => {
      const name = `B${MERGE_SMALL[i]}A${MERGE_SMALL[j]}`;
      const made = map(name, [rows, columns], limit, (a, b, v) => {
        const told = `${name}[${a + 1}, ${b + 1}] = ${number(v, 5)}`;
        const times = now.weights[i][j];
        return now.norm !== null ? `${told}\nin this merge times ${number(times)} = ${number(v * times, 5)}` : told;
      });
      made.paint((a, b) => cells[i][j][a][b]);
      const caption = el("h4");
      const node = el("div", { class: `product ${i === j ? "own" : "cross"}` }, caption, made.node);
      products.push({ i, j, name, caption, map: made.node });
      table.append(node);
    });
  });
  const room = wide ? stage.clientWidth - half - 24 : stage.clientWidth;
  const side = Math.min(44, cell * 1.2, room / columns);
  const result = (label) =>
    heatMap({ rows, columns, room: side * columns, limit, label, stage, explain, most: side, tell: (a, b, v) => `${label}[${a + 1}, ${b + 1}] = ${number(v, 5)}` });
  const maps = { right: result("the right sum"), result: result("the result"), off: result("result − right sum") };
  maps.right.paint((a, b) => right[a][b]);
  const captions = { result: el("h4"), off: el("h4") };
  const outcome = el(
    "div",
    { class: "lowrank-side" },
    el("div", {}, el("h4", {}, "Right: Σ wᵢ sᵢ BᵢAᵢ"), maps.right.node),
    el("div", {}, captions.result, maps.result.node),
    el("div", {}, captions.off, maps.off.node),
  );
  const facts = el("div");
  const columnsOf = wide ? "grid-template-columns:max-content minmax(0,1fr)" : null;
  const grid = el("div", { class: "lowrank-grid", style: columnsOf }, table, outcome);
  return { nodes: [facts, grid, lowRankScale(stage, limit), mergeTable(trace, explain)], settle, draw };

  function settle(at) {
    now = steps[at];
    facts.replaceChildren(readouts(mergeFacts(trace, now), explain));
    const most = Math.max(...now.weights.flat().map(Math.abs)) || 1;
    for (const { i, j, name, caption, map } of products) {
      const times = now.weights[i][j];
      caption.textContent = now.norm !== null ? `${number(times, 3)} × ${name}` : name;
      map.style.opacity = now.norm !== null ? Math.max(0.22, Math.abs(times) / most) : 1;
    }
    captions.result.textContent = now.norm !== null ? `Result: ${now.name}` : "Result: nothing yet";
    captions.off.textContent = "Off by: result − right sum";
    stage.querySelectorAll(".ways tr[data-way]").forEach((row) => row.classList.toggle("chosen", row.dataset.way === now.phase));
  }

  /** The picture changes by fading from one step's result to the next. */
  function draw(position) {
    const low = Math.floor(position + 1e-9),
      high = Math.min(steps.length - 1, Math.ceil(position - 1e-9));
    const [before, after] = [results[low], results[high]];
    const value = (a, b) => mix(before[a][b], after[a][b], position - low);
    maps.result.paint(value);
    maps.off.paint((a, b) => (now.norm !== null ? value(a, b) - right[a][b] : 0));
  }
}

/** The cells added up with the weights of a step, or what its SVD left of that; zeros where nothing is merged. */
function mergeResult(step, cells) {
  if (step.cut) return step.cut;
  const [[first]] = cells;
  if (step.norm === null) return first.map((row) => row.map(() => 0));
  return first.map((row, a) =>
    row.map((_, b) => cells.flat().reduce((sum, cell, k) => sum + step.weights.flat()[k] * cell[a][b], 0)),
  );
}

function mergeFacts(trace, step) {
  const given = trace.adapters.map((adapter, i) => [
    `w${MERGE_SMALL[i]}`,
    number(adapter.weight, 3),
    `weight of ${adapter.name} in the sum; s${MERGE_SMALL[i]} = ${number(adapter.s)}, rank ${adapter.A.length}`,
  ]);
  if (step.norm === null) return given;
  const [[cell]] = trace.cells;
  const shape = `${cell.length} × ${cell[0].length}`;
  return [
    ...given,
    ["norm", number(step.norm, 5), "Frobenius norm of the result: √ of the sum of its squares"],
    ["cross terms", number(step.cross, 5), "Frobenius norm of what the cells off the diagonal bring in"],
    ["relative error", mergeError(step), "‖result − right sum‖ / ‖right sum‖, Frobenius norms"],
    ...Object.entries(step.scores).map(([name, value]) => [name, number(value, 3), `${name} with the base's weights plus this result`]),
    ["rank", step.rank ?? shape, step.rank ? "rank of the factors that are kept" : `the sum itself, ${shape}, without factors`],
  ];
}

function mergeError(step) {
  return step.error === null ? "–" : number(step.error < 1e-6 ? 0 : step.error, 6);
}

/** All ways side by side, in numbers; the one shown is marked. */
function mergeTable(trace, explain) {
  const body = el("tbody");
  for (const step of trace.steps.filter((one) => one.norm !== null)) {
    const weights = step.weights.map((row) => row.map((w) => number(w, 3)).join(" ")).join(" ; ");
    const cells = [
      explain(el("td", { class: "value" }, weights), "weights of the cells, row by row"),
      el("td", { class: "value" }, number(step.norm, 5)),
      el("td", { class: "value" }, mergeError(step)),
      ...Object.values(step.scores).map((value) => el("td", { class: "value" }, number(value, 3))),
    ];
    body.append(el("tr", { "data-way": step.phase }, el("th", { scope: "row" }, step.name), ...cells));
  }
  const scores = Object.keys(trace.steps.at(-1).scores);
  const heads = ["way to merge", "weights of the cells", "norm", "relative error", ...scores];
  const head = el("tr", {}, ...heads.map((name, i) => el("th", i ? { class: "value" } : {}, name)));
  return el("table", { class: "ways" }, el("thead", {}, head), body);
}
