// Gradient projection: the three answers, computed here while arrows are dragged. At rest Python's numbers are shown.

/** {turn, agem, gem} as in the trace, for g [2] and rows G [t][2], t up to 3. */
function projectionAnswers(g, G, margin, ridge) {
  const dots = (u) => G.map((row) => dotOf(row, u));
  const path = [g];
  for (const row of G) path.push(projectOnOne(path.at(-1), row));
  const r = [0, 1].map((i) => G.reduce((sum, row) => sum + row[i], 0) / G.length);
  const byMean = projectOnOne(g, r);
  const v = dots(g).some((d) => d < 0) ? coneMultipliers(g, G, margin, ridge) : null;
  const u = v ? plusRows(g, G, v) : g;
  const ends = path.at(-1);
  return {
    turn: { u: ends, dots: dots(ends), path },
    agem: { u: byMean, dots: dots(byMean), reference: r },
    gem: { u, dots: dots(u), v, residuals: v ? missedBy(g, G, u, v, margin) : [] },
  };
}

/** g − (g · r / r · r) r where g · r < 0, else g. */
function projectOnOne(g, r) {
  const along = dotOf(g, r);
  return along < 0 ? plusRows(g, [r], [-along / dotOf(r, r)]) : g;
}

/**
 * v [t] = argmin_{v ≥ margin} ½ vᵀ(G Gᵀ + ridge I)v + (G g)ᵀv, by trying every set of rows that may bind.
 * On a set the target is projected on the complement of its rows; the set whose answer misses the conditions
 * of optimality by least is the right one. Rows have length 1 here, so that all scales are alike.
 */
function coneMultipliers(g, G, margin, ridge) {
  const t = G.length;
  const wide = G.map((row, i) => [...row, ...G.map((_, j) => (i === j ? Math.sqrt(ridge) : 0))]);
  const target = plusRows([...g, ...Array(t).fill(0)], wide, Array(t).fill(margin));
  const lengths = wide.map((row) => Math.hypot(...row));
  const units = wide.map((row, i) => row.map((x) => (lengths[i] ? x / lengths[i] : 0)));
  const scale = Math.hypot(...target) || 1;
  let best = { missed: Infinity, w: Array(t).fill(0) };
  const sets = Array.from({ length: 2 ** t }, (_, bits) => units.map((_, i) => i).filter((i) => (bits >> i) & 1));
  for (const set of sets.sort((a, b) => a.length - b.length)) {
    const found = solveOnSet(target, units, set);
    if (!found) continue;
    const primal = Math.max(0, ...units.map((unit) => -dotOf(unit, found.u)));
    const dual = Math.max(0, ...found.w.map((w) => -w));
    const missed = Math.max(primal, dual) / scale;
    if (missed < best.missed) best = { missed, w: found.w };
  }
  return best.w.map((w, i) => margin + (lengths[i] ? Math.max(0, w) / lengths[i] : 0));
}

/** u = target + Σ w_i units_i with u ⟂ units_i for every i of the set; null where its rows depend on one another. */
function solveOnSet(target, units, set) {
  const basis = []; // by Gram and Schmidt; each vector with its coefficients in the rows of the set
  for (const i of set) {
    let left = units[i];
    const made = units.map((_, j) => (j === i ? 1 : 0));
    for (const { q, of } of [...basis, ...basis]) {
      const along = dotOf(left, q); // twice, against rounding
      left = left.map((x, k) => x - along * q[k]);
      of.forEach((c, j) => (made[j] -= along * c));
    }
    const size = Math.hypot(...left);
    if (size < 1e-13) return null;
    basis.push({ q: left.map((x) => x / size), of: made.map((c) => c / size) });
  }
  let u = target;
  const w = units.map(() => 0);
  for (const { q, of } of [...basis, ...basis]) {
    const along = dotOf(u, q);
    u = u.map((x, k) => x - along * q[k]);
    of.forEach((c, j) => (w[j] -= along * c));
  }
  return { u, w };
}

/** By how much v ≥ margin, G u ≥ 0, (v − margin) (G u) = 0 and u − g = Gᵀv are missed. */
function missedBy(g, G, u, v, margin) {
  const dots = G.map((row) => dotOf(row, u));
  const sum = plusRows([0, 0], G, v);
  return [
    Math.max(0, ...v.map((v_k) => margin - v_k)),
    Math.max(0, ...dots.map((d) => -d)),
    Math.max(...v.map((v_k, k) => Math.abs((v_k - margin) * dots[k]))),
    Math.max(...u.map((x, i) => Math.abs(x - g[i] - sum[i]))),
  ];
}

function dotOf(a, b) {
  return a.reduce((sum, x, i) => sum + x * b[i], 0);
}

/** g + Gᵀv. */
function plusRows(g, G, v) {
  return g.map((x, i) => G.reduce((sum, row, k) => sum + v[k] * row[i], x));
}

/** Corners of the part of a box [low, high] in both directions in which no row's dot is negative. */
function coneCorners(G, low, high) {
  let corners = [
    [low, low],
    [high, low],
    [high, high],
    [low, high],
  ];
  for (const row of G) {
    const kept = [];
    corners.forEach((p, i) => {
      const next = corners[(i + 1) % corners.length];
      const [here, there] = [dotOf(row, p), dotOf(row, next)];
      if (here >= 0) kept.push(p);
      if (here * there < 0) kept.push(mixPoint(p, next, here / (here - there)));
    });
    corners = kept;
  }
  return corners;
}
