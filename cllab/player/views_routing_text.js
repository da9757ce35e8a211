// Routing, the text: a line of tokens, each on the colour of its expert and with its number.

function routingText(model, colours, explain) {
  const { trace, experts, kinds } = model;
  const words = trace.line.map((token, n) => {
    const who = el("sub"), word = el("span", { class: "routing-word" }, String(token.label), who);
    explain(word, () => tellWord(n));
    return { word, who };
  });
  const text = el("div", { class: "routing-words", role: "group", tabindex: 0 }, ...words.map(({ word }) => word));
  explain(text, tellText);
  const badges = Array.from({ length: experts }, (_, e) => routingBadge(e, colours));
  const heading = el("div", { class: "heading" }, "a text, each token on the colour of its expert ", ...badges);
  return { node: el("div", { class: "routing-text" }, heading, text), settle };

  function settle() {
    const { line } = model.now;
    words.forEach((part, n) => {
      const served = routingServing(line, n);
      part.who.textContent = served.length ? served.join("·") : line.expert[n].length ? "×" : "–";
      part.word.classList.toggle("lost", !served.length);
      part.word.style.background = routingPaint(served.map((e) => colourOf(colours, e)));
      part.word.style.borderColor = served.length ? colourOf(colours, served[0]) : "";
      part.word.dataset.expert = served.join(" ");
    });
    text.setAttribute("aria-label", tellText());
  }

  function tellText() {
    const counts = Array.from({ length: experts }, () => []);
    trace.line.forEach((token, n) => routingServing(model.now.line, n).forEach((e) => counts[e].push(token.label)));
    return counts.map((labels, e) => `expert ${e}: ${labels.length ? labels.join(" ") : "nothing"}`).join("\n");
  }

  function tellWord(n) {
    const { label, kind } = trace.line[n], { line } = model.now;
    const served = routingServing(line, n);
    const chances = line.percent[n].map((p, e) => `E${e} ${p} %`).join(", ");
    let told = `served by ${served.map((e) => `expert ${e}`).join(" and ")}`;
    if (!served.length) told = line.expert[n].length ? "dropped: its expert was full (the text is a batch of its own)" : "chosen by no expert";
    return `“${label}” (${kinds[kind]}): ${told}\nrouter probabilities: ${chances}`;
  }
}

function routingServing(line, n) {
  return line.expert[n].filter((_, slot) => line.kept[n][slot]);
}

/** One tint, or stripes of several; the strength keeps the writing readable in the light and in the dark. */
function routingPaint(found) {
  const tints = found.map((colour) => `color-mix(in srgb, ${colour} 36%, var(--paper))`);
  if (tints.length < 2) return tints[0] ?? "";
  const share = 100 / tints.length;
  return `linear-gradient(100deg, ${tints.map((tint, i) => `${tint} ${i * share}% ${(i + 1) * share}%`).join(", ")})`;
}
