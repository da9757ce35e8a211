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
# <a id="L05-0"></a>
# # Lesson 05. Latent and generative replay (潜在回放与生成式回放)
#
# **Can a network remember ten digits without keeping a single image?**
#
# 60 minutes. Before it: lesson 03, *Experience replay*. After it you can say what a stored latent is worth when the
# network moves, replay from a generator, and predict how such a generator decays.
#
# | card | latent replay | generative replay |
# | --- | --- | --- |
# | memory cost | K latents | a generator, and a copy of the network while a task is trained |
# | stores data? | not the rows, but what a layer made of them | no row |
# | needs a boundary while training? | yes: after the first task the lower part is frozen | yes |
# | needs a task id at test? | no | no |

# %%
import cllab

cllab.setup("05", written_for="0.1")

# %%
import inspect
import io
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from cllab.device import generator
from cllab.exercises import check, claim
from cllab.models import MLP
from cllab.plots import draw_accuracy_matrix
from cllab.replay import ClassGaussians, ExperienceReplay, GenerativeReplay, LatentReplay
from cllab.replay import expected_shrink, gaussian, kl_divergence, latent_age, latents, refit_variances
from cllab.streams import digits, split
from cllab.training import Joint, Step, TaskEnded, fit, frozen_copy, run

# %% [markdown]
# <a id="L05-1"></a>
# ## 1. Warm-up
#
# Answer aloud, then open the fold.
#
# 1. Lesson 04: during a task iCaRL keeps a copy of the network as it was before. What is the copy asked?
# 2. Lesson 01: a network knows task A, then trains on B alone. Why does nothing in the loss protect A?
#
# <details><summary>Answers</summary>
#
# 1. What it says to the rows being trained on: its answers are the targets of the old outputs. Today the copy comes back.
# 2. A's rows are not in it. Today we put rows back that nobody ever stored.
#
# </details>

# %% [markdown]
# <a id="L05-2"></a>
# ## 2. Why
#
# Lesson 03 kept 50 images. But images can be of faces, of patients; a contract may end, and the memory must be deleted.
# One of these two rows was written by people. The other was drawn from a formula that keeps no image.

# %%
data = digits()
x, y = data.x.double(), data.y
formula = ClassGaussians()
formula.fit(x, y)
made = formula.draw(torch.arange(10), generator(3))
real = torch.stack([x[y == c][7] for c in range(10)])


def draw_row(axes, images):
    for ax, image in zip(axes, images):
        ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(True)


fig, axes = plt.subplots(2, 10, figsize=(9, 2), layout="constrained")
draw_row(axes[0], made)
draw_row(axes[1], real)
plt.show()
print("The upper row was drawn from the formula, the lower row is real.")

# %% [markdown]
# <a id="L05-3"></a>
# ## 3. Predict
#
# The formula's images are speckled, and still one can read them. Can a network learn from them? Five tasks of two
# digits, class-incremental (类增量). Three programs, three memories. Which ends with the highest accuracy? Commit: set the
# letter. It comes back in section 9.

# %%
options = {
    "A": "50 real images, replayed as in lesson 03",
    "B": "100 latents, what the first layer made of 100 images; about as many bytes as A",
    "C": "no row at all: a mean and a covariance for each digit",
}
prediction = "A"  # your choice
print(f"You chose {prediction}: {options[prediction]}.")

# %% [markdown]
# <a id="L05-4"></a>
# ## 4. By hand
#
# **Latents.** Cut a network after a layer: below it f_low, above it f_up. Do not store the row x, store the **latent**
# (潜在表示) h = f_low(x), and replay it into f_up.
#
# A layer with two units and ReLU, weights (1, 0) and (−1, 1), sees x = (1, 2): h = (1, 1). We store that. Then the network
# learns something else, and every weight of the layer grows by 0.1. The same x now gives
#
# | unit | weights now | output now | stored |
# | --- | --- | --- | --- |
# | 1 | (1.1, 0.1) | 1.1 · 1 + 0.1 · 2 = 1.3 | 1 |
# | 2 | (−0.9, 1.1) | −0.9 · 1 + 1.1 · 2 = 1.3 | 1 |
#
# What is stored is no longer what the layer makes of its row. The latent has **aged** (老化).
#
# ### Exercise L05.1 \* the age of a latent (2 min)
#
# Age: the mean absolute difference between the stored numbers and those of now.

# %%
age = ...  # --> your number
age = check("L05.1", age)
print("age:", age)

# %% [markdown]
# <details><summary>Hint L05.1</summary>
#
# Two differences; take their mean.
#
# </details>
# <details><summary>Solution L05.1</summary>
#
# ```python
# age = (abs(1 - 1.3) + abs(1 - 1.3)) / 2
# ```
#
# </details>
#
# If f_low stands still, the age is 0, and f_up gets exactly what replaying the row itself would give it: the same
# gradient, to the last bit. Here on digits, with 64 pixels below and 32 latent numbers above the cut.

# %%
stream = split(data, 2, scenario="class").to(dtype=torch.float64)
model = MLP(64, [32], 10).double()
rows, labels = stream[0].x[:32], stream[0].y[:32]
h = latents(model, rows, stage=1)
gradients = []
for logits in (model(rows), model.upper(1)(h)):
    model.zero_grad()
    F.cross_entropy(logits, labels).backward()
    gradients.append(model.head.weight.grad.clone())
print("bytes of a row:", rows[0].nbytes, "  of its latent:", h[0].nbytes)
print("gradient of f_up from rows and from latents bit-equal:", torch.equal(*gradients))

# %% [markdown]
# **A generator** (生成器). No row, no latent: a formula for new rows. The simplest is a normal distribution per class.
# Three points of a class: (0, 0), (2, 1), (1, 2).
#
# | step | result |
# | --- | --- |
# | mean μ | (1, 1) |
# | points minus μ | (−1, −1), (1, 0), (0, 1) |
# | variance of each coordinate: (1 + 1 + 0)/3 | 2/3, 2/3 |
# | covariance (协方差): ((−1)(−1) + 1 · 0 + 0 · 1)/3 | 1/3 |
#
# To draw a new point, factor Σ = LL′ (Cholesky), take z from N(0, I), and set x′ = μ + Lz.

# %%
points = torch.tensor([[0.0, 0.0], [2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
mu, Sigma = gaussian(points)
L = torch.linalg.cholesky(Sigma)
print("mu", mu.tolist(), "  Sigma", [[round(v, 3) for v in row] for row in Sigma.tolist()])
for z in ([0.0, 0.0], [1.0, 0.0], [1.0, -1.0]):
    x_new = mu + L @ torch.tensor(z, dtype=torch.float64)
    print(f"z = {z}: x' =", [round(v, 3) for v in x_new.tolist()])

# %% [markdown]
# **Drift** (漂移). When a generator is trained again, it must learn old classes from its own samples: a copy of a copy. The
# smallest example is a coin. It shows −1 or +1: mean 0, variance 1. Draw n = 2 values, four equally likely ways, and refit:
#
# | draws | mean | variance |
# | --- | --- | --- |
# | −1, −1 | −1 | 0 |
# | −1, +1 | 0 | 1 |
# | +1, −1 | 0 | 1 |
# | +1, +1 | +1 | 0 |
#
# On average half of the variance is left, and in two of four cases *nothing*, for ever. The sample's spread is measured
# around its own mean, which has moved towards it. For any distribution with n draws, one generation leaves (n − 1)/n, and T
# generations leave
#
# $E[\sigma_T^2] = \left(\frac{n-1}{n}\right)^T \sigma_0^2$

# %%
T = 20
print("   n   expected   lineages    mean   median")
for n, lineages in ((10, 20000), (100, 2000), (1000, 500)):
    left = refit_variances(n, T, lineages, generator(0))[-1]
    print(f"{n:4}   {expected_shrink(n, T):8.4f}   {lineages:8}   {left.mean():.3f}   {left.median():6.3f}")

# %% [markdown]
# With n = 10, 0.1216 of the variance should be left after 20 generations, and the mean of many lineages agrees. But look at
# the median: 0.012. A few lucky lineages hold the mean up; **the typical one is ten times worse off**. Shrinking multiplies,
# and of products the mean is a poor summary.
#
# **The scholar** (学者) of generative replay is a pair: a generator and a solver (解题器), the network. In task t it learns
# from new rows with weight r, and from rows of the *old* generator, labelled by the *old* solver, with weight 1 − r. If all
# tasks should count alike, r = 1/t: in task 5 the new one is one of five.

# %% [markdown]
# <a id="L05-5"></a>
# ## 5. Equation to code
#
# | symbol | code | shape | meaning |
# | --- | --- | --- | --- |
# | $h$ | `h` | `[N, H]` | latents, $f_{low}(x)$ |
# | $\mu_c, \Sigma_c$ | `mu, Sigma` | `[D]`, `[D, D]` | mean and covariance of class c |
# | $x', y'$ | `made, answers` | `[B, D]`, `[B]` | generated rows, the old solver's labels |
# | $r$ | `r` | in (0, 1] | importance of the new task |
# | $n, T$ | `n, T` | | samples per refit, generations |
#
# ### Exercise L05.2 \* fit a class (4 min)

# %%
def covariance(x):
    """Covariance [D, D] of the rows x, a float64 tensor [N, D]; maximum likelihood, so divide by N."""
    raise NotImplementedError  # --> your code (about 2 lines)


covariance = check("L05.2", covariance)

# %% [markdown]
# <details><summary>Hint L05.2</summary>
#
# `d = x - x.mean(dim=0)`; a product of `d` with itself sums over the rows.
#
# </details>
# <details><summary>Solution L05.2</summary>
#
# ```python
# def covariance(x):
#     d = x - x.mean(dim=0)
#     return d.T @ d / len(x)
# ```
#
# </details>
#
# With it, refitting to one's own samples is five lines.

# %%
def generation(mu, Sigma, n, source):
    """Draw n rows from N(mu, Sigma), fit again."""
    # x' = mu + L z  (a grain on the diagonal: Sigma may be singular)
    L = torch.linalg.cholesky(Sigma + 1e-9 * torch.eye(len(mu)).double())
    z = torch.randn(n, len(mu), generator=source, dtype=torch.float64)
    made = mu + z @ L.T
    return made.mean(dim=0), covariance(made)


m, S, source = mu, Sigma, generator(0)
for t in range(1, 41):
    m, S = generation(m, S, 10, source)
    if t % 10 == 0:
        print(f"generation {t}: mean ({m[0]:.2f}, {m[1]:.2f}), variances {S[0, 0]:.4f} and {S[1, 1]:.4f}")

# %% [markdown]
# ### Exercise L05.3 \* the scholar's loss (4 min)
#
# $L = r\,L(x, y) + (1 - r)\,L(x', y'), \quad r = 1/t$

# %%
def scholar_loss(new, made, t):
    """Loss of a step in task t = 1, 2, ..: new, made are lists of losses per row. made is [] in task 1."""
    raise NotImplementedError  # --> your code (about 4 lines)


scholar_loss = check("L05.3", scholar_loss)
print("t = 5, new rows lose 2, made-up rows 0.5:", scholar_loss([2.0, 2.0], [0.5], 5))

# %% [markdown]
# <details><summary>Hint L05.3</summary>
#
# Each L is a mean over its own rows, so that the number of rows does not matter.
#
# </details>
# <details><summary>Solution L05.3</summary>
#
# ```python
# def scholar_loss(new, made, t):
#     loss = sum(new) / len(new)
#     if not made:
#         return loss
#     return loss / t + (1 - 1 / t) * sum(made) / len(made)
# ```
#
# </details>
#
# The whole loop. Order matters: copy the solver *before* the task, fit the generator *after* it.

# %%
def old_solver(old, new, made, C):
    """y' = argmax of the old solver among the classes that it knew."""
    return old(made)[:, : C - 2].argmax(dim=1)


def train_scholar(model, order, noise, label=old_solver):
    sampler = ClassGaussians()
    for t, task in enumerate(stream):
        old, optimizer = frozen_copy(model), torch.optim.Adam(model.parameters(), lr=0.02)
        C, r = 2 * (t + 1), 1 / (t + 1)
        for batches in (torch.randperm(len(task.y), generator=order).split(32) for epoch in range(3)):
            for rows in batches:
                loss = F.cross_entropy(model(task.x[rows])[:, :C], task.y[rows])
                if t > 0:
                    # x' ~ old generator
                    made, _ = sampler.sample(len(rows), noise)
                    answers = label(old, model, made, C)
                    # L = r L(x, y) + (1 - r) L(x', y')
                    loss = r * loss + (1 - r) * F.cross_entropy(model(made)[:, :C], answers)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        sampler.fit(task.x, task.y)

# %% [markdown]
# <a id="L05-6"></a>
# ## 6. The same in cllab
#
# `cllab.replay.LatentReplay` and `cllab.replay.GenerativeReplay`; here what each does in a step.

# %% tags=["nbval-ignore-output"]
print(inspect.getsource(LatentReplay.task_loss))
print(inspect.getsource(GenerativeReplay.replay))

# %%
def train(methods=(), seed=0, on=stream):
    """A network and the history of its run: 32 hidden units, 135 steps in float64 for five tasks."""
    model = MLP(64, [32], 10, seed=seed).double()
    return model, run(model, on, methods, epochs=3, batch_size=32, lr=0.02, seed=seed)


def accuracy(model):
    """Test accuracy over all ten digits."""
    return (model(data.x_test.double()).argmax(dim=1) == data.y_test).double().mean().item()


source = generator(0)
agree = all(torch.allclose(covariance(v), gaussian(v)[1]) for v in torch.randn(100, 12, 4, generator=source).double())
claim("our covariance and cllab's agree on 100 random classes", agree)
ours = MLP(64, [32], 10, seed=0).double()
train_scholar(ours, generator(0, "data order"), generator(0, "GenerativeReplay 0"))
scholar = GenerativeReplay("gmm")
theirs, scholar_history = train([scholar])
gap = max((p - q).abs().max().item() for p, q in zip(ours.parameters(), theirs.parameters()))
claim("our loop and run() with GenerativeReplay end with the same weights, to 1e-8", gap < 1e-8)

# %% [markdown]
# <a id="L05-7"></a>
# ## 7. Turn the knob
#
# The knob is n, the size of the sample that each generation is refitted to. Left: the variance of a one-dimensional normal
# distribution, 2,000 lineages. Right: a Gaussian of the digit 3, refitted to n of its own images again and again.

# %%
GENERATIONS = (0, 10, 20, 40)


@cache
def image_lineage(n):
    """Ten Gaussians refitted to n of their own images each: {generation: (the Gaussians, 100 images per digit)}."""
    sampler, source, found = ClassGaussians(), generator(0), {}
    sampler.fit(x, y)
    wanted = torch.arange(10).repeat_interleave(n)
    for t in range(41):
        if t % 5 == 0:
            found[t] = dict(sampler.mixtures), sampler.draw(torch.arange(10).repeat_interleave(100), generator(1))
        sampler.fit(sampler.draw(wanted, source), wanted)
    return found


# %%
def draw_drift(n):
    fig = plt.figure(figsize=(11, 3.3), layout="constrained")
    left, right = fig.subfigures(1, 2, width_ratios=(1, 1.4))
    variances, ax = refit_variances(n, 40, 2000, generator(0)), left.subplots()
    _ = ax.plot(variances.mean(dim=1), color="#0072B2", label="mean")
    _ = ax.plot([expected_shrink(n, t) for t in range(41)], "k:", label="((n - 1)/n)^T")
    _ = ax.plot(variances.median(dim=1).values, color="#D55E00", label="median")
    _ = ax.set(xlabel="generation T", ylabel="variance left", ylim=(0, 1.05), title=f"n = {n}")
    _ = ax.legend(frameon=False)
    found = image_lineage(n)
    for t, row in zip(GENERATIONS, right.subplots(4, 12)):
        draw_row(row, found[t][1][300:312])
        _ = row[0].set_ylabel(f"T = {t}", rotation=0, ha="right", va="center")
    return fig


draw_drift(10)
plt.show()

# %% [markdown]
# Variety dies: after 40 generations there is one image, over and over. Would we notice? Take a fixed classifier, a
# network trained jointly on real images, and count the share of made-up images in which it sees the digit asked for.

# %%
judge, joint_history = train([Joint()])
wanted, found = torch.arange(10).repeat_interleave(100), image_lineage(10)
shares, variances = {}, {}
print(f"the judge on real test images: {accuracy(judge):.3f}")
print(" T   recognised   variance left   expected")
for t, (mixtures, images) in found.items():
    shares[t] = (judge(images).argmax(dim=1) == wanted).double().mean().item()
    variances[t] = sum(mixture.covariance[0].trace().item() for mixture in mixtures.values())
    if t in GENERATIONS:
        print(f"{t:2}   {shares[t]:10.2f}   {variances[t] / variances[0]:13.2f}   {expected_shrink(10, t):8.2f}")

# %% [markdown]
# While the variance dies, the judge is *happier*: one clean prototype per digit is easy to recognise. A classifier's
# verdict cannot see the drift. Measure variety too.
#
# Step through the generations, then move n. With the lab open (`make app`), the page
# [Generative replay](http://localhost:8501/generative) does this with points, too, and with a learned generator.
# The digits have about 144 images each: with n = 144 a few generations do hardly any harm. Drift is a matter of
# small samples and many generations.

# %% tags=["nbval-ignore-output"]
from cllab.player import generations_trace, image_digits
from cllab.player.widget import Player

steps = []
for t, (_, images) in found.items():
    shown = [c * 100 + k for c in range(10) for k in range(4)]
    pictures = [[image_digits(images[i]), int(wanted[i]), int(judge(images[i][None]).argmax())] for i in shown]
    text = f"After {t} generations the judge recognises {shares[t]:.0%} of the images;"
    text += f" {variances[t] / variances[0]:.0%} of the variance are left."
    steps.append({"x": t, "text": text, "panels": [{"images": pictures}]})
lines = [{"name": "recognised by the judge", "values": list(shares.values())},
         {"name": "variance left", "values": [v / variances[0] for v in variances.values()]}]
trace = generations_trace([{"name": "Four images of each digit"}], steps, [str(c) for c in range(10)], lines,
                          x_label="generation T", y_label="share", title="Refitted to ten of their own images")
Player(trace)

# %% tags=["nbval-ignore-output"]
import ipywidgets


def picture(n):
    fig, png = draw_drift(n), io.BytesIO()
    fig.savefig(png, format="png", dpi=80)
    plt.close(fig)
    return png.getvalue()


slider = ipywidgets.SelectionSlider(options=(5, 10, 20, 50, 144), value=10, description="n", continuous_update=False)
image = ipywidgets.Image(value=picture(10), layout=ipywidgets.Layout(width="880px"))
slider.observe(lambda change: setattr(image, "value", picture(change["new"])), names="value")
ipywidgets.VBox([slider, image])

# %% [markdown]
# <a id="L05-8"></a>
# ## 8. Experiment
#
# First the latents. 64 images of 0 and 1 are stored as latents after the first task. Then four more tasks pass, by
# fine-tuning (微调). How old are the latents?

# %%
def ages(methods):
    """Age of 64 latents of the first task, step by step, as a share of their mean size."""
    model, rows, found = MLP(64, [32], 10).double(), stream[0].x[:64], {}
    for event in fit(model, stream, methods, epochs=3, batch_size=32, lr=0.02):
        if isinstance(event, Step):
            if event.step == 27:
                stored = latents(model, rows, 1)
            if event.step >= 27:
                found[event.step] = latent_age(stored, latents(model, rows, 1)) / stored.abs().mean().item()
    return found


moving, frozen = ages([]), ages([LatentReplay(100)])
fig, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
_ = ax.plot(moving.keys(), moving.values(), color="#D55E00", label="f_low goes on learning")
_ = ax.plot(frozen.keys(), frozen.values(), color="#0072B2", label="f_low frozen")
_ = ax.set(xlabel="step", ylabel="age / mean size", xticks=range(27, 136, 27))
_ = ax.legend(frameon=False)
plt.show()
print("age as a share of the mean size after tasks 1 to 5:", " ".join(f"{moving[s]:.2f}" for s in range(27, 136, 27)))
print("frozen:", set(frozen.values()))

# %% [markdown]
# Does age matter? Replay 100 latents, with f_low moving and with f_low frozen, and ask two questions at the end: does f_up
# still know the *stored latents*, and does the whole network know *the images that they came from*?

# %%
def ask(frozen):
    method = LatentReplay(100, frozen=frozen, probe=100)
    model, history = train([method])
    kept = method.probes.sample(100)
    old = kept.y < 8
    right = [(logits.argmax(dim=1) == kept.y)[old].double().mean().item()
             for logits in (model.upper(1)(kept.x), model(kept.row))]
    print(f"{'frozen' if frozen else 'moving'}: older digits, latents as stored {right[0]:.2f},"
          f" their images {right[1]:.2f};  ACC {history.metrics()['average_accuracy']:.3f}")
    return model


moving_model, frozen_model = ask(False), ask(True)
everything, everything_test = (latents(frozen_model, rows.double(), 1) for rows in (data.x, data.x_test))
probe = LogisticRegression(max_iter=2000).fit(everything, data.y).score(everything_test, data.y_test)
print(f"a linear classifier, trained to the end on the frozen latents of all images: {probe:.2f}")

# %% [markdown]
# The moving network passes the test that it trains for, and fails the one that counts: its memory speaks a language that
# the lower layer no longer does.
#
# Frozen is exact: both numbers are the same. And yet it is poor. The latents do hold the digits, says the last line. But this
# f_low learned to tell 0 from 1 and then had to stop; in its features the other digits lie close together, and a head with
# 27 steps per task does not part them. In the paper f_low had seen a million photographs before. Give ours a better start:
# more digits in the first task.

# %%
for first in (2, 4, 6):
    groups = [list(range(first)), *([c, c + 1] for c in range(first, 10, 2))]
    other = split(data, groups, scenario="class").to(dtype=torch.float64)
    accs = [train([LatentReplay(100)], seed, other)[1].metrics()["average_accuracy"] for seed in (0, 1)]
    print(f"first task of {first} digits: ACC {np.mean(accs):.2f} with f_low frozen after it, two seeds")

# %% [markdown]
# Now all of them on the five tasks. "ER, same bytes" may keep as many images as fit into what the Gaussians take. And
# for comparison no network at all: the class whose Gaussian finds the image most likely.

# %%
real_row = 64 * 8 + 16  # pixels, label and task number
K_same = scholar.memory_bytes() // real_row
METHODS = {
    "fine-tuning": [],
    "latents, f_low moving": [LatentReplay(100, frozen=False)],
    "latents, f_low frozen": [LatentReplay(100)],
    "ER, 50 images": [ExperienceReplay(50)],
    "ER, same bytes": [ExperienceReplay(K_same)],
    "Gaussians": [GenerativeReplay("gmm")],
    "joint training": [Joint()],
}
table, shown = {}, {"Gaussians": scholar_history, "joint training": joint_history}
print("K with the same bytes:", K_same)


def most_likely(eps):
    """Test accuracy without any network; eps is added to the diagonal of every covariance."""
    scores = []
    for c in range(10):
        mean, spread = gaussian(x[y == c])
        normal = torch.distributions.MultivariateNormal(mean, spread + eps * torch.eye(64).double())
        scores.append(normal.log_prob(data.x_test.double()))
    return (torch.stack(scores).argmax(dim=0) == data.y_test).double().mean().item()


# %%
def measure(name):
    """Three runs: ACC, recency bias and accuracy on the last task in `table`, the first run's history in `shown`."""
    shown[name] = shown.get(name) or train(METHODS[name])[1]
    histories = [shown[name]] + [train(METHODS[name], seed)[1] for seed in (1, 2)]
    rows = [(h.metrics()["average_accuracy"], h.curve[-1].newest, h.accuracy[-1, -1]) for h in histories]
    table[name] = np.array(rows)
    acc, newest, last = table[name].mean(axis=0)
    kilobytes = sum(method.memory_bytes() for method in METHODS[name]) / 1000
    print(f"{name:22} {acc:.2f} +- {table[name][:, 0].std(ddof=1):.2f}   newest {newest:.2f}   last task {last:.2f}"
          f"   {kilobytes:6.1f} kB")


for name in list(METHODS)[:4]:
    measure(name)

# %%
for name in list(METHODS)[4:]:
    measure(name)

fig, axes = plt.subplots(1, 4, figsize=(15, 4), layout="constrained")
for ax, name in zip(axes, ("fine-tuning", "latents, f_low frozen", "Gaussians", "joint training")):
    draw_accuracy_matrix(ax, shown[name].accuracy, shown[name].task_names)
    _ = ax.set_title(name)
plt.show()
print("                          ACC     BWT       F")
for name in METHODS:
    m = shown[name].metrics()
    row = (m["average_accuracy"], m["backward_transfer"], m["forgetting"])
    print(f"{name:22}", "".join(f"{round(value, 3) + 0.0:8.3f}" for value in row))
print(f"numbers per digit: {64 + 64 * 64}, as many as {(64 + 64 * 64) / 64:.0f} images have pixels")
print("no network, the most likely Gaussian:",
      ", ".join(f"{most_likely(eps):.3f} with {eps} on the diagonal" for eps in (0.0001, 0.01)))

# %% [markdown]
# The formula, which stores no image, comes close to joint training (联合训练). Two cautions, in the two last lines. One: the
# Gaussians are not small. A covariance of 64 pixels takes the bytes of 64 images, and ER with that many images does as
# well. Two: without any network, the ten formulas are a better classifier than all our networks, and they cannot forget.
# But photographs are not normally distributed; there the generator must be learned.
#
# Nothing drifted here: `cllab` leaves the Gaussian of an old class as it is (`refit=True` would refit it). A learned
# generator has no choice. It is one network for all digits, and learns the old ones from its own samples.
#
# The smallest one: a **VAE** (变分自编码器). An encoder turns an image into μ and σ of a few latent numbers, a
# decoder turns latent numbers into an image; the loss is reconstruction plus a KL divergence (KL 散度) that keeps the latent
# numbers near N(0, I).

# %%
vae = GenerativeReplay("vae", hidden=64, latent=8, epochs=8, batch_size=32, lr=0.004)
_, vae_history = train([vae])
images = vae.sampler.draw(torch.arange(10).repeat(2), generator(0))
fig, axes = plt.subplots(2, 10, figsize=(9, 2), layout="constrained")
for row, part in zip(axes, images.split(10)):
    draw_row(row, part)
plt.show()
vae_acc = vae_history.metrics()["average_accuracy"]
print(f"the VAE takes {vae.sampler.nbytes / 1000:.0f} kB, the Gaussians {scholar.sampler.nbytes / 1000:.0f} kB")

mean = {name: rows[:, 0].mean() for name, rows in table.items()}
# ACC over seeds 0 to 4: fine-tuning .099 to .186, moving .177 to .194, frozen .310 to .382, ER .753 to .834,
# Gaussians .869 to .916, VAE .850 to .883
claim("Gaussians are above ER with 50 images", mean["Gaussians"] > mean["ER, 50 images"])
claim("a frozen f_low is more than 5 points above a moving one",
      mean["latents, f_low frozen"] - mean["latents, f_low moving"] > 0.05)
claim("latents under a moving f_low are within 15 points of fine-tuning",
      mean["latents, f_low moving"] - mean["fine-tuning"] < 0.15)
claim("the VAE is more than 50 points above fine-tuning", vae_acc - mean["fine-tuning"] > 0.50)

# %% [markdown]
# <a id="L05-9"></a>
# ## 9. What did you expect?

# %%
letters = {"A": "ER, 50 images", "B": "latents, f_low frozen", "C": "Gaussians"}
right = max(letters, key=lambda letter: mean[letters[letter]])
print(f"You chose {prediction}: {options[prediction]}.")
print("Measured over three seeds:", ", ".join(f"{letter} {mean[name]:.2f}" for letter, name in letters.items()))
print("As predicted." if prediction == right else f"Answer {right}.")

# %% [markdown]
# Fifty images are the same fifty in every step; the formula never repeats itself. It knows how all pixels of a digit vary
# together, from all its images, and pays for that in bytes. Latents are real rows in another language: only as good as the
# layer that wrote them, and worthless when it changes.

# %% [markdown]
# <a id="L05-10"></a>
# ## 10. Exercises
#
# `check` compares your function with the reference and names common slips. Skip what you like: the reference then takes
# over.
#
# ### Exercise L05.4 \*\* distance from the prior (8 min)
#
# The KL divergence in a VAE's loss, $\frac{1}{2} \sum_j (\mu_j^2 + \sigma_j^2 - 1 - \ln \sigma_j^2)$. The encoder gives
# $\ln \sigma^2$.

# %%
def kl(mu, log_var):
    """KL(N(mu, sigma^2) || N(0, I)) in nats; mu and log_var = ln sigma^2 are lists of J numbers."""
    raise NotImplementedError  # --> your code (about 1 line)


kl = check("L05.4", kl)
print(f"mu = (1, 0), sigma^2 = (1, 4): {kl([1.0, 0.0], [0.0, np.log(4)]):.6f}")
pair = torch.randn(2, 5, generator=generator(0), dtype=torch.float64)
claim("the same as cllab's on a random row", abs(kl(*pair.tolist()) - kl_divergence(*pair)) < 1e-9)

# %% [markdown]
# <details><summary>Hint L05.4</summary>
#
# $\sigma_j^2$ is `math.exp(log_var[j])`.
#
# </details>
# <details><summary>Solution L05.4</summary>
#
# ```python
# import math
#
# def kl(mu, log_var):
#     return sum(m**2 + math.exp(v) - 1 - v for m, v in zip(mu, log_var)) / 2
# ```
#
# </details>
#
# By hand: half of 1 for μ, and half of 4 − 1 − ln 4 for σ.
#
# ### Exercise L05.5 \*\* what each task weighs (8 min)
#
# The old solver and generator are themselves a mixture. A scholar took task 1 (r = 1), then tasks with r = ½, ½, ..: what is
# task 1 worth in the end?

# %%
def task_weights(rs):
    """Share of each task in what the last scholar learned from. rs: r of tasks 1, 2, ..; the first is 1."""
    raise NotImplementedError  # --> your code (about 4 lines)


task_weights = check("L05.5", task_weights)
for name, rs in {"r = 1/2": [1, 0.5, 0.5, 0.5, 0.5], "r = 1/t": [1 / t for t in range(1, 6)]}.items():
    print(name, " ".join(f"{w:.4f}" for w in task_weights(rs)))

# %% [markdown]
# <details><summary>Hint L05.5</summary>
#
# Go through rs. A new task takes r; what was there keeps 1 − r of its weight.
#
# </details>
# <details><summary>Solution L05.5</summary>
#
# ```python
# def task_weights(rs):
#     weights = []
#     for r in rs:
#         weights = [w * (1 - r) for w in weights] + [r]
#     return weights
# ```
#
# </details>
#
# A constant r is forgetting by arithmetic: 0.0625 are left for task 1. With r = 1/t every task keeps 0.2000.
# (`cllab` draws old classes as often as they had rows, so only the newest task gets more there.)
#
# ### Exercise L05.6 \*\*\* one lineage (15 min)
#
# Drift without chance: the standard normal numbers z are given, one row per generation. Start at N(0, 1); draw, refit mean and
# variance, draw again.

# %%
def lineage(z):
    """[1, variance after generation 1, ..]. z: one list of n standard normal numbers per generation."""
    raise NotImplementedError  # --> your code (about 7 lines)


lineage = check("L05.6", lineage)
z = torch.randn(2000, 20, 10, generator=generator(0), dtype=torch.float64).tolist()
left = np.array([lineage(one)[-1] for one in z])
print(f"of 2000 lineages, n = 10, T = 20: {np.mean(left < 0.1216):.2f} end below the expected 0.1216")
print("sorted, at 5, 50 and 95 %:", " ".join(f"{q:.4f}" for q in np.quantile(left, [0.05, 0.5, 0.95])))

# %% [markdown]
# <details><summary>Hint L05.6</summary>
#
# x = mean + σ z with σ the root of the variance; then the new mean; then the mean squared distance from it.
#
# </details>
# <details><summary>Solution L05.6</summary>
#
# ```python
# def lineage(z):
#     mean, variance, found = 0.0, 1.0, [1.0]
#     for row in z:
#         x = [mean + variance**0.5 * value for value in row]
#         mean = sum(x) / len(x)
#         variance = sum((value - mean) ** 2 for value in x) / len(x)
#         found.append(variance)
#     return found
# ```
#
# </details>

# %% [markdown]
# <a id="L05-11"></a>
# ## 11. Looks right, is wrong
#
# First the numbers, then the four traps.

# %%
for correction in (0, 1):
    m, v, source = torch.zeros(40_000).double(), torch.ones(40_000).double(), generator(0)
    for _ in range(20):
        sample = m + v.sqrt() * torch.randn(10, 40_000, generator=source, dtype=torch.float64)
        m, v = sample.mean(dim=0), sample.var(dim=0, correction=correction)
    half = (v < 0.5).double().mean()
    print(f"1. ddof = {correction}: mean {v.mean():.2f}, median {v.median():.3f}, below half {half:.2f}")


def new_solver(old, new, made, C):
    with torch.no_grad():
        return new(made)[:, :C].argmax(dim=1)


acc = {}
for name, label in {"old": old_solver, "new": new_solver}.items():
    solver = MLP(64, [32], 10, seed=0).double()
    train_scholar(solver, generator(0, "data order"), generator(0, "GenerativeReplay 0"), label)
    acc[name] = accuracy(solver)
    newest = (solver(data.x_test[data.y_test < 8].double()).argmax(dim=1) >= 8).double().mean()
    print(f"2. labels by the {name} solver: accuracy {acc[name]:.3f}, older digits called 8 or 9 {newest:.2f}")

# %%
model, rows = MLP(64, [32], 10).double(), stream[0].x[:64]
for event in fit(model, stream, [LatentReplay(100)], epochs=3, batch_size=32, lr=0.02):
    if isinstance(event, Step) and event.step == 9:
        stored = latents(model, rows, 1)
    if isinstance(event, TaskEnded):
        break
now = latents(model, rows, 1)
print(f"3. stored in the first epoch, f_low frozen two epochs later: age {latent_age(stored, now):.3f},"
      f" {latent_age(stored, now) / now.abs().mean():.2f} of their mean size")

low = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU()).double()
low.requires_grad_(False)
for mode in ("eval", "train"):
    low.eval()
    stored = low(rows)
    low.train(mode == "train")
    for task in stream[1:]:
        for batch in task.x.split(32):
            low(batch)
    low.eval()
    print(f"4. no weight moved, f_low in {mode} mode meanwhile: age {latent_age(stored, low(rows)):.3f}")

# %% [markdown]
# <details><summary>1. <code>sigma2 = x.var()</code></summary>
#
# NumPy divides by n, PyTorch and pandas by n − 1. With n − 1 the *expected* variance stays 1 for ever, and the drift
# seems to be gone. It is not: most lineages still die, and a few explode to keep the mean up. Test: look at the median.
#
# </details>
#
# <details><summary>2. <code>y_made = model(x_made).argmax(1)</code></summary>
#
# Here `model` is the network in training. It labels old digits with whatever it believes by now, then learns that. Once it
# calls a 3 an 8, it teaches itself so. The frozen copy was made for this. Test: the labels of a generated batch do not
# depend on the new weights.
#
# </details>
#
# <details><summary>3. Latents are stored while the first task is learned</summary>
#
# "The lower part is frozen later anyway." Until then it moves faster than ever. Store after the last step of the task.
# Test: stored latents equal f_low of their rows, exactly.
#
# </details>
#
# <details><summary>4. <code>f_low.requires_grad_(False)</code>, and BatchNorm inside</summary>
#
# Frozen weights are not a frozen layer: in train mode the running mean and variance follow every batch, and
# latents age although no weight moves. Call `f_low.eval()` too, after every `model.train()`. Test: buffers are equal
# before and after a task.
#
# </details>

# %% [markdown]
# <a id="L05-12"></a>
# ## 12. Limits
#
# - Latents are not anonymous: from early layers images can often be reconstructed. And a generator can reproduce a row that it
#   has learned by heart.
# - Frozen means finished: what f_low cannot see, no later task can teach it.
# - The solver's mistakes about made-up rows are inherited by all later solvers.
# - Learned generators of photographs are harder to train, and to keep, than the classifier that they protect.
# - Time: each step labels and replays a batch, and a VAE trains after every task.
# - When rows may be kept, start with experience replay.

# %% [markdown]
# <a id="L05-13"></a>
# ## 13. Self-test
#
# 1. When is replaying a latent exactly the same as replaying its row, and for which weights?
# 2. n = 2, T = 3. Which share of the variance is expected to be left?
# 3. Task 4 of equally important ones. How much do generated rows weigh?
# 4. A fixed classifier recognises more and more of a generator's images. Is the generator getting better?
#
# <details><summary>Answers</summary>
#
# 1. While f_low stands still; for the weights of f_up.
# 2. One eighth.
# 3. Three quarters.
# 4. Not necessarily: it may have lost its variety. Compare the variance, too.
#
# </details>

# %% [markdown]
# <a id="L05-14"></a>
# ## 14. Further reading
#
# - Shin, Lee, Kim & Kim (2017), *Continual learning with deep generative replay*: the scholar; there the generator is a GAN.
# - Pellegrini, Graffieti, Lomonaco & Maltoni (2020), *Latent replay for real-time continual learning*: why a phone wants
#   latents.
# - Van de Ven, Li & Tolias (2021), *Class-incremental learning with generative classifiers*: what if the generator
#   answers itself, as our Gaussians did?
#
# To compare: the library GMvandeVen/continual-learning, with generative replay and its weights 1/t. Next: the lessons on
# regularization.
