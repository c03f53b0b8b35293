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
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from understudy.generators.training.lanes import Lanes
from understudy.runtime.memory import is_out_of_memory

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
        lanes: in which recorded losses are computed side by side.
    """

    def __init__(self, active: bool) -> None:
        self.active = active
        self.lanes = Lanes()
        self._found: OrderedDict[Hashable, int | _Script | _Recording | None] = OrderedDict()

    @property
    def settled(self) -> bool:
        """Whether it is decided for all losses that have come whether they are recorded."""
        return all(found is None or isinstance(found, _Recording) for found in self._found.values())

    def can_record(self, loss: Loss, inputs: dict[str, Any], parameters: Sequence[Tensor]) -> bool:
        """Whether the loss of these inputs is nothing but a list of operations, and not too large a one.

        It depends on the sizes alone. The loss is computed, and so are its gradients, which nobody gets.
        """
        with torch.random.fork_rng(devices=[]):
            try:
                _record(loss, inputs, list(_flat(inputs).values()), 1.0, parameters)
            except _CannotRecord as reason:
                log.debug("a loss is not recorded: %s", reason)
                return False
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                return False
        return True

    def descend(
        self, key: Hashable, loss: Loss, shares: Sequence[tuple[float, dict[str, Any]]],
        parameters: Sequence[Tensor],
    ) -> Iterator[dict[str, Tensor]]:  # fmt: skip
        """Adds the gradients of weight * loss to those of the parameters, share by share.

        Args:
            key: all that decides the operations besides the sizes of the inputs; None: never record.
            shares: (weight, inputs) of shares that are computed in one lane each: at most as many as there are lanes.
            parameters: of which gradients are wanted; no others require any.

        Yields:
            The figures of each share's loss, detached, once its gradients are added and its buffers are written.
        """
        keys = [self._key(key, weight, inputs) for weight, inputs in shares]
        recorded = [self._found.get(k) for k in keys]
        ready = [found for found in recorded if isinstance(found, _Recording)]
        if len(ready) == len(shares) > 1:
            tensors = [list(_flat(inputs).values()) for _, inputs in shares]
            works = [partial(r.compute, x) for r, x in zip(ready, tensors, strict=True)]
            for recording, results in zip(ready, self.lanes.run(works), strict=True):
                yield recording.apply(results)
            return
        for k, (weight, inputs) in zip(keys, shares, strict=True):
            if len(shares) == 1:
                figures = self._descend(k, loss, inputs, weight, parameters)
            else:
                with self.lanes.one():
                    figures = self._descend(k, loss, inputs, weight, parameters)
            yield figures

    def _key(self, key: Hashable, weight: float, inputs: dict[str, Any]) -> Hashable:
        """All that decides the operations; None: do not record."""
        if key is None or not self.active:
            return None
        sizes = ((name, x.shape, x.stride(), x.dtype) for name, x in _flat(inputs).items())
        return (key, weight, *sizes)

    def _descend(
        self, key: Hashable, loss: Loss, inputs: dict[str, Any], weight: float, parameters: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """One share."""
        if key is None:
            return _plainly(loss, inputs, weight)
        tensors = list(_flat(inputs).values())
        found = self._found.pop(key, 0)
        if isinstance(found, _Recording):
            self._found[key] = found
            return found.apply(found.compute(tensors))
        if found is None or (isinstance(found, int) and found < TRIES):
            self._remember(key, None if found is None else found + 1)
            return _plainly(loss, inputs, weight)
        try:
            script, gradients, figures = _record(loss, inputs, tensors, weight, parameters)
        except _CannotRecord as reason:
            log.debug("a loss is not recorded: %s", reason)
            self._remember(key, None)
            return _plainly(loss, inputs, weight)
        _add(script.learning, gradients)
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
        torch.Tag.nondeterministic_seeded in func.tags and given.get("dropout_p", 0 if "dropout_p" in names else 1) != 0
    )


def _record(
    loss: Loss, inputs: dict[str, Any], tensors: list[Tensor], weight: float, parameters: Sequence[Tensor]
) -> tuple[_Script, list[Tensor], dict[str, Tensor]]:
    """The operations, and this time's gradients of `learning` and figures.

    Raises:
        _CannotRecord: the loss is more than a list of operations.
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
    return _Script(tape, tensors, gradients, learning, figures), gradients, figures


class _Script:
    """The source of a TorchScript function that computes gradients and figures, operation by operation.

    Attributes:
        source: of the function. constants: tensors that were there beforehand: parameters, buffers, filters.
        written: numbers of the constants that the function writes to (running means).
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
        self._memory = set[int]()  # that operations in place write to
        for call in tape.calls:
            self._add(*call)
        where = [_memory_of(x) for x in self.constants]
        self.written = [i for i, memory in enumerate(where) if memory in self._memory]
        if any(where.count(where[i]) > 1 for i in self.written):
            raise _CannotRecord("two views of a tensor that is written to")
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
        for argument, value in [*zip(schema.arguments, args, strict=False), *_named(schema, kwargs)]:
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._memory |= {_memory_of(x) for x in ([value] if isinstance(value, Tensor) else value)}
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
        if value is None or isinstance(value, bool | int | float | torch.dtype | torch.memory_format | torch.layout):
            return str(value)
        raise _CannotRecord(f"an argument {value!r}")


def _memory_of(x: Tensor) -> int:
    """Number of the memory that x is a view of."""
    return x.untyped_storage()._cdata


def _named(schema: Any, kwargs: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Arguments of an operation that were given by name, with their values."""
    return [(argument, kwargs[argument.name]) for argument in schema.arguments if argument.name in kwargs]


def _compiled(script: _Script) -> _Recording | None:
    """The function of a script; None, so that autograd goes on, where this torch cannot make one of it."""
    try:
        return _Recording(script)
    except (RuntimeError, NotImplementedError, OSError) as error:  # how TorchScript says that it cannot
        log.warning("steps are not recorded, which costs time and changes nothing else: %s", error)
        return None


class _Recording:
    """The function of a script; computing and applying are apart, so that several can be computed side by side."""

    def __init__(self, script: _Script) -> None:
        self._learning, self._figures, self._written = script.learning, script.figures, script.written
        self._constants = [x.detach() for x in script.constants]
        self._replay = torch.jit.CompilationUnit(script.source).replay

    def compute(self, inputs: list[Tensor]) -> list[Tensor]:
        """Gradients, figures, and what the constants that are written to come to; changes nothing."""
        constants = list(self._constants)
        for i in self._written:
            constants[i] = constants[i].clone()
        # Below autograd, whose part of an operation costs as much as a small operation itself. And optimisation would
        # take seconds and find nothing: these are the operations that there have to be.
        with torch._C._AutoDispatchBelowADInplaceOrView(), torch.no_grad(), torch.jit.optimized_execution(False):
            results: list[Tensor] = self._replay(inputs, constants)
        return results + [constants[i] for i in self._written]

    def apply(self, results: list[Tensor]) -> dict[str, Tensor]:
        """Adds the gradients to the parameters and writes the constants; the figures."""
        count = len(self._learning)
        _add(self._learning, results[:count])
        for i, value in zip(self._written, results[count + len(self._figures) :], strict=True):
            self._constants[i].copy_(value)
        return dict(zip(self._figures, results[count:], strict=False))
