// What the views share: building elements, shapes, scales, numbers as text.

// One pattern per line, so that colour is never the only cue.
const DASHES = [null, "7 3", "2 3", "10 3 2 3", "5 2", "1 2", "12 4"];

function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function button(name, path, onClick) {
  const node = el("button", { type: "button", "aria-label": name, title: name });
  icon(node, path);
  node.addEventListener("click", onClick);
  return node;
}

function icon(node, path) {
  node.replaceChildren(
    svg(
      "svg",
      { viewBox: "0 0 24 24", width: 24, height: 24, "aria-hidden": "true" },
      svg("path", { d: path, fill: "currentColor" }),
    ),
  );
}

/** A shape of radius r around (0, 0); every class has its own, so that colour is never the only cue. */
function marker(index, r, attributes) {
  const at = (turns, radius) => [
    radius * Math.sin(2 * Math.PI * turns),
    -radius * Math.cos(2 * Math.PI * turns),
  ];
  const ring = (n, turn, size, inner) => {
    const corners = [];
    for (let i = 0; i < n; i++) {
      corners.push(at(i / n + turn, r * size));
      if (inner) corners.push(at((i + 0.5) / n + turn, r * inner));
    }
    return `M${corners.map((p) => p.map((v) => v.toFixed(2)).join(" ")).join("L")}Z`;
  };
  const paths = [
    () => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
    () => ring(4, 0.125, 1.25),
    () => ring(3, 0, 1.3),
    () => ring(4, 0, 1.3),
    () => ring(3, 0.5, 1.3),
    () => ring(5, 0, 1.4, 0.62),
    () => ring(4, 0, 1.4, 0.55),
  ];
  const turn = index + Math.floor(index / OKABE_ITO.length); // the eighth class: colour 0, but shape 1
  return svg("path", { d: paths[turn % paths.length](), ...attributes });
}

/** The marker as a small picture for tables and legends. */
function swatch(index, colour) {
  return svg(
    "svg",
    { class: "swatch", viewBox: "-8 -8 16 16", width: 14, height: 14, "aria-hidden": "true" },
    marker(index, 5, { fill: colour, stroke: "currentColor", "stroke-width": 1 }),
  );
}

function colourOf(colours, index) {
  return colours[((index % colours.length) + colours.length) % colours.length];
}

function linear(domain, pixels) {
  const slope = (pixels[1] - pixels[0]) / (domain[1] - domain[0] || 1);
  const map = (value) => pixels[0] + (value - domain[0]) * slope;
  map.invert = (pixel) => domain[0] + (pixel - pixels[0]) / slope;
  return map;
}

function ticks([low, high], about = 5) {
  const rough = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9; i++)
    found.push(Number((i * step).toFixed(10)));
  return found;
}

function number(value, digits = 4) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  const text = String(Number(value.toFixed(digits)));
  return (text === "-0" ? "0" : text).replace("-", "−");
}

function fixed(value, digits = 2) {
  return typeof value === "number" && Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "–";
}

function point(p) {
  return isPoint(p) ? `(${fixed(p[0])}, ${fixed(p[1])})` : "–";
}

function isPoint(p) {
  return Array.isArray(p) && p.length === 2 && p.every((v) => typeof v === "number" && Number.isFinite(v));
}

function mix(a, b, u) {
  return a + (b - a) * u;
}

function mixPoint(a, b, u) {
  return isPoint(a) ? [mix(a[0], b[0], u), mix(a[1], b[1], u)] : b;
}

function ease(u) {
  return u < 0.5 ? 2 * u * u : 1 - 2 * (1 - u) * (1 - u);
}

/** A row of numbers, each with its explanation. */
function readouts(facts, explain) {
  const list = el("ul", { class: "readouts" });
  for (const [name, value, text] of facts)
    list.append(explain(el("li", { tabindex: 0 }, `${name} = ${value}`), text));
  return list;
}

/** Labels {y, text} moved apart vertically so that none overlaps. */
function spread(labels, gap, area) {
  const sorted = [...labels].sort((a, b) => a.y - b.y);
  sorted.forEach((label, i) => {
    if (i) label.y = Math.max(label.y, sorted[i - 1].y + gap);
  });
  const excess = (sorted.at(-1)?.y ?? 0) - area.bottom;
  if (excess > 0) {
    sorted.reverse().forEach((label, i) => {
      label.y = i ? Math.min(label.y, sorted[i - 1].y - gap) : area.bottom;
    });
  }
  return sorted;
}
