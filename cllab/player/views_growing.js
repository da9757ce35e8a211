// Growing experts: a column per expert, a row per kind of token, one run or several side by side. Tokens on their way are
// in views_growing_flow.js, the curves of each run in views_growing_charts.js.

const LOCK = "M3 6V4a3 3 0 0 1 6 0v2h1v6H2V6zM4.5 6h3V4a1.5 1.5 0 0 0-3 0z";
const HOME = 0.25; // a cell with this share of its kind when the kind's stage ended is outlined from then on

VIEWS.growing = {
  ms: 550,
  create(context) {
    const { trace, stage, explain } = context;
    let built = null;
    return { show };

    /** Built once per width and palette; a step changes boxes, cells, cursors and numbers. */
    function show(at, from) {
      const key = `${stage.clientWidth}|${context.colours().join()}`;
      if (built?.key !== key || !stage.contains(built.grid)) built = build(key, context.colours());
      const frames = built.parts.map((part) => part.draw(at, from));
      return (u) => {
        for (const frame of frames) frame?.(u);
      };
    }

    function build(key, colours) {
      const beside = trace.runs.length > 1 && stage.clientWidth >= 760;
      const alone = trace.runs.length === 1 && stage.clientWidth >= 760;
      const width = beside ? Math.floor((stage.clientWidth - 28) / 2) : stage.clientWidth;
      const parts = [],
        nodes = [];
      for (const run of trace.runs) {
        const room = alone ? Math.floor((width - 28) / 2) : width;
        const given = [room, trace, run, colours, explain];
        const own = [growingNumbers(trace, run, explain), growingHeat(...given), growingAccuracy(...given), growingDrift(...given)];
        parts.push(...own);
        const [numbers, heat, ...charts] = own.map((part) => part.node);
        const body = alone
          ? el("div", { class: "growing-beside" }, heat, el("div", {}, ...charts))
          : el("div", {}, heat, ...charts);
        const heading = [run.name, run.about].filter(Boolean).join(": ");
        nodes.push(el("section", {}, heading ? el("h4", {}, heading) : null, numbers, body));
      }
      const grid = el("div", { class: `growing-grid${beside ? " beside" : ""}` }, ...nodes);
      stage.replaceChildren(growingLegend(trace, colours, explain), grid);
      return { key, grid, parts };
    }
  },
};

function growingLegend(trace, colours, explain) {
  const line = (attributes) => {
    const sample = svg("svg", { class: "swatch", viewBox: "0 0 26 10", width: 26, height: 10, "aria-hidden": "true" });
    sample.append(svg("path", { d: "M1 5H25", "stroke-width": 3, ...attributes }));
    return sample;
  };
  const stages = trace.stages.map((name, t) =>
    el("span", {}, line({ stroke: colourOf(colours, t), "stroke-dasharray": DASHES[t] }), `stage ${t + 1}: ${name}`),
  );
  const lock = svg("svg", { class: "swatch", viewBox: "0 0 12 13", width: 12, height: 13, "aria-hidden": "true" });
  lock.append(svg("path", { d: LOCK, fill: "currentColor", "fill-rule": "evenodd" }));
  const home = el("span", { class: "growing-home" });
  const dot = svg("svg", { class: "swatch", viewBox: "-5 -5 10 10", width: 10, height: 10, "aria-hidden": "true" });
  dot.append(svg("circle", { r: 3, fill: colourOf(colours, 0), stroke: "currentColor", "stroke-width": 0.7 }));
  return el(
    "div",
    { class: "legend" },
    ...stages,
    explain(
      el("span", { tabindex: 0 }, el("strong", {}, "42"), "% of a kind"),
      "how much of a kind's test tokens an expert serves; cells under 5 % are left empty",
    ),
    explain(el("span", { tabindex: 0 }, lock, "frozen"), "the expert and its router row take no more steps"),
    explain(el("span", { tabindex: 0 }, dot, "on the move"), "a twentieth of a kind's test tokens on its way to another expert"),
    explain(
      el("span", { tabindex: 0 }, home, "was here"),
      "at least a quarter of this kind's tokens were with this expert when their stage ended",
    ),
  );
}

function growingPercent(share) {
  return `${Math.round(100 * share)} %`;
}

function growingMean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function growingSum(values, digits = 2) {
  const terms = values.map((value) => fixed(value, digits)).join(" + ");
  return values.length > 1 ? `(${terms}) / ${values.length} = ${fixed(growingMean(values), digits)}` : terms;
}

/** The numbers of a run at one frame, each with its formula. */
function growingNumbers(trace, run, explain) {
  const node = el("div");
  return { node, draw };

  function draw(at) {
    const frame = run.frames[at];
    const { stage, born, frozen } = frame;
    const counts = trace.stages.map((_, t) => born.filter((b) => b === t).length).slice(0, stage + 1);
    const seen = frame.accuracy.slice(0, stage + 1);
    const facts = [
      [
        "experts",
        born.length,
        `${counts.join(" + ")} of stages 1 to ${stage + 1}; ${frozen.filter(Boolean).length} frozen. A token uses ${trace.k}.`,
      ],
      ["accuracy", fixed(growingMean(seen)), `mean over the stages so far, test rows\n${growingSum(seen)}`],
    ];
    if (stage > 0)
      facts.push(
        ["routing moved", fixed(growingMean(frame.drift)), growingTellDrift(trace, frame)],
        ["KL", `${fixed(frame.kl, 3)} nats`, growingTellKl(frame)],
        [
          "old experts moved",
          number(frame.moved.old),
          `largest change of a weight of an older expert or router row since this stage began\nthe shared layers below and above them: ${number(frame.moved.shared)}`,
        ],
      );
    node.replaceChildren(readouts(facts, explain));
  }
}

function growingTellDrift(trace, frame) {
  const rows = frame.drift.map(
    (drift, t) =>
      `stage ${t + 1}, ${trace.stages[t]}: ${fixed(drift)}, with newer experts ${fixed(frame.newer[t])} (their share of the probability ${fixed(frame.mass[t])})`,
  );
  return `share of assignments that are not where they were when their stage ended\n${rows.join("\n")}\nmean ${growingSum(frame.drift)}`;
}

function growingTellKl(frame) {
  const terms = Object.entries(frame.losses).map(([name, value]) => `${name} ${fixed(value)}`);
  const loss = terms.length ? `\nthe loss on training rows: ${terms.join(" + ")} (λ is in it; mean since the frame before)` : "";
  return `KL(M_old ‖ M_new) = mean over this stage's test rows of Σ p_old ln(p_old / p_new) = ${fixed(frame.kl, 3)} nats\nM_old is the model as it was before this stage; none of the older rows take part${loss}`;
}

/** Boxes for experts over a heat map of kind by expert. */
function growingHeat(width, trace, run, colours, explain) {
  const most = Math.max(...trace.runs.flatMap((r) => r.frames.map((frame) => frame.born.length)));
  const left = 74,
    top = 62,
    high = 27;
  const wide = Math.min(62, (width - left - 4) / most);
  const narrow = wide < 34; // no room for bar and percentages
  const height = top + high * trace.kinds.length + 6;
  const picture = drawing(width, height, `Which expert serves which kind of token. ${trace.alt}`);
  const ended = trace.stages.map((_, t) => run.frames.findLast((frame) => frame.stage === t));
  let shown = 0;
  picture.append(svg("text", { x: 0, y: 12 }, "from stage"), svg("text", { x: 0, y: 38 }, "expert"));
  const labels = trace.kinds.map((kind, c) => {
    const y = top + high * c + high / 2;
    const text = svg("text", { x: 12, y: y + 4, tabindex: 0 }, kind);
    const mark = svg("rect", { x: 0, y: y - 7, width: 7, height: 14, fill: colourOf(colours, trace.stage_of[c]) });
    picture.append(mark, explain(text, () => tellKind(c)));
    return text;
  });
  const columns = Array.from({ length: most }, (_, e) => column(e));
  const centre = (c, e) => [left + (e + 0.5) * wide, top + (c + 0.5) * high];
  const flow = growingFlow(trace, colours, most, share, centre);
  picture.append(flow.node);
  return { node: picture, draw };

  function column(e) {
    const x = left + e * wide;
    const edge = narrow ? 1 : 2;
    const group = svg("g");
    const born = svg("text", { x: x + wide / 2, y: 12, "text-anchor": "middle", "font-weight": 600 });
    const box = svg("rect", { x: x + edge, y: 18, width: wide - 2 * edge, height: 36, rx: 6, class: "growing-box", "stroke-width": narrow ? 1.5 : 2 });
    const name = svg("text", { x: narrow ? x + wide / 2 : x + 8, y: narrow ? 31 : 35, "text-anchor": narrow ? "middle" : "start" }, e);
    const lock = svg("path", { d: LOCK, fill: "currentColor", "fill-rule": "evenodd" });
    const corner = narrow ? [x + wide / 2 - 5, 36] : [x + wide - 18, 23];
    lock.setAttribute("transform", `translate(${corner[0].toFixed(1)} ${corner[1]}) scale(${narrow ? 0.85 : 1})`);
    group.append(born, explain(box, () => tellExpert(e)), name, lock);
    const loads = trace.kinds.map((_, c) => {
      if (narrow) return null;
      const bar = svg("rect", { y: 43, height: 7, fill: colourOf(colours, trace.stage_of[c]) });
      group.append(bar);
      return bar;
    });
    const cells = trace.kinds.map((_, c) => {
      const place = { x: x + 1, y: top + high * c + 1, width: wide - 2, height: high - 2, rx: 3 };
      const back = svg("rect", { ...place, class: "growing-cell" });
      const cell = svg("rect", { ...place, fill: colourOf(colours, trace.stage_of[c]) });
      const home = svg("rect", { ...place, class: "growing-was" });
      const text = svg("text", { class: "halo", x: x + wide / 2, y: place.y + 17, "text-anchor": "middle" });
      const whole = svg("rect", { ...place, class: "growing-whole", fill: "transparent" });
      group.append(back, cell, home, text, explain(whole, () => tellCell(c, e)));
      return { cell, home, text };
    });
    picture.append(group);
    return { group, born, box, lock, loads, cells, x };
  }

  /** The part of kind c that expert e serves in a frame; 0 before the expert is there. */
  function share(frame, c, e) {
    const counts = frame.usage[c];
    const all = counts.reduce((sum, n) => sum + n, 0);
    return e < counts.length && all ? counts[e] / all : 0;
  }

  function draw(at, from) {
    shown = at;
    const [frame, before] = [run.frames[at], run.frames[from]];
    trace.kinds.forEach((_, c) => {
      const arrives = trace.stage_of[c];
      labels[c].setAttribute("font-weight", arrives === frame.stage ? 700 : 400);
      labels[c].setAttribute("opacity", arrives > frame.stage ? 0.5 : 1);
    });
    columns.forEach(({ group, born, box, lock, cells }, e) => {
      const there = e < frame.born.length;
      group.style.display = there || e < before.born.length ? "" : "none";
      if (!there) return;
      born.textContent = frame.born[e] + 1;
      box.setAttribute("stroke", colourOf(colours, frame.born[e]));
      lock.style.display = frame.frozen[e] ? "" : "none";
      cells.forEach(({ home, text }, c) => {
        const now = share(frame, c, e),
          t = trace.stage_of[c];
        home.style.display = frame.stage > t && share(ended[t], c, e) >= HOME ? "" : "none";
        text.textContent = !narrow && now >= 0.05 ? Math.round(100 * now) : "";
      });
    });
    flow.set(before, frame);
    return (u) => {
      columns.forEach((part, e) => glide(part, e, before, frame, u));
      flow.move(u);
    };
  }

  function glide({ group, loads, cells, x }, e, before, frame, u) {
    const [was, is] = [before, frame].map((f) => (e < f.born.length ? 1 : 0));
    group.setAttribute("opacity", mix(was, is, u).toFixed(3));
    let end = x + 5;
    const all = trace.kinds.length;
    loads.forEach((bar, c) => {
      if (!bar) return;
      const part = mix(share(before, c, e), share(frame, c, e), u) / all;
      bar.setAttribute("x", end.toFixed(2));
      bar.setAttribute("width", ((wide - 10) * part).toFixed(2));
      end += (wide - 10) * part;
    });
    cells.forEach(({ cell, text }, c) => {
      const future = trace.stage_of[c] > frame.stage;
      cell.setAttribute("fill-opacity", (mix(share(before, c, e), share(frame, c, e), u) * (future ? 0.35 : 0.9)).toFixed(3));
      text.setAttribute("opacity", future ? 0.5 : 1);
    });
  }

  function tellKind(c) {
    const frame = run.frames[shown],
      t = trace.stage_of[c];
    const n = frame.usage[c].reduce((sum, count) => sum + count, 0) / trace.k;
    const when = t > frame.stage ? "it comes later, the model has not been trained on it" : t === frame.stage ? "learned now" : "learned before";
    const served = frame.usage[c].map((count, e) => (count ? `expert ${e}: ${growingPercent(share(frame, c, e))}` : null));
    return `${trace.kinds[c]}: ${n} test tokens, of stage ${t + 1}; ${when}\n${served.filter(Boolean).join(", ")}`;
  }

  function tellExpert(e) {
    const frame = run.frames[shown];
    if (e >= frame.born.length) return "";
    const served = frame.usage.reduce((sum, counts) => sum + counts[e], 0);
    const all = frame.usage.flat().reduce((sum, n) => sum + n, 0);
    const state = frame.frozen[e] ? "frozen, with its router row" : "learning";
    return `expert ${e}, came in stage ${frame.born[e] + 1}, ${state}\nserves ${served} of ${all} assignments = ${growingPercent(served / all)}\nthe bar: its share of each kind, all kinds weigh the same`;
  }

  function tellCell(c, e) {
    const frame = run.frames[shown],
      t = trace.stage_of[c];
    if (e >= frame.born.length) return "";
    const told = (f) => {
      const all = f.usage[c].reduce((sum, n) => sum + n, 0);
      return `${f.usage[c][e] ?? 0} of ${all} = ${growingPercent(share(f, c, e))}`;
    };
    const then = frame.stage > t ? `\nwhen stage ${t + 1} ended: ${told(ended[t])}` : "";
    return `${trace.kinds[c]} to expert ${e}: ${told(frame)}${then}`;
  }
}
