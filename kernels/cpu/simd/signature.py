"""The arguments of machine code that is called by its address: one list of names for writer and callers."""

from collections import namedtuple
from collections.abc import Callable, Sequence
from inspect import Parameter
from inspect import signature as signature_of
from typing import Any

from llvmlite.ir import Value
from numba import types
from numba.extending import intrinsic

from fastcnn.kernels.cpu.runtime.machine_code import function_type


class Signature:
    """Functions of int64 arguments (addresses, counts, steps) without a result.

    `type` is LLVM's type of them, `named` gives the arguments of one under their names, and `call` is what kernels call
    one with: its address first, then the arguments, in their order or by name.

    Parameters
    ----------
    names : str
        The arguments' names, in their order.

    Examples
    --------
    >>> from fastcnn.kernels.cpu.simd.signature import Signature
    >>> rows = Signature("source target count")
    >>> print(rows.type)
    void (i64, i64, i64)
    >>> rows.named([1, 2, 3]).target
    2
    """

    def __init__(self, names: str) -> None:
        self.names = tuple(names.split())
        self.type = function_type(len(self.names))
        self._named = namedtuple("Arguments", self.names)  # type: ignore[misc]
        self.call: Callable[..., None] = intrinsic(self._caller())

    def named(self, arguments: Sequence[Value]) -> Any:
        """Return the arguments of a function as a named tuple."""
        return self._named(*arguments)

    def _caller(self) -> Callable[..., Any]:
        """Return what tells Numba the types and the code of a call."""
        given = types.void(*[types.int64] * (1 + len(self.names)))
        pointer = self.type.as_pointer()

        def codegen(context, builder, sig, arguments):
            address, *others = arguments
            builder.call(builder.inttoptr(address, pointer), others)
            return context.get_dummy_value()

        def call(typingctx, *arguments, **by_name):
            return given, codegen

        names = ("typingctx", "address", *self.names)
        parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        call.__signature__ = signature_of(call).replace(parameters=parameters)  # type: ignore[attr-defined]
        return call
