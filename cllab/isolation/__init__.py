"""Family 3, isolation: separate parts of the network for separate tasks or inputs."""

from cllab.isolation.adapter import Adapter, Bottleneck
from cllab.isolation.balance import LoadBalance, balance_loss
from cllab.isolation.bits import pack_bits, unpack_bits
from cllab.isolation.column_growth import ColumnGrowth, column_cost, column_growth
from cllab.isolation.column_reading import column_strengths, lateral_weights
from cllab.isolation.domain_experts import DomainExperts, log_likelihood, sent_to
from cllab.isolation.domains import cached_prior, domain_posterior, mixed_log_likelihood, mixture_weights
from cllab.isolation.expand import ExpandBlocks, expand_blocks
from cllab.isolation.expert_choice import ExpertChoice, expert_choice
from cllab.isolation.growth import freeze_old, grow, wake, widened
from cllab.isolation.guided import guided_scores, hash_table, hashed
from cllab.isolation.hat import HAT, gate_compensation, gate_gradient_factor, gate_slope, gate_sparsity
from cllab.isolation.heads import MultiHead
from cllab.isolation.ia3 import IA3, Scaled, merge_scales, unmerge_scales
from cllab.isolation.isolating import Isolating, OnFrozenBase, TaskHeads
from cllab.isolation.lifelong import LifelongMoE, kl_to_old, routing_drift
from cllab.isolation.lora import LoRA, add_lora, merge_weights, unmerge_weights
from cllab.isolation.lora_files import base_identity, load_lora, save_lora
from cllab.isolation.lora_layer import LoRALinear, LowRank, lora_layers
from cllab.isolation.lora_merge import AveragedFactors, Factors, MergedLoRA, average_factors, merge_lora
from cllab.isolation.loss_free import LossFreeBalance, biased_choice, updated_bias
from cllab.isolation.moe import MoE
from cllab.isolation.moe_classifier import MoEClassifier
from cllab.isolation.noise import noisy_scores, smooth_load
from cllab.isolation.olora import OLoRA, overlap
from cllab.isolation.packnet import PackNet
from cllab.isolation.piggyback import MaskedLayer, Piggyback, straight_through_mask
from cllab.isolation.progressive import Progressive, ProgressiveNet, lateral_adapter, lateral_sum
from cllab.isolation.prompts import PrefixTuning, PromptTuning
from cllab.isolation.pruning import CapacityError, Pruned, kept_count, packed, prune, share_out
from cllab.isolation.routing import Routing, expert_capacity, route
from cllab.isolation.selector import TaskSelector, nearest_centroid, routed_accuracy
from cllab.isolation.specialisation import expert_usage, specialisation
from cllab.isolation.switch import Switch, freeze, using
from cllab.isolation.tokens import TokenTask, token_ids, token_rows, token_task
from cllab.isolation.train_then_freeze import TrainThenFreeze

__all__ = [
    "HAT",
    "IA3",
    "Adapter",
    "AveragedFactors",
    "Bottleneck",
    "CapacityError",
    "ColumnGrowth",
    "DomainExperts",
    "ExpandBlocks",
    "ExpertChoice",
    "Factors",
    "Isolating",
    "LifelongMoE",
    "LoRA",
    "LoRALinear",
    "LoadBalance",
    "LossFreeBalance",
    "LowRank",
    "MaskedLayer",
    "MergedLoRA",
    "MoE",
    "MoEClassifier",
    "MultiHead",
    "OLoRA",
    "OnFrozenBase",
    "PackNet",
    "Piggyback",
    "PrefixTuning",
    "Progressive",
    "ProgressiveNet",
    "PromptTuning",
    "Pruned",
    "Routing",
    "Scaled",
    "Switch",
    "TaskHeads",
    "TaskSelector",
    "TokenTask",
    "TrainThenFreeze",
    "add_lora",
    "average_factors",
    "balance_loss",
    "base_identity",
    "biased_choice",
    "cached_prior",
    "column_cost",
    "column_growth",
    "column_strengths",
    "domain_posterior",
    "expand_blocks",
    "expert_capacity",
    "expert_choice",
    "expert_usage",
    "freeze",
    "freeze_old",
    "gate_compensation",
    "gate_gradient_factor",
    "gate_slope",
    "gate_sparsity",
    "grow",
    "guided_scores",
    "hash_table",
    "hashed",
    "kept_count",
    "kl_to_old",
    "lateral_adapter",
    "lateral_sum",
    "lateral_weights",
    "load_lora",
    "log_likelihood",
    "lora_layers",
    "merge_lora",
    "merge_scales",
    "merge_weights",
    "mixed_log_likelihood",
    "mixture_weights",
    "nearest_centroid",
    "noisy_scores",
    "overlap",
    "pack_bits",
    "packed",
    "prune",
    "route",
    "routed_accuracy",
    "routing_drift",
    "save_lora",
    "sent_to",
    "share_out",
    "smooth_load",
    "specialisation",
    "straight_through_mask",
    "token_ids",
    "token_rows",
    "token_task",
    "unmerge_scales",
    "unmerge_weights",
    "unpack_bits",
    "updated_bias",
    "using",
    "wake",
    "widened",
]  # fmt: skip
