// Gradient projection: the plane with its cone and arrows, and the handles by which arrows are moved.

const GRIP_SIZE = 22; // px around a head that can be taken hold of
const PLANE_REACHES = [3, 4, 6, 10, 16, 25, 40, 60, 100, 250, 1000, 1e4, 1e6];

/** How far the plane is drawn in each direction, so that every arrow fits. */
function planeReach(s) {
  const ends = [s.g, ...s.G, ...s.found.turn.path, ...Object.keys(CONE_ANSWERS).map((name) => s.found[name].u)];
  const most = Math.max(...ends.flat().map(Math.abs));
  return PLANE_REACHES.find((reach) => reach >= most - 0.05) ?? most;
}

/** {picture, side, reach, draw(scene, forward) -> frame(u), restoreFocus()}: its handles outlive arrows and traces. */
function projectionPlane(size, reach, live, explain) {
  const margin = 22;
  const end = reach * 1.08;
  const x = linear([-end, end], [margin, size - 4]);
  const y = linear([-end, end], [size - margin, 4]);
  const picture = svg("svg", {
    class: "plane",
    width: size,
    height: size,
    viewBox: `0 0 ${size} ${size}`,
    role: "group",
  });
  const frame = svg("svg", { x: margin, y: 4, width: size - margin - 4, height: size - margin - 4 });
  frame.setAttribute("viewBox", `${margin} 4 ${size - margin - 4} ${size - margin - 4}`); // clips what is too long
  const layers = { under: svg("g"), arrows: svg("g"), names: svg("g"), grips: svg("g") };
  frame.append(layers.under, layers.arrows);
  picture.append(planeAxes(x, y, reach, size, margin), frame, layers.names, layers.grips);
  const grips = live.arrows.map((_, i) => grip(i));
  layers.grips.append(...grips);
  live.move = (event) => {
    const rect = picture.getBoundingClientRect();
    const { index, dx, dy } = live.held;
    const p = [x.invert(event.clientX - rect.left - dx), y.invert(event.clientY - rect.top - dy)];
    place(index, p, 0.05, null);
  };
  return { picture, side: el("div", { class: "side" }), reach, draw, restoreFocus };

  /** Coordinates are rounded to a grid, so that the address can hold them. */
  function place(i, p, grid, done) {
    const inside = p.map((v) => Math.max(-live.limit, Math.min(live.limit, v)));
    live.arrows[i] = inside.map((v) => Number((Math.round(v / grid) * grid).toFixed(2)));
    live.changed(done);
  }

  // --- moving the heads -----------------------------------------------------------------------------

  function grip(i) {
    const name = i ? `Head of row ${i}` : "Head of g";
    const node = svg(
      "g",
      { class: "grip", tabindex: 0, role: "slider", "aria-roledescription": "arrow head", "aria-label": name },
      svg("circle", { r: GRIP_SIZE, fill: "transparent" }),
      svg("circle", { class: "ring", r: 9, fill: "transparent", stroke: "currentColor", "stroke-width": 1.5 }),
    );
    node.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      const rect = picture.getBoundingClientRect();
      const [px, py] = live.arrows[i];
      // where the head was taken hold of, so that it does not jump
      live.held = { index: i, dx: event.clientX - rect.left - x(px), dy: event.clientY - rect.top - y(py) };
      followPointer(live);
      node.focus({ preventScroll: true });
      event.preventDefault();
    });
    node.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 0.5 : 0.1;
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      const move = moves[event.key];
      if (!move || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation(); // the player would step
      place(i, [0, 1].map((k) => live.arrows[i][k] + step * move[k]), 0.01, 400);
    });
    node.addEventListener("focus", () => (live.focus = { index: i, until: Infinity }));
    node.addEventListener("blur", () => (live.focus.until = performance.now() + 100));
    return node;
  }

  /** A new trace takes the drawing out of the page for a moment, and the focus with it. */
  function restoreFocus() {
    const elsewhere = document.activeElement && document.activeElement !== document.body;
    if (live.focus && performance.now() < live.focus.until && !elsewhere)
      grips[live.focus.index]?.focus({ preventScroll: true });
  }

  // --- drawing --------------------------------------------------------------------------------------

  function draw(s, forward) {
    const alarm = colourOf(s.colours, 4);
    const corners = coneCorners(s.G, -end, end);
    const shape = corners.map(([px, py]) => `${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join("L");
    const area = { d: shape ? `M${shape}Z` : "", fill: "currentColor", "fill-opacity": 0.12 };
    const cone = svg("path", { class: "cone", ...area });
    layers.under.replaceChildren(explain(cone, "the cone: every u in here makes no obtuse angle with any row"));
    if (corners.length < 3 || flatCone(corners, end))
      cone.setAttribute("stroke", "currentColor"); // a line or nothing but 0 is left
    layers.arrows.replaceChildren();
    layers.names.replaceChildren();
    const moving = [];
    s.G.forEach((row, k) => {
      const colour = colourOf(s.colours, k);
      layers.under.append(edgeOf(row, s.violated[k] ? alarm : colour, s.violated[k]));
      arrow([0, 0], row, { stroke: colour, "stroke-width": 2.4 }, `${rowName(k)} = ${briefPoint(row)}`);
    });
    const wanted = `g = ${briefPoint(s.g)}, the gradient that is wanted`;
    arrow([0, 0], s.g, { stroke: "currentColor", "stroke-width": 2.8 }, wanted);
    for (const name of s.shown) {
      const now = name === s.phase;
      const { u } = s.found[name];
      if (name === "agem" && now) {
        const r = s.found.agem.reference;
        const thin = { stroke: colourOf(s.colours, 5), "stroke-width": 1.4 };
        arrow([0, 0], r, thin, `r = ${briefPoint(r)}, the mean of the rows`);
      }
      const way = name === "turn" ? s.found.turn.path : name === "gem" ? chainOf(s) : [s.g, u];
      const trail = now ? trailOf(way, name, s) : null;
      const style = { ...answerStroke(s.colours, name), ...(now ? {} : { opacity: 0.45 }) };
      const drawn = arrow([0, 0], u, style, `${CONE_ANSWERS[name]}: u = ${briefPoint(u)}`);
      if (now && forward)
        moving.push((part) => {
          const p = pointAlong(way, part);
          drawn.set([0, 0], p);
          trail.style.opacity = part;
        });
    }
    nameHeads(s);
    grips.forEach((node, i) => {
      const [px, py] = live.arrows[i];
      node.setAttribute("transform", `translate(${x(px).toFixed(1)} ${y(py).toFixed(1)})`);
      node.setAttribute("aria-valuetext", briefPoint([px, py]));
      node.setAttribute("aria-valuenow", px);
      node.style.color = i ? colourOf(s.colours, i - 1) : "";
    });
    return (part) => {
      for (const move of moving) move(part);
    };
  }

  /** The line on which a row's dot is 0; where it is violated also a mark that needs no colour. */
  function edgeOf(row, colour, violated) {
    const length = Math.hypot(...row);
    if (!length) return svg("g");
    const [dx, dy] = [(-row[1] / length) * 3 * end, (row[0] / length) * 3 * end];
    return svg("line", {
      class: violated ? "edge violated" : "edge",
      x1: x(-dx),
      y1: y(-dy),
      x2: x(dx),
      y2: y(dy),
      stroke: colour,
      "stroke-width": violated ? 3 : 1.2,
      "stroke-dasharray": violated ? null : "5 4",
      opacity: violated ? 0.9 : 0.6,
    });
  }

  function arrow(from, to, attributes, told) {
    const line = svg("path", { fill: "none", "stroke-linecap": "round", ...attributes });
    const head = svg("path", { fill: attributes.stroke, opacity: attributes.opacity });
    const set = (a, b) => {
      const [ax, ay, bx, by] = [x(a[0]), y(a[1]), x(b[0]), y(b[1])];
      const length = Math.hypot(bx - ax, by - ay);
      if (length < 0.5) {
        line.setAttribute("d", ""); // a vector of length 0 is a dot
        head.setAttribute("d", `M${(ax - 5).toFixed(1)} ${ay.toFixed(1)}a5 5 0 1 0 10 0a5 5 0 1 0 -10 0Z`);
        return;
      }
      const at = (px, py) => `${px.toFixed(1)} ${py.toFixed(1)}`;
      const [ux, uy] = [(bx - ax) / length, (by - ay) / length];
      const tip = Math.min(11, length);
      const [cx, cy] = [bx - tip * ux, by - tip * uy];
      const wing = (side) => at(cx - side * 4.5 * uy, cy + side * 4.5 * ux);
      line.setAttribute("d", `M${at(ax, ay)}L${at(cx, cy)}`);
      head.setAttribute("d", `M${at(bx, by)}L${wing(1)}L${wing(-1)}Z`);
    };
    set(from, to);
    const group = svg("g", {}, line, head);
    layers.arrows.append(explain(group, told));
    return { set };
  }

  /** How an answer comes from g: thin lines under the arrows. */
  function trailOf(way, name, s) {
    const trail = svg("g", { class: "trail" });
    way.slice(1).forEach((p, i) => {
      const ofRow = name === "gem" ? colourOf(s.colours, bindingRows(s)[i]) : null;
      const stroke = ofRow ?? answerStroke(s.colours, name).stroke;
      const ends = { x1: x(way[i][0]), y1: y(way[i][1]), x2: x(p[0]), y2: y(p[1]) };
      trail.append(
        svg("line", { ...ends, stroke, "stroke-width": 1.6, "stroke-dasharray": "3 3" }),
        svg("circle", { cx: x(p[0]), cy: y(p[1]), r: 2.6, fill: stroke }),
      );
    });
    layers.arrows.append(trail);
    return trail;
  }

  /** Names beside the heads; heads at one place share a line, and heads outside the plane have none. */
  function nameHeads(s) {
    const heads = [
      { p: s.g, words: ["g"] },
      ...s.G.map((p, k) => ({ p, words: [`${rowName(k)} ${s.violated[k] ? "✗" : "✓"}`], bad: s.violated[k] })),
      ...s.shown.map((name) => ({ p: s.found[name].u, words: [CONE_ANSWERS[name]] })),
    ];
    if (s.phase === "agem") heads.push({ p: s.found.agem.reference, words: ["r"] });
    const places = [];
    for (const head of heads) {
      const near = places.find((other) => distanceBetween(other.p, head.p) < 0.03 * end);
      if (near) near.words.push(...head.words);
      else if (Math.max(...head.p.map(Math.abs)) <= end) places.push({ ...head });
    }
    const taken = [];
    for (const { p, words, bad } of places) {
      const length = Math.hypot(...p) || 1;
      const [ox, oy] = Math.hypot(...p) > 0.02 * end ? [p[0] / length, -p[1] / length] : [0.7, 0.7];
      const left = ox < -0.3;
      const text = words.join(", ");
      const width = 7 * text.length;
      let [px, py] = [x(p[0]) + 15 * ox, y(p[1]) + 15 * oy + 4];
      px = left ? Math.max(px, margin + width) : Math.min(px, size - 6 - width);
      py = Math.max(14, Math.min(size - margin - 4, py));
      while (taken.some((t) => Math.abs(t[0] - px) < 40 && Math.abs(t[1] - py) < 13)) py += oy < 0 ? -13 : 13;
      taken.push([px, py]);
      const style = { class: bad ? "halo name violated" : "halo name", x: px.toFixed(1), y: py.toFixed(1) };
      layers.names.append(svg("text", { ...style, "text-anchor": left ? "end" : "start" }, text));
    }
  }
}

/** One pair of listeners per drag, on the window: the drawing may be replaced while the head is held. */
function followPointer(live) {
  const stop = new AbortController();
  const over = (event) => {
    if (event.type === "pointerup" && live.held) live.move(event);
    stop.abort();
    live.held = null;
    live.changed(0);
  };
  const options = { signal: stop.signal };
  addEventListener("pointermove", (event) => (live.held ? live.move(event) : stop.abort()), options);
  addEventListener("pointerup", over, options);
  addEventListener("pointercancel", over, options);
}

function planeAxes(x, y, reach, size, margin) {
  const axes = svg("g", {});
  for (const v of ticks([-reach, reach], 6)) {
    const strong = v === 0 ? { stroke: "currentColor", opacity: 0.5 } : {};
    axes.append(
      svg("line", { class: "grid", x1: x(v), x2: x(v), y1: 4, y2: size - margin, ...strong }),
      svg("line", { class: "grid", x1: margin, x2: size - 4, y1: y(v), y2: y(v), ...strong }),
      svg("text", { x: x(v), y: size - margin + 14, "text-anchor": "middle" }, number(v)),
      svg("text", { x: margin - 4, y: y(v) + 4, "text-anchor": "end" }, number(v)),
    );
  }
  return axes;
}

/** Rows that GEM's u is made of, in order. */
function bindingRows(s) {
  return (s.found.gem.v ?? []).flatMap((v_k, k) => (v_k > DOT_TOLERANCE ? [k] : []));
}

/** From g over g + v₁ g₁ and so on to u. */
function chainOf(s) {
  const way = [s.g];
  for (const k of bindingRows(s)) way.push(plusRows(way.at(-1), [s.G[k]], [s.found.gem.v[k]]));
  return way;
}

/** The point after a part (0 to 1) of a way, by length. */
function pointAlong(way, part) {
  const lengths = way.slice(1).map((p, i) => distanceBetween(p, way[i]));
  let left = part * lengths.reduce((a, b) => a + b, 0);
  for (let i = 0; i < lengths.length; i++) {
    if (left <= lengths[i]) return mixPoint(way[i], way[i + 1], lengths[i] ? left / lengths[i] : 1);
    left -= lengths[i];
  }
  return way.at(-1);
}

/** Whether a polygon has no area to speak of. */
function flatCone(corners, end) {
  const area = corners.reduce((sum, [ax, ay], i) => {
    const [bx, by] = corners[(i + 1) % corners.length];
    return sum + ax * by - bx * ay;
  }, 0);
  return Math.abs(area) < 1e-9 * end * end;
}
