// Generations: clouds with ellipses, arrows or images that drift from step to step, and a chart of what is lost.

VIEWS.generations = {
  ms: 900,
  create(context) {
    const { trace, stage, explain } = context;
    const { panels, lines, steps, classes } = trace;
    let built = null;
    return { show };

    function show(at, from) {
      const colours = context.colours();
      const key = [stage.clientWidth, colours.join()].join("|");
      if (built?.key !== key || !stage.contains(built.grid)) built = build(key, colours);
      const moves = built.panels.map((draw) => draw(at, from));
      built.readouts.replaceChildren(readoutsAt(at));
      return (u) => {
        for (const move of moves) move?.(u);
        built.cursor(mix(from, at, u));
      };
    }

    function build(key, colours) {
      const grid = el("div", { class: "runs" });
      const made = { key, grid, panels: [], readouts: el("div"), cursor: null };
      stage.replaceChildren(grid);
      const columns = panels.map((panel) => {
        const column = el("section", { class: "run", "aria-label": panel.name }, el("h4", {}, panel.name));
        grid.append(column);
        return column;
      });
      // a single panel leaves room for the chart beside it
      const beside = panels.length === 1 && stage.clientWidth >= 640;
      const side = beside ? el("section", { class: "run" }) : stage;
      if (beside) grid.append(side);
      const width = Math.min(columns[0].clientWidth, 520);
      panels.forEach((panel, p) => {
        made.panels.push(
          panel.extent ? plane(p, columns[p], width, colours) : images(p, columns[p], width, colours),
        );
      });
      const { picture, cursor } = chart(colours, beside);
      side.append(made.readouts, picture, legend(colours));
      made.cursor = cursor;
      return made;
    }

    // --- the plane: points, ellipses at two standard deviations, arrows -------------------------------

    function plane(p, column, width, colours) {
      const [x0, x1, y0, y1] = panels[p].extent;
      const area = { left: 30, right: width - 6, top: 6, bottom: 0 };
      area.bottom = area.top + Math.min(0.9, (y1 - y0) / (x1 - x0)) * (area.right - area.left);
      const height = area.bottom + 20;
      const x = linear([x0, x1], [area.left, area.right]),
        y = linear([y0, y1], [area.bottom, area.top]);
      const picture = drawing(width, height, `${panels[p].name}: ${trace.alt}`);
      for (const v of ticks([x0, x1], 4))
        picture.append(
          svg("line", { class: "grid", x1: x(v), x2: x(v), y1: area.top, y2: area.bottom }),
          svg("text", { x: x(v), y: height - 4, "text-anchor": "middle" }, number(v)),
        );
      for (const v of ticks([y0, y1], 4))
        picture.append(
          svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(v), y2: y(v) }),
          svg("text", { x: area.left - 4, y: y(v) + 4, "text-anchor": "end" }, number(v)),
        );
      const clip = svg("svg", { x: 0, y: 0, width, height: area.bottom + 6, overflow: "hidden" });
      for (const ellipse of steps[0].panels[p].ellipses)
        clip.append(
          svg("path", {
            d: ellipsePath(ellipse, x, y),
            fill: "none",
            stroke: colourOf(colours, ellipse[5]),
            "stroke-width": 1.5,
            "stroke-dasharray": "5 4",
          }),
        );
      const layer = svg("g");
      clip.append(layer);
      picture.append(clip);
      const names = el("div", { class: "legend" });
      classes.forEach((name, c) => names.append(el("span", {}, swatch(c, colourOf(colours, c)), name)));
      column.append(picture, names);

      return (at, from) => {
        const now = steps[at].panels[p],
          then = steps[from].panels[p];
        const moves = [];
        layer.replaceChildren();
        const sameArrows = then.arrows.length === now.arrows.length;
        now.arrows.forEach((arrow, i) => {
          const c = arrow[4],
            start = sameArrows ? then.arrows[i] : arrow;
          const stroke = colourOf(colours, c);
          const line = svg("line", { stroke, "stroke-width": 1.4, opacity: 0.75 });
          const old = marker(c, 3.5, { fill: "none", stroke, "stroke-width": 1.4 });
          const fresh = marker(c, 3.5, { fill: stroke, stroke: "currentColor", "stroke-width": 0.6 });
          layer.append(explain(svg("g", {}, line, old, fresh), () => tellArrow(arrow)));
          moves.push((u) => {
            const [ax, ay, bx, by] = arrow.slice(0, 4).map((v, k) => mix(start[k], v, u));
            fill(line, { x1: x(ax), y1: y(ay), x2: x(bx), y2: y(by) }, []);
            old.setAttribute("transform", `translate(${x(ax).toFixed(1)} ${y(ay).toFixed(1)})`);
            fresh.setAttribute("transform", `translate(${x(bx).toFixed(1)} ${y(by).toFixed(1)})`);
          });
        });
        const samePoints = then.points.length === now.points.length;
        now.points.forEach((point, i) => {
          const [px, py, c] = point,
            start = samePoints ? then.points[i] : point;
          const dot = marker(c, 3, { fill: colourOf(colours, c), "fill-opacity": 0.75 });
          layer.append(dot);
          moves.push((u) => {
            const place = [x(mix(start[0], px, u)), y(mix(start[1], py, u))].map((v) => v.toFixed(1));
            dot.setAttribute("transform", `translate(${place.join(" ")})`);
          });
        });
        now.ellipses.forEach((ellipse, i) => {
          const start = then.ellipses[i] ?? ellipse;
          const path = svg("path", {
            fill: colourOf(colours, ellipse[5]),
            "fill-opacity": 0.12,
            stroke: colourOf(colours, ellipse[5]),
            "stroke-width": 2.5,
          });
          layer.append(explain(path, () => tellEllipse(p, at, i)));
          moves.push((u) => {
            const between = ellipse.map((v, k) => mix(start[k], v, u));
            path.setAttribute("d", ellipsePath(between, x, y));
          });
        });
        return (u) => {
          for (const move of moves) move(u);
        };
      };
    }

    // --- images: a row per class --------------------------------------------------------------------

    function images(p, column, width, colours) {
      const found = steps[0].panels[p].images;
      const perClass = Math.max(...classes.map((_, c) => found.filter((image) => image[1] === c).length));
      const name = 18,
        gap = 3;
      // classes run down in two blocks, so that ten of them fit a panel
      const blocks = classes.length > 5 ? 2 : 1,
        rows = Math.ceil(classes.length / blocks);
      const size = Math.min(48, Math.floor((width - blocks * (name + 8)) / (blocks * perClass)) - gap);
      const block = name + perClass * (size + gap) + 10;
      const height = rows * (size + gap);
      const picture = drawing(width, height, `${panels[p].name}: ${trace.alt}`);
      const canvas = el("canvas", {
        width: width * 2,
        height: height * 2,
        style: `left:0;top:0;width:${width}px;height:${height}px`,
      });
      column.append(el("div", { class: "raster", style: `height:${height}px` }, canvas, picture));
      const place = (c, k) => [
        Math.floor(c / rows) * block + name + k * (size + gap),
        (c % rows) * (size + gap),
      ];
      classes.forEach((label, c) => {
        const [left, top] = place(c, 0);
        picture.append(
          svg(
            "text",
            { x: left - 6, y: top + size / 2 + 4, "text-anchor": "end", "font-weight": 600 },
            label,
          ),
        );
      });
      const marks = svg("g");
      picture.append(marks);
      const brush = canvas.getContext("2d");
      brush.scale(2, 2);

      return (at) => {
        brush.clearRect(0, 0, width, height);
        marks.replaceChildren();
        const next = classes.map(() => 0);
        for (const [digits, asked, answered] of steps[at].panels[p].images) {
          const [left, top] = place(asked, next[asked]++);
          drawImage(brush, digits, left, top, size);
          const wrong = answered !== asked;
          const frame = svg("rect", {
            x: left + 1,
            y: top + 1,
            width: size - 2,
            height: size - 2,
            fill: "transparent",
            stroke: wrong ? colourOf(colours, 4) : "none",
            "stroke-width": 2.5,
          });
          const note = svg("g", {}, frame);
          if (wrong)
            note.append(
              svg("path", {
                d: `M${left + size - 12} ${top + 3}l9 9m0 -9l-9 9`,
                stroke: colourOf(colours, 4),
                "stroke-width": 2.5,
              }),
            );
          marks.append(
            explain(note, `asked for ${classes[asked]}, the fixed classifier sees ${classes[answered]}`),
          );
        }
        return undefined;
      };
    }

    // --- the chart ------------------------------------------------------------------------------------

    function chart(colours, beside) {
      const width = Math.max(280, Math.min(stage.clientWidth / (beside ? 2 : 1) - (beside ? 12 : 0), 1060)),
        height = beside ? 330 : 190;
      const area = { left: 44, right: width - 14, top: 20, bottom: height - 44 };
      const picture = drawing(width, height, `${trace.y_label} over ${trace.x_label}`);
      const values = lines.flatMap((line) => line.values).filter((v) => typeof v === "number");
      const x = linear([steps[0].x, Math.max(steps.at(-1).x, steps[0].x + 1)], [area.left, area.right]);
      const y = linear([0, Math.max(0.01, ...values) * 1.05], [area.bottom, area.top]);
      for (const v of ticks([0, y.invert(area.top)], 4)) {
        picture.append(
          svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(v), y2: y(v) }),
          svg("text", { x: area.left - 6, y: y(v) + 4, "text-anchor": "end" }, number(v)),
        );
      }
      for (const v of ticks([steps[0].x, steps.at(-1).x], width < 420 ? 4 : 8))
        picture.append(svg("text", { x: x(v), y: area.bottom + 16, "text-anchor": "middle" }, number(v)));
      picture.append(
        svg("text", { x: 2, y: 12 }, trace.y_label),
        svg(
          "text",
          { x: (area.left + area.right) / 2, y: height - 8, "text-anchor": "middle" },
          trace.x_label,
        ),
      );
      lines.forEach((line, i) => {
        picture.append(svg("path", { ...strokeOf(colours, i), d: linePath(line.values, x, y) }));
      });
      const cursor = svg("line", {
        y1: area.top,
        y2: area.bottom,
        stroke: "currentColor",
        "stroke-width": 1.5,
      });
      const touch = svg("rect", {
        x: area.left,
        y: area.top,
        width: area.right - area.left,
        height: area.bottom - area.top,
        fill: "transparent",
      });
      picture.append(
        cursor,
        explain(touch, (event) => {
          const rect = picture.getBoundingClientRect();
          const where = x.invert((event.clientX ?? rect.left) - rect.left);
          const near = steps.reduce(
            (best, step, i) => (Math.abs(step.x - where) < Math.abs(steps[best].x - where) ? i : best),
            0,
          );
          return [
            `${trace.x_label} ${number(steps[near].x)}`,
            ...lines.map((line) => `${line.name} = ${fixed(line.values[near], 3)}`),
          ].join("\n");
        }),
      );
      return {
        picture,
        cursor(position) {
          const low = Math.min(steps.length - 1, Math.floor(position)),
            high = Math.min(steps.length - 1, low + 1);
          const px = x(mix(steps[low].x, steps[high].x, position - low)).toFixed(1);
          fill(cursor, { x1: px, x2: px }, []);
        },
      };
    }

    function linePath(values, x, y) {
      let pen = "M",
        path = "";
      values.forEach((value, i) => {
        if (typeof value !== "number") {
          pen = "M";
          return;
        }
        path += `${pen}${x(steps[i].x).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = "L";
      });
      return path;
    }

    function strokeOf(colours, i) {
      return {
        fill: "none",
        stroke: colourOf(colours, (lines[i].colour ?? i) + 2),
        "stroke-width": 2.2,
        "stroke-dasharray": DASHES[(lines[i].dash ?? i) % DASHES.length],
      };
    }

    function legend(colours) {
      const row = el("div", { class: "legend" });
      lines.forEach((line, i) => {
        const sample = svg(
          "svg",
          { class: "swatch", viewBox: "0 0 30 12", width: 30, height: 12, "aria-hidden": "true" },
          svg("path", { d: "M1 6H29", ...strokeOf(colours, i) }),
        );
        row.append(el("span", {}, sample, line.name));
      });
      return row;
    }

    // --- what the numbers mean --------------------------------------------------------------------

    function readoutsAt(at) {
      const facts = lines.map((line) => [line.name, fixed(line.values[at], 3), line.about || line.name]);
      return readouts(facts, explain);
    }

    function tellEllipse(p, at, i) {
      const [mx, my, xx, xy, yy, c] = steps[at].panels[p].ellipses[i];
      const first = steps[0].panels[p].ellipses[i];
      const total = xx + yy,
        start = first[2] + first[4];
      return `${classes[c]}: mean ${point([mx, my])}\ncovariance (${fixed(xx)}, ${fixed(xy)}; ${fixed(xy)}, ${fixed(yy)})\nvariance left (${fixed(xx, 3)} + ${fixed(yy, 3)}) / ${fixed(start, 3)} = ${fixed(total / start, 3)}`;
    }

    function tellArrow([ax, ay, bx, by, c]) {
      const way = Math.hypot(bx - ax, by - ay);
      return `${classes[c]}: stored at ${point([ax, ay])}, now at ${point([bx, by])}\nmoved by √(${fixed(bx - ax)}² + ${fixed(by - ay)}²) = ${fixed(way, 3)} in this plane`;
    }
  },
};

function drawing(width, height, label) {
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
}

/** All points two standard deviations from the mean: m + 2 L (cos, sin) with L L' the covariance. */
function ellipsePath([mx, my, xx, xy, yy], x, y) {
  const a = Math.sqrt(Math.max(xx, 1e-12)),
    b = xy / a,
    c = Math.sqrt(Math.max(yy - b * b, 0));
  const corners = [];
  for (let i = 0; i < 60; i++) {
    const cos = Math.cos((2 * Math.PI * i) / 60),
      sin = Math.sin((2 * Math.PI * i) / 60);
    corners.push(`${x(mx + 2 * a * cos).toFixed(1)} ${y(my + 2 * (b * cos + c * sin)).toFixed(1)}`);
  }
  return `M${corners.join("L")}Z`;
}

function drawImage(brush, digits, left, top, size) {
  const side = size / 8;
  for (let i = 0; i < 64; i++) {
    const level = 17 * parseInt(digits[i], 16);
    brush.fillStyle = `rgb(${level},${level},${level})`;
    brush.fillRect(left + (i % 8) * side, top + Math.floor(i / 8) * side, side + 0.3, side + 0.3);
  }
}
