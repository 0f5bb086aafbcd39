"""Layer specifications and combinations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sklearn_bert import layers as module
from sklearn_bert.layers import (
    ScalarMix,
    check_combination,
    coefficients,
    combine,
    feature_names,
    resolve_layers,
)


@given(st.integers(0, 48), st.data())
def test_negative_layers_count_from_the_end(n_layers, data):
    k = data.draw(st.integers(0, n_layers))
    assert resolve_layers(k, n_layers) == (k,)
    assert resolve_layers(k - n_layers - 1, n_layers) == (k,)
    assert resolve_layers(np.int64(k), n_layers) == (k,)


def test_all_names_every_layer_with_the_embeddings():
    assert resolve_layers("all", 3) == (0, 1, 2, 3)


def test_a_sequence_keeps_its_order():
    assert resolve_layers(np.array([3, 0, -2]), 3) == (3, 0, 2)
    assert resolve_layers(range(1, 3), 3) == (1, 2)


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (13, ValueError, r"layer=13 is out of range: this encoder has layers 0 to 12"),
        (-14, ValueError, r"layer=-14 is out of range"),
        ([1, 40], ValueError, r"layer=40 is out of range"),
        ([-1, 12], ValueError, r"names a layer twice"),
        ([], ValueError, r"layer must name at least one layer"),
        ("last", ValueError, r"layer must be an integer, a sequence .* got 'last'"),
        (1.0, TypeError, r"layer must be an integer, a sequence"),
        (True, TypeError, r"layer must be an integer, a sequence"),
        (None, TypeError, r"layer must be an integer, a sequence"),
        ([1, "2"], TypeError, r"layer\[1\] must be an integer, got '2'"),
    ],
)
def test_a_bad_layer_is_refused_with_its_value(layer, error, message):
    with pytest.raises(error, match=message):
        resolve_layers(layer, 12)


@pytest.mark.parametrize(
    ("combination", "error", "message"),
    [
        ("max", ValueError, r"layer_combination must be one of 'concat', 'mean'"),
        (None, TypeError, r"layer_combination must be one of .* or a sequence"),
        ([0.5], ValueError, r"has 1 weights for 2 layers"),
        ([0.5, float("nan")], ValueError, r"must hold finite numbers"),
        (["a", "b"], ValueError, r"must hold finite numbers"),
        ([], ValueError, r"must hold finite numbers"),
    ],
)
def test_a_bad_combination_is_refused(combination, error, message):
    with pytest.raises(error, match=message):
        check_combination(combination, 2)


def block(n_texts=5, n_poolings=2, n_layers=3, width=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_texts, n_poolings, n_layers, width)).astype(np.float32)


def combined(values, combination, mix=None):
    n_texts, n_poolings, n_layers, width = values.shape
    factors = coefficients(combination, n_poolings, n_layers, mix)
    n_vectors = n_poolings * (n_layers if factors is None else 1)
    out = np.empty((n_texts, n_vectors * width), dtype=np.float32)
    combine(values, factors, out)
    return out


def test_concat_puts_layers_side_by_side_within_each_pooling():
    values = block()
    expected = np.hstack([values[:, p, k] for p in range(2) for k in range(3)])
    np.testing.assert_array_equal(combined(values, "concat"), expected)


@pytest.mark.parametrize(
    ("combination", "weights"),
    [("mean", [1 / 3] * 3), ("sum", [1, 1, 1]), ((0.2, -1.0, 3.0), [0.2, -1.0, 3.0])],
)
def test_weighted_combinations_sum_layers_per_pooling(combination, weights):
    values = block()
    expected = sum(w * values[:, :, k] for k, w in enumerate(weights)).reshape(5, -1)
    np.testing.assert_allclose(combined(values, combination), expected, atol=1e-6)


def test_scalar_mix_divides_by_scale_and_multiplies_by_gamma():
    values = block()
    scales = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    mix = ScalarMix(np.array([0.2, 0.3, 0.5], dtype=np.float32), 2.0, scales)
    expected = 2.0 * sum(
        mix.weights[k] * values[:, :, k] / scales[:, k, np.newaxis] for k in range(3)
    )
    result = combined(values, "scalar_mix", mix)
    np.testing.assert_allclose(result, expected.reshape(5, -1), rtol=1e-5)


@pytest.mark.parametrize("combination", ["concat", "mean", (1.0, 2.0, 3.0)])
def test_there_is_one_name_per_feature_and_no_name_twice(combination):
    names = feature_names((0, 1, 3), ("cls", "max"), combination, 4)
    assert len(set(names)) == len(names) == combined(block(), combination).shape[1]


def test_names_say_layer_pooling_and_dimension():
    assert feature_names((6,), ("mean",), "concat", 1) == ["layer6_mean_0"]
    assert feature_names((0, 2), ("cls",), "sum", 1) == ["layers0-2_sum_cls_0"]
    assert feature_names((1, 2), ("cls",), (1.0, 2.0), 1) == [
        "layers1to2_weighted_sum_cls_0"
    ]


def test_every_public_name_exists():
    assert all(hasattr(module, name) for name in module.__all__)
