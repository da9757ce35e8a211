// Memory: a stream of rows flows past one or two memories; slots fill and are overwritten.

VIEWS.memory = {
  ms: 250,
  create(context) {
    const { trace, stage, explain } = context;
    const { labels, classes, memories, steps } = trace;
    const rows = labels.length;
    const bins = Math.min(10, rows);
    const binOf = (row) => Math.floor((row * bins) / rows);
    const offeredBy = countsOf(labels, classes.length);
    let step = null,
      before = null,
      built = null;
    return { show };

    /** The drawing is built once per width and palette; a step sets its parts, a frame moves them. */
    function show(at, from) {
      [step, before] = [steps[at], steps[from]];
      const colours = context.colours();
      const key = `${stage.clientWidth}|${colours.join()}`;
      if (built?.key !== key || !stage.contains(built.grid)) built = build(key, colours);
      const forward = at === from + 1;
      for (const set of built.sets) set(forward);
      return (u) => {
        for (const move of built.moves) move(u, forward);
      };
    }

    function build(key, colours) {
      const wide = stage.clientWidth >= 640 && memories.length > 1;
      const width = wide ? Math.floor((stage.clientWidth - 28) / 2) : stage.clientWidth;
      const grid = el("div", { class: wide ? "memories beside" : "memories" });
      const made = { key, grid, sets: [], moves: [] };
      const top = el("div");
      made.sets.push(() => top.replaceChildren(readouts(facts(), explain)));
      memories.forEach((memory, m) => grid.append(panel(memory, m, Math.max(260, width), colours, made)));
      stage.replaceChildren(top, grid, legend(colours));
      return made;
    }

    function panel(memory, m, width, colours, made) {
      const place = memoryPlaces(memory.slots, width, classes.length);
      const picture = svg("svg", {
        width,
        height: place.height,
        viewBox: `0 0 ${width} ${place.height}`,
        role: "img",
      });
      const flyers = svg("g");
      made.sets.push(() => picture.setAttribute("aria-label", describe(m)));
      addStream(picture, m, width, colours, made);
      for (let slot = 0; slot < memory.slots; slot++) addSlot(picture, m, slot, place, colours, made);
      addClasses(picture, m, place, colours, made);
      addAges(picture, m, place, colours, made);
      addFlight(flyers, m, width, place, colours, made);
      picture.append(flyers);
      return el("div", { class: "memory-panel" }, el("h4", {}, memory.name), picture);
    }

    // --- the stream: one bar per row, tall while the row is in memory ---------------------------------

    function addStream(picture, m, width, colours, made) {
      const x = (row) => (row * width) / rows;
      const w = Math.max(1, width / rows - (width / rows > 4 ? 1 : 0));
      for (const [first, last] of blocks(labels)) {
        if (x(last + 1) - x(first) > 10)
          picture.append(
            svg(
              "text",
              { x: (x(first) + x(last + 1)) / 2, y: 12, "text-anchor": "middle" },
              classes[labels[first]],
            ),
          );
      }
      labels.forEach((label, row) => {
        const bar = svg("rect", { x: x(row).toFixed(2), width: w.toFixed(2), fill: colourOf(colours, label) });
        picture.append(explain(bar, () => tellRow(m, row)));
        made.sets.push(() => {
          const stored = inMemory(step, m).has(row);
          fill(
            bar,
            {
              y: stored ? STREAM.top : STREAM.bottom - 8,
              height: stored ? STREAM.bottom - STREAM.top : 8,
              opacity: stored ? 1 : row < step.n ? 0.4 : 0.15,
            },
            [],
          );
        });
      });
      picture.append(
        svg("line", { class: "grid", x1: 0, x2: width, y1: STREAM.bottom + 0.5, y2: STREAM.bottom + 0.5 }),
      );
      const head = svg("path", { d: "M0 0L5 8L-5 8Z", fill: "currentColor" });
      picture.append(head);
      made.moves.push((u, forward) => {
        const at = forward ? mix(before.n, step.n, u) : step.n;
        const place = Math.min(width - 5, Math.max(5, x(at)));
        head.setAttribute("transform", `translate(${place.toFixed(1)} ${STREAM.bottom + 3})`);
      });
    }

    // --- the slots ------------------------------------------------------------------------------------

    function addSlot(picture, m, slot, place, colours, made) {
      const [x, y] = place.slot(slot),
        s = place.size;
      const box = svg("rect", { x, y, width: s, height: s, rx: 5 });
      const inside = svg("g", { transform: `translate(${x + s / 2} ${y + (place.numbered ? 0.32 * s : s / 2)})` });
      const name = svg("text", { class: "row", x: x + s / 2, y: y + s - 4, "text-anchor": "middle" });
      picture.append(explain(svg("g", {}, box, inside, name), () => tellSlot(m, slot)));
      let fresh = false;
      made.sets.push((forward) => {
        const row = step.slots[m][slot];
        fresh = forward && row !== null && row >= before.n;
        const colour = row === null ? "none" : colourOf(colours, labels[row]);
        fill(
          box,
          {
            fill: row === null ? "transparent" : colour,
            "fill-opacity": 0.22,
            stroke: row === null ? "var(--line)" : colour,
            "stroke-width": fresh ? 3 : 1.5,
            "stroke-dasharray": row === null ? "4 3" : "none",
          },
          [],
        );
        inside.replaceChildren();
        if (row !== null)
          inside.append(
            marker(labels[row], place.numbered ? 4.5 : s / 4, {
              fill: colour,
              stroke: "currentColor",
              "stroke-width": 0.8,
            }),
          );
        name.textContent = row !== null && place.numbered ? row + 1 : "";
      });
      made.moves.push((u) => {
        const shown = fresh && u < 1 ? u ** 3 : 1;
        inside.setAttribute("opacity", shown);
        name.setAttribute("opacity", shown);
      });
    }

    /** The row on its way: from the stream into its slot, or down and away when it is not stored. */
    function addFlight(flyers, m, width, place, colours, made) {
      made.sets.push((forward) => {
        flyers.replaceChildren();
        if (!forward) return;
        step.went[m].slice(-12).forEach((slot, i, shown) => {
          const row = step.n - shown.length + i;
          const dot = marker(labels[row], 6, {
            fill: colourOf(colours, labels[row]),
            stroke: "currentColor",
            "stroke-width": 1,
          });
          dot.dataset.row = row;
          dot.dataset.slot = slot;
          flyers.append(dot);
        });
      });
      made.moves.push((u, forward) => {
        flyers.style.display = forward && u < 1 ? "" : "none";
        for (const dot of flyers.children) {
          const slot = Number(dot.dataset.slot),
            start = [((Number(dot.dataset.row) + 0.5) * width) / rows, STREAM.bottom];
          const [x, y] = slot >= 0 ? place.slot(slot) : [start[0] - place.size / 2, STREAM.bottom + 8];
          const [px, py] = mixPoint(start, [x + place.size / 2, y + place.size / 2], u);
          dot.setAttribute("transform", `translate(${px.toFixed(1)} ${py.toFixed(1)})`);
          dot.setAttribute("opacity", slot >= 0 ? 1 : (1 - u).toFixed(2));
        }
      });
    }

    // --- who survives ---------------------------------------------------------------------------------

    function addClasses(picture, m, place, colours, made) {
      const { left, right, top } = place.classes;
      const most = Math.max(...steps.flatMap((s) => [...storedBy(s, m), ...classes.map((_, c) => share(s, m, c))]));
      const nameWidth = 8 + 7 * Math.min(9, Math.max(...classes.map((name) => name.length)));
      const x = linear([0, most || 1], [left + nameWidth, right - 26]);
      picture.append(svg("text", { x: left, y: top }, "rows in memory, by class"));
      classes.forEach((name, c) => {
        const y = top + 8 + c * 20;
        const bar = svg("rect", {
          x: x(0),
          y,
          height: 14,
          fill: colourOf(colours, c),
          stroke: "currentColor",
          "stroke-width": 0.7,
        });
        const fair = svg("line", { y1: y - 3, y2: y + 17, stroke: "currentColor", "stroke-width": 2 });
        const count = svg("text", { y: y + 12 });
        const label = svg("text", { x: left, y: y + 12 }, name.length > 9 ? `${name.slice(0, 8)}…` : name);
        picture.append(explain(svg("g", {}, label, bar, fair, count), () => tellClass(m, c)));
        made.sets.push(() => {
          count.textContent = storedBy(step, m)[c];
        });
        made.moves.push((u) => {
          const value = mix(storedBy(before, m)[c], storedBy(step, m)[c], u);
          const line = mix(share(before, m, c), share(step, m, c), u);
          bar.setAttribute("width", Math.max(0.5, x(value) - x(0)).toFixed(1));
          fair.setAttribute("transform", `translate(${x(line).toFixed(1)} 0)`);
          count.setAttribute("x", (Math.max(x(value), x(line)) + 6).toFixed(1));
        });
      });
    }

    function addAges(picture, m, place, colours, made) {
      const { left, right, top, bottom } = place.ages;
      const most = Math.max(1, ...steps.flatMap((s) => storedByAge(s, m)));
      const x = linear([0, bins], [left, right]);
      const y = linear([0, most], [bottom, top + 8]);
      picture.append(
        svg("text", { x: left, y: top }, "rows in memory, by arrival"),
        svg("line", { class: "grid", x1: left, x2: right, y1: bottom + 0.5, y2: bottom + 0.5 }),
        svg("text", { x: left, y: bottom + 14 }, "row 1"),
        svg("text", { x: right, y: bottom + 14, "text-anchor": "end" }, `row ${rows}`),
      );
      for (let bin = 0; bin < bins; bin++) {
        const bar = svg("rect", {
          x: x(bin) + 1,
          width: x(1) - x(0) - 2,
          fill: "currentColor",
          "fill-opacity": 0.5,
        });
        const fair = svg("line", {
          x1: x(bin),
          x2: x(bin + 1),
          stroke: "currentColor",
          "stroke-width": 2,
        });
        const whole = svg("rect", {
          x: x(bin),
          width: x(1) - x(0),
          y: top + 8,
          height: bottom - top - 8,
          fill: "transparent",
        });
        picture.append(explain(svg("g", {}, whole, bar, fair), () => tellAge(m, bin)));
        made.moves.push((u) => {
          const value = mix(storedByAge(before, m)[bin], storedByAge(step, m)[bin], u);
          const line = mix(shareByAge(before, m, bin), shareByAge(step, m, bin), u);
          bar.setAttribute("y", y(value).toFixed(1));
          bar.setAttribute("height", Math.max(0, y(0) - y(value)).toFixed(1));
          const level = Math.max(top + 8, y(line)).toFixed(1);
          fill(fair, { y1: level, y2: level, opacity: line > 0 ? 1 : 0 }, []);
        });
      }
    }

    // --- counting -------------------------------------------------------------------------------------

    function inMemory(s, m) {
      return kept(s, "rows", m, () => new Set(s.slots[m].filter((row) => row !== null)));
    }

    function storedBy(s, m) {
      return kept(s, "class", m, () => countsOf([...inMemory(s, m)].map((row) => labels[row]), classes.length));
    }

    function storedByAge(s, m) {
      return kept(s, "age", m, () => countsOf([...inMemory(s, m)].map(binOf), bins));
    }

    function offered(s) {
      return kept(s, "offered", 0, () => countsOf(labels.slice(0, s.n), classes.length));
    }

    /** What class `c` would have of the rows in memory, in proportion to the rows offered. */
    function share(s, m, c) {
      return s.n ? (inMemory(s, m).size * offered(s)[c]) / s.n : 0;
    }

    function shareByAge(s, m, bin) {
      const seen = kept(s, "bins", 0, () =>
        countsOf(Array.from({ length: s.n }, (_, row) => binOf(row)), bins),
      );
      return s.n ? (inMemory(s, m).size * seen[bin]) / s.n : 0;
    }

    // --- what the numbers mean ------------------------------------------------------------------------

    function facts() {
      const list = [["rows offered n", `${step.n} of ${rows}`, "n = rows that have passed, stored or not"]];
      memories.forEach((memory, m) => {
        const stored = inMemory(step, m).size;
        const letter = memories.length > 1 ? `${memory.name}: ` : "";
        list.push([
          `${letter}stored / n`,
          step.n ? `${stored} / ${step.n} = ${fixed(stored / step.n, 3)}` : "–",
          `the chance that a row is in memory if every row has the same one: stored / n${step.n ? ` = ${stored} / ${step.n}` : ""}`,
        ]);
      });
      return list;
    }

    function describe(m) {
      const counts = storedBy(step, m).map((count, c) => `${count} ${classes[c]}`);
      return `${trace.alt ?? ""} ${memories[m].name} after ${step.n} rows: ${inMemory(step, m).size} of ${memories[m].slots} slots hold rows, ${counts.join(", ")}.`;
    }

    function tellRow(m, row) {
      const slot = step.slots[m].indexOf(row);
      const what = `row ${row + 1}, class ${classes[labels[row]]}`;
      if (row >= step.n) return `${what}: still to come`;
      return slot >= 0 ? `${what}: in slot ${slot + 1}` : `${what}: no longer in memory, or never stored`;
    }

    function tellSlot(m, slot) {
      const row = step.slots[m][slot];
      if (row === null) return `slot ${slot + 1} is empty`;
      return `slot ${slot + 1}: row ${row + 1}, class ${classes[labels[row]]}\nage n − row = ${step.n} − ${row + 1} = ${step.n - row - 1} rows`;
    }

    function tellClass(m, c) {
      const stored = storedBy(step, m)[c],
        all = inMemory(step, m).size,
        n_c = offered(step)[c];
      const sum = step.n
        ? `\nin proportion to the stream (line) = stored · n_c / n = ${all} · ${n_c} / ${step.n} = ${fixed(share(step, m, c), 2)}`
        : "";
      return `class ${classes[c]}: ${stored} of ${n_c} rows offered so far are in memory (${offeredBy[c]} in the whole stream)${sum}`;
    }

    function tellAge(m, bin) {
      const first = Math.ceil((bin * rows) / bins),
        last = Math.ceil(((bin + 1) * rows) / bins) - 1;
      return `rows ${first + 1} to ${last + 1}: ${storedByAge(step, m)[bin]} in memory\nin proportion to the stream (line) = stored · rows / n = ${fixed(shareByAge(step, m, bin), 2)}`;
    }

    function legend(colours) {
      const row = el("div", { class: "legend" });
      classes.forEach((name, c) => row.append(el("span", {}, swatch(c, colourOf(colours, c)), name)));
      row.append(
        el("span", {}, "▮ tall bar: in memory"),
        el("span", {}, "▂ short: gone or still to come"),
        el("span", {}, "│ line: in proportion to the stream"),
      );
      return row;
    }
  },
};

const STREAM = { top: 18, bottom: 44 };
const counted = new WeakMap(); // step -> what was counted of it

function kept(step, what, m, make) {
  if (!counted.has(step)) counted.set(step, new Map());
  const found = counted.get(step),
    key = `${what} ${m}`;
  if (!found.has(key)) found.set(key, make());
  return found.get(key);
}

function countsOf(values, length) {
  const counts = Array(length).fill(0);
  for (const value of values) counts[value] += 1;
  return counts;
}

/** [first, last] of every run of equal labels. */
function blocks(labels) {
  const found = [];
  labels.forEach((label, i) => {
    if (i && labels[i - 1] === label) found.at(-1)[1] = i;
    else found.push([i, i]);
  });
  return found;
}

function memoryPlaces(slots, width, n_classes) {
  const numbered = slots <= 60;
  const size = numbered ? (width < 420 ? 30 : 34) : 17,
    gap = numbered ? 5 : 3;
  const columns = Math.max(1, Math.floor((width + gap) / (size + gap)));
  const first = STREAM.bottom + 20;
  const lower = first + Math.ceil(slots / columns) * (size + gap) + 18;
  const half = width * 0.46;
  const body = Math.max(78, 8 + n_classes * 20);
  return {
    size,
    numbered,
    slot: (i) => [1 + (i % columns) * (size + gap), first + Math.floor(i / columns) * (size + gap)],
    classes: { left: 0, right: half, top: lower },
    ages: { left: half + 0.06 * width, right: width - 2, top: lower, bottom: lower + body - 4 },
    height: lower + body + 16,
  };
}
