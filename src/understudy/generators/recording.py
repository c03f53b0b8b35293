"""Gradients of a loss as a recorded list of operations: the same numbers, bit by bit, at less cost for each operation.

A step of a small network is thousands of operations of some microseconds, and a third of its time goes to Python and to
building and walking the graph of autograd. But every step is the same list of operations on tensors of the same sizes.
So once a loss has come a few times, the operations of its forward and backward pass (and of the backward pass of the
backward pass: R1, path length) are written down as torch carries them out, and from then on TorchScript's interpreter
goes through the list. Two lists of consecutive times must agree, so whatever changes from step to step has to come with
the inputs or as a parameter or buffer; a number that changes now and then has to be in the key.

Losses that look at values of tensors or draw random numbers are not recorded.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

log = logging.getLogger(__name__)

Loss = Callable[[dict[str, Any]], tuple[Tensor, dict[str, Tensor]]]
"""Inputs of a share -> its mean loss, and mean figures for the history."""

TRIES = 32  # times that a loss comes before it is recorded: recording takes as long as some dozen steps
KEPT = 64  # losses remembered; more come only where a number in the key changes all the time
LARGEST = 2**30  # bytes of all results together: in larger networks it is the operations that take the time
_SAME = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)  # without autograd these do nothing


class _CannotRecord(Exception):
    """This loss is more than a list of operations."""


class Recordings:
    """Losses by what decides their operations: key, sizes of the inputs, and share of the batch.

    Attributes:
        active: whether anything is recorded.
    """

    def __init__(self, active: bool) -> None:
        self.active = active
        self._found: OrderedDict[Hashable, int | _Script | _Recording | None] = OrderedDict()

    @property
    def settled(self) -> bool:
        """Whether it is decided for all losses that have come whether they are recorded."""
        return all(found is None or isinstance(found, _Recording) for found in self._found.values())

    def descend(
        self, key: Hashable, loss: Loss, inputs: dict[str, Any], weight: float, parameters: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Adds the gradients of weight * loss to those of the parameters.

        Args:
            key: all that decides the operations besides the sizes of the inputs; None: never record.
            parameters: of which gradients are wanted; no others require any.

        Returns:
            The loss's figures, detached.
        """
        if key is None or not self.active:
            return _plainly(loss, inputs, weight)
        tensors = _flat(inputs)
        key = (key, weight, *((name, x.shape, x.stride(), x.dtype) for name, x in tensors.items()))
        found = self._found.pop(key, 0)
        if isinstance(found, _Recording):
            self._found[key] = found
            return found(list(tensors.values()))
        if found is None or (isinstance(found, int) and found < TRIES):
            self._remember(key, None if found is None else found + 1)
            return _plainly(loss, inputs, weight)
        try:
            script, figures = _record(loss, inputs, list(tensors.values()), weight, parameters)
        except _CannotRecord as reason:
            log.debug("a loss is not recorded: %s", reason)
            self._remember(key, None)
            return _plainly(loss, inputs, weight)
        if isinstance(found, int):  # once more, to see whether anything but the inputs changes
            self._remember(key, script)
        else:
            self._remember(key, _compiled(script) if script.same_as(found) else None)
        return figures

    def _remember(self, key: Hashable, what: int | _Script | _Recording | None) -> None:
        self._found[key] = what
        if len(self._found) > KEPT:
            self._found.popitem(last=False)


def _plainly(loss: Loss, inputs: dict[str, Any], weight: float) -> dict[str, Tensor]:
    """By autograd, as always."""
    value, figures = loss(inputs)
    (value if weight == 1 else value * weight).backward()
    return {name: figure.detach() for name, figure in figures.items()}


def _flat(inputs: Mapping[str, Any], before: str = "") -> dict[str, Tensor]:
    """Nested inputs by the path of their names."""
    flat: dict[str, Tensor] = {}
    for name, value in inputs.items():
        flat |= _flat(value, f"{before}{name}/") if isinstance(value, Mapping) else {before + name: value}
    return flat


def _add(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


# --- recording --------------------------------------------------------------------------------------------------------


class _Tape(TorchDispatchMode):
    """Takes down every operation below autograd, with its arguments and results.

    All of these stay alive as long as the tape, so that a tensor is known by its id.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Sequence[Any], Mapping[str, Any], Any]] = []
        self._bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        if _is_random(func, args):
            raise _CannotRecord(f"{func} is random")
        if not isinstance(results, Tensor | tuple | list):
            if any(isinstance(a, Tensor) for a in args):
                raise _CannotRecord(f"{func} looks at values")
            return results  # a constant
        new = [results] if isinstance(results, Tensor) else results
        self._bytes += sum(x.nbytes for x in new if isinstance(x, Tensor))
        if self._bytes > LARGEST:
            raise _CannotRecord("the network is large")
        self.calls.append((func, args, kwargs or {}, results))
        return results


def _is_random(func: Any, args: Sequence[Any]) -> bool:
    """Whether an operation draws random numbers; attention does so only if it drops something."""
    names = [a.name for a in func._schema.arguments]
    given = dict(zip(names, args, strict=False))
    return (
        torch.Tag.nondeterministic_seeded in func.tags
        and given.get("dropout_p", 0 if "dropout_p" in names else 1) != 0
    )


def _record(
    loss: Loss, inputs: dict[str, Any], tensors: list[Tensor], weight: float, parameters: Sequence[Tensor]
) -> tuple[_Script, dict[str, Tensor]]:
    """The operations, and the figures of this time, whose gradients are added.

    Raises:
        _CannotRecord: the loss is more than a list of operations; nothing was added.
    """
    with _Tape() as tape:
        value, figures = loss(inputs)
        found = torch.autograd.grad(value if weight == 1 else value * weight, parameters, allow_unused=True)
        learning = [p for p, g in zip(parameters, found, strict=True) if g is not None]
        gradients: list[Tensor] = []
        for parameter, gradient in zip(learning, (g for g in found if g is not None), strict=True):
            # Each in memory of its own, laid out like the parameter, as autograd leaves them.
            if gradient.stride() != parameter.stride() or any(gradient is g for g in gradients):
                gradient = torch.empty_like(parameter).copy_(gradient)
            gradients.append(gradient)
        figures = {name: figure.detach() for name, figure in figures.items()}
    script = _Script(tape, tensors, gradients, learning, figures)
    _add(learning, gradients)
    return script, figures


class _Script:
    """The source of a TorchScript function that computes gradients and figures, operation by operation.

    Attributes:
        source: of the function. constants: tensors that were there beforehand: parameters, buffers, filters.
        learning: parameters that have a gradient. figures: names of the results behind the gradients.
    """

    def __init__(
        self, tape: _Tape, inputs: list[Tensor], gradients: list[Tensor], learning: list[Tensor],
        figures: dict[str, Tensor],
    ) -> None:  # fmt: skip
        self.learning, self.figures = learning, list(figures)
        self.constants: list[Tensor] = []
        self._names = {id(x): f"x{i}" for i, x in enumerate(inputs)}
        self._lines: list[str] = []
        self._results = 0
        for call in tape.calls:
            self._add(*call)
        results = [self._name(x) for x in (*gradients, *figures.values())]
        lines = [
            "def replay(inputs: List[Tensor], constants: List[Tensor]) -> List[Tensor]:",
            *(f"x{i} = inputs[{i}]" for i in range(len(inputs))),
            *(f"c{i} = constants[{i}]" for i in range(len(self.constants))),
            *self._lines,
            f"return [{', '.join(results)}]",
        ]
        self.source = "\n    ".join(lines) + "\n"

    def same_as(self, other: _Script) -> bool:
        """Whether the same is done with the same tensors: then nothing but the inputs has changed."""
        if self.source != other.source or len(self.constants) != len(other.constants):
            return False
        return all(a is b for a, b in zip(self.constants, other.constants, strict=True))

    def _add(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], results: Any) -> None:
        """One operation."""
        if func in _SAME:
            self._names[id(results)] = self._name(args[0])
            return
        schema = func._schema
        types = {p.name: str(p.type) for p in schema.arguments}
        words = [self._word(a, str(p.type)) for a, p in zip(args, schema.arguments, strict=False)]
        words += [f"{name}={self._word(value, types[name])}" for name, value in kwargs.items()]
        call = f"torch.ops.{schema.name.replace('::', '.')}({', '.join(words)})"
        if isinstance(results, Tensor) and id(results) in self._names:  # in place
            self._lines.append(call)
        else:
            named = [results] if isinstance(results, Tensor) else results
            self._lines.append(f"{', '.join(map(self._new, named))} = {call}")

    def _new(self, result: Any) -> str:
        """A name for the result of an operation."""
        self._results += 1
        name = f"v{self._results}"
        if isinstance(result, Tensor):
            self._names[id(result)] = name
        return name

    def _name(self, x: Tensor) -> str:
        if id(x) not in self._names:
            self._names[id(x)] = f"c{len(self.constants)}"
            self.constants.append(x)
        return self._names[id(x)]

    def _word(self, value: Any, kind: str) -> str:
        """An argument of this type in TorchScript."""
        if isinstance(value, Tensor):
            return self._name(value)
        if isinstance(value, list | tuple):
            words = ", ".join(self._word(v, "") for v in value)
            return f"[{words}]" if value else "torch.jit.annotate(List[int], [])"
        if isinstance(value, torch.device):
            return f"torch.device('{value}')"
        if isinstance(value, float) and value in (float("inf"), -float("inf")):
            return f"float('{value}')"
        if isinstance(value, int) and kind == "float":
            return repr(float(value))
        if value is None or isinstance(
            value, bool | int | float | torch.dtype | torch.memory_format | torch.layout
        ):
            return str(value)
        raise _CannotRecord(f"an argument {value!r}")


def _compiled(script: _Script) -> _Recording | None:
    """The function of a script; None, so that autograd goes on, where this torch cannot make one of it."""
    try:
        return _Recording(script)
    except (RuntimeError, NotImplementedError, OSError) as error:  # how TorchScript says that it cannot
        log.warning("steps are not recorded, which costs time and changes nothing else: %s", error)
        return None


class _Recording:
    """The function of a script."""

    def __init__(self, script: _Script) -> None:
        self._learning, self._figures = script.learning, script.figures
        self._constants = [x.detach() for x in script.constants]
        self._replay = torch.jit.CompilationUnit(script.source).replay

    def __call__(self, inputs: list[Tensor]) -> dict[str, Tensor]:
        """Adds the gradients to the parameters; the figures."""
        # Optimisation would take seconds and find nothing: these are the operations that there have to be.
        with torch.no_grad(), torch.jit.optimized_execution(False):
            results = self._replay(inputs, self._constants)
        count = len(self._learning)
        _add(self._learning, results[:count])
        return dict(zip(self._figures, results[count:], strict=True))
