"""Optimizers: one step for all parameters of a network at once, on its two flat arrays.

Rules, arguments and defaults are PyTorch's; the equations stand in `kernels/reference/optimizer.py`. With
`decay_bias=False` no weight decay reaches parameters of one axis: biases, and scales and shifts of normalizations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from fastcnn.arguments import ChecksArguments
from fastcnn.arrays import Array
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError
from fastcnn.shapes import below_one, number
from fastcnn.update import Update


class Optimizer(ChecksArguments, ABC):
    """The base of all optimizers.

    `lr` and `momentum` may be changed at any time. `state` holds, after the first step, "step" (how many were taken)
    and flat arrays under PyTorch's names; `Store.named` cuts them into parameters. Where some parameters were frozen
    for a while, "taken" holds rows (start, stop, steps): the steps of each stretch. Clear `state` to start anew.
    """

    arrays: ClassVar[tuple[str, ...]] = ()
    """What `state` may hold for every parameter."""
    kernel: ClassVar[str]
    """What takes a step, in the backend's `optimizer`."""
    momentum: float | None = None
    """How much of the earlier steps goes on in the next one; None where a rule keeps nothing of them."""

    def __init__(self, lr: float, weight_decay: float, decay_bias: bool) -> None:
        self.lr = number(lr, "lr", 0)
        self.weight_decay = number(weight_decay, "weight_decay", 0)
        self.decay_bias = bool(decay_bias)
        self.state: dict[str, Array] = {}

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return int(self.state["step"]) if "step" in self.state else 0

    def kept(self) -> tuple[str, ...]:
        """Return those of `arrays` that the arguments call for."""
        return self.arrays

    def first_value(self, name: str) -> float:
        """Return what an array of the state is filled with at first."""
        return 0.0

    @abstractmethod
    def rule(self, steps: int, decay: float) -> tuple[float, ...]:
        """Return the numbers that `kernel` takes, for elements of this weight decay in their step number `steps`."""

    def update(
        self,
        backend: Backend,
        values: Array,
        gradients: Array,
        decayed: int | None = None,
        trained: Sequence[slice] | None = None,
    ) -> None:
        """Change flat parameter values in place by one step against their gradients.

        `decayed` is how many of them, from the first, weight decay reaches if `decay_bias` is False; `trained` are the
        stretches to change, in order, by default all: nothing touches the others, nor their state.
        """
        Update(self, backend, values, gradients, decayed, trained).run()

    def held(self, values: Array) -> dict[str, Array] | None:
        """Return the arrays of the state, or None where it is missing or belongs to other parameters."""
        if "step" not in self.state:
            return None
        pairs = [(name, self.state[name]) for name in self.arrays if name in self.state]
        held = {name: array for name, array in pairs if (array.shape, array.dtype) == (values.shape, values.dtype)}
        return held if all(name in held for name in self.kept()) else None

    def first_state(self, backend: Backend, values: Array) -> dict[str, Array]:
        """Return arrays for the state before the first step."""
        arrays = {name: backend.zeros(values.shape, values.dtype) for name in self.kept()}
        for name, array in arrays.items():
            if self.first_value(name):
                array[...] = self.first_value(name)
        return arrays


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and weight decay.

        g = gradient + weight_decay * w        v = momentum * v + (1 - dampening) * g   (v = g in the first step)
        w = w - lr * v                         or, Nesterov: w - lr * (g + momentum * v)

    >>> import numpy as np
    >>> from fastcnn.backend import get
    >>> weight = np.array([1.0, 2.0])
    >>> SGD(lr=0.5).update(get("reference"), weight, np.array([1.0, -1.0]))
    >>> weight
    array([0.5, 2.5])
    """

    arrays = ("momentum_buffer",)
    kernel = "sgd_update"

    def __init__(
        self,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        decay_bias: bool = True,
    ) -> None:
        super().__init__(lr, weight_decay, decay_bias)
        self.momentum: float = below_one(momentum, "momentum")
        self.dampening = number(dampening, "dampening")
        self.nesterov = bool(nesterov)
        if self.nesterov and (not self.momentum or self.dampening):
            raise ArgumentError("nesterov=True was given: it needs momentum > 0 and dampening 0.")

    def __repr__(self) -> str:
        return f"SGD({self.lr}, momentum={self.momentum}, weight_decay={self.weight_decay}, nesterov={self.nesterov})"

    def kept(self) -> tuple[str, ...]:
        """Return the buffer, if there is momentum."""
        return self.arrays if self.momentum else ()

    def rule(self, steps: int, decay: float) -> tuple[float, ...]:
        """Return the numbers of a step."""
        return self.lr, self.momentum, self.dampening if steps > 1 else 0.0, decay, self.nesterov


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): steps of about lr, by running means of the gradient and of its square.

    `amsgrad` divides by the largest mean square so far (Reddi, Kale, Kumar 2018).

    >>> import numpy as np
    >>> from fastcnn.backend import get
    >>> weight = np.array([1.0, 2.0])
    >>> Adam(lr=0.5).update(get("reference"), weight, np.array([100.0, -0.01]))
    >>> weight.round(3)
    array([0.5, 2.5])
    """

    arrays = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    kernel = "adam_update"
    is_decoupled: ClassVar[bool] = False

    def __init__(
        self,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        decay_bias: bool = True,
    ) -> None:
        super().__init__(lr, weight_decay, decay_bias)
        if not isinstance(betas, Sequence) or len(betas) != 2:
            raise ArgumentError(f"betas={betas!r} was given: give two numbers, as (0.9, 0.999).")
        self.betas = below_one(betas[0], "betas[0]"), below_one(betas[1], "betas[1]")
        self.eps = number(eps, "eps", 0)
        self.amsgrad = bool(amsgrad)

    @property
    def momentum(self) -> float:
        """Another name of betas[0]."""
        return self.betas[0]

    @momentum.setter
    def momentum(self, value: float) -> None:
        self.betas = value, self.betas[1]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.lr}, betas={self.betas}, weight_decay={self.weight_decay})"

    def kept(self) -> tuple[str, ...]:
        """Return the running means, and their maximum if it is wanted."""
        return self.arrays if self.amsgrad else self.arrays[:2]

    def rule(self, steps: int, decay: float) -> tuple[float, ...]:
        """Return the numbers of a step."""
        return self.lr, *self.betas, self.eps, decay, self.is_decoupled, steps


class AdamW(Adam):
    """Adam whose weight decay shrinks the weights themselves, by lr * weight_decay (Loshchilov and Hutter 2019)."""

    is_decoupled = True

    def __init__(
        self,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        decay_bias: bool = True,
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay, amsgrad, decay_bias=decay_bias)


class RMSprop(Optimizer):
    """Gradients divided by the root of their running mean square (Tieleman and Hinton 2012).

    `centered` takes the running variance instead (Graves 2013).
    """

    arrays = ("square_avg", "grad_avg", "momentum_buffer")
    kernel = "rmsprop_update"

    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        decay_bias: bool = True,
    ) -> None:
        super().__init__(lr, weight_decay, decay_bias)
        self.alpha = number(alpha, "alpha", 0, 1)
        self.eps = number(eps, "eps", 0)
        self.momentum: float = below_one(momentum, "momentum")
        self.centered = bool(centered)

    def __repr__(self) -> str:
        return f"RMSprop({self.lr}, alpha={self.alpha}, momentum={self.momentum}, weight_decay={self.weight_decay})"

    def kept(self) -> tuple[str, ...]:
        """Return the mean square, and what the arguments add."""
        wanted = {"square_avg": True, "grad_avg": self.centered, "momentum_buffer": self.momentum > 0}
        return tuple(name for name in self.arrays if wanted[name])

    def rule(self, steps: int, decay: float) -> tuple[float, ...]:
        """Return the numbers of a step."""
        return self.lr, self.alpha, self.eps, decay, self.momentum


class Adagrad(Optimizer):
    """Gradients divided by the root of the sum of their squares (Duchi, Hazan, Singer 2011)."""

    arrays = ("sum",)
    kernel = "adagrad_update"

    def __init__(
        self,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        decay_bias: bool = True,
    ) -> None:
        super().__init__(lr, weight_decay, decay_bias)
        self.lr_decay = number(lr_decay, "lr_decay", 0)
        self.initial_accumulator_value = number(initial_accumulator_value, "initial_accumulator_value", 0)
        self.eps = number(eps, "eps", 0)

    def __repr__(self) -> str:
        return f"Adagrad({self.lr}, lr_decay={self.lr_decay}, weight_decay={self.weight_decay})"

    def first_value(self, name: str) -> float:
        """Return what the sum starts from."""
        return self.initial_accumulator_value

    def rule(self, steps: int, decay: float) -> tuple[float, ...]:
        """Return the numbers of a step."""
        return self.lr / (1 + (steps - 1) * self.lr_decay), self.eps, decay
