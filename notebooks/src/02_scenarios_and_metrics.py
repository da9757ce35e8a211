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
# <a id="L02-0"></a>
# # Lesson 02. Scenarios and metrics (场景与指标)
#
# **Four programs read the same accuracies and print "forgetting" 0.075, 0.100, 0.025 and 0.067. Which one is right?**
#
# 50 minutes. Before it: lesson 01, *Catastrophic forgetting*. After it you can read any results table of the field,
# and say what it hides.
#
# | card | of the measurement in this lesson |
# | --- | --- |
# | memory cost | one number per pair of tasks: the T x T matrix R |
# | stores data? | the test set of every task; no training data |
# | needs a boundary while training? | yes: a row of R is measured when a task ends |
# | needs a task id at test? | that is exactly what the scenario decides |

# %%
import cllab

cllab.setup("02", written_for="0.1")

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np
import torch

from cllab import metrics
from cllab.exercises import check, claim
from cllab.models import MLP
from cllab.plots import draw_accuracy_matrix
from cllab.streams import digits, split
from cllab.training import Joint, predict, run

# %% [markdown]
# <a id="L02-1"></a>
# ## 1. Warm-up
#
# Both questions are about lesson 01. Answer aloud, then open the fold.
#
# 1. A network learned task A, then task B, and lost A. Which of A's data did it see while it learned B?
# 2. What is catastrophic forgetting (灾难性遗忘), in one sentence?
#
# <details><summary>Answers</summary>
#
# 1. None. That is the setting of continual learning (持续学习): when B arrives, A's data are gone.
# 2. Training on something new moves weights that something old depended on, and the old ability collapses although
#    nothing was said against it.
#
# </details>

# %% [markdown]
# <a id="L02-2"></a>
# ## 2. Why
#
# Ten digits arrive as five tasks: 0 and 1, then 2 and 3, and so on. Look at one test image, a 7. What do we ask?
#
# - **task-incremental** (任务增量): "This comes from task 3. Is it 6 or 7?" The task id is given at test.
# - **domain-incremental** (域增量): "Even or odd?" The question is the same in every task; no id is given, none is needed.
# - **class-incremental** (类增量): "Which of the ten digits?" No id is given; the model must find task *and* class.
#
# Same images, same order, same network, three problems. A table that does not name its scenario (场景) says nothing.

# %%
data = digits()
fig, (legend, *axes) = plt.subplots(1, 11, figsize=(11, 1.9))
legend.spines[:].set_visible(False)
_ = legend.set(xticks=[], yticks=[], aspect=1, xlabel="task:\ndomain:\nclass:")
for c, ax in enumerate(axes):
    ax.imshow(data.x[data.y == c][0].reshape(8, 8), cmap="gray_r")
    ax.spines[:].set_visible(True)
    pair, even = f"{c - c % 2} or {c - c % 2 + 1}", "odd" if c % 2 else "even"
    ax.set(xticks=[], yticks=[], xlabel=f"{pair}\n{even}\n{c}", title=f"task {c // 2}")
plt.show()

# %% [markdown]
# <a id="L02-3"></a>
# ## 3. Predict
#
# We train one small network on the five pairs, one pair after another, with nothing against forgetting: fine-tuning
# (微调). At the end it is tested on all five tasks. How do task- and class-incremental accuracy compare? (A *point* is a
# percentage point, 百分点: from 95 % to 75 % are 20 points.)
#
# Commit before you run anything: set the letter. It comes back in section 9.

# %%
options = {
    "A": "about the same: it is the same network and the same images",
    "B": "class-incremental is up to 20 points lower: it has more classes to choose from",
    "C": "class-incremental is more than 50 points lower",
}
prediction = "B"  # your choice
print(f"You chose {prediction}: {options[prediction]}.")

# %% [markdown]
# <a id="L02-4"></a>
# ## 4. By hand
#
# Three tasks, counted from 1 as papers do. After each one we test on all three. **Row = after which task, column = on
# which task.** This is the accuracy matrix (准确率矩阵) R; everything in this lesson is arithmetic on it.
#
# | | on task 1 | on task 2 | on task 3 |
# | --- | --- | --- | --- |
# | after task 1 | **0.80** | 0.30 | 0.40 |
# | after task 2 | 0.90 | **0.70** | 0.35 |
# | after task 3 | 0.70 | 0.75 | **0.92** |
#
# On the diagonal: just learned. Below it: kept or lost. Above it: not trained yet. Two vectors help: b, the untrained
# network's accuracy, and a*, what joint training (联合训练) on all data so far reaches on the newest task.

# %%
R = np.array([[0.80, 0.30, 0.40], [0.90, 0.70, 0.35], [0.70, 0.75, 0.92]])
b = np.array([0.10, 0.22, 0.30])
a_star = np.array([0.80, 0.82, 0.90])

# %% [markdown]
# **Average accuracy** (平均准确率), ACC: the mean of the last row. **Average incremental accuracy**, AIA: after each
# task, the mean over the tasks seen so far; then the mean of those means. Python counts from 0, so the last row is
# `R[2]`.

# %%
acc = (0.70 + 0.75 + 0.92) / 3
a_1, a_2, a_3 = 0.80, (0.90 + 0.70) / 2, acc
print(f"ACC = {acc:.3f}")
print(f"AIA = ({a_1:.3f} + {a_2:.3f} + {a_3:.3f}) / 3 = {(a_1 + a_2 + a_3) / 3:.3f}")

# %% [markdown]
# **Backward transfer** (后向迁移), BWT: what later tasks did to earlier ones. For every task except the last: accuracy
# at the end minus accuracy right after learning it. Task 1 went from 0.80 to 0.70.
#
# ### Exercise L02.1 \* a term of BWT (1 min)
#
# Fill in the term of task 2, as a number or as cells of R.

# %%
term_1 = 0.70 - 0.80
term_2 = ...  # --> your number
term_2 = check("L02.1", term_2)
print(f"BWT = ({term_1:+.2f} {term_2:+.2f}) / 2 = {(term_1 + term_2) / 2:.3f}")

# %% [markdown]
# <details><summary>Hint L02.1</summary>
#
# Column of task 2. The last row minus the diagonal.
#
# </details>
# <details><summary>Solution L02.1</summary>
#
# ```python
# term_2 = R[2, 1] - R[1, 1]
# ```
#
# Task 2 became *better* while task 3 was learned. Positive backward transfer exists.
#
# </details>
#
# **Forgetting** (遗忘度), F (Chaudhry et al. 2018): the *best* accuracy a task had in an earlier row, minus the last.
# Task 1 was best after task 2, not after task 1. That is the only difference from minus BWT, and here it triples the
# number.
#
# **Forward transfer** (前向迁移), FWT: accuracy just *before* a task is learned, minus chance b.
# **Intransigence** (顽固性), I: what joint training reaches on the newest task, minus what we reached.

# %%
print(f"F   = ((0.90 - 0.70) + (0.70 - 0.75)) / 2 = {((0.90 - 0.70) + (0.70 - 0.75)) / 2:.3f}")
print(f"FWT = ((0.30 - 0.22) + (0.35 - 0.30)) / 2 = {((0.30 - 0.22) + (0.35 - 0.30)) / 2:.3f}")
intransigence = ((0.80 - 0.80) + (0.82 - 0.70) + (0.90 - 0.92)) / 3
print(f"I   = ((0.80 - 0.80) + (0.82 - 0.70) + (0.90 - 0.92)) / 3 = {intransigence:.3f}")

# %% [markdown]
# <a id="L02-5"></a>
# ## 5. Equation to code
#
# | symbol | code | shape | meaning |
# | --- | --- | --- | --- |
# | $T$ | `T` | | number of tasks |
# | $R_{i,j}$ | `R[i, j]` | `[T, T]` | accuracy on task j after task i |
# | $b_j$ | `b[j]` | `[T]` | accuracy on task j before any training |
# | $a^*_k$ | `a_star[k]` | `[T]` | joint training's accuracy on its newest task |
#
# Papers count tasks from 1, code from 0: row $T$ of a paper is `R[T - 1]`, or `R[-1]`.

# %%
def average_accuracy(R):
    # ACC = (1/T) sum_j R[T, j]
    return R[-1].mean()


def average_incremental_accuracy(R):
    # A_k = (1/k) sum_{j<=k} R[k, j];  AIA = (1/T) sum_k A_k
    return np.mean([R[k, : k + 1].mean() for k in range(len(R))])


def backward_transfer(R):
    # BWT = (1/(T-1)) sum_{j<T} (R[T, j] - R[j, j])
    return (R[-1] - np.diag(R))[:-1].mean()


# %%
def forgetting(R):
    # F = (1/(T-1)) sum_{j<T} (max_{l<T} R[l, j] - R[T, j])
    return (R[:-1].max(axis=0) - R[-1])[:-1].mean()


def forward_transfer(R, b):
    # FWT = (1/(T-1)) sum_{j>=2} (R[j-1, j] - b[j])
    return (np.diag(R, k=1) - b[1:]).mean()


def intransigence(R, a_star):
    # I = (1/T) sum_k (a*_k - R[k, k])
    return (a_star - np.diag(R)).mean()


# %%
print(f"ACC {average_accuracy(R):.3f}   AIA {average_incremental_accuracy(R):.3f}")
print(f"BWT {backward_transfer(R):.3f}   F {forgetting(R):.3f}")
print(f"FWT {forward_transfer(R, b):.3f}   I {intransigence(R, a_star):.3f}")

# %% [markdown]
# The scenario enters in one place only: the **mask** (掩码) of classes that may be answered. Logits of all other
# classes become minus infinity, in training and at test. In `cllab` it is `cllab.streams.Stream.allowed`: one row of
# the tables below is a test image of task 0, 1, .. 4, after all five tasks.

# %%
streams = {scenario: split(data, 2, scenario=scenario) for scenario in ("task", "domain", "class")}
for scenario, stream in streams.items():
    print(f"{scenario}-incremental, {stream.n_classes} outputs")
    for task in range(len(stream)):
        mask = stream.allowed(task, seen=4)
        print(f"    task {task} ({stream[task].name}):", "".join("x" if on else "." for on in mask))

# %% [markdown]
# Task-incremental: two candidates, the right pair. Domain-incremental: two outputs, shared by all tasks (0 even,
# 1 odd). Class-incremental: ten candidates for everybody.

# %% [markdown]
# <a id="L02-6"></a>
# ## 6. The same in cllab
#
# `cllab.metrics` holds the same formulas, plus checks: a matrix of percentages, a missing cell or a single task raise
# an error that says so. Here is the function behind forgetting; `np.nanmax` skips cells that were not evaluated.

# %%
print(inspect.getsource(metrics.forgetting_per_task))

# %%
source = np.random.default_rng(0)
agree = True
for _ in range(100):
    M, start, best = source.random((5, 5)), source.random(5), source.random(5)
    agree &= np.isclose(average_accuracy(M), metrics.average_accuracy(M))
    agree &= np.isclose(average_incremental_accuracy(M), metrics.average_incremental_accuracy(M))
    agree &= np.isclose(backward_transfer(M), metrics.backward_transfer(M))
    agree &= np.isclose(forgetting(M), metrics.forgetting(M))
    agree &= np.isclose(forward_transfer(M, start), metrics.forward_transfer(M, start))
    agree &= np.isclose(intransigence(M, best), metrics.intransigence(M, best))
claim("our six functions and cllab.metrics agree on 100 random matrices", agree)

# %% [markdown]
# <a id="L02-7"></a>
# ## 7. Turn the knob
#
# One cell of R, five metrics: let accuracy on task 1 after task 2 run from 0 to 1 (it is 0.90 in our matrix). A flat
# line means that the metric never reads this cell.

# %%
NAMES = ["ACC", "AIA", "BWT", "F", "FWT"]


def all_metrics(value):
    """The five metrics of R with `value` in the cell "after task 2, on task 1"."""
    M = R.copy()
    M[1, 0] = value
    return [average_accuracy(M), average_incremental_accuracy(M), backward_transfer(M), forgetting(M),
            forward_transfer(M, b)]


values = np.linspace(0, 1, 51)
fig, ax = plt.subplots(figsize=(7, 3.2))
for name, line in zip(NAMES, np.transpose([all_metrics(value) for value in values])):
    _ = ax.plot(values, line, label=name)
    _ = ax.annotate(name, (1.01, line[-1]), va={"AIA": "bottom", "ACC": "top"}.get(name, "center"))
_ = ax.axvline(0.90, color="grey", linestyle=":")
_ = ax.set(xlabel="accuracy on task 1 after task 2", ylabel="value of the metric", xlim=(0, 1.08))
plt.show()

# %% [markdown]
# ACC, BWT and FWT stay flat: a run that was at 0.90 in between and one that never was look alike to them. F bends at
# 0.80: below it, task 1 had been better right after it was learned. Now move the cell yourself. In the lab (`make app`)
# the page *Forgetting curves* fills such a matrix while a network trains.

# %%
def draw_bars(ax, value):
    """Bars of the five metrics for one value of the cell; black lines: at 0.90; orange: has moved."""
    now, usual = all_metrics(value), all_metrics(0.90)
    moved = ~np.isclose(now, usual)
    ax.bar(NAMES, now, color=np.where(moved, "#D55E00", "#0072B2"))
    ax.hlines(usual, np.arange(5) - 0.4, np.arange(5) + 0.4, color="black")
    ax.set(ylim=(-0.2, 1), title=f"task 1 after task 2: {value:.2f}    forgetting {now[3]:+.3f}")


fig, ax = plt.subplots(figsize=(6, 2.8))
draw_bars(ax, 0.60)
plt.show()

# %% tags=["nbval-ignore-output"]
import io

import ipywidgets


def picture(value):
    fig, ax = plt.subplots(figsize=(6, 2.8))
    draw_bars(ax, value)
    png = io.BytesIO()
    fig.savefig(png, format="png", dpi=160)
    plt.close(fig)
    return png.getvalue()


slider = ipywidgets.FloatSlider(0.90, min=0, max=1, step=0.05, continuous_update=False)
image = ipywidgets.Image(value=picture(0.90), layout=ipywidgets.Layout(width="480px"))
slider.observe(lambda change: setattr(image, "value", picture(change["new"])), names="value")
ipywidgets.VBox([slider, image])

# %% [markdown]
# <a id="L02-8"></a>
# ## 8. Experiment
#
# Five tasks of two digits, the same network (64 pixels, 64 hidden units) and settings in all three scenarios. Beside
# fine-tuning stands joint training, which keeps all earlier data: not a continual learner, but the bound to compare with.

# %%
def train(stream, methods=(), seed=0):
    """A network and the history of its run on the stream: 276 steps in float64."""
    model = MLP(stream.in_features, [64], stream.n_classes, seed=seed).double()
    history = run(model, stream, methods, epochs=6, batch_size=32, lr=0.003, seed=seed)
    return model, history


models, fine_tuned, joint = {}, {}, {}
for scenario, stream in streams.items():
    models[scenario], fine_tuned[scenario] = train(stream)
    _, joint[scenario] = train(stream, [Joint()])
print("steps per run:", fine_tuned["class"].losses[-1].step)

# %%
fig, axes = plt.subplots(2, 3, figsize=(10, 6.4), layout="constrained")
for column, scenario in enumerate(streams):
    for row, (name, runs) in enumerate({"fine-tuning": fine_tuned, "joint training": joint}.items()):
        history = runs[scenario]
        draw_accuracy_matrix(axes[row, column], history.accuracy, history.task_names)
        _ = axes[row, column].set_title(f"{scenario}-incremental, {name}")
plt.show()

# %%
print("scenario  method            ACC     AIA     BWT       F       I")
for scenario in streams:
    a_star = np.diag(joint[scenario].accuracy)
    for name, runs in {"fine-tuning": fine_tuned, "joint training": joint}.items():
        M = runs[scenario].accuracy
        row = [average_accuracy(M), average_incremental_accuracy(M), backward_transfer(M), forgetting(M),
               intransigence(M, a_star)]
        print(f"{scenario:9} {name:14}", "".join(f"{round(value, 3) + 0.0:8.3f}" for value in row))

# %% [markdown]
# Read the class-incremental rows slowly. Fine-tuning's intransigence is *negative*: it learns each new task better
# than joint training does. It is not too weak to learn; it keeps nothing. And one number alone would have hidden that:
# AIA looks almost bearable, because its first means were taken before there was much to lose.
#
# Now the decisive test. Take the class-incremental network as it is. Change no weight. Only *tell* it the task id.

# %%
told, alone = [], []
for j, task in enumerate(streams["task"].to(dtype=torch.float64)):
    with_id = predict(models["class"], task.x_test, streams["task"], seen=4, task_id=j)
    without = predict(models["class"], task.x_test, streams["class"], seen=4)
    told.append((with_id == task.y_test).double().mean().item())
    alone.append((without == task.y_test).double().mean().item())
print("class-incremental weights, all five tasks learned")
print("    without the task id:", " ".join(f"{a:.3f}" for a in alone), f"  mean {np.mean(alone):.3f}")
print("    told the task id:   ", " ".join(f"{a:.3f}" for a in told), f"  mean {np.mean(told):.3f}")

# %% [markdown]
# The network still tells 0 from 1. What it lost is the comparison *between* tasks: the last task's two outputs outshout
# all others. Most of what is called forgetting here is that.

# %%
# ACC over seeds 0 to 4: fine-tuning .967 to .992 (task), .839 to .847 (domain), .186 to .192 (class);
# joint training .924 to .933 (class); class-incremental weights told the task id .950 to .972
final = {scenario: history.metrics()["average_accuracy"] for scenario, history in fine_tuned.items()}
claim("fine-tuning: class-incremental ACC is more than 50 points below task-incremental",
      final["task"] - final["class"] > 0.50)
claim("fine-tuning: domain-incremental lies more than 7 points below task-incremental",
      final["task"] - final["domain"] > 0.07)
claim("class-incremental: joint training is more than 60 points above fine-tuning",
      joint["class"].metrics()["average_accuracy"] - final["class"] > 0.60)
claim("the same weights gain more than 60 points when told the task id",
      np.mean(told) - np.mean(alone) > 0.60)

# %% [markdown]
# <a id="L02-9"></a>
# ## 9. What did you expect?

# %%
gap = 100 * (final["task"] - final["class"])
print(f"You chose {prediction}: {options[prediction]}.")
print(f"Measured: told the task {100 * final['task']:.0f} %, not told {100 * final['class']:.0f} %.")
print(f"That is {gap:.0f} points:", "as you predicted." if prediction == "C" else "answer C.")

# %% [markdown]
# More classes alone would cost a few points, as joint training shows. The collapse comes from training on two outputs
# at a time: each task pushes all older outputs down, and without the id nothing lifts them again.

# %% [markdown]
# <a id="L02-10"></a>
# ## 10. Exercises
#
# `check` compares your function with the reference and names common slips. Skip what you like: the reference then
# takes over, so nothing below breaks. `cllab.exercises.progress()` lists what you have solved.
#
# ### Exercise L02.2 \* plasticity (2 min)
#
# Plasticity (可塑性): mean accuracy on each task right after it was learned.

# %%
def plasticity(R):
    """Mean of the diagonal of R [T, T], given as nested lists. Returns a float."""
    raise NotImplementedError  # --> your code (about 1 line)


plasticity = check("L02.2", plasticity)

# %% [markdown]
# <details><summary>Hint L02.2</summary>
#
# Row j and column j, for every j.
#
# </details>
# <details><summary>Solution L02.2</summary>
#
# ```python
# def plasticity(R):
#     return sum(R[j][j] for j in range(len(R))) / len(R)
# ```
#
# A useful check: ACC = plasticity + BWT (T - 1) / T.
#
# </details>
#
# ### Exercise L02.3 \*\* allowed classes (8 min)
#
# Write the rule behind the masks of section 5.

# %%
def allowed_classes(scenario, groups, task, seen):
    """Classes that may be answered for a test image of task number `task`, as a sorted list.

    scenario: "task" or "class". groups: classes of each task, such as [[0, 1], [2, 3]].
    task, seen: counted from 0; the tasks 0 .. seen have been learned, and task <= seen.
    """
    raise NotImplementedError  # --> your code (about 3 lines)


allowed_classes = check("L02.3", allowed_classes)

# %% [markdown]
# <details><summary>Hint L02.3</summary>
#
# Only one of the two scenarios may look at `task`. The other looks at `seen`, and `range(n)` stops before n.
#
# </details>
# <details><summary>Solution L02.3</summary>
#
# ```python
# def allowed_classes(scenario, groups, task, seen):
#     known = [groups[task]] if scenario == "task" else groups[: seen + 1]
#     return sorted(c for group in known for c in group)
# ```
#
# Using `task` in the class-incremental branch is an expensive bug: section 8 shows what the leaked id is worth.
#
# </details>
#
# ### Exercise L02.4 \*\* points and percent (5 min)
#
# From 95 % to 32 %: how many points, and what percentage of what was there?

# %%
def points_and_percent(before, after):
    """[points, percent of `before`] between two accuracies from 0 to 1; losses are negative."""
    raise NotImplementedError  # --> your code (about 2 lines)


points_and_percent = check("L02.4", points_and_percent)

# %% [markdown]
# <details><summary>Hint L02.4</summary>
#
# Both are 100 times something. Only the second is divided, and by the value before.
#
# </details>
# <details><summary>Solution L02.4</summary>
#
# ```python
# def points_and_percent(before, after):
#     points = 100 * (after - before)
#     return [points, points / before]
# ```
#
# </details>
#
# ### Exercise L02.5 \*\* pooled accuracy (8 min)
#
# Papers on class-incremental learning often report accuracy over *all test images together*. With test sets of
# different sizes this is not ACC.

# %%
def pooled_accuracy(R, sizes):
    """Accuracy after the last task over all test images.

    R [T, T]: nested lists. sizes: test images of each task. Returns a float.
    """
    raise NotImplementedError  # --> your code (about 2 lines)


pooled_accuracy = check("L02.5", pooled_accuracy)

# %% [markdown]
# <details><summary>Hint L02.5</summary>
#
# Count right answers per task, then divide once.
#
# </details>
# <details><summary>Solution L02.5</summary>
#
# ```python
# def pooled_accuracy(R, sizes):
#     right = sum(accuracy * n for accuracy, n in zip(R[-1], sizes))
#     return right / sum(sizes)
# ```
#
# </details>
#
# ### Exercise L02.6 \*\*\* forgetting after every task (20 min)
#
# A single number at the end hides when things were lost. Return the list F_2, F_3, .. F_T.

# %%
def forgetting_curve(R):
    """[F_2, .. F_T] for R [T, T] as nested lists: forgetting after k tasks, for k = 2 .. T.

    F_k = (1/(k-1)) sum_{j<k} (max_{l<k} R[l, j] - R[k, j]), everything counted from 1.
    """
    raise NotImplementedError  # --> your code (about 5 lines)


forgetting_curve = check("L02.6", forgetting_curve)
curve = forgetting_curve(fine_tuned["class"].accuracy.tolist())
print("fine-tuning, class-incremental:", " ".join(f"{F:.3f}" for F in curve))

# %% [markdown]
# <details><summary>Hint L02.6</summary>
#
# Counted from 1, row k is `R[k - 1]`, the rows before it are `R[: k - 1]`, and the tasks that can be forgotten are the
# first k - 1 columns.
#
# </details>
# <details><summary>Solution L02.6</summary>
#
# ```python
# def forgetting_curve(R):
#     curve = []
#     for k in range(2, len(R) + 1):
#         best = [max(row[j] for row in R[: k - 1]) for j in range(k - 1)]
#         curve.append(sum(best[j] - R[k - 1][j] for j in range(k - 1)) / (k - 1))
#     return curve
# ```
#
# Already after the second task everything is gone: the curve is flat and high.
#
# </details>

# %% [markdown]
# <a id="L02-11"></a>
# ## 11. Looks right, is wrong
#
# First the numbers, then the three traps. The percentages in the first two come from a tutorial's illustration, not from
# a measurement.

# %%
for before, after in ((51.667, 87.667), (63.0, 90.0), (95.0, 32.0)):
    points = after - before
    print(f"{before:.1f} -> {after:.1f}: {points:+.1f} points, {100 * points / before:+.1f} percent")
print(f"mean of 95 and 0: {(95 + 0) / 2},  mean of 95 and 50: {(95 + 50) / 2}")
print(f"our untrained network with two candidates: {100 * fine_tuned['task'].baseline.mean():.0f} %")

# %%
moved = R[-1] - R.diagonal()  # 0 for the last task
lost = R.max(axis=0) - R[-1]  # the maximum includes the last row
print(f"BWT over T - 1 tasks {moved[:-1].mean():.4f},  over T tasks {moved.mean():.4f}")
print(f"F {forgetting(R):.3f},  minus BWT {-backward_transfer(R):.3f}")
print(f"last row in the maximum {lost[:-1].mean():.3f},  and over T tasks {lost.mean():.3f}")
better = np.array([[0.5, 0.1], [0.6, 0.9]])
wrong = (better.max(axis=0) - better[-1])[0]
print(f"task 1 rises from 0.5 to 0.6: F {forgetting(better):.1f},  last row in the maximum {wrong:.1f}")

# %% [markdown]
# <details><summary>1. "Accuracy rose from 51.7 to 87.7: an improvement of 70%"</summary>
#
# It rose by 36.0 points, which is 69.7 percent *of 51.7*. "63 to 90, improvement 42.9%" is 27.0 points, and "95 to 32,
# down 63%" is 63.0 points or 66.3 percent. Write "points" for differences. What exposes it: a gain in percent may
# exceed 100, a gain in points never exceeds what was missing.
#
# </details>
#
# <details><summary>2. "Before the second task the average was 47.5%"</summary>
#
# That is 95 averaged with 0, as if the untrained task scored nothing. A network that has to choose between two classes is
# near 50 % untrained (ours is printed above), and then the same average is 72.5: the number describes the assumption.
# Average over the tasks seen so far, as AIA does.
#
# </details>
#
# <details><summary>3. <code>BWT = (R[-1] - R.diagonal()).mean()</code> and <code>F = (R.max(axis=0) - R[-1]).mean()</code></summary>
#
# Both average over all T tasks, though the last one cannot have changed: BWT becomes -0.0167 instead of -0.0250. The
# second also lets the last row into the maximum, so a task that *improved* counts as 0 instead of negative: 0.067
# instead of 0.075, and 0.100 when divided by T - 1 (as in the library Mammoth when this was written). With minus BWT,
# 0.025 (as in Avalanche), these are the four programs of the title. Each computes what its formula says; only 0.075 is
# the formula of the paper. What exposes the slip: let task 1 rise from 0.5 to 0.6. F must be -0.1; with the last row in
# the maximum it is 0.
#
# </details>

# %% [markdown]
# <a id="L02-12"></a>
# ## 12. Limits
#
# - Chance differs: one half with two candidates, one tenth with ten. ACC of different scenarios is not one scale.
# - R needs clear boundaries and all old test sets. Streams without boundaries are measured along the way instead
#   (`cllab.metrics.anytime_accuracy`).
# - F rewards a model that never learned: what was never high cannot fall. Read it beside ACC or intransigence.
# - One run is an anecdote. `cllab.metrics.across_seeds` gives mean and sample standard deviation; say how many seeds.
# - The upper triangle costs extra tests. In the class-incremental scenario an unseen class is hardly ever right, so
#   FWT says little there.

# %% [markdown]
# <a id="L02-13"></a>
# ## 13. Self-test
#
# 1. Which cells of R does BWT read?
# 2. Can F be negative? What does that mean?
# 3. A robot must recognise all objects it ever learned, and nobody tells it when it learned them. Which scenario?
# 4. A table reports 98 % for fine-tuning on Split-MNIST. What do you ask first?
#
# <details><summary>Answers</summary>
#
# 1. The last row and the diagonal, without the last column.
# 2. Yes: at the end, tasks are on average better than they ever were in an earlier row.
# 3. Class-incremental.
# 4. Which scenario: was the task id given at test?
#
# </details>

# %% [markdown]
# <a id="L02-14"></a>
# ## 14. Further reading
#
# - van de Ven, Tuytelaars & Tolias (2022), *Three types of incremental learning*: the scenarios, with the same data
#   in all three.
# - Lopez-Paz & Ranzato (2017), *Gradient episodic memory*: where R, ACC, BWT and FWT come from.
# - Chaudhry et al. (2018), *Riemannian walk*: forgetting and intransigence, and why one needs both.
#
# To compare: the metrics of the library Avalanche (`avalanche.evaluation.metrics`), whose `Forgetting` starts from the
# first value instead of the best.
