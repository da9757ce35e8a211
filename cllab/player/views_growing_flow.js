// Growing experts: tokens on their way from one expert to another, a dot for every twentieth of a kind.

const FLOW_UNIT = 0.05;

/**
 * Dots over the heat map. share(frame, c, e): the part of kind c with expert e; centre(c, e): the middle of that cell.
 * set(before, frame) plans who goes where, move(u) puts the dots on their way (none at its end).
 */
function growingFlow(trace, colours, experts, share, centre) {
  const node = svg("g", { class: "growing-flow" });
  let dots = [];
  return { node, set, move };

  function set(before, frame) {
    dots = before === frame ? [] : trace.kinds.flatMap((_, c) => growingMoves(c, before, frame, experts, share));
    dots.forEach((dot, i) => {
      dot.node = svg("circle", { r: 3, fill: colourOf(colours, trace.stage_of[dot.c]), stroke: "currentColor", "stroke-width": 0.7 });
      dot.lift = ((i * 7) % 11) - 5; // so that dots of a row do not hide each other
      dot.start = ((i * 5) % 8) / 20;
    });
    node.replaceChildren(...dots.map((dot) => dot.node));
  }

  function move(u) {
    node.style.display = u >= 1 ? "none" : "";
    for (const { node: dot, c, from, to, lift, start } of dots) {
      const way = Math.min(1, Math.max(0, (u - start) / 0.6));
      const [a, b] = [centre(c, from), centre(c, to)];
      dot.setAttribute("cx", mix(a[0], b[0], way).toFixed(1));
      dot.setAttribute("cy", (a[1] + lift).toFixed(1));
    }
  }
}

/** Pairs of experts between which tokens of kind c must have gone, one entry per FLOW_UNIT of the kind. */
function growingMoves(c, before, frame, experts, share) {
  const change = Array.from({ length: experts }, (_, e) => Math.round((share(frame, c, e) - share(before, c, e)) / FLOW_UNIT));
  const leave = change.flatMap((n, e) => Array(Math.max(0, -n)).fill(e));
  const arrive = change.flatMap((n, e) => Array(Math.max(0, n)).fill(e));
  return leave.slice(0, arrive.length).map((from, i) => ({ c, from, to: arrive[i] }));
}
