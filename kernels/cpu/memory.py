"""Numbers moved about in memory: copies from one dtype to another, one number everywhere, and chosen rows."""

import numpy as np

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.launch import call_serial, runs_on_host


@jit
def _copy(source, out):
    for i in range(out.size):
        out[np.uintp(i)] = source[np.uintp(i)]


def copy(source, out):
    """Fill out with source, an array of its shape, cast to the dtype of out; both are contiguous."""
    call_serial(_copy, source.reshape(-1), out.reshape(-1))


@jit
def _fill(out, value):
    for i in range(out.size):
        out[np.uintp(i)] = value


def fill(out, value):
    """Fill out with a number."""
    call_serial(_fill, out.reshape(-1), out.dtype.type(value))


@runs_on_host
def gather(source, rows, out):
    """Fill out with those rows of source, at valid indices, cast to the dtype of out."""
    if source.dtype != out.dtype:
        np.copyto(out, source[rows], casting="same_kind")
        return
    # "clip" writes straight into `out`; the default mode fills a second array first.
    np.take(source, rows, axis=0, out=out, mode="clip")
