// Growing experts: the curves of one run, accuracy per stage and how much of the older stages' routing has moved.

/** Test accuracy of every stage; fainter before a stage has come. */
function growingAccuracy(width, trace, run, colours, explain) {
  const lines = trace.stages.map((name, t) => ({
    t,
    about: `stage ${t + 1}, ${name}`,
    value: (frame) => frame.accuracy[t],
    from: 0,
    bright: run.frames.findIndex((frame) => frame.stage === t),
    width: 2.2,
  }));
  return growingChart(width, trace, run, colours, explain, "Test accuracy per stage", lines);
}

/** What has moved of each earlier stage, and what of it is now with experts that came later. */
function growingDrift(width, trace, run, colours, explain) {
  const lines = trace.stages.slice(0, -1).flatMap((name, t) => {
    const from = run.frames.findIndex((frame) => frame.stage > t);
    const line = { t, from, bright: from };
    return [
      { ...line, about: `stage ${t + 1}, ${name}: now with newer experts`, value: (frame) => frame.newer[t], width: 1.1 },
      { ...line, about: `stage ${t + 1}, ${name}: moved`, value: (frame) => frame.drift[t], width: 2.6 },
    ];
  });
  const title = "Routing that has moved (thin: to newer experts)";
  return growingChart(width, trace, run, colours, explain, title, lines);
}

function growingChart(width, trace, run, colours, explain, title, lines) {
  const height = 158;
  const area = { left: 32, right: width - 8, top: 22, bottom: height - 24 };
  const last = run.frames.length - 1;
  const x = linear([0, Math.max(1, last)], [area.left, area.right]);
  const y = linear([0, 1], [area.bottom, area.top]);
  const picture = drawing(width, height, `${title}, ${run.name}`);
  let shown = 0;
  picture.append(svg("text", { x: 0, y: 12, "font-weight": 600 }, title));
  for (const value of [0, 0.5, 1])
    picture.append(
      svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(value), y2: y(value) }),
      svg("text", { x: area.left - 5, y: y(value) + 4, "text-anchor": "end" }, number(value, 1)),
    );
  trace.stages.forEach((name, t) => {
    const first = run.frames.findIndex((frame) => frame.stage === t);
    const end = run.frames.findLastIndex((frame) => frame.stage === t);
    if (first < 0) return;
    const bar = { x1: x(first), x2: x(end), y1: area.bottom + 2, y2: area.bottom + 2, stroke: colourOf(colours, t), "stroke-width": 5 };
    const label = svg("text", { x: (x(first) + x(end)) / 2, y: height - 6, "text-anchor": "middle" });
    label.textContent = columnsShort(`${t + 1} ${name}`, (x(end) - x(first)) / 6.2);
    picture.append(svg("line", bar), label);
    if (t) picture.append(svg("line", { class: "grid", x1: x(first), x2: x(first), y1: area.top, y2: area.bottom }));
  });
  for (const line of lines) if (line.from >= 0) append(line);
  const cursor = svg("line", { y1: area.top, y2: area.bottom, stroke: "currentColor", "stroke-width": 1.2 });
  picture.append(cursor);
  explain(picture, tell);
  return { node: picture, draw };

  function append({ t, value, from, bright, width: thick }) {
    const path = (a, b, opacity) => {
      const d = run.frames.slice(a, b + 1).map((frame, i) => `${x(a + i).toFixed(1)} ${y(value(frame)).toFixed(1)}`);
      if (d.length < 1) return;
      const style = { stroke: colourOf(colours, t), "stroke-dasharray": DASHES[t], "stroke-width": thick, fill: "none" };
      picture.append(svg("path", { d: `M${d.join("L")}`, opacity, ...style }));
    };
    const start = bright < 0 ? last : bright;
    if (start > from) path(from, start, 0.3);
    path(start, last, 1);
  }

  function tell() {
    const frame = run.frames[shown];
    const rows = lines.filter((line) => line.from >= 0 && shown >= line.from).map((line) => `${line.about}: ${fixed(line.value(frame))}`);
    return [`step ${frame.step}, in stage ${frame.stage + 1}`, ...(rows.length ? rows : ["no earlier stage yet"])].join("\n");
  }

  function draw(at, from) {
    shown = at;
    return (u) => cursor.setAttribute("transform", `translate(${x(mix(from, at, u)).toFixed(1)} 0)`);
  }
}
