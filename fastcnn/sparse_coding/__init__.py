"""Sparse coding: dictionaries of filters, learned without labels."""

from fastcnn.sparse_coding.model import SparseCoding
from fastcnn.sparse_coding.stack import SparseCodingStack
from fastcnn.sparse_coding.whitening import Whitening

__all__ = ["SparseCoding", "SparseCodingStack", "Whitening"]
