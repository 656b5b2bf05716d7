"""Arguments of machine code by name: for who writes a function, and for kernels that call its address."""

import doctest

import numpy as np
import pytest
from llvmlite import ir
from numba.core.errors import TypingError

from fastcnn.kernels.cpu.runtime.compiler import jit
from fastcnn.kernels.cpu.runtime.machine_code import i64, load_functions
from fastcnn.kernels.cpu.simd import signature
from fastcnn.kernels.cpu.simd.signature import Signature
from fastcnn.kernels.cpu.simd.vector import VectorFunction

DIFFERENCE = Signature("low high target")
call_difference = DIFFERENCE.call


@pytest.fixture(scope="module")
def address():
    """Return the address of a function that writes high - low to target."""

    def emit(module: ir.Module) -> None:
        f = VectorFunction(module, "difference", DIFFERENCE, np.dtype(np.float32), 4)
        (target,) = f.pointers("target", i64)
        f.b.store(f.b.sub(f.arguments.high, f.arguments.low), target)
        f.b.ret_void()

    return load_functions("test-difference", emit)("difference")


@jit
def in_order(address, low, high, out):
    call_difference(address, low, high, out.ctypes.data)


@jit
def by_name(address, low, high, out):
    call_difference(address, high=high, target=out.ctypes.data, low=low)


@jit
def one_missing(address, low, out):
    call_difference(address, low, target=out.ctypes.data)


@pytest.mark.parametrize("call", [in_order, by_name])
def test_arguments_reach_the_names_they_are_given_for(call, address):
    out = np.zeros(1, np.int64)
    call(address, 3, 10, out)
    assert out[0] == 7


def test_a_missing_argument_is_found_when_a_kernel_is_compiled(address):
    with pytest.raises(TypingError):
        one_missing(address, 3, np.zeros(1, np.int64))


def test_examples():
    assert doctest.testmod(signature).failed == 0
