"""Optimizers: the rules by which gradients change parameters."""

from fastcnn.optimizers.rules import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop"]
