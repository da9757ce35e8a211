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
# <a id="L12-0"></a>
# # Lesson 12. LoRA, adapters, prompts: small modules for new tasks (低秩适配, 适配器, 提示微调)
#
# **Each new task gets 0.39 % of a layer's weights, and nothing old is touched: what can still be forgotten?**
#
# 60 minutes. Before it: lesson 10, *Heads and columns*. After it you can compute LoRA's first steps by hand, add up two
# adapters without spoiling both, and say what "no forgetting" is worth when nobody names the task.
#
# | card | LoRA | adapters, IA3 | prompts, prefixes |
# | --- | --- | --- | --- |
# | memory cost | r (in + out) numbers per layer and task | a bottleneck or a few scales per block and task | p vectors per task |
# | stores data? | no | no | no |
# | needs a boundary while training? | yes: a new part begins | yes | yes |
# | needs a task id at test? | yes, or a selector that guesses it | yes, likewise | yes, likewise |

# %%
import cllab

cllab.setup("12", written_for="0.1")

# %%
import copy
import dataclasses
import io
import math
from functools import partial
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cllab.device import generator
from cllab.exercises import check, claim
from cllab.isolation import (
    IA3, Adapter, Factors, LoRA, LoRALinear, LowRank, OLoRA, PrefixTuning, PromptTuning, TaskSelector, average_factors,
    expand_blocks, load_lora, lora_layers, merge_lora, nearest_centroid, save_lora, using,
)
from cllab.metrics import average_accuracy, backward_transfer, forgetting
from cllab.models import MLP, Transformer
from cllab.player import lowrank_trace, merging_trace
from cllab.plots import draw_accuracy_matrix, filmstrip, task_colour
from cllab.streams import digits, rotated, split
from cllab.training import Evaluated, Joint, Phase, TaskEnded, fit, run

# %% [markdown]
# <a id="L12-1"></a>
# ## 1. Warm-up
#
# Answer aloud, then open the fold.
#
# 1. Lesson 11: a weight is frozen by setting its gradient to 0. Why does it move, and why is None no way out there?
# 2. Lesson 09: GEM, g = (0, −2), one old task with gradient (1, 1). What is u?
#
# <details><summary>Answers</summary>
#
# 1. Momentum and weight decay. None holds for a whole tensor, and PackNet's tasks share tensors. Today's do not.
# 2. (1, −1), at right angles to the old gradient. Today two adapters are to be at right angles.
#
# </details>
#
# <a id="L12-2"></a>
# ## 2. Why
#
# Digits, then the same turned by 45, 90, 135, 180 degrees. Fine-tuning (微调) spoils the first task (less so upside down,
# where strokes run as before). But look at what it did during the second: a change ΔW of both hidden weight matrices. We
# keep only what comes nearest to it among matrices of **rank** (秩) r.

# %%
data = digits().take(600)
turned = rotated(data, 5, "task", angles=[0, 45, 90, 135, 180]).to(dtype=torch.float64)
USUAL = {"epochs": 2, "batch_size": 20, "lr": 0.01, "seed": 1}
LAYERS = ("trunk.0.weight", "trunk.2.weight")


def train(model, stream, methods=(), **settings):
    """R, the curve of accuracies, the model's weights after each task, and what the method reported."""
    found = SimpleNamespace(R=[], curve=[], weights=[], reports=[])
    for event in fit(model, stream, list(methods), **settings):
        if isinstance(event, Evaluated):
            found.curve.append(event)
        if isinstance(event, Phase):
            found.reports.append(event.info)
        if isinstance(event, TaskEnded):
            found.R.append(found.curve[-1].accuracy)
            found.weights.append(copy.deepcopy(model.state_dict()))
    found.R = np.array(found.R)
    return found

# %%
def cut(delta, r):
    """The matrix of rank r that comes nearest to delta."""
    U, sigma, V = torch.linalg.svd(delta, full_matrices=False)
    return (U[:, :r] * sigma[:r]) @ V[:r]


def accuracy_with(weights, k):
    """On the test rows of task k, among its ten classes."""
    logits = torch.func.functional_call(model, weights, (turned[k].x_test,))[:, 10 * k : 10 * k + 10]
    return (logits.argmax(dim=1) + 10 * k == turned[k].y_test).double().mean().item()


model, RANKS = MLP(64, [32, 32], 50, seed=1).double(), range(33)
fine_tuned = train(model, turned, eval_every=20, **USUAL)
before, after = fine_tuned.weights[:2]
partly = [after | {name: before[name] + cut(after[name] - before[name], r) for name in LAYERS} for r in RANKS]
new_task, old_task = ([accuracy_with(weights, k) for weights in partly] for k in (1, 0))

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 2.8), layout="constrained")
curve = [(event.step, event.accuracy[0]) for event in fine_tuned.curve]
_ = axes[0].plot(*zip(*curve), color=task_colour(0))
_ = axes[0].set(xlabel="step of fine-tuning", ylabel="accuracy on the first task", ylim=(0, 1),
                xticks=range(0, 301, 60))
for k, degrees in enumerate((0, 45, 90, 135, 180)):
    _ = axes[0].axvline(60 * k, color="0.85", lw=1, zorder=0)
    _ = axes[0].text(60 * k + 30, 0.95, f"{degrees}°", ha="center", color=task_colour(k))
for k, (name, values) in enumerate({"first task": old_task, "second task": new_task}.items()):
    _ = axes[1].plot(RANKS, values, color=task_colour(k), label=name)
_ = axes[1].set(xlabel="rank r of what is kept of both ΔW", ylabel="accuracy", ylim=(0, 1))
_ = axes[1].legend(frameon=False, loc="lower right")
plt.show()
print("rank:            ", "".join(f"{r:7}" for r in (0, 1, 2, 4, 8, 32)))
for name, values in (("second task", new_task), ("first task", old_task)):
    print(f"{name:17}", "".join(f"{values[r]:7.3f}" for r in (0, 1, 2, 4, 8, 32)))

# %% [markdown]
# Rank 8 of 32 brings all of the new task, rank 4 much of it. Then why not train a change of low rank from the start,
# *beside* the weight, and leave the weight alone?
#
# <a id="L12-3"></a>
# ## 3. Predict
#
# Five tasks, two digits each. The first trains a network, which is then frozen; every later one gets a small change and a
# head of its own. So the answers for task 1 stay the same, bit by bit. But at test nobody says which task an image belongs to. A **selector**
# (任务选择器) compares it with the mean image of every digit seen so far, and picks the task of the nearest.
#
# What happens to accuracy on task 1 between the end of task 1 and the end of task 5? Commit: set the letter.

# %%
options = {
    "A": "nothing: no weight and no mean image of task 1 has moved",
    "B": "it falls by some points, although nothing of task 1 has moved",
    "C": "it collapses as in fine-tuning: without a task id isolation is worth nothing",
}
prediction = "A"  # your choice
print(f"You chose {prediction}: {options[prediction]}.")

# %% [markdown]
# <a id="L12-4"></a>
# ## 4. By hand
#
# **LoRA** (低秩适配): the layer answers y = W x + B (A x). W is frozen, A and B are thin, **B starts at zero**. Rank 1, the
# loss is ½‖y − t‖², g = y − t, the learning rate 0.1:
#
# | | step 0 | step 1 |
# | --- | --- | --- |
# | W = [2 0; 1 1], x = (1, 2), t = (1, 5) | W x = (2, 3) | the same |
# | A = (1, 1) | A x = 3 | 3 |
# | B | (0, 0) | (−0.3, 0.6) |
# | y = W x + B (A x) | (2, 3) | (1.1, 4.8) |
# | g = y − t | (1, −2) | (0.1, −0.2) |
# | gradient of B: g (A x) | (3, −6) | (0.3, −0.6) |
# | gradient of A: (B · g) x | (0, 0), exactly | **?** |
#
# At the start the layer is its base. B learns at once; A's gradient passes through B, and must wait.
#
# ### Exercise L12.1 \* the second gradient of A (3 min)
#
# Fill the cell of step 1.

# %%
gradient = ...  # --> your point, such as (1, 1)
gradient = check("L12.1", gradient)
print("gradient of A in step 1:", gradient)

# %% [markdown]
# <details><summary>Hint L12.1</summary>
#
# B · g is one number. Multiply x by it.
#
# </details>
# <details><summary>Solution L12.1</summary>
#
# ```python
# gradient = (-0.15 * 1, -0.15 * 2)
# ```
#
# </details>
#
# PyTorch agrees. And how small is such a change?

# %%
def steps_by_hand(A, B, steps, lr=0.1):
    """Prints loss and gradients of the example, step by step."""
    W, x, t = (torch.tensor(v, dtype=torch.float64) for v in ([[2, 0], [1, 1]], [1, 2], [1, 5]))
    A, B = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (A, B))
    for step in range(steps):
        loss = (W @ x + B * (A @ x) - t).square().sum() / 2
        dA, dB = torch.autograd.grad(loss, (A, B))
        shown = [tuple(round(v, 6) + 0.0 for v in d.tolist()) for d in (dB, dA)]
        print(f"   step {step}: loss {loss:.4f}, gradient of B {shown[0]}, of A {shown[1]}")
        A.data, B.data = A - lr * dA, B - lr * dB


print("B = 0, A = (1, 1):")
steps_by_hand([1, 1], [0, 0], 2)
for width in (768, 4096):
    full, small = width * width, 8 * (width + width)
    print(f"layer {width} x {width}: {full:,} weights; rank 8: {small:,}, that is {100 * small / full:.2f} %")

# %% [markdown]
# **Two adapters into one.** To have half of each: add half of each *change* ΔW = s B A. Tempting instead, as files hold A
# and B: average the files. Two adapters of rank 1 with s = 1:
#
# | | adapter 1 | adapter 2 | averages of the files |
# | --- | --- | --- | --- |
# | A | (1, 0) | (0, 1) | (½, ½) |
# | B | (1, 0) | (0, 1) | (½, ½) |
# | B A | [1 0; 0 0] | [0 0; 0 1] | [¼ ¼; ¼ ¼] |
# | right: half of each change | | | [½ 0; 0 ½] |
#
# (½B₁ + ½B₂)(½A₁ + ½A₂) = ¼B₁A₁ + ¼B₂A₂ + ¼B₁A₂ + ¼B₂A₁: a quarter where a half belongs, and two **cross terms** (交叉项),
# which no task has ever learned. Weights of √½ on all factors repair the first, not the second.
#
# Worse: (3B, A/3) is the *same* adapter as (B, A): equal change, equal answers.
#
# ### Exercise L12.2 \* the same adapter in other clothes (3 min)
#
# Average the files (B, A) and (3B, A/3). How many times B A is the result? Right would be 1.

# %%
times = ...  # --> your number
times = check("L12.2", times)
print(f"{times:.4f} times B A")

# %% [markdown]
# <details><summary>Hint L12.2</summary>
#
# The mean of the two B is 2B. The mean of the two A?
#
# </details>
# <details><summary>Solution L12.2</summary>
#
# ```python
# times = 2 * (1 + 1 / 3) / 2
# ```
#
# </details>
#
# In the last two rows printed here adapter 2 is adapter 1 again, with turned signs or turned axes: (B R, Rᵀ A).

# %%
def matrix(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def turned_by(angle, r=2):
    """R [r, r] that turns neighbouring pairs of coordinates."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.block_diag(*[matrix([c, -s], [s, c])] * (r // 2))


e1, e2 = matrix([1, 0]), matrix([0, 1])
A, B, R = matrix([1, 0, 1], [0, 1, -1]), matrix([1, 0], [0, 1], [1, 1]), turned_by(0.7)
pairs = {"two units": [Factors(e1, e1.T), Factors(e2, e2.T)], "sign turned": [Factors(e1, e1.T), Factors(-e1, -e1.T)],
         "turned by 0.7": [Factors(A, B), Factors(R.T @ A, B @ R)]}
print("              ||right||  ||average||  ||with root w||  ||cross terms||  relative error of the average")
for name, pair in pairs.items():
    right, average, root = merge_lora(pair).delta, average_factors(pair), average_factors(pair, root=True)
    sizes = [change.norm() for change in (right, average.delta, root.delta, average.cross)]
    print(f"{name:14}{sizes[0]:9.4f} {sizes[1]:12.4f} {sizes[2]:16.4f} {sizes[3]:16.4f} {average.error:16.6f}")
print(f"(1 - cos 0.7) / 2 = {(1 - math.cos(0.7)) / 2:.6f}")

# %% [markdown]
# The sign, a convention, decides between the adapter and **nothing**. Two *equal* files hide it: never test with them.
#
# **Do two adapters disturb each other?** The rows of A say what an adapter reads. **O-LoRA** (正交低秩适配) punishes the sum
# of the absolute values of $O = A_1 A_2^T$; others quote squares. **And who says which adapter?** A selector that is right in
# a share ρ of the cases:
#
# | | |
# | --- | --- |
# | rows of $A_1$; of $A_2$ | e₁, e₂; (0.6, 0.8, 0, 0), e₃ |
# | O | [0.6 0; 0.8 0] |
# | ρ; accuracy with the right part, with a wrong one | 0.9; 0.95, 0.3 |
# | accuracy | 0.9 · 0.95 + 0.1 · 0.3 |

# %%
past, A_new = matrix([1, 0, 0, 0], [0, 1, 0, 0]), matrix([0.6, 0.8, 0, 0], [0, 0, 1, 0])
O = past @ A_new.T
print(f"overlap: absolute values {O.abs().sum():.1f}, squares {O.square().sum():.1f}")
print(f"0.9 * 0.95 + 0.1 * 0.3 = {0.9 * 0.95 + 0.1 * 0.3:.3f}")

# %% [markdown]
# <a id="L12-5"></a>
# ## 5. Equation to code
#
# $y = x W^T + s\,(x A^T) B^T$, with $s = \alpha / r$ and $\Delta W = s\,B A$
#
# | symbol | code | shape | meaning |
# | --- | --- | --- | --- |
# | $W$ | `base.weight` | `[out, in]` | frozen |
# | $A$, $B$ | `A`, `B` | `[r, in]`, `[out, r]` | trained; A random, B zero |
# | $\alpha$, $s$ | `alpha`, `s` | | size of the branch |
# | $w_i$ | `w` | | weight of adapter i in a merge |
# | $\mu_{t,c}$ | `mu` | `[H]` | mean of class c of task t |

# %%
class OurLoRA(nn.Module):
    """A frozen linear layer and a branch of rank r."""

    def __init__(self, base, r, alpha, source):
        super().__init__()
        self.base, self.s, self.merged = base.requires_grad_(False), alpha / r, False
        self.A = nn.Parameter(torch.randn(r, base.in_features, generator=source).to(base.weight))
        self.B = nn.Parameter(torch.zeros(base.out_features, r).to(base.weight))

    def forward(self, x):
        if self.merged:
            return self.base(x)
        # y = x W^T + s (x A^T) B^T
        return self.base(x) + self.s * (x @ self.A.T) @ self.B.T

    def merge(self, sign=1):
        if self.merged == (sign > 0):
            raise ValueError("merged twice, or unmerged twice")
        # W <- W + s B A, and back
        self.base.weight.data += sign * self.s * self.B @ self.A
        self.merged = sign > 0

# %% [markdown]
# Merged (合并), the layer costs nothing extra. Several adapters: $\Delta W = \sum_i w_i s_i B_i A_i$.
#
# ### Exercise L12.3 \*\* merge adapters (6 min)
#
# In lists of lists. NumPy is at hand.

# %%
def merged(adapters, weights):
    """sum_i w_i s_i B_i A_i as a list of rows.

    adapters: a list of (A, B, s) with A as r rows of in numbers, B as out rows of r numbers. weights: one w per adapter.
    """
    raise NotImplementedError  # --> your code (about 4 lines)


merged = check("L12.3", merged)
units = [([[1.0, 0.0]], [[1.0], [0.0]], 1.0), ([[0.0, 1.0]], [[0.0], [1.0]], 1.0)]
print("half of each unit:", merged(units, [0.5, 0.5]))

# %% [markdown]
# <details><summary>Hint L12.3</summary>
#
# `w * s * np.array(B) @ np.array(A)` for one adapter; then a sum.
#
# </details>
# <details><summary>Solution L12.3</summary>
#
# ```python
# def merged(adapters, weights):
#     changes = [w * s * np.array(B) @ np.array(A) for (A, B, s), w in zip(adapters, weights)]
#     return sum(changes).tolist()
# ```
#
# </details>
#
# The sum has rank up to $\sum_i r_i$. To keep it as factors: lay them side by side (`"cat"`, exact, that rank), or cut the
# sum to rank r (`"svd"`, with an error that must be reported).
#
# ### Exercise L12.4 \*\* overlap (4 min)
#
# O-LoRA's term: $\sum_{i<t} \sum_{jk} |A_i A_t^T|_{jk}$.

# %%
def overlap(past, A):
    """past: a list of earlier A_i, each r_i rows of in numbers. A: the newest, r rows. A number; 0.0 with no past."""
    raise NotImplementedError  # --> your code (about 1 line)


overlap = check("L12.4", overlap)
print("the example by hand:", round(overlap([past.tolist()], A_new.tolist()), 6))

# %% [markdown]
# <details><summary>Hint L12.4</summary>
#
# `np.abs(np.array(A_i) @ np.array(A).T).sum()` for each, then `sum(..., start=0.0)`.
#
# </details>
# <details><summary>Solution L12.4</summary>
#
# ```python
# def overlap(past, A):
#     return sum((float(np.abs(np.array(A_i) @ np.array(A).T).sum()) for A_i in past), start=0.0)
# ```
#
# </details>
#
# **The relatives.** All leave the network frozen and start at or near the network itself, prompts apart:
#
# | module | what it does | at the start | numbers |
# | --- | --- | --- | --- |
# | adapter (适配器) | $h + W_{up}\,\mathrm{gelu}(W_{down} h + b) + b'$ behind a layer | nearly h | 2 m d + d + m |
# | IA3 | $l \odot$ keys, values, hidden units | l = 1 | $d_k + d_v + d_{ff}$ per block |
# | prompt (提示微调) | p vectors before the tokens | tokens of the task | p d |
# | prefix (前缀微调) | p keys and p values in each of L blocks | small | 2 p L d |
# | new block (块扩展) | a copy with $W_o = W_{down} = 0$ in between | the identity | a block |

# %%
d, m, p, L = 768, 64, 20, 12
print(f"width {d}, {L} blocks")
print(f"adapter, m = {m}:  {2 * m * d + d + m:9,} each, two per block")
print(f"IA3:              {d + d + 4 * d:9,} per block, {L * 6 * d:,} in all")
print(f"prompt, p = {p}:   {p * d:9,} in all")
print(f"prefix, p = {p}:   {2 * p * L * d:9,} in all")
print(f"LoRA, r = 8:      {8 * 2 * d:9,} per square matrix")

# %% [markdown]
# <a id="L12-6"></a>
# ## 6. The same in cllab
#
# `LoRALinear` holds one `LowRank` per task; its merge keeps the base's own weight, so that unmerging is exact.

# %% tags=["nbval-ignore-output"]
import inspect

for part in (LowRank.forward, LowRank.fresh, LoRALinear.merge, merge_lora, OLoRA.losses, nearest_centroid):
    print(inspect.getsource(part))

# %%
source = generator(3)
base = nn.Linear(6, 5).double()
x = torch.randn(20, 6, generator=source, dtype=torch.float64)
ours, theirs = OurLoRA(copy.deepcopy(base), 2, 4.0, source), LoRALinear(base)
ours.B.data = torch.randn(5, 2, generator=source, dtype=torch.float64)
theirs.add("task", LowRank(ours.A, ours.B, s=2.0))
y = theirs(x)
claim("our layer and LoRALinear agree", torch.allclose(ours(x), y, atol=1e-12))
ours.merge()
theirs.merge()
claim("merged they agree, with themselves before, too", all(torch.allclose(f(x), y, atol=1e-12) for f in (ours, theirs)))
theirs.unmerge()
claim("unmerged, cllab's layer is bit by bit what it was", torch.equal(theirs(x), y))

draws = [Factors(*(torch.randn(*shape, generator=source, dtype=torch.float64) for shape in ((2, 6), (5, 2))), s)
         for s in (0.5, 2.0)]
delta = matrix(*merged([(A.tolist(), B.tolist(), s) for A, B, s in draws], [0.3, 0.7]))
claim("our merge and merge_lora agree", torch.allclose(delta, merge_lora(draws, [0.3, 0.7]).delta, atol=1e-12))
for how, rank in (("cat", None), ("svd", 2), ("svd", 4)):
    found = merge_lora(draws, [0.3, 0.7], how, rank=rank)
    print(f"{how}: rank {len(found.A)}, relative error {found.error:.4f}")

# %% [markdown]
# <a id="L12-7"></a>
# ## 7. Turn the knob
#
# **Rank.** The ΔW of section 2's first layer, 32 × 64, and its nearest of rank 1, 2, 4, with the number of its parameters.

# %%
def draw_rank(ax, trace, step):
    """B A of the step's rank as a heat map."""
    r, A, B = trace["steps"][step]["rank"], np.array(trace["A"]), np.array(trace["B"])
    most = np.abs(trace["delta"]).max()
    ax.imshow(B[:, :r] @ A[:r], cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    ax.set(xlabel="pixel", ylabel="hidden unit", xticks=[], yticks=[])


name = LAYERS[0]
trace = lowrank_trace(after[name] - before[name], {"first task": old_task, "second task": new_task},
                      names=("hidden unit", "pixel"), title="What fine-tuning did to the first layer")
filmstrip(draw_rank, trace, [1, 2, 4, 32])

# %% [markdown]
# In the player the rank grows and the rest fades. The lab (`make app`) has a page
# [Low rank](http://localhost:8501/lowrank) with more changes, merges and overlaps.

# %% tags=["nbval-ignore-output"]
from cllab.player.widget import Player

Player(trace)

# %% [markdown]
# **Clothes.** A network learns digits 0 to 3 and is frozen. Two adapters of rank 4 on its first layer, one for digits 4 to 6,
# one for 7 to 9. Take the first and a copy of it in other clothes, (B R, Rᵀ A). For every angle the two answer alike. Average
# their files.

# %%
thirds = split(data, [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]], "task").to(dtype=torch.float64)
SMALL = {"epochs": 5, "batch_size": 10, "lr": 0.01, "seed": 1}
adapted = MLP(64, [32], 10, seed=1).double()
_ = run(adapted, thirds, [LoRA(4, targets=["trunk.0"])], **SMALL)
layer = adapted.trunk[0]
first, second = (part.factors for part in layer.parts)


@torch.no_grad()
def accuracy_of(delta, k):
    """On task k with its own head, when the base's first layer carries this change."""
    x, y = thirds[k].x_test, thirds[k].y_test
    with using(adapted, k):
        layer.use()
        logits = adapted.head(torch.relu(layer(x) + x @ delta.T))
    return (logits.argmax(dim=1) == y).double().mean().item()


def averaged(angle):
    """The average of the first adapter's files in two sets of clothes."""
    A, B, s = first
    R = turned_by(angle, r=4)
    return average_factors([first, Factors(R.T @ A, B @ R, s)])

# %%
def clothes(angle):
    """Error and accuracy of the average against the angle, with a line at `angle`: the figure."""
    angles = np.linspace(0, math.pi, 41)
    found, base = [averaged(float(a)) for a in angles], accuracy_of(0 * first.B @ first.A, 1)
    fig, ax = plt.subplots(figsize=(8, 3), layout="constrained")
    ax.plot(angles, [f.error for f in found], color="#D55E00", label="relative error of the average")
    ax.plot(angles, [accuracy_of(f.delta, 1) for f in found], color=task_colour(1), label="its accuracy on 4 to 6")
    ax.axhline(base, color="0.5", ls=":", label="accuracy with no adapter at all")
    ax.axvline(angle, color="black", lw=1)
    ax.set(xlabel="copy turned by, rad", xticks=[0, 0.7, 1.57, 2.36, 3.14], ylim=(0, 1.03))
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    png = io.BytesIO()
    fig.savefig(png, format="png", dpi=80)
    return png.getvalue()


png = clothes(0.7)
plt.show()
for angle in (0, 0.7, math.pi / 2, 2.5, math.pi):
    found = averaged(angle)
    print(f"turned by {angle:.2f}: error {found.error:.4f}, accuracy {accuracy_of(found.delta, 1):.3f}")

# %% tags=["nbval-ignore-output"]
import ipywidgets

slider = ipywidgets.FloatSlider(0.7, min=0, max=3.14, step=0.1, description="angle", continuous_update=False)
image = ipywidgets.Image(value=png, layout=ipywidgets.Layout(width="700px"))


def turn(change):
    image.value = clothes(change["new"])
    plt.close()


slider.observe(turn, names="value")
ipywidgets.VBox([slider, image])

# %% [markdown]
# Half of the change is gone at 1.57, and accuracy hardly shows it. At 3.14 nothing is left, of two files that say the same.
#
# **Two different adapters**, half and half, every way:

# %%
both, w = [first, second], [0.5, 0.5]
right = merge_lora(both, w).delta
ways = {"no adapter": 0 * right, "adapter 1 alone": 2 * right - second.s * second.B @ second.A,
        "adapter 2 alone": 2 * right - first.s * first.B @ first.A, "right: sum of changes": right,
        "cut to rank 4": (lambda m: m.B @ m.A)(merge_lora(both, w, "svd", rank=4)),
        "averaged factors": average_factors(both, w).delta,
        "factors with root w": average_factors(both, w, root=True).delta}
print("                        digits 4-6   digits 7-9   error against the right sum")
for name, delta in ways.items():
    error = (delta - right).norm() / right.norm()
    print(f"{name:23} {accuracy_of(delta, 1):10.3f} {accuracy_of(delta, 2):12.3f} {error:12.3f}")
merging = merging_trace({"4 to 6": first, "7 to 9": second}, w, title="Two adapters into one")

# %% tags=["nbval-ignore-output"]
Player(merging)

# %% [markdown]
# The right sum keeps most of both tasks; averaged files cost about eight points of each.
#
# <a id="L12-8"></a>
# ## 8. Experiment
#
# **With a task id.** The five angles of section 2. LoRA: the first task trains the network, which is then frozen; each
# later task gets a head and adapters. Beside it fine-tuning and joint training (联合训练).

# %%
ways = {"LoRA, r = 4": [LoRA(4)], "LoRA, r = 16": [LoRA(16)], "joint training": [Joint()]}
angles, numbers = {"fine-tuning": fine_tuned}, {}
for name, methods in ways.items():
    model = MLP(64, [32, 32], 50, seed=1).double()
    angles[name] = train(model, turned, methods, **USUAL)
    numbers[name] = sum(p.numel() for layer in lora_layers(model).values() for p in layer.part(1).parameters())

fig, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
for ax, name in zip(axes, ("fine-tuning", "LoRA, r = 4", "joint training")):
    draw_accuracy_matrix(ax, angles[name].R, [f"{angle}°" for angle in (0, 45, 90, 135, 180)])
    _ = ax.set_title(name)
plt.show()
print("                     ACC     BWT       F   numbers for each new task")
for name, found in angles.items():
    row = [measure(found.R) for measure in (average_accuracy, backward_transfer, forgetting)]
    own = f"{numbers[name]} + 330 in the head" if numbers.get(name) else "330 in the head"
    print(f"{name:15}", "".join(f"{value:8.3f}" for value in row), "  " + own)
print(f"a network of its own: {sum(p.numel() for p in MLP(64, [32, 32], 10).parameters())}")
ACC = {name: average_accuracy(found.R) for name, found in angles.items()}
claim("LoRA of rank 4 beats fine-tuning by 5 points", ACC["LoRA, r = 4"] - ACC["fine-tuning"] > 0.05)
claim("joint training beats it by 5 points", ACC["joint training"] - ACC["LoRA, r = 4"] > 0.05)

# %%
def first_task_over_time(method, optimizer, lr):
    """Logits of task 1 after every task, the optimiser kept from task to task."""
    model, found = MLP(64, [16, 16], 50).double(), []
    settings = {"batch_size": 20, "lr": lr, "optimizer": optimizer, "reset_optimizer": False}
    for event in fit(model, turned, [method], **settings):
        if isinstance(event, TaskEnded):
            with torch.no_grad():
                found.append(method.predict(model, turned[0].x_test, None, 0))
    return found


strong = {"SGD": (partial(torch.optim.SGD, momentum=0.9, weight_decay=5e-4), 0.05), "AdamW": (torch.optim.AdamW, 0.01)}
for name, settings in strong.items():
    start, *later = first_task_over_time(LoRA(4), *settings)
    claim(f"{name}: LoRA leaves all logits of task 1 equal, bit by bit", all(torch.equal(start, y) for y in later))

# %% [markdown]
# With a task id forgetting is exactly 0.000. The price stands on the diagonal: a base that has seen upright digits only,
# plus rank 4, learns less than a free network. Rank 16 comes nearer and is hardly small: with the head 2,890 numbers, a
# network of its own has 3,466. Thin matrices pay where matrices are large.
#
# **Without one.** Split digits, class-incremental (类增量): five tasks of two digits. Each selector learns task by task: the
# mean of each class, in pixels or in features of the frozen base, or a **router** (路由器), a softmax regression that keeps 20
# images of each task, or none.

# %%
in_class, in_task = (split(data, 2, scenario).to(dtype=torch.float64) for scenario in ("class", "task"))
PAIRS = {"epochs": 4, "batch_size": 10, "lr": 0.01, "seed": 1}
selectors = {"means of pixels": TaskSelector(), "means of base features": TaskSelector(features="base"),
             "router, keeps 20": TaskSelector("router", keep=20, steps=100),
             "router, keeps none": TaskSelector("router", keep=0, steps=100)}
settings = {"task id given": (in_task, [LoRA(2)]), "fine-tuning": (in_class, []), "joint training": (in_class, [Joint()])}
settings |= {name: (in_class, [LoRA(2, selector=selector)]) for name, selector in selectors.items()}
routed = {name: train(MLP(64, [32], 10, seed=1).double(), *given, **PAIRS) for name, given in settings.items()}

print("                           routing  right part     ACC       F")
for name, found in routed.items():
    keys = ("routing accuracy", "accuracy, right part") if found.reports else ()
    told = "".join(f"{np.mean(found.reports[-1][key]):10.3f}" for key in keys)
    print(f"{name:23}{told:22} {average_accuracy(found.R):8.3f}{forgetting(found.R):8.3f}")
claim("means of pixels beat fine-tuning by 50 points",
      average_accuracy(routed["means of pixels"].R) - average_accuracy(routed["fine-tuning"].R) > 0.50)

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
colours = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#D55E00", "black")
for name, colour in zip(("task id given", *selectors, "fine-tuning"), colours):
    style = {"ls": "--", "lw": 1} if name == "fine-tuning" else {"lw": 3 if name == "router, keeps none" else 1.5}
    R = routed[name].R
    for ax, values in zip(axes, (R[:, 0], [R[t, : t + 1].mean() for t in range(5)])):
        _ = ax.plot(range(1, 6), values, marker="o", ms=4, color=colour, label=name, **style)
for ax, what in zip(axes, ("task 1", "the tasks so far")):
    _ = ax.set(xlabel="after task", ylabel=f"accuracy on {what}", xticks=range(1, 6), ylim=(-0.03, 1.03))
_ = axes[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
print("means of pixels, images of task 1, after task:     1      2      3      4      5")
for key in ("routing accuracy", "accuracy, right part", "accuracy, routed"):
    print(f"{key:44}", "".join(f"{report[key][0]:7.3f}" for report in routed["means of pixels"].reports))
x_test, y_test = (torch.cat([getattr(task, part) for task in in_class]) for part in ("x_test", "y_test"))
mu = torch.stack([torch.cat([task.x[task.y == c] for task in in_class]).mean(dim=0) for c in range(10)])
alone = (nearest_centroid(x_test, mu) == y_test).double().mean()
print(f"the ten mean images alone, as a classifier: {alone:.3f}")

# %% [markdown]
# Nobody touched task 1: with its right part it stays at 0.986. But every new task brings two more mean images, and some
# zeros and ones lie nearer to these. What left the weights comes back in the selector. And more:
#
# - Features of a base that knows 0 and 1 only suit task 1; in all they choose worse than pixels: 0.556 against 0.903.
# - A router that keeps no images sends everything to the newest task. A selector is itself a continual learner.
# - The ten mean images alone give 0.897, with adapters and heads behind them 0.894. Whoever has found the class needs no
#   adapter: make this comparison before you praise a routed system.
#
# **The relatives**, on a small transformer: an 8 × 8 digit is 8 tokens of 8 pixels. It has learned 0 to 3 and is frozen; each
# module learns 4 to 6, with a head of its own. First line: the head alone.

# %%
groups = split(digits(), [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]], "task").to(dtype=torch.float64)
to_three, new_digits = (dataclasses.replace(groups, tasks=groups.tasks[k : k + 1]) for k in (0, 1))
QUICK = {"epochs": 5, "seed": 1}
small = Transformer(8, 8, dim=16, depth=2, n_heads=4, n_classes=10, seed=1).double()
_ = run(small, to_three, batch_size=48, lr=0.01, **QUICK)
modules = {"head only": PromptTuning(0, base="given"), "LoRA, r = 2, q and v": LoRA(2, targets=["q", "v"], base="given"),
           "adapters, m = 4": Adapter(4, base="given"), "IA3": IA3(base="given"),
           "prompt, p = 4": PromptTuning(4, base="given"), "prefix, p = 4": PrefixTuning(4, base="given"),
           "prefix from a network": PrefixTuning(4, reparametrise=32, base="given")}
print(f"a transformer of {sum(p.numel() for p in small.parameters()):,} parameters")
for name, method in modules.items():
    model = copy.deepcopy(small)
    history = run(model, new_digits, [method], batch_size=72, lr=0.03, **QUICK)
    own = sum(p.numel() for p in model.parameters() if p.requires_grad) - 51
    print(f"{name:22} {own:5} numbers and a head of 51, accuracy {history.accuracy[0, 0]:.3f}")

# %% [markdown]
# The head alone says what the frozen features are worth, 0.670; every row adds to that, from 64 numbers on. One seed makes
# no ranking. But the last row is known from the literature: a prefix learns better when a small network computes it, which
# is thrown away afterwards.
#
# **A new block** instead, or rather two:

# %%
deeper = copy.deepcopy(small)
x, y = new_digits[0].x_test, new_digits[0].y_test
before_logits = deeper(x)
new_blocks = expand_blocks(deeper, 2)
print(f"{len(small.blocks)} blocks become {len(deeper.blocks)}, new are {new_blocks}")
claim("and not one bit of the logits changes", torch.equal(deeper(x), before_logits))
F.cross_entropy(deeper(x), y).backward()
moved = {name: p.grad.abs().max() > 0 for name, p in deeper.named_parameters() if p.grad is not None}
print(f"{sum(moved.values())} of {len(moved)} new tensors get a gradient in the first step:")
print(sorted({name.split(".", 2)[2] for name, value in moved.items() if value}))

# %% [markdown]
# The trick of B = 0 again: what is added starts at zero, what feeds it does not.
#
# **O-LoRA.** All adapters stay active, their sum is the model; only the overlap keeps them apart. The three tasks of section 7.

# %%
from cllab.isolation import overlap as overlap_cllab

print("lambda   overlap of A_2 with A_1   new task   first two tasks   they lost")
for lam in (0.0, 0.1, 0.5):
    model = MLP(64, [32], 10, seed=1).double()
    R = run(model, thirds, [OLoRA(4, lam, targets=["trunk.0"])], **SMALL).accuracy
    older, newer = model.trunk[0].parts
    print(f"{lam:6} {overlap_cllab(older.A, newer.A).item():15.3f} {R[2, 2]:18.3f} {R[2, :2].mean():13.3f}"
          f" {np.mean(R[:2, :2].max(axis=0) - R[2, :2]):14.3f}")

# %% [markdown]
# The overlap nearly vanishes, and old tasks lose hardly less: images of old digits reach the new adapter's rows all the
# same, whatever the old adapter reads. λ = 0.5 protects a little more and learns less. This is no isolation.
#
# <a id="L12-9"></a>
# ## 9. What did you expect?

# %%
print(f"You chose {prediction}: {options[prediction]}.")
R = routed["means of pixels"].R
print(f"Measured: from {R[0, 0]:.3f} to {R[-1, 0]:.3f}; fine-tuning ends at {routed['fine-tuning'].R[-1, 0]:.3f}.")
print("As predicted." if prediction == "B" else "Answer B.")

# %% [markdown]
# Isolation keeps its promise: not one answer of task 1's part has changed. But tasks compete for images, and every new one
# is a competitor.
#
# <a id="L12-10"></a>
# ## 10. Exercises
#
# Skip what you like: the reference then takes over.
#
# ### Exercise L12.5 \*\* choose the task (6 min)
#
# The selector of section 3: nearest class mean, then that class's task.

# %%
def choose(phi, centroids):
    """The task's number. phi: H numbers. centroids: for each task a list of class means, each of H numbers."""
    raise NotImplementedError  # --> your code (about 3 lines)


choose = check("L12.5", choose)
means = [[[0.0, 1.0], [10.0, 1.0]], [[5.0, 1.0]]]
print("task 0 has two classes, far apart, task 1 one between them:", [choose([x, 1.0], means) for x in (1, 4, 9)])

# %% [markdown]
# <details><summary>Hint L12.5</summary>
#
# `min(np.linalg.norm(np.array(phi) - mu) for mu in task)` for each task, then the place of the smallest.
#
# </details>
# <details><summary>Solution L12.5</summary>
#
# ```python
# def choose(phi, centroids):
#     near = [min(np.linalg.norm(np.array(phi) - np.array(mu)) for mu in task) for task in centroids]
#     return int(np.argmin(near))
# ```
#
# </details>
#
# ### Exercise L12.6 \*\*\* what a rank leaves out (10 min)
#
# The best B A of rank r leaves out the smaller singular values (奇异值) of ΔW. How large is the relative error, in
# Frobenius norms?

# %%
def rank_error(delta, r):
    """||B A - delta|| / ||delta|| for the best B A of rank r. delta: rows of numbers, not all 0."""
    raise NotImplementedError  # --> your code (about 2 lines)


rank_error = check("L12.6", rank_error)
for r in (1, 4, 8, 16):
    print(f"section 2's first layer, rank {r:2}: {rank_error(trace['delta'], r):.3f}")

# %% [markdown]
# <details><summary>Hint L12.6</summary>
#
# Squares of singular values add up to the squared Frobenius norm.
#
# </details>
# <details><summary>Solution L12.6</summary>
#
# ```python
# def rank_error(delta, r):
#     sigma = np.linalg.svd(np.array(delta), compute_uv=False)
#     return float(np.sqrt((sigma[r:] ** 2).sum() / (sigma**2).sum()))
# ```
#
# </details>
#
# <a id="L12-11"></a>
# ## 11. Looks right, is wrong
#
# First the numbers, then the four traps. The first is a tutorial's `merge_adapters`, rebuilt on our digits.

# %%
class Wrapped(nn.Module):
    """As a library does it: the adapter goes into the model's own layers, and all names get a prefix."""

    def __init__(self, model, file):
        super().__init__()
        self.base_model = nn.ModuleDict({"model": model})
        for name, factors in file.items():
            place, layer = model.get_submodule(name.rsplit(".", 1)[0]), model.get_submodule(name)
            adapted = LoRALinear(layer.base if isinstance(layer, LoRALinear) else layer)
            adapted.add("default", LowRank(*factors))
            setattr(place, name.rsplit(".", 1)[1], adapted)


def merge_adapters(model, files, weights):
    """From a tutorial. Loads and runs without any complaint."""
    merged_state = None
    for file, weight in zip(files, weights):
        state = Wrapped(model, file).state_dict()
        scaled = {key: value * weight for key, value in state.items()}
        merged_state = scaled if merged_state is None else {key: merged_state[key] + scaled[key] for key in scaled}
    loaded = model.load_state_dict(merged_state, strict=False)
    return model, loaded

# %%
import tempfile

bare = MLP(64, [32], 10).double()
bare.trunk[0] = copy.deepcopy(layer.base)
result, loaded = merge_adapters(copy.deepcopy(bare), [{"trunk.0": first}, {"trunk.0": second}], [0.5, 0.5])
names = list(result.state_dict())
print(f"1. missing {len(loaded.missing_keys)}, unexpected {len(loaded.unexpected_keys)} of {len(names)}:"
      f" {loaded.missing_keys[0]} / {loaded.unexpected_keys[0]}")
change = (result.trunk[0].weight - bare.trunk[0].weight).detach()
for name, goal in (("the second adapter", second.s * second.B @ second.A), ("the first", first.s * first.B @ first.A),
                   ("the right merge", right)):
    print(f"   largest difference to {name}: {(change - goal).abs().max():.3f}")
for name, delta in (("its result", change), ("right merge", right)):
    print(f"   {name:12} digits 4-6 {accuracy_of(delta, 1):.3f}, digits 7-9 {accuracy_of(delta, 2):.3f}")
with tempfile.TemporaryDirectory() as folder:
    save_lora(adapted, f"{folder}/adapter.pt", 1)
    try:
        load_lora(MLP(64, [32], 10, seed=7).double(), f"{folder}/adapter.pt")
    except ValueError as error:
        print("   load_lora on another base:", str(error).split(",")[0])

# %%
print("2. the example of section 4, both factors zero at the start")
steps_by_hand([0, 0], [0, 0], 3)
x = thirds[1].x_test
naive, A, B = copy.deepcopy(layer.base), first.A, first.B
for times in (1, 2):
    naive.weight.data += first.s * B @ A
    delta = naive.weight.data - layer.base.weight
    error = (delta - first.s * B @ A).norm() / (first.s * B @ A).norm()
    print(f"3. W += s B A, {times} times: relative error {error:.2f},"
          f" accuracy on 4-6 {accuracy_of(delta, 1):.3f}, on 7-9 {accuracy_of(delta, 2):.3f}")
with_dropout = LoRALinear(copy.deepcopy(layer.base))
with_dropout.add("4 to 6", LowRank(*first, dropout=0.5))
with torch.random.fork_rng(), torch.no_grad():
    _ = torch.manual_seed(0)
    h = [with_dropout.train()(x) for _ in range(2)]
exact = with_dropout.eval()(x).detach()
apart = (h[0] - h[1]).norm() / exact.norm()
print(f"   dropout 0.5, train mode: two answers to one image differ by {apart:.3f} of their size")
for attempt in (lambda: with_dropout.train().merge(), lambda: (with_dropout.eval().merge(), with_dropout.merge())):
    try:
        attempt()
    except ValueError as error:
        print(f"   {error}")

# %% [markdown]
# <details><summary>1. <code>merge_adapters</code>: average the state dicts, load with <code>strict=False</code></summary>
#
# It averages factors, but does not even come to that. Both files go into the *same* model object: the second adapter
# replaces the first. Then the averaged names carry a prefix: 6 of 6 are missing, 6 unexpected, and `strict=False` is silent.
# What comes back is the **last** adapter, difference 0.000, on digits 4 to 6 worse (0.385) than none (0.440). Right: a name
# for each adapter, add changes, look at the two lists that `load_state_dict` returns. `load_lora` refuses what does not fit,
# and any other base. Test: two *different* adapters against Σ w s B A.
#
# </details>
#
# <details><summary>2. "To be safe, both factors start at zero"</summary>
#
# Then each gradient contains a zero factor. The loss stays at 2.5000 for ever, and nothing complains. One factor zero, the
# other not. Test: after one step B has moved; after two, A.
#
# </details>
#
# <details><summary>3. <code>merge()</code> where merged already, and <code>merge()</code> while training</summary>
#
# Merged twice, the change is there twice, an error of 1.00; accuracy hardly tells, 0.972 instead of 0.982. Subtract once,
# and one change is left in the "base". With dropout (随机失活) in train mode the branch is no matrix: two answers to one
# image differ by 0.443 of their size. So: once, in eval mode, raise otherwise. Test: outputs before and after.
#
# </details>
#
# <details><summary>4. "One LoRA per domain: almost no forgetting"</summary>
#
# So says a tutorial. True for whoever is told the domain: F = 0.000. Chosen by mean images F is 0.055, by base features
# 0.221, by a router that keeps nothing 0.983, with the same adapters. Test: accuracy with the right part, routing accuracy,
# accuracy as routed, all three after every task.
#
# </details>
#
# <a id="L12-12"></a>
# ## 12. Limits
#
# - A small change needs a good base. What the base cannot see, rank 4 will not add.
# - Tasks forget nothing and give nothing to each other: backward transfer is exactly 0.
# - Merged, they share one matrix again: 0.954 and 0.897 in place of 0.982 and 0.953.
# - An adapter belongs to one base, to the last bit. A new base means training all of them again.
# - LoRA and IA3 vanish in a merge. Adapters, prompts and prefixes cost something in every answer.
#
# <a id="L12-13"></a>
# ## 13. Self-test
#
# 1. A layer of 1,000 × 1,000 and rank 5: how many numbers? From which rank on is LoRA no longer smaller?
# 2. Which of A and B learns in the first step, and why not the other?
# 3. Two adapter files hold different numbers. Do they do different things?
# 4. No weight of task 1 has moved, and accuracy on task 1 has fallen. How?
#
# <details><summary>Answers</summary>
#
# 1. Ten thousand. From rank 500 on.
# 2. B. The gradient of A passes through B, which is zero.
# 3. Not necessarily: (B R, R⁻¹ A) is the same adapter for every R.
# 4. The selector sends more of its images to other tasks, the more of them there are.
#
# </details>
#
# <a id="L12-14"></a>
# ## 14. Further reading
#
# - Hu et al. (2022), *LoRA: low-rank adaptation of large language models*: the method; section 7 asks how low the rank may be.
# - Wang et al. (2023), *Orthogonal subspace learning for language model continual learning*: O-LoRA, without a task id.
# - Liu et al. (2022), *Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning*: IA3, with
#   a fair comparison of all the relatives.
#
# To compare: Hugging Face's peft, whose `add_weighted_adapter` offers "cat" and "svd" beside "linear", which has cross
# terms. Next: mixtures of experts, where a router chooses a part for every token.
