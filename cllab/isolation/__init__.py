"""Family 3, isolation: separate parts of the network for separate tasks or inputs."""

from cllab.isolation.balance import LoadBalance, balance_loss
from cllab.isolation.heads import MultiHead
from cllab.isolation.isolating import Isolating, OnFrozenBase, TaskHeads
from cllab.isolation.moe import MoE, MoEClassifier
from cllab.isolation.routing import Routing, expert_capacity, route
from cllab.isolation.selector import TaskSelector, nearest_centroid, routed_accuracy
from cllab.isolation.switch import Switch, freeze, using
from cllab.isolation.tokens import TokenTask, token_task

__all__ = [
    "Isolating",
    "LoadBalance",
    "MoE",
    "MoEClassifier",
    "MultiHead",
    "OnFrozenBase",
    "Routing",
    "Switch",
    "TaskHeads",
    "TaskSelector",
    "TokenTask",
    "balance_loss",
    "expert_capacity",
    "freeze",
    "nearest_centroid",
    "route",
    "routed_accuracy",
    "token_task",
    "using",
]  # fmt: skip
