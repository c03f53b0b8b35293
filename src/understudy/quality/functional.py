"""Distances between two sets of slices in one call, from sets or arrays. Arguments: (synthetic, real)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.quality import distances
from understudy.quality.extractors import Classifier, Extractor, Features, make_extractor
from understudy.quality.features import extracted, fitted, inputs_of
from understudy.quality.radiomics import RadiomicExtractor
from understudy.roles import check_alike, part_of
from understudy.slices import SliceSet

Slices = SliceSet | NDArray[np.uint8]
Found = TypeVar("Found")


def fid(synthetic: Slices, real: Slices, extractor: str | Extractor = "random", **options: Any) -> float:
    """Frechet distance between the features of two sets (Heusel et al. 2017); 0 for the same, smaller is nearer.

    The mean over the channels.

    Args:
        synthetic, real: a SliceSet or images uint8 [N, C, H, W] each; channels of sets are matched by name.
        extractor: name of one (see `extractors.make_extractor`) or an `Extractor`. The FID of papers is
            "inception2015", whose weights you bring along.
        options: `weights`, `sha256`, `resize`, `device` of `make_extractor`.

    Raises:
        UnderstudyError: fewer slices on a side than features (the distance would be mostly bias), other channels.

    Example:
        >>> real = np.random.default_rng(0).integers(0, 256, (150, 1, 32, 32), dtype=np.uint8)
        >>> round(fid(real, real), 6)
        0.0
        >>> fid(real // 2, real) > 1
        True
    """

    def distance(a: Features, b: Features) -> float:
        if min(len(a), len(b)) < a.shape[1]:
            what = f"{len(a)} synthetic and {len(b)} real slices for features of {a.shape[1]} dimensions"
            fix = "give more slices, or use kid, which is unbiased"
            raise UnderstudyError(f"{what}: a Frechet distance would be mostly bias", fix=fix)
        return distances.between_features(a, b)

    return float(np.mean(_by_channel(distance, synthetic, real, extractor, options)))


def kid(
    synthetic: Slices, real: Slices, extractor: str | Extractor = "random", seed: int = 0, **options: Any
) -> tuple[float, float]:
    """Kernel distance between the features of two sets (Binkowski et al. 2018), unbiased at any number of slices.

    Arguments as in `fid`; `seed` is that of the random subsets (100 of at most 1,000 slices). Returns mean and standard
    deviation over subsets (NaN where one takes all slices), each averaged over channels; raises `UnderstudyError` for
    fewer than two slices on a side or other channels.

    Example:
        >>> real = np.random.default_rng(0).integers(0, 256, (40, 1, 32, 32), dtype=np.uint8)
        >>> mean, sd = kid(real[:20] // 2, real)
        >>> mean > 0
        True
    """

    def distance(a: Features, b: Features) -> tuple[float, float]:
        return distances.kernel_distance(a, b, np.random.default_rng(seed))

    mean, sd = np.mean(_by_channel(distance, synthetic, real, extractor, options), axis=0)
    return float(mean), float(sd)


def precision_recall(
    synthetic: Slices, real: Slices, extractor: str | Extractor = "random", k: int = 5, **options: Any
) -> dict[str, float]:
    """Precision, recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), averaged over channels.

    Arguments as in `fid`; `k` is the number of neighbours. Raises `UnderstudyError` for k slices or fewer on a side or
    other channels.

    Example:
        >>> real = np.random.default_rng(0).integers(0, 256, (40, 1, 32, 32), dtype=np.uint8)
        >>> precision_recall(real, real)["recall"]
        1.0
    """
    found = _by_channel(lambda a, b: distances.neighbourhoods(a, b, k), synthetic, real, extractor, options)
    return {name: float(np.mean([f[name] for f in found])) for name in found[0]}


def inception_score(
    synthetic: Slices, extractor: str | Extractor = "inception2015", splits: int = 10, seed: int = 0, **options: Any
) -> tuple[float, float]:
    """Inception score (Salimans et al. 2016), for completeness: it looks at no real slice, and is about 2 for MR.

    Arguments as in `fid`; the extractor must have classes. Mean and standard deviation over `splits` parts of the
    slices, in the random order of `seed`, averaged over channels. Raises `UnderstudyError` for an extractor without
    classes or fewer slices than parts.

    Example:
        >>> inception_score(fake, weights="weights-inception-2015-12-05-6726825d.pth")  # doctest: +SKIP
    """
    made = make_extractor(extractor, **options) if isinstance(extractor, str) else extractor
    if not isinstance(made, Classifier):
        raise UnderstudyError(f"the extractor {made.name} has no classes", fix="use inception2015 with its weights")
    classifier: Classifier = made

    def score(a: Features, b: Features) -> tuple[float, float]:
        return distances.inception_score(classifier.logits(a), np.random.default_rng(seed), splits)

    mean, sd = np.mean(_by_channel(score, synthetic, None, made, {}), axis=0)
    return float(mean), float(sd)


def _by_channel(
    compute: Callable[[Features, Features], Found], synthetic: Slices, real: Slices | None, extractor: str | Extractor,
    options: dict[str, Any],
) -> list[Found]:  # fmt: skip
    """`compute` of the features of each channel; `real` is empty if it is None."""
    a = _as_set("synthetic", synthetic)
    b = a[:0] if real is None else _as_set("real", real)
    if real is not None:
        if isinstance(synthetic, SliceSet) != isinstance(real, SliceSet) and a.channels != b.channels:
            what, fix = "a SliceSet against an array, whose channels have no names", "give slices.images, or two sets"
            raise UnderstudyError(what, fix=fix)
        check_alike([part_of("real", b), part_of("synthetic", a)])
    made = make_extractor(extractor, **options) if isinstance(extractor, str) else extractor
    if isinstance(made, RadiomicExtractor):
        made = fitted(made, b, np.arange(len(b)), b.channels)

    def features(slices: SliceSet, names: tuple[str, ...]) -> Features:
        blocks = [extracted(slices, images, labels, names, made) for _, images, labels in slices.blocks()]
        return np.concatenate(blocks) if blocks else np.zeros((0, made.dimension), np.float32)

    inputs = inputs_of(b, b.channels, made).values()
    return [compute(features(a, names), features(b, names)) for names in inputs]


def _as_set(name: str, given: Slices) -> SliceSet:
    if isinstance(given, SliceSet):
        return given
    if isinstance(given, str | Path):
        raise UnderstudyError(f"{name} is a path, {str(given)!r}", fix="open it first: SliceSet.open(folder)")
    return SliceSet.from_arrays(given, np.zeros((len(given), *np.shape(given)[2:]), np.uint8))  # no annotation
