"""Scaling to 8 bits and the slice rule equal the paper's arithmetic in doubles, for every type of voxel."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.cohort.slicing import SliceConfig, passes_rule, to_8_bit
from understudy.volumes import SliceGeometry


def matlab_uint8(values):
    """uint8() of MATLAB: round halves away from zero, saturate."""
    return np.clip(np.trunc(values + np.copysign(0.5, values)), 0, 255).astype(np.uint8)


def eight_bit(voxels, ceiling):
    """All slices of `to_8_bit`."""
    out = np.empty(voxels.shape, np.uint8)
    to_8_bit(voxels, ceiling, np.arange(len(voxels)), out=out)
    return out


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]),
        (2, 5, 4),
        elements=st.integers(0, 255),
    ),
    st.integers(1, 255),
    st.floats(0, 254),
)
def test_scaling_and_rule_match_doubles(voxels, ceiling, intensity):
    scaled = voxels.astype(np.float64) / ceiling * 255
    np.testing.assert_array_equal(eight_bit(voxels, float(ceiling)), matlab_uint8(scaled))
    config = SliceConfig(rule_intensity=intensity, rule_fraction=0.1)
    geometry = SliceGeometry.fit(5, 4, 8)
    expected = (scaled > intensity).sum(axis=(1, 2)) / 64 > 0.1
    np.testing.assert_array_equal(passes_rule(voxels, float(ceiling), geometry, config), expected)


@given(
    hnp.arrays(st.sampled_from([np.float32, np.float64]), (2, 4, 4), elements=st.floats(-100, 1000, width=32)),
    st.floats(0, 254.9),
    st.booleans(),
)
def test_the_rules_lowest_value_decides_as_doubles_do(voxels, intensity, exact):
    ceiling = float(voxels.max())
    if not ceiling > 1e-3:
        return
    if exact:  # a voxel lies on the threshold, as far as its type can
        voxels[0, 0, 0] = intensity / 255 * ceiling
    config = SliceConfig(rule_intensity=intensity, rule_fraction=0.1)
    expected = (voxels.astype(np.float64) / ceiling * 255 > intensity).sum(axis=(1, 2)) / 16 > 0.1
    found = passes_rule(voxels, ceiling, SliceGeometry.fit(4, 4, 4), config)
    np.testing.assert_array_equal(found, expected)


def test_negative_voxels_become_zero():
    voxels = np.array([[[-5, 0, 100, 200]]], np.int16)
    assert eight_bit(voxels, 200.0).tolist() == [[[0, 0, 128, 255]]]
    assert eight_bit(voxels.astype(np.float32), 200.0).tolist() == [[[0, 0, 128, 255]]]
