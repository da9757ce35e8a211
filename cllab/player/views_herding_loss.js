// Herding as an iCaRL walk: the loss of one training row, output by output.

/** One line per output: its target, where that comes from, what the network says, and what it costs. */
function drawLoss(s) {
  const { loss } = s.step;
  if (!loss) return null;
  const known = typeof loss.mean === "number",
    body = el("tbody"),
    t = loss.columns.length;
  for (const column of loss.columns) {
    const row = el(
      "tr",
      { tabindex: 0 },
      el(
        "td",
        {},
        el("span", { class: "named" }, swatch(column.class, s.colour(column.class)), className(s, column.class)),
      ),
      el("td", { class: "value" }, number(column.target)),
      el("td", {}, column.old ? "old network" : "label"),
      el("td", { class: "value" }, known ? number(column.output) : "?"),
      el("td", { class: "value" }, known ? fixed(column.loss, 4) : "?"),
    );
    body.append(s.explain(row, () => tellColumn(s, column, t)));
  }
  const table = el(
    "table",
    { class: "loss" },
    el("caption", {}, `Loss of ${nameOf(s, loss.row)}, class ${className(s, s.trace.owner[loss.row])}`),
    header(["output"], ["target", "value"], ["from"], ["g", "value"], ["loss", "value"]),
    body,
  );
  return el("div", {}, known ? lossParts(s, loss, t) : null, table);
}

function lossParts(s, loss, t) {
  const facts = [];
  if (loss.columns.some((column) => column.old)) {
    const spare = number(loss.distillation - loss.floor);
    facts.push(["distillation", fixed(loss.distillation, 4), () => tellSum(loss, true)]);
    facts.push([
      "its floor",
      fixed(loss.floor, 4),
      `the old columns cost this much even when g = q: the entropy of the targets.\nWhat can be learned away is ${spare}.`,
    ]);
  }
  facts.push(["new classes", fixed(loss.new, 4), () => tellSum(loss, false)]);
  const sum = fixed(loss.distillation + loss.new, 4);
  facts.push(["mean", fixed(loss.mean, 4), `the sum of all outputs' losses over t = ${t}: ${sum} / ${t}`]);
  return readouts(facts, s.explain);
}

function className(s, c) {
  return String(s.classes[c] ?? c);
}

function tellColumn(s, column, t) {
  const name = className(s, column.class),
    source = column.old
      ? `target = q = ${number(column.target)}, what the old network says to "is it ${name}?"`
      : `target = ${number(column.target)}, ${column.target === 1 ? "this is" : "this is not"} a row of class ${name}`;
  if (typeof column.loss !== "number") return source;
  const [y, g] = [number(column.target), number(column.output)];
  return (
    `${source}\nloss = −[${y} ln ${g} + (1 − ${y}) ln(1 − ${g})] = ${fixed(column.loss, 4)}\n` +
    `gradient of its logit = (g − target) / t = (${g} − ${y}) / ${t} = ${number(column.gradient)}`
  );
}

function tellSum(loss, old) {
  const parts = loss.columns.filter((column) => column.old === old).map((column) => fixed(column.loss, 4));
  return `${old ? "old" : "new"} columns: ${parts.join(" + ")}`;
}
