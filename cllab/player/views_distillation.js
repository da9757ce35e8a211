// Distillation: bars of what teacher and student answer, the gradient below them, and charts of the whole path.

VIEWS.distillation = {
  ms: 350,
  create(context) {
    const { trace, stage, explain } = context;
    const { panels, charts, steps, classes, series } = trace;
    const scale = (v) => (trace.log ? Math.log(v) : v);
    let built = null;
    return { show };

    function show(at, from) {
      const colours = context.colours();
      const key = [stage.clientWidth, colours.join()].join("|");
      if (built?.key !== key || !stage.contains(built.grid)) built = build(key, colours);
      const moves = built.drawn.map((draw) => draw(at, from));
      const facts = steps[at].facts.map(([name, value, about]) => [
        name,
        typeof value === "string" ? value : fixed(value, 6),
        about,
      ]);
      built.readouts.replaceChildren(...(facts.length ? [readouts(facts, explain)] : []));
      return (u) => {
        for (const move of moves) move(u);
      };
    }

    function build(key, colours) {
      const grid = el("div", { class: "runs" });
      const made = { key, grid, drawn: [], readouts: el("div") };
      stage.replaceChildren(made.readouts, grid);
      const sections = panels.map((panel) => {
        const section = el("section", { class: "run", "aria-label": panel.name }, el("h4", {}, panel.name));
        grid.append(section);
        return section;
      });
      // a single panel leaves room for the charts beside it
      const beside = panels.length === 1 && stage.clientWidth >= 640;
      const side = beside ? el("section", { class: "run" }) : el("div", { class: "runs" });
      (beside ? grid : stage).append(side);
      const width = Math.min(sections[0].clientWidth, 560);
      panels.forEach((panel, p) => {
        const { picture, draw } = answers(p, width, colours);
        if (panel.image) sections[p].append(digit(panel.image));
        const names = series.map((name, s) => [name, barStyle(colours, s)]);
        sections[p].append(part(picture, legend(names)));
        made.drawn.push(draw);
        if (!steps[0].panels[p].gradient) return;
        const below = gradients(p, width, colours);
        const kinds = ["with T²: T (p − q)", "without: (p − q) / T"];
        const looks = kinds.map((name, s) => [name, gradientStyle(colours, s)]);
        sections[p].append(part(below.picture, legend(looks)));
        made.drawn.push(below.draw);
      });
      const room = beside || charts.length === 1 || stage.clientWidth < 560;
      const wide = beside ? (stage.clientWidth - 16) / 2 : room ? stage.clientWidth : (stage.clientWidth - 16) / 2;
      for (const chart of charts) {
        const { picture, draw } = distillationChart(chart, Math.min(wide, 760), colours);
        const styles = chart.lines.map((line) => [line.name, lineStyle(colours, line)]);
        side.append(el("section", { class: "run" }, part(picture, legend(styles, true))));
        made.drawn.push(draw);
      }
      return made;
    }

    // --- one panel: a group of bars per class, one bar per series --------------------------------------

    function answers(p, width, colours) {
      const height = panels.length === 1 ? 230 : 170;
      const area = { left: 42, right: width - 4, top: 18, bottom: height - 20 };
      const picture = drawing(width, height, `${panels[p].name}: ${trace.alt}`);
      const y = linear([0, 1], [area.bottom, area.top]);
      axis(picture, [0, 0.25, 0.5, 0.75, 1], y, area, (v) => `${100 * v} %`);
      const { place, size } = groups(picture, area, series.length, height);
      const bars = series.map((_, s) => classes.map((_, c) => {
        const bar = svg("rect", { x: place(c, s), width: size, ...barStyle(colours, s) });
        const label = svg("text", { x: place(c, s) + size / 2, "text-anchor": "middle", class: "halo" });
        picture.append(explain(bar, () => tellAnswer(p, s, c)));
        if (size >= 38) picture.append(label);
        return [bar, label];
      }));
      (panels[p].target ?? []).forEach((value, c) => {
        const x1 = place(c, 0) - 5, x2 = place(c, 0) + size + 5;
        const mark = { x1, x2, y1: y(value), y2: y(value), stroke: "currentColor", "stroke-width": 2.5 };
        const line = svg("line", { ...mark, "stroke-dasharray": "4 3" });
        picture.append(explain(line, `${classes[c]}: ${number(100 * value, 2)} % are to be reached`));
      });
      const draw = (at, from) => (u) =>
        bars.forEach((row, s) => row.forEach(([bar, label], c) => {
          const value = mix(steps[from].panels[p].values[s][c], steps[at].panels[p].values[s][c], u);
          fill(bar, { y: y(value).toFixed(2), height: (area.bottom - y(value)).toFixed(2) }, []);
          label.setAttribute("y", (y(value) - 4).toFixed(1));
          label.textContent = fixed(100 * value, 2);
        }));
      return { picture, draw };
    }

    function tellAnswer(p, s, c) {
      const { T, logits, values } = steps[now()].panels[p];
      const z = logits[s], top = Math.max(...z), letter = series[s];
      const power = z.map((v) => Math.exp((v - top) / T));
      const sum = power.reduce((a, b) => a + b, 0);
      const shift = top === 0 ? "" : ` (largest logit ${number(top)} taken off first)`;
      return (
        `${letter}, ${classes[c]} = ${number(values[s][c], 6)}\n` +
        `softmax at T = ${number(T)}: exp(${number(z[c] - top)} / ${number(T)}) / Σ${shift}\n` +
        `= ${number(power[c], 6)} / (${power.map((v) => number(v, 4)).join(" + ")}) = ${number(power[c] / sum, 6)}`
      );
    }

    // --- the gradient of the student's logits, with T squared and without ------------------------------

    function gradients(p, width, colours) {
      const height = 200, limit = panels[p].limit ?? [];
      const all = steps.flatMap(({ panels: each }) => [...each[p].gradient, ...each[p].plain]);
      const most = Math.max(0.01, ...[...all, ...limit].map(Math.abs)) * 1.05;
      const area = { left: 42, right: width - 4, top: 24, bottom: height - 20 };
      const picture = drawing(width, height, "gradient of the loss for each of the student's logits");
      const y = linear([-most, most], [area.bottom, area.top]);
      picture.append(svg("text", { x: 0, y: 12 }, "gradient of each student logit; dotted: limit with T²"));
      axis(picture, ticks([-most, most], 6), y, area, (v) => number(v));
      const { place, size } = groups(picture, area, 2, height);
      const parts = ["gradient", "plain"];
      const bars = parts.map((part, s) => classes.map((_, c) => {
        const bar = svg("rect", { x: place(c, s), width: size, ...gradientStyle(colours, s) });
        picture.append(explain(bar, () => tellGradient(p, part, c)));
        return bar;
      }));
      limit.forEach((value, c) => {
        const span = { x1: place(c, 0) - 5, x2: place(c, 0) + size + 5, y1: y(value), y2: y(value) };
        const line = svg("line", { ...span, stroke: "currentColor", "stroke-width": 2.5, "stroke-dasharray": "2 3" });
        const about = `${classes[c]}, T → ∞: (z_stu − z_tea) / C, both centred = ${number(value, 6)}`;
        picture.append(explain(line, about));
      });
      const draw = (at, from) => (u) =>
        bars.forEach((row, s) => row.forEach((bar, c) => {
          const value = mix(steps[from].panels[p][parts[s]][c], steps[at].panels[p][parts[s]][c], u);
          const [top, bottom] = value > 0 ? [y(value), y(0)] : [y(0), y(value)];
          fill(bar, { y: top.toFixed(2), height: Math.max(bottom - top, 0.5).toFixed(2) }, []);
        }));
      return { picture, draw };
    }

    function tellGradient(p, part, c) {
      const { T, values, [part]: gradient } = steps[now()].panels[p];
      const [q, p_] = [number(values[0][c], 6), number(values[1][c], 6)];
      const [t, result] = [number(T), number(gradient[c], 6)];
      return part === "gradient"
        ? `${classes[c]}: T² · (p − q) / T = T (p − q) = ${t} × (${p_} − ${q}) = ${result}`
        : `${classes[c]}: (p − q) / T = (${p_} − ${q}) / ${t} = ${result}`;
    }

    // --- a chart over the whole path, with a line where the player stands -------------------------------

    function distillationChart(chart, width, colours) {
      const height = 200, area = { left: 44, right: width - 12, top: 24, bottom: height - 40 };
      const picture = drawing(width, height, `${chart.y_label} over ${trace.x_label}`);
      const values = chart.lines.flatMap((line) => line.values);
      const most = Math.max(1e-6, ...values, chart.limit?.[1] ?? 0) * 1.08;
      const [first, last] = [steps[0].x, steps.at(-1).x];
      const x = linear([scale(first), steps.length > 1 ? scale(last) : scale(first) + 1], [area.left, area.right]);
      const y = linear([0, most], [area.bottom, area.top]);
      axis(picture, ticks([0, most], 4), y, area, (v) => number(v));
      const marks = trace.log ? [0.25, 1, 4, 16, 64].filter((v) => v >= first && v <= last) : ticks([first, last], 5);
      for (const v of marks)
        picture.append(svg("text", { x: x(scale(v)), y: area.bottom + 16, "text-anchor": "middle" }, number(v)));
      const below = { x: (area.left + area.right) / 2, y: height - 6, "text-anchor": "middle" };
      picture.append(svg("text", { x: 0, y: 12 }, chart.y_label), svg("text", below, trace.x_label));
      if (chart.limit) {
        const level = { y1: y(chart.limit[1]), y2: y(chart.limit[1]), stroke: "currentColor" };
        const name = { x: area.right, y: y(chart.limit[1]) - 4, "text-anchor": "end", class: "halo" };
        picture.append(
          svg("line", { x1: area.left, x2: area.right, ...level, "stroke-dasharray": "2 3" }),
          svg("text", name, `${chart.limit[0]} = ${number(chart.limit[1])}`),
        );
      }
      for (const line of chart.lines) {
        const path = line.values.map((v, i) => `${x(scale(steps[i].x)).toFixed(1)} ${y(v).toFixed(1)}`);
        picture.append(svg("path", { d: `M${path.join("L")}`, ...lineStyle(colours, line) }));
      }
      const cursor = svg("line", { y1: area.top, y2: area.bottom, stroke: "currentColor", "stroke-width": 1.5 });
      const [wide, high] = [area.right - area.left, area.bottom - area.top];
      const touch = svg("rect", { x: area.left, y: area.top, width: wide, height: high, fill: "transparent" });
      const tell = (event) => {
        const rect = picture.getBoundingClientRect();
        const where = x.invert((event.clientX ?? rect.left) - rect.left);
        const gap = (i) => Math.abs(scale(steps[i].x) - where);
        const near = steps.reduce((best, _, i) => (gap(i) < gap(best) ? i : best), 0);
        return [
          `${trace.x_label} ${number(steps[near].x, 3)}`,
          ...chart.lines.map((l) => `${l.name} = ${number(l.values[near], 6)}${l.about ? `, ${l.about}` : ""}`),
        ].join("\n");
      };
      picture.append(cursor, explain(touch, tell));
      const draw = (at, from) => (u) => {
        const px = mix(x(scale(steps[from].x)), x(scale(steps[at].x)), u).toFixed(1);
        fill(cursor, { x1: px, x2: px }, []);
      };
      return { picture, draw };
    }

    // --- what they share --------------------------------------------------------------------------------

    function now() {
      return Number(stage.closest(".cllab-player").dataset.step);
    }

    function part(...children) {
      return el("div", { class: "panel" }, ...children);
    }

    function axis(picture, values, y, area, text) {
      for (const v of values)
        picture.append(
          svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(v), y2: y(v) }),
          svg("text", { x: area.left - 4, y: y(v) + 4, "text-anchor": "end" }, text(v)),
        );
    }

    /** Where the bars of class c and series s stand, with the classes' names below. */
    function groups(picture, area, count, height) {
      const room = (area.right - area.left) / classes.length;
      const size = Math.min(64, (room * 0.84) / count);
      const place = (c, s) => area.left + room * (c + 0.5) + size * (s - count / 2);
      classes.forEach((name, c) => {
        const where = { x: area.left + room * (c + 0.5), y: height - 5, "text-anchor": "middle" };
        picture.append(svg("text", where, name));
      });
      return { place, size: size - 2 };
    }

    function barStyle(colours, s) {
      const stroke = colourOf(colours, s);
      const look = { stroke, "stroke-width": 1.5, fill: stroke, "fill-opacity": [1, 0.3, 0][s] ?? 0.6 };
      return { ...look, "stroke-dasharray": s === 2 ? "4 3" : null };
    }

    function gradientStyle(colours, s) {
      const stroke = colourOf(colours, s ? 4 : 2);
      return { stroke, "stroke-width": 1.5, fill: stroke, "fill-opacity": s ? 0.15 : 1 };
    }

    function lineStyle(colours, line) {
      const dash = DASHES[line.dash % DASHES.length];
      return { fill: "none", stroke: colourOf(colours, line.colour), "stroke-width": 2.2, "stroke-dasharray": dash };
    }

    function legend(entries, lines = false) {
      const row = el("div", { class: "legend" });
      for (const [name, look] of entries) {
        const shape = lines
          ? svg("path", { d: "M1 6H29", ...look })
          : svg("rect", { x: 1, y: 1, width: 16, height: 10, ...look });
        const size = { viewBox: `0 0 ${lines ? 30 : 18} 12`, width: lines ? 30 : 18, height: 12 };
        row.append(el("span", {}, svg("svg", { class: "swatch", ...size, "aria-hidden": "true" }, shape), name));
      }
      return row;
    }

    function digit(image) {
      const canvas = el("canvas", { width: 96, height: 96, style: "width:48px;height:48px", "aria-hidden": "true" });
      drawImage(canvas.getContext("2d"), image, 0, 0, 96);
      return canvas;
    }
  },
};
