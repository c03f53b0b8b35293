"""A batch in micro-batches, or on several processes, is the batch; and smaller ones when memory runs out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from small_models import SMALL, state_of

from understudy.errors import UnderstudyError
from understudy.generators.training.accumulation import Attempt, strided_rows
from understudy.generators.training.distributed import ProcessGroup
from understudy.slices import SliceSet

NO_MEMORY = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried ..."


class Threads(ProcessGroup):
    """Two processes as threads of this process, of which one runs at a time: layers may keep state of the process."""

    def __init__(self, rank: int, shared: list[Any], turn: threading.Lock, barrier: threading.Barrier) -> None:
        self.rank, self.world_size, self.turn = rank, 2, turn
        self._shared, self._barrier = shared, barrier

    def _exchange(self, value: Any) -> list[Any]:
        self._shared[self.rank] = value
        self._meet()
        both = list(self._shared)
        self._meet()
        return both

    def _meet(self) -> None:
        self.turn.release()
        self._barrier.wait()
        self.turn.acquire()

    def all_reduce_mean(self, tensors: Sequence[torch.Tensor]) -> None:
        first, second = self._exchange([t.detach().clone() for t in tensors])
        for tensor, a, b in zip(tensors, first, second, strict=True):
            tensor.detach().copy_((a + b) / 2)

    def any(self, flag: bool) -> bool:
        return any(self._exchange(flag))


def in_two_threads(make: Callable[[ProcessGroup], Any], steps: int) -> list[Any]:
    """Two states that share their batches, after so many steps."""
    shared: list[Any] = [None, None]
    turn, barrier = threading.Lock(), threading.Barrier(2, timeout=60)
    states = [make(Threads(rank, shared, turn, barrier)) for rank in range(2)]

    def work(state: Any) -> None:
        with turn:
            for _ in range(steps):
                state.step()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, states))
    return states


def plain_descent(state: Any) -> Any:
    """The state with SGD in place of Adam, whose first steps take the sign of a gradient however small."""
    for name, old in list(state.optimisers.items()):
        plain = torch.optim.SGD(old.param_groups[0]["params"], lr=0.01)
        state.optimisers[name] = plain
    return state


def without_chance(kind: str) -> dict[str, Any]:
    """Fields of a model without dropout, which is drawn by share."""
    return {"dropout": 0.0} if kind == "diffusion" else {}


def specialities(kind: str) -> dict[str, Any]:
    """Fields of a training that draw something for what the discriminator sees."""
    special: dict[str, Any] = {"batches": {8: 16}} if kind in ("progan", "stylegan1") else {}
    gan = {"annotation_noise": 0.1, "augment": {"mode": "fixed", "p": 0.3}}
    return special | ({} if kind == "diffusion" else gan)


def weights(state: Any) -> dict[str, torch.Tensor]:
    return {k: v for k, v in state.network.state_dict().items() if v.is_floating_point()}


def distance(a: Any, b: Any, start: dict[str, torch.Tensor]) -> float:
    """Largest difference between the weights of two trainings, relative to how far they have moved."""
    moved = max(float((v - start[k]).abs().max()) for k, v in weights(a).items())
    return max(float((v - weights(b)[k]).abs().max()) for k, v in weights(a).items()) / moved


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("micro_batch", [8, 4])
def test_micro_batches_give_the_step_of_the_whole_batch(kind: str, micro_batch: int, slices: SliceSet) -> None:
    model, special = without_chance(kind), specialities(kind)
    whole, divided = (
        plain_descent(state_of(slices, kind, model, batch=16, **special, **more))
        for more in ({}, {"micro_batch": micro_batch})
    )
    start = {k: v.clone() for k, v in weights(whole).items()}
    for state in (whole, divided):
        for _ in range(2):
            state.step()
    assert divided.parts == 16 // micro_batch
    assert distance(whole, divided, start) < 1e-3
    ours, theirs = whole.take_stats(), divided.take_stats()
    assert theirs.pop("shares") == divided.parts
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("kind", SMALL)
def test_two_processes_take_the_step_of_one(kind: str, slices: SliceSet) -> None:
    model, special = without_chance(kind), specialities(kind)
    one = plain_descent(state_of(slices, kind, model, batch=16, **special))
    start = {k: v.clone() for k, v in weights(one).items()}

    two = in_two_threads(lambda w: plain_descent(state_of(slices, kind, model, w, batch=16, **special)), 2)
    for _ in range(2):
        one.step()
    assert distance(one, two[0], start) < 1e-3
    for name, value in weights(two[0]).items():
        assert torch.equal(value, weights(two[1])[name]), name
    stats = [state.take_stats() for state in (one, *two)]
    assert stats[1] == stats[2] == pytest.approx(stats[0], rel=1e-3, abs=1e-5)


def test_if_one_process_runs_out_of_memory_all_use_smaller_micro_batches(slices: SliceSet) -> None:
    def make(processes: ProcessGroup) -> Any:
        state = state_of(slices, "stylegan2", {}, processes, batch=16)
        original = state.generator.synthesis.forward

        def forward(ws: torch.Tensor, *args: Any) -> torch.Tensor:
            if processes.rank == 1 and state.steps == 1 and len(ws) > 4:
                raise MemoryError
            return original(ws, *args)  # type: ignore[no-any-return]

        state.generator.synthesis.forward = forward
        return state

    first, second = in_two_threads(make, 2)
    assert first.parts == second.parts == 2
    for name, value in weights(first).items():
        assert torch.equal(value, weights(second)[name]), name


@pytest.mark.parametrize("kind", SMALL)
def test_smaller_micro_batches_when_memory_runs_out(
    kind: str, slices: SliceSet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of a training, in whatever phase of the step: nothing is lost, and the history tells."""
    state = state_of(slices, kind, without_chance(kind), batch=16)
    network = state.generator if kind == "diffusion" else state.discriminator
    original, calls = network.forward, []

    def forward(images: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        calls.append(len(images) // options.get("batches", 1))
        if len(calls) > 2 and calls[-1] > 8:
            raise RuntimeError(NO_MEMORY)
        return original(images, *args, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(network, "forward", forward)
    for _ in range(4):
        state.step()
    assert (state.steps, state.images, state.parts) == (4, 64, 2)
    assert calls.count(16) == 3
    assert "8 of 16 at once" in caplog.text
    assert state.take_stats()["shares"] == 2


def test_a_step_that_ran_out_of_memory_is_the_step_in_micro_batches(
    slices: SliceSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the very first phase on, so that the two are the same bit by bit."""
    scarce, divided = (state_of(slices, batch=16, **more) for more in ({}, {"micro_batch": 4}))
    original = scarce.generator.synthesis.forward

    def forward(ws: torch.Tensor, *args: Any) -> torch.Tensor:
        if len(ws) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(ws, *args)  # type: ignore[no-any-return]

    monkeypatch.setattr(scarce.generator.synthesis, "forward", forward)
    for _ in range(2):
        scarce.step()
        divided.step()
    assert scarce.parts == divided.parts == 4
    for name, value in weights(scarce).items():
        assert torch.equal(value, weights(divided)[name]), name


def test_smaller_micro_batches_than_a_group_are_not_tried(slices: SliceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(slices, batch=8)

    def forward(*args: Any, **options: Any) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(state.discriminator, "forward", forward)
    with pytest.raises(UnderstudyError, match="with 4 images at once"):
        state.step()


def test_other_errors_are_not_taken_for_a_lack_of_memory(slices: SliceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(slices)
    monkeypatch.setattr(state.discriminator, "forward", lambda *a, **k: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        state.step()


def test_rows_are_strided_and_parts_add_up() -> None:
    inputs = {"x": torch.arange(10), "cutoff": torch.tensor(3), "inner": {"y": torch.arange(10) * 2}}
    rows = strided_rows(inputs, 1, 4)
    assert rows["x"].tolist() == [1, 5, 9]
    assert rows["inner"]["y"].tolist() == [2, 10, 18]
    assert int(rows["cutoff"]) == 3
    parts = list(Attempt([], 4, 10, ProcessGroup()).micro_batches(inputs))
    assert sum(weight for weight, _ in parts) == pytest.approx(1)
    assert sorted(torch.cat([part["x"] for _, part in parts]).tolist()) == list(range(10))
    assert len(list(Attempt([], 16, 10, ProcessGroup()).micro_batches(inputs))) == 10
