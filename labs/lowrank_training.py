"""What the page of low rank trains for real, all on the 8 x 8 digits and small enough to train while one waits.

No Streamlit in here, so that tests call these functions directly. In float64, so that two machines agree.
"""

import copy
import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cllab.isolation import Factors, LoRA, OLoRA
from cllab.isolation.lora_layer import lora_layers
from cllab.models import MLP
from cllab.streams import Task, digits, split
from cllab.training import Evaluated, Step, TaskEnded, fit

HIDDEN = 32
LAYERS = {"first layer": "trunk.0.weight", "second layer": "trunk.2.weight"}
EPOCHS = (1, 2, 5, 10, 20)
"""After how many epochs on the new task the fine-tuned weights are looked at."""
HALVES = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
THIRDS = ((0, 1, 2, 3), (4, 5, 6), (7, 8, 9))
ADAPTED = "trunk.0"
BATCH = 32


class Tuned(NamedTuple):
    """A network before and after fine-tuning: its weights by name (before; after so many epochs), model and tasks."""

    before: dict[str, Tensor]
    after: dict[int, dict[str, Tensor]]
    model: nn.Module
    tasks: tuple[Task, ...]


@functools.lru_cache(maxsize=8)
def fine_tuned(seed: int) -> Tuned:
    """A network with two hidden layers learns digits 0 to 4 (old task); all weights then go on with 5 to 9 (new)."""
    stream = split(digits(), HALVES, scenario="task")
    model = MLP(stream.in_features, [HIDDEN, HIDDEN], stream.n_classes, seed=seed).double()
    per_epoch = math.ceil(len(stream.tasks[1].y) / BATCH)
    looks = {per_epoch * epoch: epoch for epoch in EPOCHS}
    before, after, taken = None, {}, 0
    for event in fit(model, stream, epochs=max(EPOCHS), batch_size=BATCH, lr=0.1, optimizer="sgd", seed=seed):
        if isinstance(event, TaskEnded) and event.task == 0:
            before = _weights(model)
        if isinstance(event, Step) and event.task == 1:
            taken += 1
            if taken in looks:
                after[looks[taken]] = _weights(model)
    return Tuned(before, after, model, stream.tasks)


@torch.no_grad()
def accuracies(tuned: Tuned, weights: dict[str, Tensor]) -> list[float]:
    """Test accuracy on the old task and on the new one with these weights, among the classes of the task."""
    model, found = copy.deepcopy(tuned.model), []
    model.load_state_dict(weights)
    for task in tuned.tasks:
        logits = model(task.x_test.double())
        found.append(_accuracy(logits[:, list(task.classes)], task))
    return found


class Adapted(NamedTuple):
    """Adapters of one layer for two tasks on a frozen base, with the model and the tasks that they belong to."""

    factors: list[Factors]
    model: nn.Module
    tasks: tuple[Task, ...]


@functools.lru_cache(maxsize=8)
def adapters(r: int, seed: int) -> Adapted:
    """A base that has learned 0 to 3, and adapters of rank r on its layer for 4 to 6 and for 7 to 9."""
    stream = split(digits(), THIRDS, scenario="task")
    model = MLP(stream.in_features, [HIDDEN], stream.n_classes, seed=seed).double()
    for _ in fit(model, stream, [LoRA(r, targets=[ADAPTED])], epochs=10, batch_size=BATCH, lr=5e-3, seed=seed):
        pass
    layer = lora_layers(model)[ADAPTED]
    return Adapted([part.factors for part in layer.parts], model, stream.tasks[1:])


@torch.no_grad()
def merged_accuracies(adapted: Adapted, delta: Tensor) -> list[float]:
    """Test accuracy on both tasks, each with its own head, when the base's layer carries this change [out, in].

    Nothing in the model is switched, since visitors share it.
    """
    layer, found = lora_layers(adapted.model)[ADAPTED], []
    for key, task in enumerate(adapted.tasks, start=1):
        x = task.x_test.double()
        hidden = torch.relu(layer.base(x) + x @ delta.T)
        found.append(_accuracy(adapted.model.head.part(key)(hidden), task))
    return found


class Watched(NamedTuple):
    """O-LoRA's second adapter while it trains: A_1 [r, in]; and at each of the steps `at` A_2 [r, in] and accuracies.

    new: on the task that is learned. old: the mean over the two earlier ones.
    """

    past: Tensor
    at: list[int]
    news: list[Tensor]
    old: list[float]
    new: list[float]


@functools.lru_cache(maxsize=16)
def watched(lam: float, r: int, seed: int) -> Watched:
    """O-LoRA on three tasks (0 to 3 train the base); what happens to the adapter of 7 to 9 beside that of 4 to 6."""
    stream = split(digits(), THIRDS, scenario="task")
    model = MLP(stream.in_features, [HIDDEN], stream.n_classes, seed=seed).double()
    method = OLoRA(r, lam, targets=[ADAPTED])
    at, news, old, new, begun = [], [], [], [], 0
    for event in fit(model, stream, [method], epochs=10, batch_size=BATCH, lr=5e-3, seed=seed, eval_every=6):
        if isinstance(event, Evaluated) and event.task < 2:
            begun = event.step
        elif isinstance(event, Evaluated) and (not at or event.step - begun > at[-1]):
            at.append(event.step - begun)
            news.append(_parts(model)[1].A.detach().clone())
            old.append((event.accuracy[0] + event.accuracy[1]) / 2)
            new.append(event.accuracy[2])
    return Watched(_parts(model)[0].A.detach().clone(), at, news, old, new)


def _parts(model: nn.Module) -> nn.ModuleList:
    return lora_layers(model)[ADAPTED].parts


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _accuracy(logits: Tensor, task: Task) -> float:
    """Of logits [N, C_t] for the task's own classes."""
    return (torch.tensor(task.classes)[logits.argmax(dim=1)] == task.y_test).double().mean().item()
