"""The small networks of the course; every initial weight comes from `seed`, never from the global generator."""

from cllab.models.networks import MAX_WIDTH, MLP, Classifier, ConvNet, linear
from cllab.models.transformer import Transformer

__all__ = ["MAX_WIDTH", "MLP", "Classifier", "ConvNet", "Transformer", "linear"]
