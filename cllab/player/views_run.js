// Runs: per run the decision regions, the accuracy matrix R and the accuracy curves, with one cursor for all.

VIEWS.run = {
  ms: 400,
  create(context) {
    const { trace, stage, explain } = context;
    const runs = trace.runs,
      tasks = trace.tasks;
    let built = null;
    return { show };

    function show(at, from) {
      const colours = context.colours();
      const key = [stage.clientWidth, colours.join(), runs.length].join("|");
      if (built?.key !== key || !stage.contains(built.grid)) built = build(key, colours);
      for (const part of built.parts) part(at);
      return (u) => {
        for (const cursor of built.cursors) cursor(mix(from, at, u));
      };
    }

    function build(key, colours) {
      const grid = el("div", { class: "runs" });
      const made = { key, grid, parts: [], cursors: [] };
      stage.replaceChildren(grid);
      const columns = runs.map((run) => {
        const column = el("section", { class: "run", "aria-label": run.name }, el("h4", {}, run.name));
        grid.append(column);
        return column;
      });
      const width = columns[0]?.clientWidth ?? 300;
      runs.forEach((run, r) => {
        if (trace.extent && run.frames.some((frame) => frame.cells))
          columns[r].append(regions(run, width, colours, made));
        columns[r].append(matrix(run, width, made), curves(run, width, colours, made));
      });
      return made;
    }

    // --- decision regions -------------------------------------------------------------------------

    function regions(run, width, colours, made) {
      const [x0, x1, y0, y1] = trace.extent,
        n = trace.grid;
      const area = { left: 30, right: width - 6, top: 6, bottom: 0 };
      area.bottom = area.top + Math.min(1.05, (y1 - y0) / (x1 - x0)) * (area.right - area.left);
      const height = area.bottom + 20;
      const x = linear([x0, x1], [area.left, area.right]),
        y = linear([y0, y1], [area.bottom, area.top]);
      const classColour = (c) => colourOf(trace.class_colours ?? colours, c);
      const canvas = el("canvas", {
        width: n,
        height: n,
        style: `left:${area.left}px;top:${area.top}px;width:${area.right - area.left}px;height:${area.bottom - area.top}px`,
      });
      const brush = canvas.getContext("2d");
      const picture = svg("svg", {
        width,
        height,
        viewBox: `0 0 ${width} ${height}`,
        role: "img",
        "aria-label": `${run.name}: predicted class over the plane, with test points`,
      });
      const classesSeen = new Set(trace.samples?.map((s) => s[2]) ?? []);
      for (const v of ticks([x0, x1], 4))
        picture.append(svg("text", { x: x(v), y: height - 4, "text-anchor": "middle" }, number(v)));
      for (const v of ticks([y0, y1], 4))
        picture.append(svg("text", { x: area.left - 4, y: y(v) + 4, "text-anchor": "end" }, number(v)));
      const surface = svg("rect", {
        x: area.left,
        y: area.top,
        width: area.right - area.left,
        height: area.bottom - area.top,
        fill: "transparent",
        stroke: "currentColor",
        "stroke-opacity": 0.5,
      });
      picture.append(surface);
      for (const [sx, sy, c] of trace.samples ?? []) {
        picture.append(
          marker(c, 3, {
            fill: classColour(c),
            stroke: "currentColor",
            "stroke-width": 0.6,
            "pointer-events": "none",
            transform: `translate(${x(sx).toFixed(1)} ${y(sy).toFixed(1)})`,
          }),
        );
      }
      let cells = "";
      explain(surface, (event) => {
        const rect = picture.getBoundingClientRect();
        const px = x.invert((event.clientX ?? rect.left) - rect.left),
          py = y.invert((event.clientY ?? rect.top) - rect.top);
        const column = Math.max(0, Math.min(n - 1, Math.floor(((px - x0) / (x1 - x0)) * n)));
        const row = Math.max(0, Math.min(n - 1, Math.floor(((py - y0) / (y1 - y0)) * n)));
        return `at (${fixed(px)}, ${fixed(py)}) ${run.name} predicts class ${className(parseInt(cells[row * n + column], 36))}`;
      });
      made.parts.push((at) => {
        cells = run.frames[at]?.cells ?? "";
        const image = brush.createImageData(n, n);
        for (let row = 0; row < n; row++) {
          for (let column = 0; column < n; column++) {
            const c = parseInt(cells[row * n + column], 36);
            if (Number.isNaN(c)) continue;
            image.data.set([...rgb(classColour(c)), 90], 4 * ((n - 1 - row) * n + column));
          }
        }
        brush.putImageData(image, 0, 0);
      });
      const legend = el("div", { class: "legend" });
      for (const c of [...classesSeen].sort((a, b) => a - b))
        legend.append(el("span", {}, swatch(c, classColour(c)), `class ${className(c)}`));
      return el(
        "div",
        { class: "panel" },
        el("span", {}, "Decision regions and test points"),
        el("div", { class: "raster" }, canvas, picture),
        legend,
      );
    }

    // --- accuracy matrix --------------------------------------------------------------------------

    function matrix(run, width, made) {
      const T = tasks.length,
        left = 52,
        top = 20;
      const side = Math.min(72, (width - left - 4) / T),
        tall = Math.max(24, Math.min(36, side));
      const height = top + T * tall + 4;
      const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
      const cells = [];
      for (let i = 0; i < T; i++) {
        picture.append(
          svg(
            "text",
            { x: left - 5, y: top + i * tall + tall / 2 + 4, "text-anchor": "end" },
            `after ${i + 1}`,
          ),
          explain(
            svg(
              "text",
              { x: left + (i + 0.5) * side, y: top - 6, "text-anchor": "middle" },
              side >= 46 ? `task ${i + 1}` : `${i + 1}`,
            ),
            `task ${i + 1}: ${tasks[i]}`,
          ),
        );
        for (let j = 0; j < T; j++) {
          const rect = svg("rect", {
            x: left + j * side,
            y: top + i * tall,
            width: side - 1,
            height: tall - 1,
            rx: 2,
            stroke: "var(--line)",
          });
          const text = svg("text", {
            x: left + (j + 0.5) * side,
            y: top + i * tall + tall / 2 + 4,
            "text-anchor": "middle",
            "pointer-events": "none",
          });
          let value = null;
          picture.append(explain(svg("g", {}, rect, text), () => tellR(i, j, value)));
          cells.push((R) => {
            value = R?.[i]?.[j] ?? null;
            const known = typeof value === "number";
            const paint = known ? cividis(value) : null;
            rect.style.fill = known ? `rgb(${paint.join()})` : "transparent";
            text.textContent = known ? (side >= 29 ? value.toFixed(2) : value.toFixed(1)) : "";
            text.style.fill = known && luminance(paint) < 0.5 ? "#fff" : "#111";
          });
        }
      }
      const now = svg("rect", {
        x: left - 1,
        width: T * side + 1,
        height: tall + 1,
        fill: "none",
        stroke: "currentColor",
        "stroke-width": 2,
        rx: 3,
      });
      picture.append(now);
      made.parts.push((at) => {
        const frame = run.frames[at] ?? {};
        for (const cell of cells) cell(frame.R);
        now.style.display = frame.task >= 0 ? "" : "none";
        now.setAttribute("y", top + Math.max(0, frame.task ?? 0) * tall - 1);
        picture.setAttribute(
          "aria-label",
          `${run.name}: accuracy matrix. ${(frame.R ?? [])
            .map((row, i) =>
              row
                .map((v, j) => (typeof v === "number" ? `R[${i + 1},${j + 1}] ${v.toFixed(2)}` : null))
                .filter(Boolean)
                .join(", "),
            )
            .filter(Boolean)
            .join("; ")}`,
        );
      });
      return el(
        "div",
        { class: "panel" },
        el("span", {}, "Accuracy matrix R (framed: the task being learned)"),
        picture,
      );
    }

    function tellR(i, j, value) {
      const known =
        typeof value === "number"
          ? `R[${i + 1},${j + 1}] = ${value.toFixed(2)}`
          : `R[${i + 1},${j + 1}] is not known yet`;
      return `${known}: accuracy on task ${j + 1} (${tasks[j]}) after task ${i + 1} (${tasks[i]})`;
    }

    // --- accuracy curves --------------------------------------------------------------------------

    function curves(run, width, colours, made) {
      const short = tasks.every((name) => String(name).length <= 9);
      const names = tasks.map((name, t) => (short ? String(name) : `task ${t + 1}`));
      const room = 10 + 7 * Math.max(...names.map((name) => name.length));
      const area = { left: 34, right: width - room, top: 8, bottom: 128 },
        height = 164;
      const picture = svg("svg", {
        width,
        height,
        viewBox: `0 0 ${width} ${height}`,
        role: "img",
        "aria-label": `${run.name}: accuracy on every task over training`,
      });
      const frames = run.frames;
      const x = linear(
        [frames[0].step, Math.max(frames.at(-1).step, frames[0].step + 1)],
        [area.left, area.right],
      );
      const y = linear([0, 1], [area.bottom, area.top]);
      for (const v of [0, 0.5, 1]) {
        picture.append(
          svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(v), y2: y(v) }),
          svg("text", { x: area.left - 5, y: y(v) + 4, "text-anchor": "end" }, number(v)),
        );
      }
      for (const v of ticks([frames[0].step, frames.at(-1).step], width < 300 ? 3 : 4)) {
        picture.append(svg("text", { x: x(v), y: area.bottom + 15, "text-anchor": "middle" }, number(v)));
      }
      picture.append(
        svg(
          "text",
          { x: (area.left + area.right) / 2, y: height - 4, "text-anchor": "middle" },
          "training step",
        ),
      );
      frames.forEach((frame, i) => {
        if (i && frame.task !== frames[i - 1].task && frame.task > 0) {
          const edge = x(frames[i - 1].step);
          picture.append(
            svg("line", {
              x1: edge,
              x2: edge,
              y1: area.top,
              y2: area.bottom,
              stroke: "currentColor",
              "stroke-dasharray": "2 4",
              opacity: 0.6,
            }),
          );
        }
      });
      const clip = svg("g"),
        ghosts = svg("g", { opacity: 0.35 }),
        past = svg("g");
      const ends = [],
        grown = [];
      tasks.forEach((_, t) => {
        const stroke = {
          fill: "none",
          stroke: colourOf(colours, t),
          "stroke-width": 2.2,
          "stroke-dasharray": DASHES[t % DASHES.length],
        };
        ghosts.append(svg("path", { ...stroke, d: curve(frames, t, x, y) }));
        const line = svg("path", stroke);
        past.append(line);
        grown.push((upTo) => line.setAttribute("d", curve(frames.slice(0, upTo + 1), t, x, y)));
        const last = [...frames].reverse().find((frame) => typeof frame.accuracy?.[t] === "number");
        if (last) ends.push({ y: y(last.accuracy[t]), text: names[t], t });
      });
      clip.append(ghosts, past);
      picture.append(clip);
      for (const end of spread(ends, 13, area)) {
        const text = svg("text", { x: area.right + 5, y: end.y + 4, "font-weight": 600 }, end.text);
        picture.append(explain(text, `task ${end.t + 1}: ${tasks[end.t]}`));
      }
      const cursor = svg("line", {
        y1: area.top,
        y2: area.bottom,
        stroke: "currentColor",
        "stroke-width": 1.5,
      });
      const touch = svg("rect", {
        x: area.left,
        y: area.top,
        width: Math.max(1, area.right - area.left),
        height: area.bottom - area.top,
        fill: "transparent",
      });
      picture.append(
        cursor,
        explain(touch, (event) => {
          const rect = picture.getBoundingClientRect();
          const where = x.invert((event.clientX ?? rect.left) - rect.left);
          const frame = frames.reduce((best, f) =>
            Math.abs(f.step - where) < Math.abs(best.step - where) ? f : best,
          );
          return [
            `${run.name}, step ${frame.step}`,
            ...tasks.map(
              (name, t) => `accuracy on task ${t + 1} (${name}) = ${fixed(frame.accuracy?.[t], 3)}`,
            ),
          ].join("\n");
        }),
      );
      made.parts.push((at) => {
        for (const grow of grown) grow(at);
      });
      made.cursors.push((position) => {
        const low = Math.min(frames.length - 1, Math.floor(position)),
          high = Math.min(frames.length - 1, low + 1);
        const px = x(mix(frames[low].step, frames[high].step, position - low));
        cursor.setAttribute("x1", px.toFixed(2));
        cursor.setAttribute("x2", px.toFixed(2));
      });
      return el("div", { class: "panel" }, el("span", {}, "Accuracy on each task"), picture);
    }

    function className(c) {
      return Number.isNaN(c) ? "unknown" : (trace.classes?.[c] ?? c);
    }
  },
};

function curve(frames, t, x, y) {
  let pen = "M",
    path = "";
  for (const frame of frames) {
    const value = frame.accuracy?.[t];
    if (typeof value !== "number") {
      pen = "M";
      continue;
    }
    path += `${pen}${x(frame.step).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
  }
  return path;
}

const CIVIDIS = [
  [0, 34, 78],
  [65, 77, 107],
  [124, 123, 120],
  [188, 174, 108],
  [254, 232, 56],
];

function cividis(value) {
  const place = Math.max(0, Math.min(1, value)) * (CIVIDIS.length - 1);
  const low = Math.min(CIVIDIS.length - 2, Math.floor(place));
  return CIVIDIS[low].map((v, i) => Math.round(mix(v, CIVIDIS[low + 1][i], place - low)));
}

function luminance([r, g, b]) {
  return (0.299 * r + 0.587 * g + 0.114 * b) / 255;
}

function rgb(hex) {
  const value = parseInt(hex.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}
