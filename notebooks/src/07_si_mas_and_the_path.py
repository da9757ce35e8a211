# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# <a id="L07-0"></a>
# # Lesson 07. SI, MAS and importance along the path (突触智能、记忆感知突触)
#
# **Can a network note, while it learns, which of its weights do the work?**
#
# 60 minutes. Before it: lesson 06, *EWC and the Fisher information*. After it you can compute three more importances by
# hand, check the books of a training run, and say where each importance is fooled.
#
# | card | SI | MAS | RWalk |
# | --- | --- | --- | --- |
# | memory cost | two numbers per weight, two more while training | two numbers per weight | three, and four more while training |
# | stores data? | no | no; it needs rows once, without labels | no |
# | needs a boundary while training? | yes: there the path ends | yes | yes |
# | needs a task id at test? | no | no | no |

# %%
import cllab

cllab.setup("07", written_for="0.1")

# %%
import inspect
import io

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import spearmanr
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from cllab.device import generator
from cllab.exercises import check, claim
from cllab.models import MLP
from cllab.plots import draw_accuracy_matrix
from cllab.regularization import EWC, MAS, SI, RWalk, fisher_diagonal, output_sensitivity, quadratic_penalty
from cllab.streams import Stream, digits, permuted, split
from cllab.training import Joint, run

D = torch.float64

# %% [markdown]
# <a id="L07-1"></a>
# ## 1. Warm-up
#
# Answer aloud, then open the fold.
#
# 1. Lesson 06: whose labels does the true Fisher use?
# 2. Lesson 03: why must a batch be offered to memory after the step?
#
# <details><summary>Answers</summary>
#
# 1. The model's own, each with its probability. One method of today needs no labels either.
# 2. Otherwise it may be replayed beside itself. Today, too, the order in a step counts: which gradient, at which weights?
#
# </details>

# %% [markdown]
# <a id="L07-2"></a>
# ## 2. Why
#
# EWC asks the finished network how much each weight matters. A network tells 0 from 1; we train 300 steps, and ask again
# and again.

# %%
def flat(tensors):
    """A dict of tensors as one vector."""
    return torch.cat([value.flatten() for value in tensors.values()])


task = split(digits(), 2, scenario="domain").to(dtype=D)[0]
model = MLP(64, [32], 2, seed=0).double()
theta, earned, found = parameters_to_vector(model.parameters()).detach(), 0.0, []
print("step    loss   sum of F   sum of MAS   earned on the path")
for step in range(1, 301):
    loss = cross_entropy(model(task.x), task.y)
    g = parameters_to_vector(torch.autograd.grad(loss, list(model.parameters())))
    after = theta - 0.2 * g
    earned -= (g * (after - theta)).sum().item()
    theta = after
    vector_to_parameters(theta, model.parameters())
    if step in (1, 3, 10, 20, 30, 60, 100, 200, 300):
        F, sensitive = flat(fisher_diagonal(model, task.x)).sum(), flat(output_sensitivity(model, task.x)).sum()
        found.append((step, F, sensitive, earned))
        print(f"{step:4}  {loss:6.3f}   {F:8.2f}   {sensitive:10.0f}   {earned:18.3f}")

# %%
steps, *lines = np.array(found).T
fig, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
for name, line, colour in zip(("Fisher", "MAS", "path"), lines, ("#000000", "#009E73", "#D55E00")):
    _ = ax.plot(steps, line / line.max(), "o-", color=colour, label=name)
_ = ax.set(xscale="log", xlabel="step", ylabel="share of its largest sum", ylim=(0, 1.05))
_ = ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# The surer the network, the smaller its Fisher: from 5.24 to 0.39. **The better it knows a task, the more softly EWC holds
# it.** A second importance, MAS, rises all the while. A third is earned on the way and then stays. Same
# network, three opinions.

# %% [markdown]
# <a id="L07-3"></a>
# ## 3. Predict
#
# A model with two weights, f = θ₁x₁ + θ₂x₂, and two rows: x = (2, 1) with target 2, x = (0, 1) with target 0. The answer is
# simply x₁: θ = (1, 0). Training starts at (0, 0). θ₁ goes to 1. θ₂ is drawn along at first, rises above a quarter, and
# comes back to where it was. Which weight will the path method, SI, hold harder? Commit: set the letter.

# %%
options = {
    "A": "weight 1; weight 2 is not needed and has not moved",
    "B": "both about equally",
    "C": "weight 2, more than a hundred times harder",
}
prediction = "A"  # your choice
print(f"You chose {prediction}: {options[prediction]}.")

# %% [markdown]
# <a id="L07-4"></a>
# ## 4. By hand
#
# **Synaptic intelligence** (突触智能), SI. A small step changes the loss by g · Δθ, a sum over weights. So each weight's part
# of the fall can be noted while training: **ω += −g Δθ**, its **path integral** (路径积分).
#
# One weight, loss ½ a θ² with a = 2, start θ = 1, rate η = 0.1:
#
# | step | θ | g = 2θ | Δθ = −ηg | earned, −gΔθ | the loss fell by |
# | --- | --- | --- | --- | --- | --- |
# | 1 | 1 | 2 | −0.2 | 0.4 | 1 − 0.64 = 0.36 |
# | 2 | 0.8 | 1.6 | −0.16 | ? | 0.64 − 0.4096 = 0.2304 |
#
# ### Exercise L07.1 \* two steps of credit (3 min)
#
# What is ω after both steps?

# %%
omega = ...  # --> your number
omega = check("L07.1", omega)
print("omega:", omega, "  the loss fell by", round(1 - 0.4096, 4))

# %% [markdown]
# <details><summary>Hint L07.1</summary>
#
# The second step earns 1.6 · 0.16.
#
# </details>
# <details><summary>Solution L07.1</summary>
#
# ```python
# omega = 0.4 + 1.6 * 0.16
# ```
#
# </details>
#
# It earns a little more than the loss falls: the slope is read where the step begins, and flattens on the way. To the end,
# every step earns ηa²θ² and multiplies θ by 1 − ηa. That is a geometric series:
#
# $\omega = \frac{\eta a^2}{1 - (1 - \eta a)^2} = \frac{a}{2 - \eta a}$

# %%
def parabola(eta, a=2.0):
    """omega of gradient descent on a/2 theta^2 from 1 to 0."""
    theta, omega = 1.0, 0.0
    while abs(theta) > 1e-9:
        g, before = a * theta, theta
        theta = theta - eta * g
        omega -= g * (theta - before)
    return omega


print("   eta   omega by steps   a/(2 - eta a)   Omega with xi = 0.1")
for eta in (0.1, 0.01, 0.001):
    print(f"{eta:6}   {parabola(eta):14.6f}   {2 / (2 - 2 * eta):13.6f}   {parabola(eta) / (1 + 0.1):19.6f}")

# %% [markdown]
# With smaller steps ω tends to a/2 = 1, exactly the fall of the loss: **the books balance** (守恒, conservation).
#
# From fall to stiffness: divide by the squared way,
#
# $\Omega = \max\left(0, \frac{\omega}{(\theta^{end} - \theta^{start})^2 + \xi}\right)$, and the penalty is
# $c\,\Omega\,(\theta - \theta^*)^2$.
#
# On the parabola, with tiny steps and ξ → 0, Ω = a/2. With c = 1 the penalty is (a/2)θ²: **the task's own loss, given back as
# a spring**. That is why SI has no ½. And ξ keeps a weight that went nowhere from a division by 0.
#
# **Memory aware synapses** (记忆感知突触), MAS, does not look at the loss at all: how fast does the *answer* change? For each
# row, take the gradient of ‖f(x)‖², then absolute values, then the mean. With f = w · x, w = (1, 1), the gradient is 2 f x:
#
# | row x | f | 2 f x | absolute |
# | --- | --- | --- | --- |
# | (1, 0) | 1 | (2, 0) | (2, 0) |
# | (1, −2) | −1 | (−2, 4) | (2, 4) |
# | mean | | (0, 2) | **(2, 2)** |

# %%
w = torch.tensor([1.0, 1.0], dtype=D, requires_grad=True)
rows = torch.tensor([[1.0, 0.0], [1.0, -2.0]], dtype=D)
per_row = torch.stack([torch.autograd.grad((w @ x) ** 2, w)[0] for x in rows])
print("per row:", per_row.tolist())
print("absolute, then mean:", per_row.abs().mean(dim=0).tolist())
print("mean, then absolute:", per_row.mean(dim=0).abs().tolist())

# %% [markdown]
# Take the absolute value *after* averaging the batch, and weight 1 seems not to matter: its two rows pull in opposite
# directions. No target has appeared: MAS needs rows, but **no labels** (无标签).

# %% [markdown]
# <a id="L07-5"></a>
# ## 5. Equation to code
#
# | symbol | code | shape | meaning |
# | --- | --- | --- | --- |
# | $g$ | `g` | like θ | gradient of the task's loss *alone* |
# | $\omega$ | `omega` | like θ | path integral of one task, either sign |
# | $\Omega$ | `Omega` | like θ | importance, ≥ 0, summed over tasks |
# | $\theta^*$ | `star` | like θ | weights at the last task's end |
# | $\xi$, $c$ | `xi`, `c` | | damping in squared weights; strength |
#
# ### Exercise L07.2 \* one step of the path (3 min)

# %%
def path_step(omega, g, before, after):
    """omega after a step from `before` to `after`; g: the task's gradient at `before`. Tensors like theta."""
    raise NotImplementedError  # --> your code (about 1 line)


path_step = check("L07.2", path_step)

# %% [markdown]
# <details><summary>Hint L07.2</summary>
#
# Gradient times step, weight by weight; no sum. Against the gradient counts as positive.
#
# </details>
# <details><summary>Solution L07.2</summary>
#
# ```python
# def path_step(omega, g, before, after):
#     return omega - g * (after - before)
# ```
#
# </details>
#
# ### Exercise L07.3 \* from path to importance (4 min)

# %%
def importance(omega, start, end, xi):
    """What one task adds to Omega. omega, start, end: tensors like theta; xi > 0."""
    raise NotImplementedError  # --> your code (about 1 line)


importance = check("L07.3", importance)

# %% [markdown]
# <details><summary>Hint L07.3</summary>
#
# `tensor.clamp(min=0)` is max(0, ·).
#
# </details>
# <details><summary>Solution L07.3</summary>
#
# ```python
# def importance(omega, start, end, xi):
#     return (omega / ((end - start) ** 2 + xi)).clamp(min=0)
# ```
#
# </details>
#
# With both, all of SI. One line is easily got wrong: `g` is taken from the task's loss, *before* the penalty is added.

# %%
def train_si(model, stream, c, xi, order):
    theta = list(model.parameters())
    Omega, star = [torch.zeros_like(p) for p in theta], [p.detach().clone() for p in theta]
    for task in stream:
        optimizer = torch.optim.Adam(theta, lr=0.01)
        start, omega = [p.detach().clone() for p in theta], [torch.zeros_like(p) for p in theta]
        for batches in (torch.randperm(len(task.y), generator=order).split(64) for epoch in range(3)):
            for rows in batches:
                loss = cross_entropy(model(task.x[rows]), task.y[rows])
                g = torch.autograd.grad(loss, theta, retain_graph=True)
                # L = L_new + c sum_i Omega_i (theta_i - theta*_i)^2
                loss = loss + c * sum((O * (p - s) ** 2).sum() for O, p, s in zip(Omega, theta, star))
                optimizer.zero_grad()
                loss.backward()
                before = [p.detach().clone() for p in theta]
                optimizer.step()
                # omega <- omega - g (theta' - theta)
                omega = [path_step(*four) for four in zip(omega, g, before, [p.detach() for p in theta])]
        star = [p.detach().clone() for p in theta]
        # Omega <- Omega + max(0, omega / ((theta_end - theta_start)^2 + xi))
        Omega = [O + importance(w, s, e, xi) for O, w, s, e in zip(Omega, omega, start, star)]

# %% [markdown]
# ### Exercise L07.4 \*\* how the answer reacts (6 min)
#
# $\Omega_i = \frac{1}{N} \sum_n \left|\frac{\partial \|f(x_n)\|^2}{\partial \theta_i}\right|$, for the linear model above.

# %%
def sensitivity(w, x):
    """MAS of f(x) = w . x: Omega [D] from w [D] and rows x [N, D], float64 tensors."""
    raise NotImplementedError  # --> your code (about 2 lines)


sensitivity = check("L07.4", sensitivity)

# %% [markdown]
# <details><summary>Hint L07.4</summary>
#
# `x @ w` holds f of every row; `(x @ w)[:, None] * x` multiplies each row by its own f.
#
# </details>
# <details><summary>Solution L07.4</summary>
#
# ```python
# def sensitivity(w, x):
#     gradients = 2 * (x @ w)[:, None] * x
#     return gradients.abs().mean(dim=0)
# ```
#
# </details>
#
# **Riemannian walk** (黎曼行走), RWalk, uses both ideas. It compares the fall with how far the *answers* moved, measured by
# the Fisher: s += max(0, −gΔθ / (½FΔθ² + ε)). F is a moving average of squared gradients, so there is no pass over the data
# at the end. Fisher and score live on different scales; each is divided by its largest entry, and the penalty uses
# F/max F + s/max s. (Over tasks the score is averaged, so that it stays in [0, 1].) You will write that sum in L07.5.

# %% [markdown]
# <a id="L07-6"></a>
# ## 6. The same in cllab
#
# `cllab.regularization.SI`, `cllab.regularization.MAS` and `cllab.regularization.RWalk`. Here is what SI does after a
# step and after a task; `cllab.training.fit` hands it the task's gradient.

# %% tags=["nbval-ignore-output"]
print(inspect.getsource(SI.after_step))
print(inspect.getsource(SI.end_task))

# %%
stream = permuted(digits(), 4).to(dtype=D)


def train(methods=(), seed=0, on=stream):
    """A network with 64 hidden units and the history of its run: 69 steps of Adam per task."""
    model = MLP(64, [64], on.n_classes, seed=seed).double()
    return model, run(model, on, methods, epochs=3, batch_size=64, lr=0.01, seed=seed)


two = Stream(split(digits(), 2, scenario="domain").to(dtype=D)[:2], "domain", 2)  # 0 or 1, then 2 or 3
ours = MLP(64, [64], 2, seed=0).double()
train_si(ours, two, 0.2, 0.001, generator(0, "data order"))
theirs, _ = train([SI(0.2, xi=0.001)], on=two)
gap = max((p - q).abs().max().item() for p, q in zip(ours.parameters(), theirs.parameters()))
claim("our loop and run() with SI end with the same weights, to 1e-8", gap < 1e-8)

linear, source, agree = torch.nn.Linear(4, 1, bias=False, dtype=D), generator(0), True
for _ in range(20):
    x = torch.randn(12, 4, generator=source, dtype=D)
    linear.weight.data = torch.randn(1, 4, generator=source, dtype=D)
    agree &= torch.allclose(sensitivity(linear.weight.data[0], x), output_sensitivity(linear, x)["weight"][0])
claim("our MAS and cllab's agree on 20 random linear models", agree)

# %% [markdown]
# <a id="L07-7"></a>
# ## 7. Turn the knob
#
# The two weights of section 3. The loss is the mean of ½(f − y)² over both rows. Left to right: the way through the plane
# of weights (thin: equal loss), and what each weight has earned.

# %%
X, Y = torch.tensor([[2.0, 1.0], [0.0, 1.0]], dtype=D), torch.tensor([2.0, 0.0], dtype=D)
GOAL, H, ETA = torch.tensor([1.0, 0.0], dtype=D), X.T @ X / 2, 0.02


def loss_at(theta):
    """Mean of (f - y)^2 / 2 for weights [..., 2]."""
    return ((theta @ X.T - Y) ** 2).mean(dim=-1) / 2


theta, omega = torch.zeros(2, dtype=D), torch.zeros(2, dtype=D)
path, credit = [theta], [omega]
for _ in range(800):
    g = H @ (theta - GOAL)
    after = theta - ETA * g
    omega, theta = path_step(omega, g, theta, after), after
    path.append(theta)
    credit.append(omega)
path, credit = torch.stack(path), torch.stack(credit)
print("the largest theta_2:", round(path[:, 1].max().item(), 2), "  at the end:",
      " ".join(f"{v:.4f}" for v in path[-1]))
print(f"earned: {credit[-1, 0]:.3f} and {credit[-1, 1]:.3f}, together {credit[-1].sum():.3f};"
      f" the loss fell by {loss_at(path[0]) - loss_at(path[-1]):.3f}")
for xi in (0.001, 0.1):
    print(f"xi = {xi}: Omega", " ".join(f"{v:.2f}" for v in importance(credit[-1], path[0], path[-1], xi)))

# %%
grid = torch.stack(torch.meshgrid(*[torch.linspace(*ends, 60, dtype=D) for ends in ((-0.2, 1.4), (-0.5, 0.5))],
                                  indexing="xy"), dim=-1)


def draw_plane(ax, t):
    _ = ax.contour(grid[..., 0], grid[..., 1], loss_at(grid), levels=[0.01, 0.05, 0.15, 0.4, 0.8], colors="#bbbbbb")
    _ = ax.plot(*path[: t + 1].T, color="black")
    _ = ax.plot(*path[t], "o", color="black")
    _ = ax.set(title=f"step {t}", xlabel="θ₁", xticks=[0, 1], yticks=[0])


fig, axes = plt.subplots(2, 4, figsize=(12, 4.4), layout="constrained", sharey="row", height_ratios=(3, 2))
for t, (plane, bars) in zip((5, 25, 100, 800), axes.T):
    draw_plane(plane, t)
    _ = bars.barh(["weight 2", "weight 1"], credit[t].flip(0), color=["#D55E00", "#0072B2"])
    _ = bars.set(xlim=(0, 1), xlabel="earned ω")
_ = axes[0, 0].set_ylabel("θ₂")
plt.show()

# %% [markdown]
# Weight 2 earned going up *and* coming back: on both ways the loss fell. And its way, end minus start, is nothing. Fall
# divided by nothing: with ξ = 0.001 its Ω is above 150, weight 1 has 0.85. Step through it.

# %% tags=["nbval-ignore-output"]
from cllab.player import generations_trace
from cllab.player.widget import Player

angle = torch.linspace(0, 2 * torch.pi, 49, dtype=D)[:-1]
circle = torch.stack([angle.cos(), angle.sin()], dim=1) @ torch.linalg.inv(torch.linalg.cholesky(H))
rings = [[*point, 1] for level in (0.02, 0.15) for point in (GOAL + (2 * level) ** 0.5 * circle).tolist()]
shown = sorted({*range(0, 20, 2), *range(20, 60, 5), *range(60, 401, 20)})
steps = []
for t in shown:
    text = f"Step {t}: weight 1 has earned {credit[t, 0]:.3f}, weight 2 {credit[t, 1]:.3f}; θ₂ is {path[t, 1]:.3f}."
    trail = [[*path[s].tolist(), 0] for s in shown if s <= t]
    steps.append({"x": t, "text": text, "panels": [{"points": rings + trail}]})
fall = [(loss_at(path[0]) - loss_at(path[t])).item() for t in shown]
curves = [{"name": "earned by weight 1", "values": [credit[t, 0].item() for t in shown]},
          {"name": "earned by weight 2", "values": [credit[t, 1].item() for t in shown]},
          {"name": "fall of the loss", "values": fall}]
plane = [{"name": "The two weights, θ₁ to the right", "extent": [-0.2, 1.7, -0.85, 0.85]}]
trace = generations_trace(plane, steps, ["way", "equal loss"], curves, x_label="step", y_label="ω",
                          title="What each weight earns on its way", alt="A way through two weights and what each earns.")
Player(trace, step=12)

# %% [markdown]
# The knob is ξ. Left: where the penalty (orange, c = 1) and the true loss (grey) reach the same height. Right: Ω beside
# what the loss says about each weight alone, half its curvature (曲率). With the lab open (`make app`), the page
# [Elastic weights](http://localhost:8501/elastic) shows what springs of any stiffness do to the next task.

# %%
def draw_xi(xi):
    Omega = importance(credit[-1], path[0], path[-1], xi)
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", width_ratios=(1.5, 1))
    _ = left.contour(grid[..., 0], grid[..., 1], loss_at(grid), levels=[0.05], colors="#777777")
    _ = left.contour(grid[..., 0], grid[..., 1], ((grid - GOAL) ** 2 * Omega).sum(dim=-1), levels=[0.05], colors="#D55E00")
    _ = left.plot(*path.T, color="black", linewidth=1)
    _ = left.set(title=f"ξ = {xi}", xlabel="θ₁", ylabel="θ₂")
    for shift, values, name, colour in ((-0.2, Omega, "Ω", "#D55E00"), (0.2, H.diag() / 2, "true", "#777777")):
        _ = right.bar(torch.arange(2) + shift, values, 0.4, label=name, color=colour)
    _ = right.set(xticks=[0, 1], xticklabels=["weight 1", "weight 2"], yscale="log", ylim=(0.05, 2000))
    _ = right.legend(frameon=False)
    return fig


for xi in (0.001, 0.1):
    draw_xi(xi)
    plt.show()

# %% tags=["nbval-ignore-output"]
import ipywidgets


def picture(xi):
    fig, png = draw_xi(xi), io.BytesIO()
    fig.savefig(png, format="png", dpi=80)
    plt.close(fig)
    return png.getvalue()


slider = ipywidgets.SelectionSlider(options=(0.0001, 0.001, 0.01, 0.1, 0.4, 1), value=0.1, description="ξ",
                                    continuous_update=False)
image = ipywidgets.Image(value=picture(0.1), layout=ipywidgets.Layout(width="720px"))
slider.observe(lambda change: setattr(image, "value", picture(change["new"])), names="value")
ipywidgets.VBox([slider, image])

# %% [markdown]
# ξ is not a tiny number against division by zero. It has a unit, squared weight, and says which ways count as "hardly
# moved". Between 0.1 and 1 both stiffnesses are of the right order here.

# %% [markdown]
# <a id="L07-8"></a>
# ## 8. Experiment
#
# **The books.** Four tasks, each with its own order of the pixels (domain-incremental, 域增量). After task 0 we learn task 1
# with SI's springs attached, and compare the fall of the task's loss with what the weights earn.

# %%
kept = {"EWC": EWC(0), "SI": SI(0, xi=0.001), "MAS": MAS(0), "RWalk": RWalk(0)}  # strength 0: they only watch
first, _ = train(list(kept.values()), on=Stream(stream[:1], "domain", 10))
anchor = kept["SI"].held[0]


def ledger(penalty, rows=None, lr=0.005, T=100):
    """Learn task 1 with SGD: fall of its loss, omega [P] from its own gradient and from that of the sum."""
    model, task, source = MLP(64, [64], 10).double(), stream[1], generator(0)
    model.load_state_dict(first.state_dict())
    theta, books = list(model.parameters()), [0.0, 0.0]
    start = cross_entropy(model(task.x), task.y).item()
    for _ in range(T):
        chosen = torch.randint(len(task.y), (rows,), generator=source) if rows else slice(None)
        loss = cross_entropy(model(task.x[chosen]), task.y[chosen])
        g = torch.autograd.grad(loss, theta, retain_graph=True)
        total = torch.autograd.grad(loss + penalty(model), theta)
        step = parameters_to_vector([-lr * t for t in total])
        books = [b - parameters_to_vector(v) * step for b, v in zip(books, (g, total))]
        with torch.no_grad():
            vector_to_parameters(parameters_to_vector(theta) + step, theta)
    return start - cross_entropy(model(task.x), task.y).item(), *books

# %%
def none(model):
    return 0 * model.head.bias.sum()


def springs(model):
    return 2 * 20 * quadratic_penalty(model, anchor.theta_star, anchor.F)  # c = 20


def decay(model):
    return 0.5 * sum(p.square().sum() for p in model.parameters())


print("                          fall   omega from the task   from the sum")
books = {}
for name, penalty, rows in (("no penalty", none, None), ("SI's springs, c = 20", springs, None),
                            ("weight decay", decay, None), ("no penalty, 16 rows", none, 16)):
    books[name] = ledger(penalty, rows)
    fall, *omegas = books[name]
    print(f"{name:22} {fall:7.3f}   {omegas[0].sum():19.3f}   {omegas[1].sum():12.3f}")
claim("with springs present, the task's gradient balances to 5 %",
      abs(books["SI's springs, c = 20"][1].sum() / books["SI's springs, c = 20"][0] - 1) < 0.05)

# %% [markdown]
# With the task's own gradient the books balance, whatever else pulls. With the gradient of the sum they do not: beside
# springs it earns too little, beside a strong weight decay (权重衰减) far too much. There, shrinking counts as learning.
#
# The last line is a warning: with small batches, even the right gradient over-counts. Each step follows the noise of its
# own batch, and lowers *that* batch's loss; the next batch takes it back, but the credit stays.
#
# **Four opinions about one network**, the one after task 0. Rank correlations (秩相关) of all 4,810 weights:

# %%
opinions = {name: flat(method.held[0].F) for name, method in kept.items()}
print("          ", "  ".join(f"{name:>6}" for name in opinions), "  top tenth holds   exactly 0")
for name, values in opinions.items():
    ranks = [spearmanr(values, other).statistic for other in opinions.values()]
    top = values.sort(descending=True).values[: len(values) // 10].sum() / values.sum()
    print(f"{name:10} ", "  ".join(f"{rank:6.2f}" for rank in ranks), f"  {top:15.2f}   {(values == 0).sum():9}")
unlabelled = {"half of the rows": stream[0].x[:718], "test rows": stream[0].x_test, "rows of task 1": stream[1].x}
for name, other in unlabelled.items():
    again = flat(output_sensitivity(first, other))
    print(f"MAS from {name}, no labels: rank correlation with MAS {spearmanr(again, opinions['MAS']).statistic:.2f}")

# %%
fig, axes = plt.subplots(1, 5, figsize=(12, 2.7), layout="constrained")
_ = axes[0].imshow(stream[0].x.mean(dim=0).reshape(8, 8), cmap="gray_r")
_ = axes[0].set_title("the mean image")
for ax, (name, method) in zip(axes[1:], kept.items()):
    _ = ax.imshow(method.held[0].F["trunk.0.weight"].sum(dim=0).reshape(8, 8), cmap="viridis")
    _ = ax.set_title(name if name != "EWC" else "Fisher (EWC)")
for ax in axes:
    _ = ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
plt.show()

# %% [markdown]
# Each map sums a pixel's weights into the first layer; bright is held. All four leave the edges free, which are always
# white. Fisher and MAS ask the finished network, and agree; MAS even from rows it never saw, but not
# from rows of another task. SI and RWalk remember the path: they also hold weights of units that helped early and are
# silent now. To Fisher and MAS these are exactly 0, over a thousand of them.
#
# **The stream.** Each strength was chosen from three to five on seeds 5 and 6. A control: "equal springs" gives every
# weight SI's *mean* importance.

# %%
class EqualSprings(SI):
    """SI, but every weight is held as hard as the mean weight."""

    def hold(self, model, F, keep):
        mean = flat(F).mean()
        super().hold(model, {name: torch.full_like(value, mean) for name, value in F.items()}, keep)


# %%
METHODS = {
    "fine-tuning": [],
    "equal springs": [EqualSprings(0.05, xi=0.001)],
    "RWalk": [RWalk(0.5)],
    "MAS": [MAS(0.01)],
    "SI": [SI(0.2, xi=0.001)],
    "EWC": [EWC(20)],
    "joint training": [Joint()],
}
shown, acc = {}, {}


def measure(name):
    """Two runs, seeds 0 and 1: the first history in `shown`, mean ACC in `acc`, and a printed row."""
    histories = [train(METHODS[name], seed)[1] for seed in (0, 1)]
    found = [history.metrics() for history in histories]
    shown[name], acc[name] = histories[0], np.mean([m["average_accuracy"] for m in found])
    mean = [np.mean([m[key] for m in found]) for key in ("average_accuracy", "backward_transfer", "forgetting")]
    print(f"{name:15}", "".join(f"{m['average_accuracy']:8.3f}" for m in found), "".join(f"{v:8.3f} " for v in mean),
          f"{np.mean([np.diag(history.accuracy).mean() for history in histories]):15.3f}")


print("                 ACC, two seeds    mean      BWT       F   mean diagonal")
for name in list(METHODS)[:4]:
    measure(name)

# %%
for name in list(METHODS)[4:]:
    measure(name)

fig, axes = plt.subplots(1, 5, figsize=(16, 3.6), layout="constrained")
for ax, name in zip(axes, ("fine-tuning", "MAS", "SI", "EWC", "joint training")):
    draw_accuracy_matrix(ax, shown[name].accuracy, [f"p{i}" for i in range(4)])
    _ = ax.set_title(name)
plt.show()
# ACC over seeds 0 to 4: fine-tuning .447 to .524, equal .621 to .643, RWalk .627 to .682, MAS .644 to .681,
# SI .661 to .720, EWC .717 to .730, joint .910 to .929
claim("every kind of spring is more than 8 points above fine-tuning",
      all(acc[name] - acc["fine-tuning"] > 0.08 for name in ("equal springs", "RWalk", "MAS", "SI", "EWC")))
claim("EWC is more than 4 points above equal springs", acc["EWC"] - acc["equal springs"] > 0.04)
claim("SI is above equal springs", acc["SI"] > acc["equal springs"])
claim("joint training is more than 10 points above all", acc["joint training"] - max(acc["EWC"], acc["SI"]) > 0.10)

# %% [markdown]
# Two surprises. Springs that know *nothing*, all alike, win most of what there is to win: not moving far is the larger part.
# Knowing which weights matter adds the rest; MAS and RWalk beat the control here by hardly more than seeds differ.
# A paper that compares only with fine-tuning does not show that its importances are worth anything.
#
# And all of them stay far below joint training (联合训练). Springs trade forgetting (F) against learning new tasks (the
# diagonal).

# %% [markdown]
# <a id="L07-9"></a>
# ## 9. What did you expect?

# %%
Omega = importance(credit[-1], path[0], path[-1], 0.001)
print(f"You chose {prediction}: {options[prediction]}.")
print(f"With xi = 0.001 SI holds weight 2 {Omega[1] / Omega[0]:.0f} times as hard as weight 1.")
print("As predicted." if prediction == "C" else "Answer C.")
print("curvature:", H.diag().tolist(), "  MAS:", sensitivity(GOAL, X).tolist())

# %% [markdown]
# "Not moved" is not "not used". Weight 2 did work: while θ₁ was still wrong, it helped. But credit per squared *way* makes
# no sense for a way that returns. The curvature, which here is also the Fisher, is (2, 1), MAS gives (4, 2): both see that
# weight 1 matters twice as much. SI needs ξ for that, and a good one.

# %% [markdown]
# <a id="L07-10"></a>
# ## 10. Exercises
#
# `check` compares your function with the reference and names common slips. Skip what you like: the reference then takes
# over.
#
# ### Exercise L07.5 \*\* two scales, one sum (6 min)
#
# RWalk after its first task: F and s, each on its own scale, make one importance. Neither list is all zeros.

# %%
def walk(F, s):
    """Importance of each weight: F and s, lists of P numbers >= 0, each divided by its largest entry, and added."""
    raise NotImplementedError  # --> your code (about 1 line)


walk = check("L07.5", walk)
print("F = (0.02, 0.01), s = (3, 12):", walk([0.02, 0.01], [3.0, 12.0]))

# %% [markdown]
# <details><summary>Hint L07.5</summary>
#
# `max(F)` and `max(s)`, each over all weights.
#
# </details>
# <details><summary>Solution L07.5</summary>
#
# ```python
# def walk(F, s):
#     return [Fi / max(F) + si / max(s) for Fi, si in zip(F, s)]
# ```
#
# </details>
#
# ### Exercise L07.6 \*\*\* credit under a spring (12 min)
#
# One weight, task ½a(θ − m)², spring ½kθ². Gradient descent on the sum, credit for the task alone.

# %%
def spring_path(theta, a, m, k, eta, T):
    """omega after T steps of rate eta on a/2 (theta - m)^2 + k/2 theta^2, starting at theta."""
    raise NotImplementedError  # --> your code (about 6 lines)


spring_path = check("L07.6", spring_path)
print("   from 0, task at 1: omega   the task's loss falls   |   from 1, task at 1: omega   falls")
for eta in (0.1, 0.01, 0.001):
    T = round(20 / eta)
    print(f"{spring_path(0.0, 2.0, 1.0, 2.0, eta, T):27.4f}   {1 - 0.25:21.4f}   |"
          f"{spring_path(1.0, 1.0, 1.0, 1.0, eta, T):28.4f}   {0 - 0.125:.4f}")

# %% [markdown]
# <details><summary>Hint L07.6</summary>
#
# Two gradients: `a * (theta - m)` and `k * theta`. Both move the weight; one earns.
#
# </details>
# <details><summary>Solution L07.6</summary>
#
# ```python
# def spring_path(theta, a, m, k, eta, T):
#     omega = 0.0
#     for _ in range(T):
#         g = a * (theta - m)
#         after = theta - eta * (g + k * theta)
#         omega -= g * (after - theta)
#         theta = after
#     return omega
# ```
#
# </details>
#
# The right half: a weight that sits at its task's optimum is pulled off by a spring. Its ω is negative, rightly so: the
# task's loss rose.

# %% [markdown]
# <a id="L07-11"></a>
# ## 11. Looks right, is wrong
#
# First the numbers, then the four traps.

# %%
fall, task_omega, sum_omega = books["weight decay"]
print(f"1. weight decay: loss fell {fall:.3f}, omega {task_omega.sum():.3f},"
      f" with the sum's gradient {sum_omega.sum():.3f}, {sum_omega.sum() / fall:.0f} times the fall")
white = (stream[1].x == 0).all(dim=0).expand(64, 64).flatten()  # weights of pixels that are always 0
print(f"   {white.sum()} weights see only white: omega {task_omega[: 64 * 64][white].sum():.3f} and"
      f" {sum_omega[: 64 * 64][white].sum():.3f}")

# %%
for size in (1, 64, len(stream[0].x)):
    total = torch.zeros(4810, dtype=D)
    for part in stream[0].x.split(size):
        g = torch.autograd.grad(first(part).square().sum(), list(first.parameters()))
        total += parameters_to_vector(g).abs() / len(stream[0].x)
    print(f"2. absolute value after {size:4} rows: {total.sum() / opinions['MAS'].sum():.2f} of MAS is left")

Omega = torch.tensor([-0.125]) / 0.25
for clamp in (True, False):
    stiffness, delta = (Omega.clamp(min=0) if clamp else Omega), torch.tensor([0.01])
    for _ in range(100):
        delta = delta - 0.1 * 2 * 1.0 * stiffness * delta
    print(f"3. Omega {stiffness.item() + 0.0:.1f}: 100 steps of its spring alone, eta = 0.1, c = 1,"
          f" take it from 0.01 to {delta.item():.2f} off the anchor")

si = kept["SI"]
moved = {name: p.detach() - si.start[name] for name, p in first.named_parameters()}
raw = flat({name: omega / moved[name].square() for name, omega in si.omega.items()})
print(f"4. without xi: {raw.isnan().sum()} of 4810 are NaN, the largest is {raw.nan_to_num().max():.0f};"
      f" with xi = 0.001 {opinions['SI'].max():.1f}")

# %% [markdown]
# <details><summary>1. <code>(loss + penalty).backward(); omega -= p.grad * step</code></summary>
#
# `p.grad` now holds the penalty, too. Two well-known libraries do this. Even weights that see only white are credited,
# for having decayed. Accuracy need not show it. Test: with a penalty present, Σω equals the fall of the task's
# loss, to 5 %.
#
# </details>
#
# <details><summary>2. <code>(f(x) ** 2).sum().backward(); Omega += p.grad.abs()</code></summary>
#
# One backward pass per batch is fast, and signs cancel before they are dropped. By hand that made a weight of
# importance 2 worthless; here a third of all importance goes, and how much depends on the batch size. Test: a
# loop over single rows.
#
# </details>
#
# <details><summary>3. <code>Omega += omega / (way ** 2 + xi)</code>, without max</summary>
#
# Weight at its optimum, pulled off by a spring: the negative ω of L07.6. A spring of negative stiffness *pushes*: each step
# multiplies the distance by 1 + 2ηc|Ω|. The authors clamp; at least three public programs do not. Test: all importances
# ≥ 0.
#
# </details>
#
# <details><summary>4. <code>Omega = omega / way ** 2</code>, without ξ</summary>
#
# Weights of pixels that are always white earn 0 on a way of 0. The next loss is NaN. And weights that went out and
# back become rigid. Test: a weight with zero gradient gets Ω = 0.
#
# </details>

# %% [markdown]
# <a id="L07-12"></a>
# ## 12. Limits
#
# - SI's credit depends on the path: batch size, optimiser, rate, start. Change one and c must be found again.
# - It cannot be computed for a network that somebody else has trained. MAS and EWC can.
# - MAS grows with the size of the logits, not with their use: a surer network is held harder.
# - One spring per weight cannot follow a tilted valley, such as the grey ellipse of section 7.
# - Class-incremental streams defeat all of them, as they did EWC: old and new outputs were never compared. There, replay.

# %% [markdown]
# <a id="L07-13"></a>
# ## 13. Self-test
#
# 1. A weight earned 3 and moved by 2, ξ is negligible. What is its Ω?
# 2. With tiny steps, what is Σω of a run whose loss went from 2 to ½?
# 3. Which of Fisher, SI and MAS can be computed from rows without labels?
# 4. Why is c = 1 a natural strength for SI, but λ = 1 not for MAS?
#
# <details><summary>Answers</summary>
#
# 1. Three quarters.
# 2. One and a half.
# 3. MAS, and the true Fisher, whose labels are the model's own.
# 4. With c = 1 a quadratic task gets its own loss back. MAS is no loss: its unit is that of squared logits.
#
# </details>

# %% [markdown]
# <a id="L07-14"></a>
# ## 14. Further reading
#
# - Zenke, Poole & Ganguli (2017), *Continual learning through synaptic intelligence*: the path integral, and why it
#   recovers the curvature.
# - Aljundi et al. (2018), *Memory aware synapses: learning what (not) to forget*: label-free importance, adapted where the
#   network is used.
# - Benzing (2022), *Unifying importance based regularisation methods for continual learning*: what SI and MAS really
#   measure, and how close both come to the square root of the Fisher.
#
# To compare: the authors' code of SI, ganguli-lab/pathint, which clamps and takes the task's gradient. RWalk is in Chaudhry
# et al. (2018). Next: lesson 08 holds on to answers instead of weights.
