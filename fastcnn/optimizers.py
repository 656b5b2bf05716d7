"""Optimizers: one step for all parameters of a network at once, on its two flat arrays.

Rules, arguments and defaults are PyTorch's; the equations stand in `kernels/reference/optimizer.py`. With
`decay_bias=False` no weight decay reaches parameters of one axis: biases, and scales and shifts of normalizations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from fastcnn.arrays import Array
from fastcnn.backend import Backend
from fastcnn.errors import ArgumentError
from fastcnn.shapes import below_one, number
from fastcnn.stretches import add_step

EMPTY = slice(0, 0)


class Optimizer(ABC):
    """The base of all optimizers.

    `lr` and `momentum` may be changed at any time. `state` holds, after the first step, "step" (how many were taken)
    and flat arrays under PyTorch's names; `Store.named` cuts them into parameters. Where some parameters were frozen
    for a while, "taken" holds rows (start, stop, steps): the steps of each stretch. Clear `state` to start anew.
    """

    arrays: ClassVar[tuple[str, ...]] = ()
    """What `state` may hold for every parameter."""
    momentum: float | None = None
    """How much of the earlier steps goes on in the next one; None where a rule keeps nothing of them."""

    def __init__(self, lr: float, weight_decay: float, decay_bias: bool) -> None:
        self.lr = number(lr, "lr", 0)
        self.weight_decay = number(weight_decay, "weight_decay", 0)
        self.decay_bias = bool(decay_bias)
        self.state: dict[str, Array] = {}
        self._steps_here: int | None = None

    @property
    def steps(self) -> int:
        """How many steps were taken; in `step`, how many the elements at hand have taken, this one included."""
        if self._steps_here is not None:
            return self._steps_here
        return int(self.state["step"]) if "step" in self.state else 0

    def kept(self) -> tuple[str, ...]:
        """Return those of `arrays` that the arguments call for."""
        return self.arrays

    def first_value(self, name: str) -> float:
        """Return what an array of the state is filled with at first."""
        return 0.0

    @abstractmethod
    def step(self, backend: Backend, param: Array, grad: Array, state: dict[str, Array], decay: float) -> None:
        """Take one step on some elements with this weight decay; arrays that are not kept come with size 0."""

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
        self._prepare(backend, values)
        self.state["step"] += 1
        end = values.size if decayed is None or self.decay_bias or not self.weight_decay else decayed
        try:
            for start, stop, steps in self._taken(values.size, trained):
                self._steps_here = steps
                middle = min(max(start, end), stop)
                for part, decay in ((slice(start, middle), self.weight_decay), (slice(middle, stop), 0.0)):
                    if values[part].size:
                        self._step_on(part, backend, values, gradients, decay)
        finally:
            self._steps_here = None

    def _step_on(self, part: slice, backend: Backend, values: Array, gradients: Array, decay: float) -> None:
        state = {name: self.state[name][part] if name in self.state else values[EMPTY] for name in self.arrays}
        self.step(backend, values[part], gradients[part], state, decay)

    def _taken(self, size: int, trained: Sequence[slice] | None) -> list[tuple[int, int, int]]:
        """Count this step for the trained stretches, and return them as (start, stop, steps taken), in order.

        Parameters that were frozen for a while have taken fewer steps than others: the corrections of their running
        means, and what a rule does in the first step, follow their own count, as in PyTorch.
        """
        everything = trained is None or sum(part.stop - part.start for part in trained) == size
        if everything and "taken" not in self.state:
            return [(0, size, self.steps)]
        before = self.state.get("taken", np.array([(0, size, self.steps - 1)]))
        now = [(part.start, part.stop) for part in ([slice(0, size)] if trained is None else trained)]
        rows = add_step([(int(a), int(b), int(n)) for a, b, n in before], now)
        self.state["taken"] = np.array([row for row, _ in rows], np.int64).reshape(-1, 3)
        return [row for row, steps in rows if steps]

    def _prepare(self, backend: Backend, values: Array) -> None:
        """Make the state where it is missing or belongs to other parameters."""
        names = self.kept()
        held = [self.state.get(name) for name in names]
        if "step" in self.state and all(a is not None and _alike(a, values) for a in held):
            return
        self.state.clear()
        for name in names:
            self.state[name] = backend.zeros(values.shape, values.dtype)
            if self.first_value(name):
                self.state[name][...] = self.first_value(name)
        self.state["step"] = np.zeros((), np.int64)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and weight decay.

        g = gradient + weight_decay * w        v = momentum * v + (1 - dampening) * g   (v = g in the first step)
        w = w - lr * v                         or, Nesterov: w - lr * (g + momentum * v)

    >>> from fastcnn.backend import get
    >>> weight = np.array([1.0, 2.0])
    >>> SGD(lr=0.5).update(get("reference"), weight, np.array([1.0, -1.0]))
    >>> weight
    array([0.5, 2.5])
    """

    arrays = ("momentum_buffer",)

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
        self.momentum = below_one(momentum, "momentum")
        self.dampening = number(dampening, "dampening")
        self.nesterov = bool(nesterov)
        if self.nesterov and (not self.momentum or self.dampening):
            raise ArgumentError("nesterov=True was given: it needs momentum > 0 and dampening 0.")

    def __repr__(self) -> str:
        return f"SGD({self.lr}, momentum={self.momentum}, weight_decay={self.weight_decay}, nesterov={self.nesterov})"

    def kept(self) -> tuple[str, ...]:
        """Return the buffer, if there is momentum."""
        return self.arrays if self.momentum else ()

    def step(self, backend: Backend, param: Array, grad: Array, state: dict[str, Array], decay: float) -> None:
        """Take one step on some elements."""
        dampening = self.dampening if self.steps > 1 else 0.0
        rule = self.lr, self.momentum, dampening, decay, self.nesterov
        backend.optimizer.sgd_update(param, grad, state["momentum_buffer"], *rule)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): steps of about lr, by running means of the gradient and of its square.

    `amsgrad` divides by the largest mean square so far (Reddi, Kale, Kumar 2018).

    >>> from fastcnn.backend import get
    >>> weight = np.array([1.0, 2.0])
    >>> Adam(lr=0.5).update(get("reference"), weight, np.array([100.0, -0.01]))
    >>> weight.round(3)
    array([0.5, 2.5])
    """

    arrays = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
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

    def step(self, backend: Backend, param: Array, grad: Array, state: dict[str, Array], decay: float) -> None:
        """Take one step on some elements."""
        rule = self.lr, *self.betas, self.eps, decay, self.is_decoupled, self.steps
        backend.optimizer.adam_update(param, grad, *(state[name] for name in self.arrays), *rule)


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

    def step(self, backend: Backend, param: Array, grad: Array, state: dict[str, Array], decay: float) -> None:
        """Take one step on some elements."""
        rule = self.lr, self.alpha, self.eps, decay, self.momentum
        backend.optimizer.rmsprop_update(param, grad, *(state[name] for name in self.arrays), *rule)


class Adagrad(Optimizer):
    """Gradients divided by the root of the sum of their squares (Duchi, Hazan, Singer 2011)."""

    arrays = ("sum",)

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

    def step(self, backend: Backend, param: Array, grad: Array, state: dict[str, Array], decay: float) -> None:
        """Take one step on some elements."""
        lr = self.lr / (1 + (self.steps - 1) * self.lr_decay)
        backend.optimizer.adagrad_update(param, grad, state["sum"], lr, self.eps, decay)


def _alike(held: Array, values: Array) -> bool:
    return (held.shape, held.dtype) == (values.shape, values.dtype)
