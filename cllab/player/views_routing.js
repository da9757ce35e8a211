// Routing: who serves which token, one training step per frame. Colour and number are the expert's, shape is the kind's.

const DROPPED = "#D55E00";

VIEWS.routing = {
  ms: 600,
  create(context) {
    const { trace, stage, explain } = context;
    const model = routingModel(trace);
    let built = null;
    return { show };

    /** The drawing is built once per width and palette; a step sets its parts, a frame moves them. */
    function show(at, from) {
      model.now = trace.steps[at];
      model.before = trace.steps[from];
      const colours = context.colours();
      const key = `${stage.clientWidth}|${colours.join()}`;
      if (built?.key !== key || !stage.contains(built.parts[0].node)) built = build(key, colours);
      built.top.replaceChildren(readouts(routingFacts(model), explain));
      for (const part of built.parts) part.settle?.(at === from);
      return (u) => {
        for (const part of built.parts) part.draw?.(u, mix(from, at, u));
      };
    }

    function build(key, colours) {
      const wide = stage.clientWidth >= 700;
      const half = wide ? Math.floor((stage.clientWidth - 28) / 2) : stage.clientWidth;
      const flow = routingFlow(model, stage.clientWidth, colours, explain);
      const heat = routingHeat(model, half, colours, explain);
      const shares = routingShares(model, half, colours);
      const line = trace.line ? routingText(model, colours, explain) : null;
      const grid = el(
        "div",
        { class: "routing-grid", style: wide ? `grid-template-columns:${half}px minmax(0,1fr)` : null },
        heat.node,
        shares.node,
      );
      const top = el("div");
      stage.replaceChildren(
        ...[top, line?.node, flow.node, routingLegend(model), grid].filter(Boolean),
      );
      return { key, top, parts: [flow, line, heat, shares].filter(Boolean) };
    }
  },
};

/** The trace and what the parts of the view ask about it; `now` and `before` are the steps between which it stands. */
function routingModel(trace) {
  const { tokens, experts, steps } = trace;
  const kinds = trace.kinds ?? [];
  const chosen = trace.choice === "expert"; // experts choose their tokens
  const served = new Map(); // step -> [E][kinds]
  const slots = Math.max(1, steps[0].load.reduce((a, b) => a + b, 0));
  const rows = Math.max(1, ...steps.flatMap((step) => step.expert.map((row) => row.length)));
  const model = { trace, tokens, experts, steps, kinds, chosen, slots, rows, now: steps[0], before: steps[0] };
  return Object.assign(model, { servedBy, wantedBy, missed });

  /** How many assignments of each kind expert `e` really gets in step `s`. */
  function servedBy(s, e) {
    if (!served.has(s)) {
      const counts = Array.from({ length: experts }, () => kinds.map(() => 0));
      tokens.forEach((token, n) =>
        s.expert[n].forEach((expert, slot) => {
          if (s.kept[n][slot]) counts[expert][token.kind] += 1;
        }),
      );
      served.set(s, counts);
    }
    return served.get(s)[e];
  }

  function wantedBy(n, slot) {
    return model.now.wanted?.[n]?.[slot] ?? model.now.expert[n][slot];
  }

  /** How many tokens nobody serves, where experts choose. */
  function missed() {
    return model.now.expert.filter((row) => row.length === 0).length;
  }
}

function routingFacts(model) {
  const { trace, now, slots } = model;
  const facts = [["training step", number(now.step), "how many optimiser steps were taken before this routing"]];
  if (typeof now.accuracy === "number")
    facts.push(["accuracy", fixed(now.accuracy, 3), "share of correct predictions at this step"]);
  for (const [name, value] of Object.entries(now.losses ?? {})) {
    const about = trace.formulas?.[name] ?? `the term “${name}” of the loss that is differentiated`;
    facts.push([name.endsWith("loss") ? name : `${name} loss`, number(value), about]);
  }
  if (model.chosen) facts.push(["served by none", `${model.missed()} of ${model.tokens.length}`, routingDropped(model)]);
  else if (trace.capacity) facts.push(["dropped", `${now.dropped} of ${slots}`, routingDropped(model)]);
  return facts;
}

function routingDropped(model) {
  const { tokens, now, slots, trace } = model;
  if (model.chosen)
    return `tokens that no expert chose\n${model.missed()} / ${tokens.length} tokens = ${fixed((100 * model.missed()) / tokens.length, 1)} %`;
  return `dropped = assignments that found no place\n${now.dropped} / (${tokens.length} tokens × k = ${trace.k}) = ${fixed((100 * now.dropped) / slots, 1)} %`;
}

/** The mark of an expert: its number on its colour. */
function routingBadge(expert, colours) {
  return el("span", { class: "routing-badge", style: `--expert:${colourOf(colours, expert)}` }, `E${expert}`);
}

function routingLegend(model) {
  const { trace, kinds } = model;
  const path = (attributes, word) =>
    el(
      "span",
      {},
      svg(
        "svg",
        { class: "swatch", viewBox: "0 0 24 12", width: 24, height: 12, "aria-hidden": "true" },
        svg("path", { d: "M1 6H23", fill: "none", stroke: "currentColor", "stroke-width": 2, ...attributes }),
      ),
      word,
    );
  const row = el("div", { class: "legend" }, el("span", {}, "colour: expert; shape:"));
  kinds.forEach((name, kind) => row.append(el("span", {}, swatch(kind, "transparent"), name)));
  row.append(
    el("span", {}, model.chosen ? "▭ outline: places" : "▭ outline: load asked for"),
    el("span", {}, "▮ filled: served"),
    el("span", {}, "▬ thin: importance"),
  );
  if (trace.capacity && !model.chosen)
    row.append(
      path({ stroke: DROPPED, "stroke-dasharray": "4 2" }, "capacity"),
      path({ stroke: DROPPED, "stroke-dasharray": "3 3" }, "× dropped"),
    );
  if (trace.overflow === "reroute") row.append(path({ "stroke-dasharray": "9 3" }, "rerouted"));
  return row;
}
