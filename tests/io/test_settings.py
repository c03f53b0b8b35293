"""All schemas of settings: no NaN, nothing infinite, no number beyond 64 bits, and a lower bound for every number."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

import understudy
from understudy.cohort.phantom.write import PhantomConfig
from understudy.generators.networks.stylegan2 import StyleGan2Config
from understudy.generators.training.config import StyleGan2Training
from understudy.io.settings import Settings

# Numbers that a rule of their own bounds, or that name something and make nothing
OTHERWISE = {
    "classes", "resolution", "matrix", "source", "value", "slices", "channels", "labels", "codes", "values", "patients",
    "real_fractions", "real_shares", "shares", "real_share", "real_fraction", "real_patients", "snapshots", "total",
    "quantile", "rotate", "code",
}  # fmt: skip


def schemas() -> list[type[Settings]]:
    for module in pkgutil.walk_packages(understudy.__path__, "understudy."):
        if ".cli" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def below(base: type[Settings]) -> Iterator[type[Settings]]:
        for kind in base.__subclasses__():
            yield kind
            yield from below(kind)

    found = dict.fromkeys(below(Settings))
    return [k for k in found if k.__module__.startswith("understudy.") and not inspect.isabstract(k)]


def numbers(annotation: Any, metadata: tuple[Any, ...]) -> Iterator[set[str]]:
    """The bounds of each number in an annotation."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        inner = [x for m in arguments[1:] for x in (m, *getattr(m, "metadata", ()))]
        yield from numbers(arguments[0], (*metadata, *inner))
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from numbers(argument, metadata)
    elif origin in (list, tuple, dict):
        for argument in arguments:
            yield from numbers(argument, ())
    elif annotation in (int, float):
        yield {name for m in metadata for name in ("ge", "gt") if getattr(m, name, None) is not None}


def test_every_number_of_every_schema_has_a_lower_bound() -> None:
    found = schemas()
    assert len(found) > 30
    unbounded = {
        f"{kind.__name__}.{name}"
        for kind in found
        for name, field in kind.model_fields.items()
        if name not in OTHERWISE and not all(numbers(field.annotation, tuple(field.metadata)))
    }
    assert not unbounded


def test_no_schema_takes_what_is_no_number() -> None:
    for kind in schemas():
        assert kind.model_config.get("allow_inf_nan") is False, kind
        assert kind.model_config.get("extra") == "forbid", kind
        for name, field in kind.model_fields.items():
            if not list(numbers(field.annotation, tuple(field.metadata))):
                continue
            whole = "float" not in str(field.annotation)
            for value in (math.nan, math.inf, -math.inf, *([2**63, -(2**63) - 1] if whole else [])):
                with pytest.raises(ValidationError):
                    TypeAdapter(kind).validate_python({name: value})


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (PhantomConfig, {"patients": 2**63}),
        (PhantomConfig, {"patients": 10**6}),
        (StyleGan2Training, {"annotation_noise": math.inf}),
        (StyleGan2Training, {"batch": 2**40}),
        (StyleGan2Training, {"keep_weights_kimg": [1.0, math.nan]}),
        (StyleGan2Config, {"conv_clamp": -1}),
        (StyleGan2Config, {"mapping_layers": 10**6}),
        (StyleGan2Config, {"channel_max": 10**6}),
    ],
)
def test_nonsense_is_refused(kind: type[Settings], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        kind(**fields)
