"""What the generative page shows of generators: Gaussians and VAEs that learn from their own samples, as traces.

No Streamlit in here, so that tests call these functions directly. The images take minutes to train and are committed in
traces/generations.json; `python -m labs.generative_traces` computes them anew, and a test compares.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from cllab import checks
from cllab.device import generator
from cllab.models import MLP
from cllab.player import generations_trace, image_digits
from cllab.replay import VAE, ClassGaussians, expected_shrink, gaussian, refit_variances
from cllab.streams import Dataset, digits, points, split
from cllab.training import run, shuffled

COMMITTED = Path(__file__).parent / "traces" / "generations.json"
CLUSTERS = ("A", "B", "C", "D")
MOST_N, MOST_GENERATIONS = 1000, 40
SHOWN_POINTS = 40  # of a class, however many it is fitted to
DIGITS_N = (20, 140)  # samples per class that a generation of images learns from
DIGIT_GENERATIONS = 8
PER_CLASS, JUDGED = 3, 50  # images of a class that are shown, and that are judged
VAE_STEPS = 600


def gaussians(n: int = 10, generations: int = 20, seed: int = 0) -> dict:
    """Four Gaussians in the plane, each refitted to `n` of its own samples, `generations` times: a trace.

    Generation 0 is fitted to 400 real rows of each class. The chart tells how much variance is left: by the closed
    form, in these four, and as mean and median of many runs in one dimension.
    """
    checks.integer("n", n, 5, MOST_N)
    checks.integer("generations", generations, 1, MOST_GENERATIONS)
    source, data = generator(seed, "gaussians page"), points("clusters", n=400)
    # the small eps keeps a cloud that has shrunk to a line from ending the chain
    made = ClassGaussians(eps=1e-9)
    made.fit(data.x.double(), data.y)
    start = _variances(made)
    steps, left = [], []
    asked = torch.arange(len(CLUSTERS)).repeat_interleave(n)
    for t in range(generations + 1):
        ratio = float((_variances(made) / start).mean())
        left.append(ratio)
        rows = made.draw(asked, source)
        steps.append({"x": t, "text": _shrunk(t, n, ratio), "panels": [_clouds(made, rows, asked, n)]})
        made.fit(rows, asked)
    runs = 2000 if n <= 200 else 400
    simulated = refit_variances(n, generations, runs, generator(seed, "refit runs"))
    law = [expected_shrink(n, t) for t in range(generations + 1)]
    lines = [
        {"name": "closed form", "values": law, "about": f"((n − 1) / n)^T with n = {n}: what is expected to be left"},
        {"name": "mean of runs", "values": simulated.mean(dim=1), "about": f"mean of {runs} runs in one dimension"},
        {"name": "median run", "values": simulated.median(dim=1).values, "about": f"the typical one of {runs} runs"},
        {"name": "this picture", "values": left, "about": "mean over the four classes of trace Σ / trace Σ₀"},
    ]
    return generations_trace(
        [{"name": f"Four Gaussians, each refitted to {n} of its own samples", "extent": [-3.4, 3.4, -3.4, 3.4]}],
        steps, CLUSTERS, lines, x_label="generation T", y_label="variance left", title="",
        alt=f"Ellipses of four Gaussians shrink over {generations} generations of {n} samples.",
    )  # fmt: skip


def images(n: int = 140, generations: int = DIGIT_GENERATIONS, seed: int = 0) -> dict:
    """Digits drawn by Gaussians and by a VAE that learn from `n` own samples per class again and again: a trace.

    Generation 0 learns from `n` real digits of each class. A classifier trained once on the real digits judges 50
    images of each class and generation; a student learns from those images alone and is tested on real digits.
    float64, so that two machines agree.
    """
    checks.integer("n", n, 2)
    checks.integer("generations", generations, 1)
    data = digits()
    x, y = data.x.double(), data.y
    judge, _ = _classifier(data, seed)
    panels, found = [], []
    for kind in ("gmm", "vae"):
        source = generator(seed, f"images {kind}")
        rows = torch.cat([(y == c).nonzero().flatten()[:n] for c in range(10)])
        shown, asked = x[rows], y[rows]
        first = _spread(shown, asked)
        chain = []
        for t in range(generations + 1):
            made = _gaussians(shown, asked) if kind == "gmm" else _vae(shown, asked, seed + t, source)
            wanted = torch.arange(10).repeat_interleave(JUDGED)
            drawn = made.draw(wanted, source).clamp(0, 1)
            with torch.no_grad():
                seen = judge(drawn).argmax(dim=1)
            keep = [c * JUDGED + k for c in range(10) for k in range(PER_CLASS)]
            pictures = [[image_digits(drawn[i]), int(wanted[i]), int(seen[i])] for i in keep]
            recognised = float((seen == wanted).double().mean())
            _, student = _classifier(replace(data, x=drawn, y=wanted), seed + t)
            chain.append((pictures, recognised, student, float((_spread(drawn, wanted) / first).mean())))
            asked = torch.arange(10).repeat_interleave(n)
            shown = made.draw(asked, source).clamp(0, 1)
        panels.append({"name": "Gaussian per class" if kind == "gmm" else "VAE"})
        found.append(chain)
    steps = []
    for t, (gmm, vae) in enumerate(zip(*found, strict=True)):
        learned = f"{n} real digits" if t == 0 else f"{n} samples of generation {t - 1}"
        text = f"Generation {t} learned from {learned} per class: a fixed classifier recognises {gmm[1]:.0%} of the "
        text += f"Gaussians' images and {vae[1]:.0%} of the VAE's. A student of these images answers {gmm[2]:.0%} and "
        text += f"{vae[2]:.0%} of real test digits right."
        steps.append({"x": t, "text": text, "panels": [{"images": gmm[0]}, {"images": vae[0]}]})
    about = f"share of {10 * JUDGED} images in which the classifier sees the class that was asked for"
    student = "accuracy on real test digits of a classifier that learned from these images alone"
    spread = "variance of the images within a class, against that of the real digits"
    lines = [
        {"name": f"{name}: {what}", "values": [row[1 + i] for row in chain], "about": text, "colour": k, "dash": i}
        for i, (what, text) in enumerate({"recognised": about, "student": student, "variance left": spread}.items())
        for k, (name, chain) in enumerate(zip(("Gaussians", "VAE"), found, strict=True))
    ]
    return generations_trace(
        panels, steps, [str(c) for c in range(10)], lines, x_label="generation T", y_label="share", title="",
        alt=f"Digits drawn by two generators, each generation learning from {n} samples per class of the last.",
    )  # fmt: skip


def committed() -> dict[str, dict]:
    """The committed traces of images, {samples per class: trace}."""
    return _read(COMMITTED)


def _classifier(data: Dataset, seed: int) -> tuple[MLP, float]:
    """A classifier trained on these rows, and its accuracy on their test rows."""
    model = MLP(64, [64], 10, seed=seed).double()
    history = run(model, split(data, 10), epochs=-(-800 * 32 // len(data.y)), batch_size=32, lr=2e-3, seed=seed)
    return model, float(history.accuracy[-1, 0])


def _gaussians(x: Tensor, y: Tensor) -> ClassGaussians:
    made = ClassGaussians(eps=1e-4)
    made.fit(x, y)
    return made


def _vae(x: Tensor, y: Tensor, seed: int, source: torch.Generator) -> VAE:
    model = VAE(64, 10, [64], 8, seed=seed).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    epochs = -(-VAE_STEPS // -(-len(x) // 32))
    for rows in (rows for _ in range(epochs) for rows in shuffled(len(x), 32, source)):
        reconstruction, kl = model.losses(x[rows], y[rows], source)
        loss = (reconstruction + 0.3 * kl).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.settle(x, y)
    return model


def _variances(made: ClassGaussians) -> Tensor:
    """Trace of every class's covariance, [C]."""
    return torch.stack([made.mixtures[c].covariance[0].trace() for c in sorted(made.mixtures)])


def _spread(x: Tensor, y: Tensor) -> Tensor:
    """Variance within every class, summed over features: [C]."""
    return torch.stack([gaussian(x[y == c])[1].trace() for c in range(int(y.max()) + 1)])


def _clouds(made: ClassGaussians, rows: Tensor, asked: Tensor, n: int) -> dict:
    mixtures = [made.mixtures[c] for c in range(len(CLUSTERS))]
    ellipses = [
        [*m.mean[0].tolist(), S[0][0], S[0][1], S[1][1], c]
        for c, m in enumerate(mixtures)
        for S in [m.covariance[0].tolist()]
    ]
    shown = [i for i in range(len(rows)) if i % n < SHOWN_POINTS]
    return {"points": [[*rows[i].tolist(), int(asked[i])] for i in shown], "ellipses": ellipses}


def _shrunk(t: int, n: int, ratio: float) -> str:
    if t == 0:
        return f"Generation 0 is fitted to real rows. Each of the next ones sees only {n} samples of the one before."
    law = expected_shrink(n, t)
    return f"Generation {t}, from {n} samples of generation {t - 1}: {ratio:.3f} of the variance is left. " + (
        f"Expected: (({n} − 1) / {n})^{t} = {law:.3f}."
    )


@cache
def _read(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write() -> None:
    COMMITTED.parent.mkdir(exist_ok=True)
    rows = [f"{json.dumps(str(n))}: {json.dumps(images(n), separators=(',', ':'))}" for n in DIGITS_N]
    COMMITTED.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    _write()
