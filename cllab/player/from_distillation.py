"""The trace of distillation: two distributions while the temperature rises, or while a student learns.

All numbers come from `cllab.regularization.distillation_loss` and autograd; the picture only draws them.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cllab import checks
from cllab.player.schema import VERSION, round_trace
from cllab.regularization import distillation_loss

NAMES = ("cat", "lion", "elephant", "tiger", "dog", "mouse")
TEMPERATURES = tuple(2 ** (k / 4) for k in range(-8, 23)) + (50.0,)
"""0.25 to 50, four steps from one power of two to the next."""
DIGITS = 6  # decimals that a trace keeps: 0.06 % of an elephant is 0.000624


def distillation_trace(
    teacher: Tensor,
    student: Tensor,
    temperatures: Sequence[float] = TEMPERATURES,
    names: Sequence[str] = NAMES,
    *,
    target: Sequence[float] | None = None,
    title: str = "",
) -> dict:
    """Teacher q and student p, their entropies and the gradient at every temperature: kind "distillation".

    teacher, student: logits [C] of one row. target: probabilities [C] drawn as marks to reach. Raises ValueError or
    TypeError naming the argument.
    """
    teacher, student, names = _row("teacher", teacher), _row("student", student), _named(names, teacher)
    if teacher.shape != student.shape:
        raise ValueError(f"student must have as many logits as the teacher, {len(teacher)}, got {len(student)}")
    if not temperatures:
        raise ValueError("temperatures must hold at least one, got none")
    found = [measure(teacher, student, T) for T in temperatures]
    # T^2 (p - q) / T -> (centred z_stu - centred z_tea) / C
    limit = (student - student.mean() - teacher + teacher.mean()) / len(teacher)
    steps = []
    for T, m in zip(temperatures, found, strict=True):
        panel = {"T": T, "logits": [teacher, student], "values": [m["q"], m["p"]], "gradient": m["gradient"]}
        facts = [
            ["T", f"{T:.4g}", "temperature: all logits are divided by it"],
            ["H(q)", m["H(q)"], "entropy of the teacher, −Σ q ln q, in nats"],
            ["H(p)", m["H(p)"], "entropy of the student, −Σ p ln p, in nats"],
            ["KL(q‖p)", m["kl"], "Σ q (ln q − ln p), in nats"],
            ["CE(q, p)", m["ce"], f"−Σ q ln p = KL + H(q) = {m['kl']:.6f} + {m['H(q)']:.6f}: another value, the same "
             "gradient, since H(q) does not depend on the student"],
            ["T²·KL", T**2 * m["kl"], f"{T:.4g}² × {m['kl']:.6f}: what distillation_loss returns"],
        ]  # fmt: skip
        steps.append({"x": T, "text": _told(T, m, names), "panels": [{**panel, "plain": m["gradient"] / T**2}],
                      "facts": facts})  # fmt: skip
    most = torch.tensor(float(len(teacher))).log().item()
    norms = [m["gradient"].norm() for m in found]
    charts = [
        {"y_label": "entropy (nats)", "limit": [f"ln {len(teacher)}", most],
         "lines": [{"name": f"H({x})", "values": [m[f"H({x})"] for m in found], "about": f"entropy of {x}"}
                   for x in "qp"]},
        {"y_label": "length of the gradient", "limit": ["limit", limit.norm()],
         "lines": [{"name": "with T²", "values": norms, "colour": 2, "dash": 0},
                   {"name": "without T²", "colour": 4, "dash": 1,
                    "values": [norm / T**2 for T, norm in zip(temperatures, norms, strict=True)]}]},
    ]  # fmt: skip
    panels = [{"name": "Answers at temperature T", "target": target, "limit": limit}]
    return answers_trace(
        panels, steps, names, ("teacher q", "student p"), charts, x_label="temperature T", log=True, title=title,
        alt=f"Bars of teacher and student over {', '.join(names)} flatten while the temperature rises from "
        f"{min(temperatures):g} to {max(temperatures):g}; their order stays.",
    )  # fmt: skip


def following_trace(
    teacher: Tensor,
    student: Tensor,
    temperature: float = 8.0,
    lr: float = 1.0,
    n_steps: int = 60,
    names: Sequence[str] = NAMES,
) -> dict:
    """A student whose logits [C] follow the teacher's by gradient steps: at T = 1, and at T with and without T^2.

    lr: step size of plain gradient descent on the logits. All three answers are drawn at temperature 1, as the student
    will be used.
    """
    teacher, student, names = _row("teacher", teacher), _row("student", student), _named(names, teacher)
    checks.integer("n_steps", n_steps, 1)
    runs = [("T = 1", 1.0, True), (f"T = {temperature:g}, with T²", temperature, True),
            (f"T = {temperature:g}, without T²", temperature, False)]  # fmt: skip
    paths = [follow(teacher, student, T, lr, n_steps, squared) for _, T, squared in runs]
    ones = [[measure(teacher, z, 1.0) for z in path] for path in paths]
    far = [[((z - z.mean()) - (teacher - teacher.mean())).norm() for z in path] for path in paths]
    steps = []
    for t in range(n_steps + 1):
        panels = [{"T": 1.0, "logits": [teacher, path[t]], "values": [m[t]["q"], m[t]["p"]]}
                  for path, m in zip(paths, ones, strict=True)]  # fmt: skip
        text = "; ".join(f"{name}: {way[t]:.3f}" for (name, _, _), way in zip(runs, far, strict=True))
        steps.append({"x": t, "text": f"Step {t}. Distance of the student's logits from the teacher's: {text}.",
                      "panels": panels})  # fmt: skip
    style = [{"name": name, "colour": c, "dash": c} for c, (name, _, _) in enumerate(runs)]
    charts = [
        {"y_label": "distance of the logits, both centred",
         "lines": [{**look, "values": way} for look, way in zip(style, far, strict=True)]},
        {"y_label": "KL(q ‖ p) at T = 1 (nats)",
         "lines": [{**look, "values": [m["kl"] for m in each]} for look, each in zip(style, ones, strict=True)]},
    ]  # fmt: skip
    return answers_trace(
        [{"name": name} for name, _, _ in runs], steps, names, ("teacher q", "student p"), charts,
        x_label="gradient step", alt=f"Three students follow a teacher over {n_steps} gradient steps: {text}.",
    )  # fmt: skip


def follow(teacher: Tensor, student: Tensor, T: float, lr: float, n_steps: int, squared: bool = True) -> list[Tensor]:
    """The student's logits [C] before and after each gradient step on T^2 KL, or on KL if not `squared`."""
    checks.number("lr", lr, 0.0)
    path = [student]
    for _ in range(n_steps):
        pull = gradient(teacher, path[-1], T) / (1.0 if squared else T**2)
        # z <- z - lr dL/dz
        path.append(path[-1] - lr * pull)
    return path


def measure(teacher: Tensor, student: Tensor, T: float) -> dict:
    """q, p [C], their entropies, KL and CE in nats (without T^2), and the gradient of T^2 KL by autograd [C]."""
    q, p = (teacher / T).softmax(dim=0), (student / T).softmax(dim=0)
    rows = student[None], teacher[None], T
    found = {form: float(distillation_loss(*rows, form=form)) / T**2 for form in ("kl", "ce")}
    entropy = {f"H({name})": float(torch.special.entr(x).sum()) for name, x in (("q", q), ("p", p))}
    return {"q": q, "p": p, **entropy, **found, "gradient": gradient(teacher, student, T)}


def gradient(teacher: Tensor, student: Tensor, T: float, form: str = "kl") -> Tensor:
    """Of `distillation_loss`, T^2 included, with respect to the student's logits [C]: by autograd, not by formula."""
    z = student.detach().clone().requires_grad_(True)
    return torch.autograd.grad(distillation_loss(z[None], teacher[None], T, form=form), z)[0]


def answers_trace(
    panels: Sequence[Mapping],
    steps: Sequence[Mapping],
    classes: Sequence[str],
    series: Sequence[str],
    charts: Sequence[Mapping],
    *,
    x_label: str,
    log: bool = False,
    title: str = "",
    alt: str = "",
) -> dict:
    """A trace of kind "distillation" from its parts, as `cllab.player.traces` describes them; absent ones are empty."""
    empty = {"gradient": None, "plain": None}
    fresh = [{"facts": [], **step, "panels": [{**empty, **panel} for panel in step["panels"]]} for step in steps]
    drawn = []
    for chart in charts:
        lines = [{"about": "", "colour": i, "dash": i, **line} for i, line in enumerate(chart["lines"])]
        drawn.append({"limit": None, **chart, "lines": lines})
    panels = [{"image": None, "target": None, "limit": None, **panel} for panel in panels]
    return round_trace({
        "v": VERSION, "kind": "distillation", "title": title, "alt": alt, "classes": list(classes),
        "series": list(series), "panels": panels, "charts": drawn, "x_label": x_label, "log": log, "steps": fresh,
    }, DIGITS)  # fmt: skip


def _told(T: float, m: dict, names: Sequence[str]) -> str:
    says = ", ".join(f"{name} {value:.2%}" for name, value in zip(names, m["q"].tolist(), strict=True))
    return (
        f"T = {T:.4g}: the teacher says {says}. Entropy {m['H(q)']:.6f} of at most ln {len(names)} = "
        f"{torch.tensor(float(len(names))).log():.6f} nats. The order never changes."
    )


def _row(name: str, logits: Tensor) -> Tensor:
    """Logits [C] as float64."""
    checks.floats(name, logits, ndim=1)
    if len(logits) < 2:
        raise ValueError(f"{name} must hold at least two logits, got {len(logits)}")
    return logits.detach().double()


def _named(names: Sequence[str], teacher: Tensor) -> list[str]:
    if len(names) < len(teacher):
        raise ValueError(f"names must hold one for each of the {len(teacher)} classes, got {len(names)}")
    return list(names[: len(teacher)])
