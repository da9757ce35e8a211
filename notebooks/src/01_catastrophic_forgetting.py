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
# <a id="L01-0"></a>
# # Lesson 01. Catastrophic forgetting (灾难性遗忘)
#
# **A network tells two clusters of points apart without a mistake. Then it learns two more clusters. Why does it now
# get the first two wrong?**
#
# 50 minutes. Before it: Python, and what one step of gradient descent (梯度下降) does to a PyTorch model. After it you
# can explain forgetting with one line of arithmetic, measure it, and catch code that only pretends to prevent it.
#
# | card | of fine-tuning (微调): train on each task as it comes, and do nothing else |
# | --- | --- |
# | memory cost | none |
# | stores data? | no |
# | needs a boundary while training? | no |
# | needs a task id at test? | no |

# %%
import cllab

cllab.setup("01")

# %%
import inspect
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from cllab.device import generator
from cllab.exercises import check, claim
from cllab.models import MLP
from cllab.plots import draw_accuracy_matrix, draw_boundary, draw_curves
from cllab.regularization import EWC
from cllab.replay import ExperienceReplay
from cllab.streams import Stream, digits, points, split
from cllab.training import Context, Evaluated, History, Joint, fit, loop, run

# %% [markdown]
# <a id="L01-1"></a>
# ## 1. Warm-up
#
# This is the first lesson, so both questions are about what you bring along. Answer aloud, then open the fold.
#
# 1. The loss is ½(w − 3)², the weight is w = 1, the learning rate (学习率) is ½. Where is w after one step of gradient
#    descent?
# 2. A test set holds two classes, half of each. A program answers "class 0" to everything. What is its accuracy?
#
# <details><summary>Answers</summary>
#
# 1. The gradient is w − 3 = −2. Against it, times ½, is +1: w = 2.
# 2. One half. Keep that number in mind: with two classes it means "knows nothing".
#
# </details>

# %% [markdown]
# <a id="L01-2"></a>
# ## 2. Why
#
# Points in the plane, two tasks (任务). Task A has the two lower clusters: left is class 0, right is class 1. Task B has
# the two upper ones, the other way round. One small network learns A, then B. When B arrives, A's data are gone. That is
# the setting of continual learning (持续学习). On the right: accuracy (准确率), the share of test points answered right,
# measured every five steps.

# %%
parts = split(points(), 2, scenario="domain")
tasks = [replace(task, name=name) for task, name in zip(parts, "AB")]
stream = Stream(tasks, "domain", n_classes=2).to(dtype=torch.float64)
SETTINGS = {"epochs": 3, "batch_size": 20, "lr": 1.0, "optimizer": "sgd", "seed": 1}


def network(hidden=16, seed=1):
    """2 features -> `hidden` ReLU units -> 2 classes, in float64."""
    return MLP(2, [hidden], 2, seed=seed).double()


history = run(network(), stream, eval_every=5, **SETTINGS)
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
for task, y in zip(stream, (-3.2, 3.2)):
    for c, style in enumerate(({"color": "#0072B2", "marker": "o"}, {"color": "#E69F00", "marker": "s"})):
        _ = left.scatter(*task.x[task.y == c].T, s=12, label=f"class {c}" if task.name == "A" else None, **style)
    _ = left.text(0, y, f"task {task.name}", ha="center", va="center", fontsize=12)
_ = left.set(xlabel="feature 1", ylabel="feature 2", ylim=(-3.6, 3.6), aspect="equal")
_ = left.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False)
draw_curves(right, history)
plt.show()

# %% [markdown]
# While B is learned, A is destroyed: catastrophic forgetting, the subject of this course.

# %% [markdown]
# <a id="L01-3"></a>
# ## 3. Predict
#
# Three things one might try. Which keeps most of task A? Commit before you run on: set the letter. It comes back in
# section 9.

# %%
options = {
    "A": "a network with 256 hidden units instead of 16: room enough for both tasks",
    "B": "a learning rate ten times smaller: B cannot move the weights far",
    "C": "keep 20 of A's 400 points and show them again while B is learned",
}
prediction = "A"  # your choice
print(f"You chose {prediction}: {options[prediction]}.")

# %% [markdown]
# <a id="L01-4"></a>
# ## 4. By hand
#
# One weight, two tasks. Task A wants w = 2, task B wants w = −2:
#
# L_A(w) = ½(w − 2)², L_B(w) = ½(w + 2)²
#
# A has been learned: w = 2, L_A = 0. Now gradient descent on B alone, with rate ½. The gradient of L_B is w + 2.
#
# | step | w before | gradient of L_B | w after | L_B | L_A |
# | --- | --- | --- | --- | --- | --- |
# | 1 | 2 | 4 | 2 − ½·4 = 0 | 2 | 2 |
# | 2 | 0 | 2 | 0 − ½·2 = −1 | ½ | **?** |
#
# ### Exercise L01.1 \* the old loss after two steps (2 min)
#
# Fill the blank of the table: L_A after step 2.

# %%
loss_a = ...  # --> your number
loss_a = check("L01.1", loss_a)
print(f"L_A: 0, then 2, then {loss_a}")

# %% [markdown]
# <details><summary>Hint L01.1</summary>
#
# w is −1 now. Put it into the formula of L_A.
#
# </details>
# <details><summary>Solution L01.1</summary>
#
# ```python
# loss_a = 0.5 * (-1 - 2) ** 2
# ```
#
# </details>
#
# Look at what the steps used: w and the gradient of L_B. Task A occurs nowhere. Nothing was *against* A; nothing spoke
# *for* it either.
#
# You may object that one weight cannot serve two masters. True: here no w pleases both. So take a neuron with two
# weights, prediction w·x, and one point per task. Now one pair of weights solves both tasks.

# %%
x_a, y_a = np.array([1.0, 0.0]), 1.0
x_b, y_b = np.array([1.0, 1.0]), 3.0


def loss(w, x, y):
    return 0.5 * (w @ x - y) ** 2


both = np.array([1.0, 2.0])
print(f"weights {both}: loss on A {loss(both, x_a, y_a)}, loss on B {loss(both, x_b, y_b)}")

# %% [markdown]
# Start where A is solved, at w = (1, 0), and descend on B with rate ¼. Does it find (1, 2)?

# %%
path = [np.array([1.0, 0.0])]
for _ in range(20):
    w = path[-1]
    g_b = (w @ x_b - y_b) * x_b  # gradient of the loss on B
    path.append(w - 0.25 * g_b)
print("step      w1      w2   loss on B   loss on A")
for k in (0, 1, 2, 20):
    w = path[k]
    print(f"{k:4}  {w[0]:6.3f}  {w[1]:6.3f}   {loss(w, x_b, y_b):9.5f}   {loss(w, x_a, y_a):9.5f}")

# %%
fig, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
_ = ax.plot([1, 1], [-0.5, 3], color="#0072B2", label="task A solved: w1 = 1")
_ = ax.plot([0, 3], [3, 0], color="#E69F00", label="task B solved: w1 + w2 = 3")
_ = ax.plot(*np.array(path).T, "o-", color="black", markersize=4, label="gradient descent on B")
_ = ax.plot(*both, "*", color="#009E73", markersize=14, label="both solved: (1, 2)")
_ = ax.set(xlabel="w1", ylabel="w2", xlim=(0, 3), ylim=(-0.5, 3), aspect="equal")
_ = ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False)
plt.show()

# %% [markdown]
# It does not. It walks straight to the *nearest* solution of B, which is (2, 1), and stops: B's loss is 0 there, so
# nothing pulls it along B's line to the star. Forgetting is not lack of room. An answer to both tasks exists, and gradient
# descent on B has no reason to look for it.
#
# Every step on B points along x_b. That moves A's prediction because x_a·x_b = 1 is not 0. Points at right angles would
# not disturb each other.

# %% [markdown]
# <a id="L01-5"></a>
# ## 5. Equation to code
#
# | symbol | code | shape | meaning |
# | --- | --- | --- | --- |
# | $\theta$ | `theta` | one tensor per layer | weights |
# | $x, y$ | `x[rows], y[rows]` | `[20, 2]`, `[20]` | a batch of points, their classes |
# | $L(\theta)$ | `loss` | scalar | mean cross-entropy (交叉熵) of the batch |
# | $g = \partial L / \partial \theta$ | `g` | like `theta` | gradient |
# | $\eta$ | `lr` | scalar | learning rate |
#
# ### Exercise L01.2 \* one step (3 min)
#
# Write the line in which forgetting happens: $\theta \leftarrow \theta - \eta g$.

# %%
def step(theta, g, lr):
    """theta after one step of gradient descent: a new tensor of the same shape; leave the input unchanged."""
    raise NotImplementedError  # --> your code (about 1 line)


step = check("L01.2", step)

# %% [markdown]
# <details><summary>Hint L01.2</summary>
#
# It is the column "w after" of the table in section 4.
#
# </details>
# <details><summary>Solution L01.2</summary>
#
# ```python
# def step(theta, g, lr):
#     return theta - lr * g
# ```
#
# </details>
#
# Around it, the whole training loop. Each epoch goes through the rows in a new random order, 20 at a time.

# %%
def train(model, x, y, source, epochs=3, size=20, lr=1.0):
    """Plain gradient descent on x [N, 2], y [N], in place; `source` draws the order of the rows."""
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=source).split(size):
            # L(theta) = mean cross-entropy of the batch
            loss = F.cross_entropy(model(x[rows]), y[rows])
            # g = dL / dtheta
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for theta, g in zip(model.parameters(), gradients):
                    # theta <- theta - eta g
                    theta.copy_(step(theta, g, lr))


def accuracy(model, task):
    """Share of the task's test points that the model answers right."""
    return (model(task.x_test).argmax(dim=1) == task.y_test).double().mean().item()


# %%
task_a, task_b = stream
model, source = network(), generator(1, "data order")
for task in (task_a, task_b):
    train(model, task.x, task.y, source)
    print(f"after task {task.name}: accuracy on A {accuracy(model, task_a):.4f}, on B {accuracy(model, task_b):.4f}")

# %% [markdown]
# These four numbers are the accuracy matrix (准确率矩阵) R: row = after which task, column = on which task. A is now far
# below one half, *worse* than guessing: the network answers A's points by B's rule, which is the wrong way round for them.
# For the same reason it got B almost all wrong after task A.

# %% [markdown]
# <a id="L01-6"></a>
# ## 6. The same in cllab
#
# `cllab.training.fit` is the same loop as a generator of events; `cllab.training.run` pulls it to the end. Here are the
# two places of its source that match ours: the order of the rows, and one step. Numbers 1, 3, 4 and 6 of the step are
# where methods against forgetting join in; with an empty list of methods they do nothing.

# %% tags=["nbval-ignore-output"]
print(inspect.getsource(Context.batches))
print(inspect.getsource(loop._step))

# %%
same = network()
R = run(same, stream, **SETTINGS).accuracy
print("R =", R.tolist())
gap = max((p - q).abs().max().item() for p, q in zip(model.parameters(), same.parameters()))
claim("our loop and run() end with the same weights, to 1e-12", gap < 1e-12)

# %% [markdown]
# <a id="L01-7"></a>
# ## 7. Turn the knob
#
# Because `fit` hands over an event at a time, we can look at the network whenever we like. Here: its answer at every
# place of the plane, at every second step. (Every tenth test point is drawn.)

# %%
from cllab.player.from_runs import cell_string, grid_points

EXTENT, GRID = (-3.5, 3.5, -3.5, 3.5), 40
plane = grid_points(EXTENT, GRID).double()


def watch(methods=()):
    """History of a run, and the network's answers on the plane at each of its evaluations."""
    model, history, maps = network(), History(stream.task_names), []
    for event in fit(model, stream, methods, eval_every=2, **SETTINGS):
        history.record(event)
        if isinstance(event, Evaluated):
            maps.append(model(plane).argmax(dim=1))
    return history, maps


fine_tuned, fine_maps = watch()
replayed, replay_maps = watch([ExperienceReplay(20)])
print(len(fine_maps), "maps of", GRID * GRID, "answers for each of two runs")

# %%
x_test, y_test = (torch.cat([getattr(task, name)[::10] for task in stream]) for name in ("x_test", "y_test"))
fig, axes = plt.subplots(1, 5, figsize=(13, 3), layout="constrained")
for ax, moment in zip(axes, (60, 62, 70, 90, 120)):
    i = [point.step for point in fine_tuned.curve].index(moment)
    draw_boundary(ax, lambda grid, i=i: fine_maps[i], x_test, y_test, EXTENT, resolution=GRID)
    ax.get_legend().remove()
    _ = ax.set_title(f"step {moment}: A {fine_tuned.curve[i].accuracy[0]:.2f}, B {fine_tuned.curve[i].accuracy[1]:.2f}")
plt.show()

# %% [markdown]
# Step 60 ends task A. The decision boundary (决策边界), where the answer changes, stands upright: class 0 on the left,
# class 1 on the right. For B that is exactly wrong. Two steps later B is solved, and A's left cluster and part of its right
# one lie on the wrong side. The other steps turn the boundary further, though B's accuracy has nothing left to gain.
#
# Move it yourself. On the left fine-tuning, on the right experience replay (经验回放): 20 stored points of A take part in
# every step on B. Replay does not merely hold fine-tuning back: it finds another map, the chequerboard that serves both
# tasks, like the star of section 4. With the lab open (`make app`), the page
# [Forgetting curves](http://localhost:8501/?fc_stream=clusters&fc_scenario=domain&fc_hidden=16&fc_seed=1)
# trains on such points live.

# %% tags=["nbval-ignore-output"]
from cllab.player import run_trace
from cllab.player.widget import Player

runs = {"fine-tuning": (fine_tuned, fine_maps), "experience replay": (replayed, replay_maps)}
trace = run_trace(
    {name: history for name, (history, _) in runs.items()},
    cells={name: [cell_string(answers) for answers in maps] for name, (_, maps) in runs.items()},
    extent=EXTENT, grid=GRID, samples=(x_test, y_test), classes=["0", "1"],
    title="Task A, then task B", alt="Decision regions of two networks while they learn task A, then task B.",
)
Player(trace, step=30)

# %% [markdown]
# <a id="L01-8"></a>
# ## 8. Experiment
#
# First the three ideas of section 3 and two references. One run proves little, so each row is five runs with different
# first weights and data orders. Joint training (联合训练) keeps all of A's data while it learns B: not a continual
# learner, but the bound to compare with.

# %%
def five_runs(methods=list, hidden=16, **changes):
    """Accuracy on A and on B after both tasks, for five seeds: [5, 2]. methods() makes each run's list of methods."""
    matrices = [
        run(network(hidden, seed), stream, methods(), **(SETTINGS | {"seed": seed} | changes)).accuracy
        for seed in range(5)
    ]
    return np.array([R[1] for R in matrices])


def show(name, result):
    mean, spread = result.mean(axis=0), result.std(axis=0, ddof=1)
    print(f"{name:22}  A {mean[0]:.2f} +- {spread[0]:.2f}   B {mean[1]:.2f} +- {spread[1]:.2f}")


results = {
    "fine-tuning": five_runs(),
    "256 hidden units": five_runs(hidden=256),
    "learning rate 0.1": five_runs(lr=0.1),
}
for name, result in results.items():
    show(name, result)

# %%
more = {
    "20 points replayed": five_runs(lambda: [ExperienceReplay(20)]),
    "EWC, lambda 20": five_runs(lambda: [EWC(20.0)]),
    "joint training": five_runs(lambda: [Joint()]),
}
for name, result in more.items():
    show(name, result)
results |= more

# %% [markdown]
# EWC, elastic weight consolidation (弹性权重巩固), holds weights that mattered for A with springs; a later lesson builds it.
# One tutorial *prints* this experiment instead of running it: "A falls from 95 % to 32 %, with EWC only to 88 %". Those
# figures are illustrations; no network was trained. These are measured, with their spread.
#
# Now something real: ten handwritten digits, five tasks of two digits. The question is always "which of the digits seen
# so far?" (class-incremental, 类增量; lesson 02 compares the scenarios).

# %%
five_tasks = split(digits(), 2, scenario="class")
for task in five_tasks:
    print(f"task {task.name}: {len(task.y)} images to train on, {len(task.y_test)} to test on")

# %%
METHODS = {
    "fine-tuning": [],
    "EWC": [EWC(100.0)],
    "experience replay": [ExperienceReplay(200)],
    "joint training": [Joint()],
}
models = {name: MLP(64, [100], 10, seed=0).double() for name in METHODS}
runs = {
    name: run(models[name], five_tasks, methods, epochs=5, batch_size=32, lr=0.003)
    for name, methods in METHODS.items()
}

# %%
fig, axes = plt.subplots(1, 4, figsize=(15, 4), layout="constrained")
for ax, (name, history) in zip(axes, runs.items()):
    draw_accuracy_matrix(ax, history.accuracy, history.task_names)
    _ = ax.set_title(name)
plt.show()

# %% [markdown]
# Read a column downwards: the framed cell is the task just learned, below it is what is left. Three numbers sum a matrix
# up: **ACC**, the mean of the last row; **BWT**, backward transfer (后向迁移), the mean change of a task since it was
# learned; **F**, forgetting (遗忘度), the mean drop from its best.

# %%
print("method                ACC     BWT       F")
for name, history in runs.items():
    m = history.metrics()
    print(f"{name:17} {m['average_accuracy']:7.3f} {m['backward_transfer']:7.3f} {m['forgetting']:7.3f}")
answers = models["fine-tuning"](torch.cat([task.x_test for task in five_tasks]).double()).argmax(dim=1)
print(f"fine-tuning answers 8 or 9 to {(answers >= 8).sum()} of {len(answers)} test images")

# %% [markdown]
# After fine-tuning every image is an 8 or a 9, the digits seen last. And EWC, which did well on the points, does nothing
# here: no method wins everywhere. Are these differences more than luck? The thresholds leave three times the spread over
# five seeds.

# %%
kept = {name: result[:, 0].mean() for name, result in results.items()}
acc = {name: history.metrics()["average_accuracy"] for name, history in runs.items()}
# spread over 5 seeds: points, fine-tuning 0.08, EWC minus fine-tuning 0.15, replay 0.01; digits, replay 0.03, others 0.01
claim("points: fine-tuning loses more than 40 of 100 points on A", 1 - kept["fine-tuning"] > 0.40)
claim("points: EWC keeps at least 10 points more of A", kept["EWC, lambda 20"] - kept["fine-tuning"] > 0.10)
claim("points: 20 stored points keep A above 90 %", kept["20 points replayed"] > 0.90)
claim("digits: replay is more than 50 points above fine-tuning", acc["experience replay"] - acc["fine-tuning"] > 0.50)
claim("digits: EWC is within 5 points of fine-tuning", abs(acc["EWC"] - acc["fine-tuning"]) < 0.05)
claim("digits: joint training is more than 60 points above fine-tuning",
      acc["joint training"] - acc["fine-tuning"] > 0.60)

# %% [markdown]
# <a id="L01-9"></a>
# ## 9. What did you expect?

# %%
ideas = {"A": "256 hidden units", "B": "learning rate 0.1", "C": "20 points replayed"}
print(f"You chose {prediction}: {options[prediction]}.")
print("Accuracy on task A at the end:", ", ".join(f"{letter} {kept[name]:.2f}" for letter, name in ideas.items()))
print("As predicted." if prediction == "C" else "Not what you expected: good that you asked the network.")

# %% [markdown]
# A: room was not what was missing; in section 4 there was room too. B: small steps go the same way more slowly, and how
# much of A survives is luck: see the spread. C: the 20 points put A back into the loss, so that A has a gradient again.
# This idea, in many forms, is the first third of the course.

# %% [markdown]
# <a id="L01-10"></a>
# ## 10. Exercises
#
# `check` compares your function with the reference and names common slips. Skip what you like: the reference then takes
# over.
#
# ### Exercise L01.3 \*\* predicted change (8 min)
#
# One step on B changes the weights by $-\eta g_B$. To first order, A's loss changes by $g_A$ times that:
# $-\eta\, g_A \cdot g_B$. So one number tells, before the step, whether it helps or hurts A.

# %%
def predicted_change(g_a, g_b, lr):
    """First-order change of A's loss under one step of rate lr on B; g_a, g_b: lists of numbers. Returns a float."""
    raise NotImplementedError  # --> your code (about 1 line)


predicted_change = check("L01.3", predicted_change)

# %% [markdown]
# <details><summary>Hint L01.3</summary>
#
# `zip` the two lists, multiply, `sum`. Then the sign: equal gradients must give a negative change.
#
# </details>
# <details><summary>Solution L01.3</summary>
#
# ```python
# def predicted_change(g_a, g_b, lr):
#     return -lr * sum(a * b for a, b in zip(g_a, g_b))
# ```
#
# </details>
#
# Does it hold for the network? Learn A for one epoch, then take one small step on B and compare.

# %%
def gradient(model, task):
    """Gradient of the mean loss over all training rows, flattened."""
    loss = F.cross_entropy(model(task.x), task.y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


early = network()
train(early, task_a.x, task_a.y, generator(1, "data order"), epochs=1)
g_a, g_b = gradient(early, task_a).tolist(), gradient(early, task_b).tolist()
before = F.cross_entropy(early(task_a.x), task_a.y).item()
train(early, task_b.x, task_b.y, generator(1, "data order"), epochs=1, size=400, lr=0.01)
change = F.cross_entropy(early(task_a.x), task_a.y).item() - before
print(f"change of A's loss: predicted {predicted_change(g_a, g_b, 0.01):+.6f}, measured {change:+.6f}")

# %% [markdown]
# ### Exercise L01.4 \*\* fill the matrix (10 min)
#
# Any learner, any number of tasks: fill R. `learn(theta, i)` returns the weights after training on task i, starting from
# `theta`; `accuracy(theta, j)` tests weights on task j. Tasks count from 0.

# %%
def fill_matrix(theta, learn, accuracy, n_tasks):
    """R as a list of rows: R[i][j] is the accuracy on task j after learning the tasks 0 .. i in turn."""
    raise NotImplementedError  # --> your code (about 5 lines)


fill_matrix = check("L01.4", fill_matrix)

# %% [markdown]
# <details><summary>Hint L01.4</summary>
#
# One loop over i. In it: learn, then one new row with a test on every j. Which `theta` does the next round start from?
#
# </details>
# <details><summary>Solution L01.4</summary>
#
# ```python
# def fill_matrix(theta, learn, accuracy, n_tasks):
#     R = []
#     for i in range(n_tasks):
#         theta = learn(theta, i)
#         R.append([accuracy(theta, j) for j in range(n_tasks)])
#     return R
# ```
#
# </details>
#
# ### Exercise L01.5 \*\*\* a gradient that spares task A (20 min)
#
# If $g_A \cdot g_B < 0$, a step on B hurts A. Remove from $g_B$ its part along $g_A$, and only then:
# $g_B - \frac{g_A \cdot g_B}{g_A \cdot g_A}\, g_A$. To first order A's loss then stays where it is. (The method A-GEM is
# built on this; a later lesson has it.)

# %%
def sparing_gradient(g_a, g_b):
    """g_b, without its part along g_a where the two are in conflict; lists of numbers in and out."""
    raise NotImplementedError  # --> your code (about 5 lines)


sparing_gradient = check("L01.5", sparing_gradient)
for lr in (0.25, 0.05):
    w = np.array([1.0, 0.0])
    for _ in range(500):
        g_a, g_b = (w @ x_a - y_a) * x_a, (w @ x_b - y_b) * x_b
        w = w - lr * np.array(sparing_gradient(g_a.tolist(), g_b.tolist()))
    print(f"lr {lr}: w = ({w[0]:.3f}, {w[1]:.3f}), loss on A {loss(w, x_a, y_a):.4f}, on B {loss(w, x_b, y_b):.4f}")

# %% [markdown]
# <details><summary>Hint L01.5</summary>
#
# Compute the inner product first. If it is not negative, return `g_b` as it is: this also covers g_a = 0.
#
# </details>
# <details><summary>Solution L01.5</summary>
#
# ```python
# def sparing_gradient(g_a, g_b):
#     conflict = sum(a * b for a, b in zip(g_a, g_b))
#     if conflict >= 0:
#         return g_b
#     share = conflict / sum(a * a for a in g_a)
#     return [b - share * a for a, b in zip(g_a, g_b)]
# ```
#
# </details>
#
# Plain descent ended in section 4 with a loss of one half on A; small sparing steps nearly reach the star. The price:
# $g_A$ needs data of A, at least a few stored points. In the limit of tiny steps you reach the star exactly: why?

# %% [markdown]
# <a id="L01-11"></a>
# ## 11. Looks right, is wrong
#
# All three stood in one tutorial on EWC. First the numbers, then the traps.

# %%
remembered, trained = torch.nn.Linear(10, 2), torch.nn.Linear(10, 2)
theta_star = {name: p.detach() + 1.0 for name, p in remembered.named_parameters()}  # pretend: all weights moved by 1
penalty = 1000 * sum(((p - theta_star[name]) ** 2).sum() for name, p in remembered.named_parameters())
penalty.backward()
print(f"1. penalty {penalty.item():.0f}; gradient of the trained network: {trained.weight.grad}, {trained.bias.grad}")

# %%
from cllab.regularization import fisher_diagonal

fisher = torch.zeros(2, 10)
for squared_gradient in []:
    fisher += squared_gradient
fisher /= len([])
print(f"2. not a number: {fisher.isnan().sum()} of {fisher.numel()} entries; penalty {(fisher * 0.5).sum().item()}")
try:
    fisher_diagonal(remembered, torch.zeros(0, 10))
except ValueError as error:
    print("   cllab:", error)

# %%
history = run(network(), stream, [EWC(20.0)], **SETTINGS)
terms = [row.losses["EWC"] for row in history.losses if row.task == 1]
print("3. penalty at steps 1 to 4 of task B:", ", ".join(f"{term:.2f}" for term in terms[:4]), f"... last {terms[-1]:.4f}")
claim("the first penalty is exactly 0 and every later one is above it", terms[0] == 0 and min(terms[1:]) > 0)

# %% [markdown]
# <details><summary>1. The trainer trains one network, the penalty watches another</summary>
#
# ```python
# ewc = EWC(nn.Linear(10, 2), data_a)
# trainer = EWCTrainer(nn.Linear(10, 2), ewc)   # a second, new network
# loss = cross_entropy(trainer.model(x), y) + ewc.penalty()
# ```
#
# The penalty has a value, here 22000 for 22 weights moved by 1, and the total loss looks plausible in every log. But the
# trained network gets no gradient from it: `None`. Test: after `penalty.backward()`, every weight that you train has a
# gradient.
#
# </details>
#
# <details><summary>2. A Fisher information (费雪信息) from no data</summary>
#
# ```python
# fisher = zeros; for x, y in dataset: fisher += squared gradient; fisher /= len(dataset)
# ```
#
# EWC measures how much a weight matters by the mean of its squared gradient over A's data. The tutorial's demo passes an
# empty list. PyTorch divides zero by zero without an exception, and the NaN later poisons
# every weight. Refuse empty data at the door, as `cllab` does.
#
# </details>
#
# <details><summary>3. "The penalty falls as the weights approach the optimum"</summary>
#
# Its table falls from 150 to 12. But B's training starts *at* the anchor, A's weights, so the first penalty is exactly 0.
# It rises as soon as the weights move, and may fall again as the springs pull back: nearer to A's optimum, not to B's. A
# log whose first penalty is large shows a bug or an invention.
#
# </details>

# %% [markdown]
# <a id="L01-12"></a>
# ## 12. Limits
#
# - Toys: a few thousand weights, clear task boundaries. Large pre-trained models forget less (Ramasesh et al. 2022), but
#   they do forget.
# - The points are chosen to conflict. Tasks that agree can help each other; BWT is then positive.
# - "Forgotten" means: not answered right any more. Part of the knowledge may still be there (lesson 02 shows how much).
# - Fine-tuning is the right tool when nobody will ask about the old task again. Then forgetting costs nothing.
# - Joint training is the right tool when all data may be kept and there is time to train again.

# %% [markdown]
# <a id="L01-13"></a>
# ## 13. Self-test
#
# 1. Why does learning B change the answers to A's points at all?
# 2. Weights that solve both tasks exist. Why does gradient descent on B miss them?
# 3. $g_A \cdot g_B = 0$. What does a small step on B do to A's loss?
# 4. A network has accuracy 19 % on a task with two classes of equal size. What do you conclude?
#
# <details><summary>Answers</summary>
#
# 1. Both tasks use the same weights, and B's gradient moves them without asking A.
# 2. It stops at the nearest solution of B, because B's loss gives no reason to go on.
# 3. Nothing, to first order.
# 4. It is worse than guessing. So it does not merely lack knowledge: it applies a rule that is wrong here.
#
# </details>

# %% [markdown]
# <a id="L01-14"></a>
# ## 14. Further reading
#
# - McCloskey & Cohen (1989), *Catastrophic interference in connectionist networks*: the discovery, on sums with 1, then
#   sums with 2.
# - Goodfellow et al. (2013), *An empirical investigation of catastrophic forgetting in gradient-based neural networks*:
#   what dropout and the activation function change, and what not.
# - Kirkpatrick et al. (2017), *Overcoming catastrophic forgetting in neural networks*: EWC, and the paper that brought
#   the question to deep learning.
#
# To compare: the repository GMvandeVen/continual-learning, whose training step has the same stages as `fit`. Next: lesson 02.
