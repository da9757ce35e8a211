"""Family 3, isolation: separate parts of the network for separate inputs."""

from cllab.isolation.balance import LoadBalance, balance_loss
from cllab.isolation.moe import MoE, MoEClassifier
from cllab.isolation.routing import Routing, expert_capacity, route
from cllab.isolation.tokens import TokenTask, token_task

__all__ = [
    "LoadBalance", "MoE", "MoEClassifier", "Routing", "TokenTask", "balance_loss", "expert_capacity", "route",
    "token_task",
]  # fmt: skip
