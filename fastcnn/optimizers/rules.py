"""Optimizers: one step for all parameters of a network at once, on its two flat arrays.

Rules, arguments and defaults are PyTorch's; the equations stand in `kernels/reference/optimizer.py`. With
`decay_bias=False` no weight decay reaches parameters of one axis: biases, and scales and shifts of normalizations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from threading import RLock
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, ref

from fastcnn.arguments import ChecksArguments
from fastcnn.arrays import Array
from fastcnn.backend import Backend
from fastcnn.checked import Check, Checked, truth
from fastcnn.docstrings import Described
from fastcnn.errors import ArgumentError
from fastcnn.optimizers.update import Update
from fastcnn.representation import Written
from fastcnn.shapes import below_one, number

not_negative: Check = partial(number, low=0)


def pair_below_one(value: Any, name: str) -> tuple[float, float]:
    """Return two numbers from 0 to below 1, or refuse them."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise ArgumentError(f"{name}={value!r} was given: give two numbers, as (0.9, 0.999).")
    return below_one(value[0], f"{name}[0]"), below_one(value[1], f"{name}[1]")


class Optimizer(ChecksArguments, Checked, Written, Described, ABC):
    """The base of all optimizers.

    All arguments are attributes that may be changed at any time; those that the constructor would refuse are refused
    then, too. `state` holds, after the first step, "step" (how many were taken)
    and flat arrays under PyTorch's names; `Store.named` cuts them into parameters. Where some parameters were frozen
    for a while, "taken" holds rows (start, stop, steps): the steps of each stretch. Clear `state` to start anew.

    Trainers of several networks may share an optimizer, which keeps a state for each: `state` is that of the network
    that took the last step, and one that is assigned belongs to the network that takes the next. A shallow copy has the
    same arguments and no state.

    Parameters
    ----------
    lr
        The learning rate, from 0 up; it may be changed at any time.
    weight_decay
        A factor >= 0: so much of each value is added to its gradient.
    decay_bias
        Whether the decay reaches parameters of one axis, too: biases, and scales and shifts of normalizations.

    Raises
    ------
    ArgumentError
        If an argument is none of those described.
    """

    arrays: ClassVar[tuple[str, ...]] = ()
    """What `state` may hold for every parameter."""
    kernel: ClassVar[str]
    """What takes a step, in the backend's `optimizer`."""
    momentum: float | None = None
    """How much of the earlier steps goes on in the next one; None where a rule keeps nothing of them."""
    _network: ref[object] | None = None
    """Whose state it is; None for whoever takes the next step."""

    checks: ClassVar[dict[str, Check]] = {"lr": not_negative, "weight_decay": not_negative, "decay_bias": truth}

    def __init__(self, lr: float, weight_decay: float, decay_bias: bool) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.decay_bias = decay_bias
        self._waiting: WeakKeyDictionary[object, dict[str, Array]] = WeakKeyDictionary()
        self.lock = RLock()
        """Held by whoever takes a step: networks that share an optimizer take turns."""
        self.state = {}

    @property
    def state(self) -> dict[str, Array]:
        """What was kept of the steps so far, by name."""
        return self._state

    @state.setter
    def state(self, state: dict[str, Array]) -> None:
        self._state, self._network = state, None

    def turn_to(self, network: object) -> None:
        """Let `state` be that of a network; what is kept of another waits for it as long as it lives."""
        if self._network is not None and self._network() is network:
            return
        own = self._waiting.pop(network, {})
        if self._network is not None:
            last = self._network()
            if last is not None:
                self._waiting[last] = self._state
            self._state = own
        self._network = ref(network)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_network", "_waiting", "lock")}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.__dict__.update(attributes, _waiting=WeakKeyDictionary(), lock=RLock())

    def __copy__(self) -> Optimizer:
        twin = type(self).__new__(type(self))
        twin.__setstate__(self.__getstate__())
        twin.state = {}
        return twin

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return int(self._state["step"]) if "step" in self._state else 0

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
        """Change flat parameter values, whose `state` it is, in place by one step against their gradients.

        Parameters
        ----------
        backend
            The room of kernels.
        values, gradients
            Flat arrays of one length and dtype.
        decayed
            How many of them, from the first, weight decay reaches if `decay_bias` is False.
        trained
            The stretches to change, in order, by default all: nothing touches the others, nor their state.
        """
        Update(self, backend, values, gradients, decayed, trained).run()

    def held(self, values: Array) -> dict[str, Array] | None:
        """Return the arrays of the state, or None where it is missing or belongs to other parameters."""
        state = self._state
        if "step" not in state:
            return None
        pairs = [(name, state[name]) for name in self.arrays if name in state]
        held = {name: array for name, array in pairs if (array.shape, array.dtype) == (values.shape, values.dtype)}
        return held if all(name in held for name in self.kept()) else None

    def first_state(self, backend: Backend, values: Array) -> dict[str, Array]:
        """Return arrays for the state before the first step."""
        arrays = {name: backend.zeros(values.shape, values.dtype) for name in self.kept()}
        for name, array in arrays.items():
            if self.first_value(name):
                backend.fill(array, self.first_value(name))
        return arrays


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and weight decay.

        g = gradient + weight_decay * w        v = momentum * v + (1 - dampening) * g   (v = g in the first step)
        w = w - lr * v                         or, Nesterov: w - lr * (g + momentum * v)

    Parameters
    ----------
    momentum
        How much of the step before goes on in the next one, from 0 to below 1; it may be changed at any time.
    dampening
        How much of a gradient is left out of v, where there is momentum.
    nesterov
        Whether to look ahead along v; it needs momentum > 0 and dampening 0.

    >>> import numpy as np
    >>> from fastcnn.backend import get
    >>> weight = np.array([1.0, 2.0])
    >>> SGD(lr=0.5).update(get("reference"), weight, np.array([1.0, -1.0]))
    >>> weight
    array([0.5, 2.5])
    """

    arrays = ("momentum_buffer",)
    kernel = "sgd_update"
    checks = Optimizer.checks | {"momentum": below_one, "dampening": number, "nesterov": truth}
    shown = ("lr", "momentum", "weight_decay", "nesterov")

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
        self.nesterov = False
        self.momentum: float = momentum
        self.dampening = dampening
        self.nesterov = nesterov

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "nesterov" and truth(value, name) and (not self.momentum or self.dampening):
            raise ArgumentError("nesterov=True was given: it needs momentum > 0 and dampening 0.")
        if name == "dampening" and self.nesterov and number(value, name):
            raise ArgumentError(f"dampening={value!r} was given: nesterov=True needs dampening 0.")
        super().__setattr__(name, value)

    def kept(self) -> tuple[str, ...]:
        """Return the buffer, if there is momentum."""
        return self.arrays if self.momentum else ()

    def rule(self, steps: int, decay: float) -> tuple[float, ...]:
        """Return the numbers of a step."""
        return self.lr, self.momentum, self.dampening if steps > 1 else 0.0, decay, self.nesterov


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): steps of about lr, by running means of the gradient and of its square.

    Parameters
    ----------
    betas
        How much of the running means of the gradient and of its square stays in a step, each from 0 to below 1.
    eps
        Added to the root of the mean square, from 0 up.
    amsgrad
        Whether to divide by the largest mean square so far (Reddi, Kale, Kumar 2018).

    >>> import numpy as np
    >>> from fastcnn.backend import get
    >>> weight = np.array([1.0, 2.0])
    >>> Adam(lr=0.5).update(get("reference"), weight, np.array([100.0, -0.01]))
    >>> weight.round(3)
    array([0.5, 2.5])
    """

    arrays = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    kernel = "adam_update"
    shown = ("lr", "betas", "weight_decay")
    is_decoupled: ClassVar[bool] = False
    checks = Optimizer.checks | {"betas": pair_below_one, "eps": not_negative, "amsgrad": truth}

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
        self.betas: Sequence[float] = betas
        self.eps = eps
        self.amsgrad = amsgrad

    @property
    def momentum(self) -> float:
        """Another name of betas[0]."""
        return self.betas[0]

    @momentum.setter
    def momentum(self, value: float) -> None:
        self.betas = below_one(value, "momentum"), self.betas[1]

    def kept(self) -> tuple[str, ...]:
        """Return the running means, and their maximum if it is wanted."""
        return self.arrays if self.amsgrad else self.arrays[:2]

    def rule(self, steps: int, decay: float) -> tuple[float, ...]:
        """Return the numbers of a step."""
        return self.lr, *self.betas, self.eps, decay, self.is_decoupled, steps


class AdamW(Adam):
    """Adam whose weight decay shrinks the weights themselves (Loshchilov and Hutter 2019).

    Parameters
    ----------
    weight_decay
        A factor >= 0: each step takes lr * weight_decay of a value away.
    """

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

    Parameters
    ----------
    alpha
        How much of the running mean square stays in a step, from 0 to 1.
    eps
        Added to the root, from 0 up.
    momentum
        How much of the step before goes on in the next one, from 0 to below 1.
    centered
        Whether to divide by the root of the running variance instead (Graves 2013).
    """

    arrays = ("square_avg", "grad_avg", "momentum_buffer")
    kernel = "rmsprop_update"
    checks = Optimizer.checks | {
        "alpha": partial(number, low=0, high=1), "eps": not_negative, "momentum": below_one, "centered": truth
    }  # fmt: skip
    shown = ("lr", "alpha", "momentum", "weight_decay")

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
        self.alpha = alpha
        self.eps = eps
        self.momentum: float = momentum
        self.centered = centered

    def kept(self) -> tuple[str, ...]:
        """Return the mean square, and what the arguments add."""
        wanted = {"square_avg": True, "grad_avg": self.centered, "momentum_buffer": self.momentum > 0}
        return tuple(name for name in self.arrays if wanted[name])

    def rule(self, steps: int, decay: float) -> tuple[float, ...]:
        """Return the numbers of a step."""
        return self.lr, self.alpha, self.eps, decay, self.momentum


class Adagrad(Optimizer):
    """Gradients divided by the root of the sum of their squares (Duchi, Hazan, Singer 2011).

    Parameters
    ----------
    lr_decay
        From 0 up: step n goes by lr / (1 + (n - 1) * lr_decay).
    initial_accumulator_value
        What the sum of squares starts from, from 0 up.
    eps
        Added to the root, from 0 up.
    """

    arrays = ("sum",)
    kernel = "adagrad_update"
    checks = Optimizer.checks | dict.fromkeys(("lr_decay", "initial_accumulator_value", "eps"), not_negative)
    shown = ("lr", "lr_decay", "weight_decay")

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
        self.lr_decay = lr_decay
        self.initial_accumulator_value = initial_accumulator_value
        self.eps = eps

    def first_value(self, name: str) -> float:
        """Return what the sum starts from."""
        return self.initial_accumulator_value

    def rule(self, steps: int, decay: float) -> tuple[float, ...]:
        """Return the numbers of a step."""
        return self.lr / (1 + (steps - 1) * self.lr_decay), self.eps, decay
