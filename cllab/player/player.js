// The player: one trace, a row of controls, one view per kind of trace (tools.js and the views, views_*.js, follow).
// The same module is a Streamlit component (components v2) and an anywidget; see `player` at the end.
// Text enters the page as text nodes only. Nothing is loaded from anywhere.

const OKABE_ITO = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000"];
const LAST_IN_THE_DARK = "#F0E442";
const SPEEDS = [0.25, 0.5, 1, 2, 4];
const GLIDE = 300; // ms that a change of step takes at speed 1
const REDUCED_STEP = 1000; // ms per step where the person asked for less motion
const VIEWS = {}; // kind -> {ms, create(context) -> {show(at, from) -> frame(u) or undefined}}
let mounted = 0;

/** Draws `options.trace` into `root`; returns {update(options), setStep(i), step(), playing(), destroy()}. */
export function mount(root, options) {
  const id = `cllab-player-${++mounted}`;
  const reduced = globalThis.matchMedia?.("(prefers-reduced-motion: reduce)");
  const tips = new WeakMap();
  let trace = null,
    view = null,
    count = 0,
    at = 0,
    query = null,
    queryAt = null; // the step at which it was placed
  let playing = false,
    frame = null,
    started = 0,
    ticket = 0,
    speed = 1;
  let lastReport = null,
    reportTimer = 0,
    width = 0,
    wasDark = null,
    signature = null;

  const title = el("div", { class: "title" });
  const back = button("Step back", "M15 5 L7 12 L15 19 Z M5 5 H7.5 V19 H5 Z", () => stepBy(-1));
  const play = button("Play", "", () => (playing ? pause() : start()));
  const next = button("Step forward", "M9 5 L17 12 L9 19 Z M16.5 5 H19 V19 H16.5 Z", () => stepBy(1));
  const range = el("input", { type: "range", min: 0, step: 1, "aria-label": "Step" });
  const meter = el("div", { class: "meter", "aria-hidden": "true" }, el("div", {}));
  const counter = el("span", { class: "counter" });
  const pace = el("select", { "aria-label": "Speed" });
  for (const value of SPEEDS) pace.append(el("option", { value }, `${value}×`));
  pace.value = "1";
  const controls = el(
    "div",
    { class: "controls", role: "toolbar", "aria-label": "Player controls" },
    back,
    play,
    next,
    el("div", { class: "track" }, range, meter),
    counter,
    pace,
  );
  const status = el("p", { class: "status", role: "status", "aria-live": "polite" });
  const stage = el("div", { class: "stage" });
  const tip = el("div", { class: "tip", role: "tooltip", id: `${id}-tip`, hidden: "" });
  // JupyterLab would take Space and the arrows for itself without the last attribute.
  const box = el(
    "div",
    {
      class: "cllab-player",
      role: "group",
      tabindex: 0,
      "data-step": 0,
      "data-lm-suppress-shortcuts": "true",
    },
    title,
    controls,
    status,
    stage,
    tip,
  );
  root.append(box);

  range.addEventListener("input", () => {
    stop();
    go(Number(range.value), true);
  });
  range.addEventListener("change", () => report());
  pace.addEventListener("change", () => {
    speed = Number(pace.value);
  });
  box.addEventListener("keydown", onKey);
  for (const [name, handler] of [
    ["pointerover", showTip],
    ["pointermove", showTip],
    ["pointerdown", showTip],
    ["focusin", showTip],
    ["pointerleave", hideTip],
    ["focusout", hideTip],
  ])
    stage.addEventListener(name, handler);
  const watcher = new ResizeObserver(() => {
    if (view && Math.abs(stage.clientWidth - width) > 1) redraw();
  });
  watcher.observe(stage);

  update(options);
  if (options.autoplay && !reduced?.matches && count > 1) start();
  return { update, setStep, step: () => at, playing: () => playing, destroy };

  // --- what the outside calls -------------------------------------------------------------------

  /** Takes a new trace (keeping the step where it still exists), step or query point; others stay. */
  function update(given) {
    options = { ...options, ...given };
    const fresh = JSON.stringify(options.trace ?? null);
    if (given.query !== undefined) place(isPoint(given.query) ? given.query : null);
    if (fresh !== signature) {
      const wasPlaying = playing;
      const first = signature === null;
      signature = fresh;
      stop();
      load(options.trace, first ? options.step : (given.step ?? at));
      if (wasPlaying && view && at < count - 1) start();
    } else if (given.step !== undefined && given.step !== null && given.step !== at) {
      setStep(given.step);
    } else if (view && (given.query !== undefined || dark() !== wasDark)) {
      redraw();
    }
  }

  function place(point) {
    if (JSON.stringify(point) !== JSON.stringify(query)) queryAt = at;
    query = point;
  }

  function setStep(step) {
    if (!view) return;
    stop();
    lastReport = clamp(step);
    go(lastReport, false);
  }

  function destroy() {
    stop();
    clearTimeout(reportTimer);
    watcher.disconnect();
    view = null;
    box.remove();
  }

  // --- time -------------------------------------------------------------------------------------

  function start() {
    if (!view || count < 2) return;
    playing = true;
    if (at === count - 1) go(0, false);
    started = performance.now();
    showPlaying();
    run();
  }

  function pause() {
    stop();
    report();
  }

  function stop() {
    playing = false;
    cancelAnimationFrame(ticket);
    ticket = 0;
    frame?.(1);
    frame = null;
    showPlaying();
  }

  function run() {
    if (!ticket) ticket = requestAnimationFrame(tick);
  }

  function tick(now) {
    ticket = 0;
    const elapsed = Math.max(0, now - started);
    const step = stepTime();
    if (frame) {
      const u = Math.min(1, elapsed / Math.min(GLIDE / Math.min(speed, 1), 0.8 * step));
      frame(ease(u));
      if (u === 1) frame = null;
    }
    if (playing) {
      meter.firstChild.style.transform = reduced?.matches
        ? ""
        : `scaleX(${Math.min(1, elapsed / step).toFixed(4)})`;
      if (elapsed >= step) {
        if (at >= count - 1) return pause();
        go(at + 1, true);
      }
    }
    if (frame || playing) run();
  }

  function stepTime() {
    return reduced?.matches ? REDUCED_STEP : (trace.ms ?? VIEWS[trace.kind].ms) / speed;
  }

  function stepBy(change) {
    stop();
    go(at + change, true);
    report();
  }

  /** Shows step `target`; `animate` lets the view glide there from the step shown now. */
  function go(target, animate) {
    if (!view) return;
    const from = at;
    at = clamp(target);
    frame?.(1);
    frame = null;
    const moving = animate && !reduced?.matches && from !== at;
    const focused = stage.contains(active()) && active() !== stage;
    frame = paint(from) ?? null;
    if (focused && !stage.contains(active())) box.focus({ preventScroll: true });
    label();
    started = performance.now();
    if (moving && frame) {
      frame(0);
      run();
    } else {
      frame?.(1);
      frame = null;
    }
  }

  function report() {
    clearTimeout(reportTimer);
    reportTimer = setTimeout(() => {
      if (at === lastReport) return;
      lastReport = at;
      options.onStep?.(at);
    }, 120);
  }

  // --- drawing ----------------------------------------------------------------------------------

  function load(given, step) {
    const fault = faultOf(given);
    trace = fault ? null : given;
    view = null;
    stage.replaceChildren();
    hideTip();
    count = trace ? trace.steps.length : 0;
    title.textContent = trace?.title ?? "";
    title.hidden = !trace?.title;
    box.setAttribute("aria-label", trace?.title || "Player");
    controls.hidden = !trace;
    if (fault) return refuse(fault);
    range.max = count - 1;
    at = clamp(step ?? 0);
    lastReport = at;
    stage.className = `stage view-${trace.kind}`;
    try {
      view = VIEWS[trace.kind].create({
        trace,
        stage,
        explain,
        colours,
        reduced: () => Boolean(reduced?.matches),
        query: () => query,
        queryAt: () => queryAt,
        setQuery(point, done) {
          if (playing) pause();
          place(point);
          if (done) options.onQuery?.(point);
        },
      });
    } catch (error) {
      return refuse(`the trace does not fit its schema (${error.message})`);
    }
    redraw();
    label();
  }

  function redraw() {
    paint(at)?.(1);
  }

  function paint(from) {
    width = stage.clientWidth;
    if (!width) return undefined; // in a closed tab or fold: the watcher draws when it opens
    wasDark = dark();
    hideTip();
    try {
      return view.show(at, Math.min(from, count - 1));
    } catch (error) {
      view = null;
      stop();
      refuse(`step ${at + 1} does not fit its schema (${error.message})`);
    }
  }

  function refuse(fault) {
    controls.hidden = true;
    stage.replaceChildren();
    status.textContent = `Nothing to play: ${fault}.`;
  }

  function label() {
    if (!view) return;
    const text = String(trace.steps[at].text ?? "");
    counter.textContent = `step ${at + 1} of ${count}`;
    range.value = at;
    range.setAttribute("aria-valuetext", `step ${at + 1} of ${count}`);
    status.textContent = text;
    box.dataset.step = at;
    back.disabled = at === 0;
    next.disabled = at === count - 1;
  }

  function showPlaying() {
    play.setAttribute("aria-label", playing ? "Pause" : "Play");
    play.title = playing ? "Pause (Space)" : "Play (Space)";
    icon(play, playing ? "M6 5 H10.5 V19 H6 Z M13.5 5 H18 V19 H13.5 Z" : "M7 4.5 L19 12 L7 19.5 Z");
    status.setAttribute("aria-live", playing ? "off" : "polite");
    if (!playing) meter.firstChild.style.transform = "scaleX(0)";
    box.classList.toggle("playing", playing);
  }

  function colours() {
    const chosen = Array.isArray(trace?.palette) && trace.palette.length ? trace.palette : OKABE_ITO;
    return dark() ? chosen.map((c) => (c === "#000000" ? LAST_IN_THE_DARK : c)) : chosen;
  }

  function dark() {
    const [r, g, b] = (getComputedStyle(box).color.match(/[\d.]+/g) ?? [0, 0, 0]).map(Number);
    return 0.299 * r + 0.587 * g + 0.114 * b > 128;
  }

  // --- keys and tips ----------------------------------------------------------------------------

  function onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target === pace) return;
    const onButton = event.target.closest?.("button");
    if (event.key === " " && !onButton) playing ? pause() : start();
    else if (event.target === range) return;
    else if (event.key === "ArrowRight") stepBy(1);
    else if (event.key === "ArrowLeft") stepBy(-1);
    else if (event.key === "Home") stepBy(-count);
    else if (event.key === "End") stepBy(count);
    else return;
    event.preventDefault();
  }

  /** `text` (a string or a function returning one) appears while `node` is pointed at or focused. */
  function explain(node, text) {
    tips.set(node, text);
    node.classList.add("told");
    return node;
  }

  function showTip(event) {
    let node = event.target;
    while (node && node !== stage && !tips.has(node)) node = node.parentNode;
    if (!node || !tips.has(node)) return hideTip();
    const text = tips.get(node);
    tip.textContent = typeof text === "function" ? text(event) : text;
    tip.hidden = false;
    if (event.type === "focusin") node.setAttribute("aria-describedby", tip.id);
    const outer = box.getBoundingClientRect();
    const pointed = event.type !== "focusin"; // then beside the pointer, else beside the node
    const rect = pointed
      ? new DOMRect(event.clientX, event.clientY - 6, 0, 22)
      : node.getBoundingClientRect();
    const middle = rect.left + rect.width / 2 - outer.left;
    const x = Math.max(4, Math.min(middle - tip.offsetWidth / 2, outer.width - tip.offsetWidth - 4));
    const above = rect.top - outer.top - tip.offsetHeight - 8;
    tip.style.left = `${x}px`;
    tip.style.top = `${above > 0 ? above : rect.bottom - outer.top + 8}px`;
  }

  function hideTip() {
    tip.hidden = true;
  }

  function active() {
    return box.getRootNode().activeElement;
  }

  function clamp(step) {
    const whole = Math.round(Number(step));
    return Number.isFinite(whole) ? Math.max(0, Math.min(count - 1, whole)) : 0;
  }
}

/** The module's default export. Streamlit calls it with a component, anywidget with nothing. */
export default function player(component) {
  return component === undefined ? { render: renderWidget } : renderStreamlit(component);
}

// --- the two hosts --------------------------------------------------------------------------------

const instances = new WeakMap(); // Streamlit calls again with the same parentElement on every rerun

function renderStreamlit({ data, parentElement, setStateValue }) {
  const given = data ?? {};
  let instance = instances.get(parentElement);
  if (!instance) {
    instance = { reported: [], asked: given.step, query: JSON.stringify(given.query ?? null) };
    instances.set(parentElement, instance);
    const onStep = (step) => {
      instance.reported.push(step);
      instance.send("step", step);
    };
    const onQuery = (point) => {
      instance.query = JSON.stringify(point);
      instance.send("query", point);
    };
    instance.send = setStateValue;
    instance.player = mount(parentElement, { ...given, onStep, onQuery });
  } else {
    instance.send = setStateValue;
    const change = { trace: given.trace };
    // A step that comes back from Python is an order only if it is not the echo of one reported earlier.
    const echo = instance.reported.indexOf(given.step);
    if (echo >= 0) instance.reported.splice(0, echo + 1);
    else if (given.step !== instance.asked) change.step = given.step;
    instance.asked = given.step;
    const query = JSON.stringify(given.query ?? null);
    if (query !== "null" && query !== instance.query) {
      instance.query = query;
      change.query = given.query;
    }
    instance.player.update(change);
  }
  return () => {
    instance.player.destroy();
    instances.delete(parentElement);
  };
}

function renderWidget({ model, el: element }) {
  const save = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const live = mount(element, {
    trace: model.get("trace"),
    step: model.get("step"),
    query: model.get("query"),
    autoplay: model.get("autoplay"),
    onStep: (step) => save("step", step),
    onQuery: (point) => save("query", point),
  });
  const onTrace = () => live.update({ trace: model.get("trace") });
  const onStep = () => {
    if (model.get("step") !== live.step()) live.setStep(model.get("step"));
  };
  const onQuery = () => live.update({ query: model.get("query") });
  model.on("change:trace", onTrace);
  model.on("change:step", onStep);
  model.on("change:query", onQuery);
  return () => {
    model.off("change:trace", onTrace);
    model.off("change:step", onStep);
    model.off("change:query", onQuery);
    live.destroy();
  };
}

function faultOf(trace) {
  if (!trace || typeof trace !== "object") return "there is no trace";
  if (trace.v !== 1) return `the trace has version ${trace.v}, this player reads version 1`;
  if (!Object.hasOwn(VIEWS, trace.kind)) return `the trace has the unknown kind "${trace.kind}"`;
  if (!Array.isArray(trace.steps) || trace.steps.length === 0) return "the trace has no steps";
  if (trace.steps.some((step) => !step || typeof step !== "object")) return "a step of the trace is empty";
  return null;
}
