"""Generators in a study file: kinds, recipes, and what may not be set there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from understudy.errors import UnderstudyError
from understudy.generators.folder import UNTRACED
from understudy.generators.registry import KINDS, network_type
from understudy.study.config.networks import NETWORKS, GeneratorSpec, named_kinds, snapshot_points
from understudy.study.config.schema import Study, load_study
from understudy.study.engine.plan import Plan, make_plan
from understudy.study.stages.generator import models_of


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in KINDS for n in network_type(k).known_recipes()])
def test_every_recipe_is_valid_and_taken_over(name: str, kind: str) -> None:
    spec = GeneratorSpec.model_validate({"recipe": name, "model": {"kind": kind}})
    given = network_type(kind).recipe(name)
    assert type(spec.model) is network_type(kind).config
    assert type(spec.training) is network_type(kind).training
    for part in ("model", "training"):
        found = getattr(spec, part).model_dump(mode="json")
        for field, value in given.get(part, {}).items():
            if not isinstance(value, dict):
                assert found[field] == value


GROWN = {"fmap_base": 8192, "fmap_max": 512, "fmap_decay": 1, "mbstd_group": 4}
STYLED = {
    "z_dim": 512, "w_dim": 512, "channel_base": 32768, "channel_max": 512, "mapping_rate": 0.01, "w_avg_beta": 0.998,
    "conv_clamp": 256, "mbstd_group": 4, "mbstd_maps": 1,
}  # fmt: skip
GROWING = {"start_resolution": 4, "stabilise_kimg": 600, "fade_kimg": 600, "g_lr": 0.001, "d_lr": 0.001}
LAZY = {"kimg": 25000, "batch": 32, "r1_gamma": 8.2, "r1_interval": 16, "ema_kimg": None, "ema_rampup": 0.05}
PAPER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # Table 7 of Akbar et al., else the official code
    "progan": (
        {**GROWN, "z_dim": None},
        {
            **GROWING, "kimg": 12000, "batch": 8, "rates": {}, "mixing": 0, "gp_weight": 10, "drift": 0.001,
            "batches": {"4": 128, "8": 128, "16": 128, "32": 64, "64": 32, "128": 16}, "ema_beta": 0.999,
        },
    ),
    "stylegan1": (
        {
            **GROWN, "z_dim": 512, "w_dim": 512, "mapping_layers": 8, "mapping_width": 512, "mapping_rate": 0.01,
            "w_avg_beta": 0.995, "psi_cutoff": 8,
        },
        {
            **GROWING, "kimg": 25000, "batch": 16, "start_resolution": 8, "mixing": 0.9, "r1_gamma": 10,
            "batches": {"4": 256, "8": 256, "16": 128, "32": 64, "64": 32}, "r1_interval": 1, "ema_kimg": 10,
            "rates": {"128": 0.0015, "256": 0.002, "512": 0.003},
        },
    ),
    "stylegan2": (
        {**STYLED, "mapping_layers": 8},
        {
            **LAZY, "g_lr": 0.002, "d_lr": 0.002, "mixing": 0.9,
            "pl_weight": 2, "pl_interval": 4, "pl_decay": 0.01, "pl_shrink": 2,
        },
    ),
    "stylegan3": (
        {
            **STYLED, "mapping_layers": 2, "num_layers": 14, "num_critical": 2, "first_cutoff": 2,
            "first_stopband": 2**2.1, "last_stopband": 2**0.3, "margin": 10, "output_scale": 0.25, "conv_kernel": 3,
            "use_radial_filters": False, "magnitude_beta": 0.5 ** (32 / 20000), "discriminator_base": None,
            "discriminator_max": None,
        },
        {**LAZY, "g_lr": 0.0025, "d_lr": 0.002, "mixing": 0, "blur_sigma": None, "blur_kimg": None},
    ),
    "diffusion": (
        {
            "model_channels": 64, "num_res_blocks": 3, "channel_mult": None, "attention_resolutions": [16, 8],
            "num_heads": 4, "num_head_channels": None, "split_heads_first": True, "scale_shift_norm": True,
            "resblock_updown": False, "dropout": 0, "steps": 4000, "noise_schedule": "linear", "prediction": "noise",
            "learn_sigma": False, "rescale_timesteps": False, "rescale_vlb": True,
        },
        {
            "kimg": 7800, "batch": 12, "lr": 1e-4, "weight_decay": 0, "ema_beta": 0.9999, "ema_rampup": False,
            "min_snr": None,
        },
    ),
}  # fmt: skip
OF_THE_MACHINE = {*UNTRACED, "tick_kimg", "precision", "micro_batch", "max_minutes", "seed", "kind"}


@pytest.mark.parametrize("kind", PAPER)
def test_the_paper_recipe_is_table_7_and_the_official_code(kind: str) -> None:
    spec = GeneratorSpec.model_validate({"recipe": "paper", "model": {"kind": kind}})
    model, training = (part.model_dump(mode="json") for part in (spec.model, spec.training))
    assert {k: v for k, v in model.items() if k not in ("kind", "resolution", "channels")} == PAPER[kind][0]
    if kind != "diffusion":
        assert training.pop("augment")["mode"] == "off"
        assert training.pop("annotation_noise") == 0
    assert (training.pop("annotation"), training.pop("balance_classes"), spec.psi) == ("coded", None, 1)
    assert {k: v for k, v in training.items() if k not in OF_THE_MACHINE} == PAPER[kind][1]
    sampler = spec.sampler and spec.sampler.model_dump()
    ancestral = {"kind": "ancestral", "steps": None, "spacing": None, "eta": 0, "clip": "clamp"}
    assert sampler == (ancestral if kind == "diffusion" else None)


def test_a_recipe_that_a_sixth_generator_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "sixth", "understudy.generators.builtin:StyleGan2Type")
    monkeypatch.setitem(NETWORKS, "sixth", network_type("sixth"))
    with pytest.raises(ValidationError, match=r"'workstation'") as error:
        GeneratorSpec.model_validate({"recipe": "workstation", "model": {"kind": "sixth"}})
    assert error.value.errors()[0]["ctx"]["path"] == ("recipe",)


def test_fields_given_stand_above_the_recipe() -> None:
    spec = GeneratorSpec.model_validate(
        {"recipe": "quick", "model": {"kind": "progan", "fmap_max": 32}, "training": {"kimg": 5}}
    )
    assert (spec.model.fmap_max, spec.model.fmap_base) == (32, 512)
    assert (spec.training.kimg, spec.training.batch) == (5, 8)


def test_a_generator_named_like_a_kind_is_of_this_kind() -> None:
    given = {"diffusion": {}, "stylegan2-mine": {}, "progan": {"model": {"kind": "stylegan1"}}, "stylegan3": None}
    named = named_kinds(given, "generators")
    kinds = {name: GeneratorSpec.model_validate(spec).model.kind for name, spec in named.items()}
    assert kinds == {"diffusion": "diffusion", "stylegan2-mine": "stylegan2", "progan": "stylegan1"}


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"model": {"kind": "stylegan4"}}, "stylegan4"),
        ({"recipe": "slow"}, "quick"),
        ({"model": {"kind": "progan", "channel_base": 64}}, "channel_base"),
        ({"model": {"kind": "diffusion"}, "training": {"g_lr": 0.1}}, "g_lr"),
        ({"model": {"resolution": 64}}, "slices.resolution"),
        ({"training": {"seed": 4}}, "study's `seed`"),
        ({"sampler": {"steps": 10}}, "diffusion"),
        ({"model": {"kind": "progan"}, "psi": 0.7}, "psi"),
        ({"training": {"kind": "progan"}}, "progan"),
    ],
)
def test_what_is_refused(spec: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        GeneratorSpec.model_validate(spec)


NARROW = {
    "progan": ({"fmap_base": 100}, "fmap_base"),
    "stylegan1": ({"fmap_base": 100}, "fmap_base"),
    "stylegan2": ({"channel_base": 64}, "channel_base"),
    "stylegan3": ({"channel_base": 64}, "channel_base"),
    "diffusion": ({"channel_mult": [1] * 6}, "channel_mult"),
}


@pytest.mark.parametrize("kind", sorted(NARROW))
def test_a_network_is_judged_at_the_resolution_of_the_slices(kind: str, tmp_path: Path) -> None:
    """Not at the paper's 256 pixels, which a model stands at as long as nothing else is said."""
    fields, name = NARROW[kind]
    content: dict[str, Any] = {"phantom": {}, "generators": {"a": {"model": {"kind": kind, **fields}}}}
    fits, fails = (32, 512) if kind != "diffusion" else (64, 16)
    assert Study.model_validate({**content, "slices": {"resolution": fits}})
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps({**content, "slices": {"resolution": fails}}))
    with pytest.raises(UnderstudyError, match=rf"`generators.a.model`: {name}.* {fails}"):
        load_study(path)


SNAPSHOTS: dict[str, Any] = {"name": "test", "phantom": {"patients": 5}, "slices": {"resolution": 32}}
STAGES = ("generator", "sample", "segmenter")
G: dict[str, Any] = {"samples": 10, "training": {"kimg": 100}}


def plan_of(**generators: Any) -> Plan:
    return make_plan(Study.model_validate({**SNAPSHOTS, "generators": generators}))


def test_points() -> None:
    assert snapshot_points(2, 10) == [5]
    assert snapshot_points([30, 10, 100], 100) == [10, 30]
    for wrong in ([0], [-1], [101], [5, 5]):
        with pytest.raises(ValueError, match="snapshots"):
            snapshot_points(wrong, 100)


def test_snapshots_are_generators_of_one_training() -> None:
    plan = plan_of(g={**G, "snapshots": 4}, h=G)
    names = [j.name for j in plan.jobs if j.stage in ("generator", "sample")]
    assert names == ["generator g", "sample g", "sample g-25kimg", "sample g-50kimg", "sample g-75kimg",
                     "generator h", "sample h"]  # fmt: skip
    (trained,) = (j for j in plan.jobs if j.name == "generator g")
    assert trained.spec["training"]["keep_weights_kimg"] == [25, 50, 75]
    sampled = plan.by_id[next(j.id for j in plan.jobs if j.name == "sample g-50kimg")]
    assert sampled.inputs == (("generator", trained.id),)
    assert sampled.spec["snapshot_kimg"] == 50
    assert any(j.name.startswith("segmenter synthetic-g-50kimg") for j in plan.jobs)
    assert any(j.name == "annotations g-50kimg" for j in plan.jobs)
    audits = {j.name: j for j in plan.jobs if j.stage == "audit"}
    assert list(audits) == ["audit g", "audit g-25kimg", "audit g-50kimg", "audit g-75kimg", "audit h"]
    audited = audits["audit g-50kimg"]
    assert dict(audited.inputs)["sample"] == sampled.id
    assert dict(audited.inputs)["generator"] == trained.id  # whose weights at this point are tested
    assert audited.spec["snapshot_kimg"] == 50
    assert "snapshot_kimg" not in audits["audit g"].spec
    assert models_of([Path("job")], audited.spec) == [Path("job/model/snapshots/50kimg")]


def test_ids_without_snapshots_stay_and_the_study_reads_itself() -> None:
    plain, more = plan_of(g=G), plan_of(g={**G, "snapshots": 4})
    assert all("keep_weights_kimg" not in j.spec.get("training", {}) for j in plain.jobs)
    others = {j.id for j in plain.jobs if j.stage in ("phantom", "prepare")}
    assert others <= set(more.by_id)
    again = make_plan(Study.model_validate(more.study.as_data()))
    assert [(j.name, j.spec) for j in again.jobs if j.stage in STAGES] == [
        (j.name, j.spec) for j in more.jobs if j.stage in STAGES
    ]


def test_the_id_of_a_training_is_what_it_was() -> None:
    """Of the study above before there were snapshots; a changed id would throw away days of training."""
    (job,) = (j for j in plan_of(g=G).jobs if j.stage == "generator")
    assert set(job.spec["training"]).isdisjoint({"keep_weights_kimg", "snapshot_kimg"})


def test_a_training_that_does_not_stop_itself_keeps_its_id() -> None:
    off, on = (plan_of(g={**G, "training": {"kimg": 5, "until": until}}) for until in (None, "memorization"))
    plain = plan_of(g={**G, "training": {"kimg": 5}})

    def trained(plan: Plan) -> Any:
        return next(job for job in plan.jobs if job.stage == "generator")

    assert trained(off).id == trained(plain).id != trained(on).id
    assert "until" not in trained(off).spec["training"]
    assert trained(on).spec["training"]["until"] == "memorization"
    with pytest.raises(ValidationError, match="memorization"):
        GeneratorSpec.model_validate({"training": {"kind": "stylegan2", "until": "boredom"}})


def test_snapshots_that_make_no_sense_are_refused() -> None:
    for wrong in ({"ensemble": 2, "snapshots": 2}, {"snapshots": 1}, {"snapshots": [200]},
                  {"snapshots": 2, "training": {"kimg": 5, "max_minutes": 3}},
                  {"snapshots": 2, "training": {"kimg": 5, "until": "memorization"}}):  # fmt: skip
        with pytest.raises((ValidationError, UnderstudyError), match="snapshots"):
            plan_of(g={**G, **wrong})
    with pytest.raises(ValidationError, match="name g-50kimg"):
        plan_of(**{"g": {**G, "snapshots": 2}, "g-50kimg": G})
