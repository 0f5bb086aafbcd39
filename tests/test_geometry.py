"""Geometry: numbers equal independent ones, from one pass, and pictures show them."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_bert import BertVectorizer
from sklearn_bert.inspection import (
    Anisotropy,
    ExplainedVariance,
    FeatureHistogramDisplay,
    LayerGeometryDisplay,
    LayerSimilarity,
    LayerSimilarityDisplay,
    PairComparison,
    PairsDisplay,
    ProjectionDisplay,
    alignment,
    anisotropy,
    compare_pairs,
    effective_rank,
    explained_variance,
    layer_geometry,
    layer_similarity,
    linear_cka,
    outlier_dimensions,
    uniformity,
)

WORDS = ["oak", "elm", "ash", "fir", "five", "six"]
TEXTS = [f"{a} {b}" for a in WORDS for b in WORDS]
SIMILAR = [("oak elm", "elm oak"), ("five six", "six five"), ("ash fir", "fir ash")]
DISSIMILAR = [("oak elm", "five six"), ("six five", "fir ash")]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def pyplot():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    yield plt
    plt.close("all")


def cosines_of_all_pairs(features):
    return 1 - pdist(features, metric="cosine")


# Anisotropy


def test_anisotropy_is_the_mean_over_all_pairs(rng):
    features = rng.normal(size=(30, 5)) + 1
    expected = cosines_of_all_pairs(features).mean()
    assert float(anisotropy(features)) == pytest.approx(expected, abs=1e-12)


def test_equal_rows_have_anisotropy_one_without_any_doubt():
    result = anisotropy(np.tile([0.1, 0.7, -0.3], (50, 1)))
    np.testing.assert_allclose([result.low, result.value, result.high], 1.0)


def test_isotropic_features_have_anisotropy_zero(rng):
    result = anisotropy(rng.normal(size=(2000, 50)))
    assert abs(result.value) < 0.001
    assert result.low < 0 < result.high


def test_lengths_do_not_count(rng):
    features = rng.normal(size=(30, 5)) + 1
    lengths = rng.uniform(0.1, 10, size=(30, 1))
    assert anisotropy(lengths * features).value == pytest.approx(
        anisotropy(features).value
    )


def test_the_error_is_that_of_the_jackknife_over_texts(rng):
    features = rng.normal(size=(25, 4)) + 1
    left_out = [
        cosines_of_all_pairs(np.delete(features, i, axis=0)).mean() for i in range(25)
    ]
    error = np.sqrt(24 * np.var(left_out))
    result = anisotropy(features, confidence=0.6826894921370859)  # one standard error
    assert result.high - result.value == pytest.approx(error)
    assert result.value - result.low == pytest.approx(error)


def test_the_error_is_the_spread_over_samples_of_texts(rng):
    samples = [rng.normal(size=(100, 10)) + 1 for _ in range(300)]
    results = [anisotropy(sample) for sample in samples]
    spread = np.std([result.value for result in results])
    errors = [(result.high - result.low) / (2 * 1.96) for result in results]
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)
    # Pairs share texts: taken as independent, they promise far too much.
    pairs = cosines_of_all_pairs(samples[0])
    assert spread > 4 * pairs.std() / np.sqrt(len(pairs))


def test_anisotropy_shows_its_interval():
    shown = str(Anisotropy(0.5, 0.45, 0.55, 0.95, 1234))
    assert shown == "mean cosine 0.500, 95 % interval 0.450 to 0.550 (1,234 texts)"


@pytest.mark.parametrize("confidence", [1.0, 2])
def test_a_confidence_of_one_or_more_is_refused(confidence):
    with pytest.raises(ValueError, match=r"confidence must lie between 0 and 1, got"):
        anisotropy(np.eye(4), confidence=confidence)


# Alignment and uniformity


def test_alignment_is_the_mean_squared_distance_of_unit_vectors():
    a = [[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    b = [[0.5, 0.0], [3.0, 0.0], [-1.0, -1.0]]
    assert alignment(a, b) == pytest.approx((0 + 2 + 4) / 3)
    assert alignment(a, b, alpha=1) == pytest.approx((0 + np.sqrt(2) + 2) / 3)


def test_alignment_is_two_minus_twice_the_mean_cosine(rng):
    a, b = rng.normal(size=(2, 20, 6))
    pairs = zip(a, b, strict=True)
    cosines = [cosines_of_all_pairs(np.stack(pair))[0] for pair in pairs]
    assert alignment(a, b) == pytest.approx(2 - 2 * np.mean(cosines))


def test_uniformity_of_four_points_on_a_circle_is_the_hand_computed_one():
    square = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]
    expected = np.log((4 * np.exp(-2 * 2) + 2 * np.exp(-2 * 4)) / 6)
    assert uniformity(square) == pytest.approx(expected)


def test_uniformity_equals_the_formula_over_all_pairs_in_blocks(rng):
    features = rng.normal(size=(2100, 4))  # more than two blocks
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = np.log(np.exp(-3 * pdist(unit, metric="sqeuclidean")).mean())
    assert uniformity(features, t=3) == pytest.approx(expected)


def test_uniformity_of_equal_rows_is_zero():
    assert uniformity(np.ones((9, 3))) == 0


def test_pairs_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"a has shape \(3, 3\) and b \(2, 3\); row i"):
        alignment(np.eye(3), np.eye(3)[:2])


@pytest.mark.parametrize("value", [0, -1.0])
def test_powers_and_scales_must_be_above_zero(value):
    with pytest.raises(ValueError, match=r"alpha must be finite and above 0"):
        alignment(np.eye(3), np.eye(3), alpha=value)
    with pytest.raises(ValueError, match=r"t must be finite and above 0"):
        uniformity(np.eye(3), t=value)
    with pytest.raises(ValueError, match=r"factor must be finite and above 0"):
        outlier_dimensions(np.eye(3), factor=value)


# Rank and variance


def test_the_effective_rank_of_the_identity_is_its_size():
    assert effective_rank(np.eye(7)) == pytest.approx(7)
    assert effective_rank(np.eye(7), center=True) == pytest.approx(6)


def test_the_effective_rank_of_rank_one_is_one(rng):
    features = np.outer(rng.normal(size=50), rng.normal(size=20))
    assert effective_rank(features) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_the_effective_rank_is_that_of_the_singular_values(rng, shape):
    features = rng.normal(size=shape) * np.linspace(1, 5, shape[1])
    singular = np.linalg.svd(features, compute_uv=False)
    shares = singular / singular.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(features) == pytest.approx(expected)


def test_equal_rows_vary_in_no_direction():
    rows = np.tile(np.float32([0.1, 0.7, -0.3]), (1000, 1))
    assert effective_rank(rows, center=True) == 0
    noise = np.random.default_rng(0).uniform(-2e-7, 2e-7, size=rows.shape)
    assert effective_rank(rows * (1 + noise), center=True) == 0


def test_explained_variance_is_that_of_pca(rng):
    features = rng.normal(size=(60, 10)) * np.arange(1, 11) + 100
    expected = np.cumsum(PCA().fit(features).explained_variance_ratio_)
    np.testing.assert_allclose(explained_variance(features).cumulative, expected)
    few = features[:6]
    expected = np.cumsum(PCA().fit(few).explained_variance_ratio_)
    np.testing.assert_allclose(explained_variance(few).cumulative, expected)


def test_components_for_a_share_are_the_fewest_that_reach_it():
    variance = ExplainedVariance(np.array([0.5, 0.9, 1.0]))
    shares = [0.1, 0.5, 0.51, 0.9, 0.95, 1.0]
    assert [variance.n_components(share) for share in shares] == [1, 1, 2, 2, 3, 3]
    assert str(variance) == "variance: 50 % in 1, 90 % in 2, 99 % in 3 of 3 components"
    with pytest.raises(ValueError, match=r"share must be above 0 and at most 1"):
        variance.n_components(90)


def test_no_variance_to_explain_is_an_error():
    with pytest.raises(ValueError, match=r"same vector in every row: there is no vari"):
        explained_variance(np.ones((5, 2)))


# CKA


def gram_cka(a, b, *, debiased):
    """CKA by kernels of n_texts by n_texts, as the papers write it."""
    n = len(a)

    def hsic(K, L):
        if not debiased:
            H = np.eye(n) - 1 / n
            return np.trace(K @ H @ L @ H) / (n - 1) ** 2
        K, L, one = K - np.diag(np.diag(K)), L - np.diag(np.diag(L)), np.ones(n)
        total = (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
        return (np.trace(K @ L) + total - 2 * (one @ K @ L @ one) / (n - 2)) / (
            n * (n - 3)
        )

    K, L = a @ a.T, b @ b.T
    return hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L))


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("n_texts", [4, 9, 40])
def test_cka_equals_that_of_kernels(rng, debiased, n_texts):
    a = rng.normal(size=(n_texts, 7)) + 2
    b = a[:, :3] @ rng.normal(size=(3, 12)) + rng.normal(size=(n_texts, 12))
    expected = gram_cka(a, b, debiased=debiased)
    assert linear_cka(a, b, debiased=debiased) == pytest.approx(expected)


@pytest.mark.parametrize("debiased", [True, False])
def test_rotating_shifting_and_scaling_do_not_change_cka(rng, debiased):
    a, b = rng.normal(size=(2, 30, 8)) * np.arange(1, 9)
    rotation, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    before = linear_cka(a, b, debiased=debiased)
    after = linear_cka(a, 7 * b @ rotation + 3, debiased=debiased)
    assert after == pytest.approx(before)
    assert linear_cka(a, -2 * a @ rotation, debiased=debiased) == pytest.approx(1)


def test_scaling_single_features_does_change_cka(rng):
    a = rng.normal(size=(30, 8))
    assert linear_cka(a, a * np.arange(1, 9)) < 0.95


def test_only_debiased_cka_of_independent_features_is_zero(rng):
    a, b = rng.normal(size=(2, 100, 100))
    assert abs(linear_cka(a, b)) < 0.05
    assert linear_cka(a, b, debiased=False) == pytest.approx(0.5, abs=0.05)


def test_other_rows_than_the_first_side_has_are_refused(rng):
    a = rng.normal(size=(9, 3))
    with pytest.raises(ValueError, match=r"a has 9 rows and b 8; row i of each is the"):
        linear_cka(a, a[:8])


@pytest.mark.parametrize("rows", [np.ones((6, 2)), np.eye(6)], ids=["same", "apart"])
def test_cka_of_rows_that_are_all_alike_is_an_error(rng, rows):
    other = rng.normal(size=(6, 4))
    with pytest.raises(ValueError, match=r"^a has rows that are all the same or equal"):
        linear_cka(rows, other)
    with pytest.raises(ValueError, match=r"^b has rows that are all the same or equal"):
        linear_cka(other, rows)


# Outlier dimensions


def test_outlier_dimensions_are_those_far_above_the_median_largest_first(rng):
    features = rng.normal(size=(50, 20))
    features[:, 3] -= 40
    features[:, 11] *= 60
    features[:, 5] *= 3
    np.testing.assert_array_equal(outlier_dimensions(features), [11, 3])
    np.testing.assert_array_equal(outlier_dimensions(features, factor=2), [11, 3, 5])
    assert outlier_dimensions(features[:, [0, 1, 2]]).size == 0


# Bad features


@pytest.mark.parametrize("measure", [anisotropy, uniformity])
def test_a_zero_vector_is_refused_with_its_row(measure):
    features = np.eye(5)
    features[[2, 4]] = 0
    with pytest.raises(ValueError, match=r"features has a zero vector in row 2.* 2 in"):
        measure(features)
    with pytest.raises(ValueError, match=r"b has a zero vector in row 2"):
        alignment(np.eye(5), features)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "measure",
    [
        anisotropy, uniformity, effective_rank, explained_variance, outlier_dimensions,
    ],
)  # fmt: skip
def test_values_that_are_not_finite_are_refused(measure, bad):
    features = np.eye(5)
    features[1, 1] = bad
    with pytest.raises(ValueError, match=r"Input features contains (NaN|infinity)"):
        measure(features)
    with pytest.raises(ValueError, match=r"Input b contains (NaN|infinity)"):
        linear_cka(np.eye(5), features)


@pytest.mark.parametrize(
    ("measure", "n_rows"), [(anisotropy, 3), (uniformity, 2), (explained_variance, 2)]
)
def test_too_few_rows_are_refused(measure, n_rows):
    with pytest.raises(ValueError, match=rf"has 1 row; at least {n_rows} are needed"):
        measure([[1.0, 2.0]])


def test_too_few_rows_for_cka_are_refused():
    with pytest.raises(ValueError, match=r"a has 3 rows; at least 4 are needed"):
        linear_cka(np.eye(3), np.eye(3))
    with pytest.raises(ValueError, match=r"a has 1 row; at least 2 are needed"):
        linear_cka([[1.0]], [[1.0]], debiased=False)


# Layers


def features_of(tiny, layer, pooling, **params):
    vectorizer = BertVectorizer(tiny, layer=layer, pooling=pooling, normalize=False)
    return vectorizer.set_params(**params).fit_transform(TEXTS).astype(np.float64)


def test_the_geometry_of_a_layer_is_that_of_its_features(tiny, tmp_path):
    geometry = layer_geometry(TEXTS, model=tiny, memory=tmp_path)
    assert geometry.layers == (0, 1, 2)
    assert geometry.poolings == ("cls", "mean", "max")
    for p, pooling in enumerate(geometry.poolings):
        for i, layer in enumerate(geometry.layers):
            X = features_of(tiny, layer, pooling, memory=tmp_path)
            assert geometry.anisotropy[p, i] == pytest.approx(float(anisotropy(X)))
            rank = effective_rank(X, center=True)
            assert geometry.effective_rank[p, i] == pytest.approx(rank)
            assert geometry.n_outliers[p, i] == len(outlier_dimensions(X))
            norm = np.linalg.norm(X, axis=1).mean()
            assert geometry.mean_norm[p, i] == pytest.approx(norm)
            if rank:
                n_90 = explained_variance(X).n_components(0.9)
                assert geometry.n_components_90[p, i] == n_90


def test_cls_says_nothing_at_layer_0(tiny):
    geometry = layer_geometry(TEXTS, model=tiny, layers=0, poolings="cls")
    assert geometry.anisotropy[0, 0] == pytest.approx(1)
    assert geometry.effective_rank[0, 0] == geometry.n_components_90[0, 0] == 0


def test_layers_are_measured_in_one_pass_and_a_second_time_in_none(
    tiny, tmp_path, work
):
    first = layer_geometry(TEXTS * 2, model=tiny, memory=tmp_path)
    second = layer_similarity(TEXTS, model=tiny, memory=tmp_path)
    assert (first.n_texts, first.n_texts_encoded) == (72, 36)
    assert (second.n_texts, second.n_texts_encoded) == (36, 0)
    assert work().n_texts == 36


def test_without_memory_too_every_text_is_encoded_once(tiny, work):
    assert layer_similarity(TEXTS * 2, model=tiny).n_texts_encoded == 36
    assert work().n_texts == 36


@pytest.mark.parametrize(
    ("debiased", "name"), [(True, "debiased linear CKA"), (False, "linear CKA")]
)
def test_the_similarity_of_two_layers_is_their_cka(tiny, tmp_path, debiased, name):
    similarity = layer_similarity(
        TEXTS, model=tiny, layers=[0, 2], pooling="max", debiased=debiased,
        memory=tmp_path,
    )  # fmt: skip
    first, last = (features_of(tiny, k, "max", memory=tmp_path) for k in (0, 2))
    expected = linear_cka(first, last, debiased=debiased)
    np.testing.assert_allclose(similarity.matrix, [[1, expected], [expected, 1]])
    assert similarity.measure == name


def test_the_mean_cosine_of_two_layers_is_over_texts(tiny, tmp_path):
    similarity = layer_similarity(
        TEXTS, model=tiny, layers=[0, 2], measure="cosine", memory=tmp_path
    )
    first, last = (features_of(tiny, k, "mean", memory=tmp_path) for k in (0, 2))
    cosines = [
        cosines_of_all_pairs(np.stack(pair))[0]
        for pair in zip(first, last, strict=True)
    ]
    assert similarity.matrix[0, 1] == pytest.approx(np.mean(cosines))
    np.testing.assert_allclose(similarity.matrix.diagonal(), 1)


def test_a_layer_where_all_texts_are_the_same_has_no_similarity(tiny):
    matrix = layer_similarity(TEXTS, model=tiny, pooling="cls").matrix
    assert np.isnan(matrix[0]).all()
    assert np.isnan(matrix[:, 0]).all()
    assert np.isfinite(matrix[1:, 1:]).all()


def test_other_parameters_reach_the_vectorizer(tiny):
    plain = layer_geometry(TEXTS, model=tiny, layers=1, poolings="mean")
    without = layer_geometry(
        TEXTS, model=tiny, layers=1, poolings="mean", special_tokens=False
    )
    assert plain.mean_norm != without.mean_norm


@pytest.mark.parametrize("function", [layer_geometry, layer_similarity])
@pytest.mark.parametrize("name", ["layer", "layer_combination", "normalize"])
def test_parameters_that_a_function_decides_are_refused(tiny, function, name):
    with pytest.raises(TypeError, match=rf"{function.__name__} does not take '{name}'"):
        function(TEXTS, model=tiny, **{name: "mean"})


@pytest.mark.parametrize("function", [layer_geometry, layer_similarity])
def test_too_few_texts_are_refused_before_any_pass(tiny, function, work):
    with pytest.raises(ValueError, match=rf"X has 3 texts; {function.__name__} needs"):
        function(TEXTS[:3], model=tiny)
    assert work().n_passes == 0


def test_a_text_without_tokens_is_refused_with_the_cell(tiny):
    with pytest.raises(ValueError, match=r"X at layer 1 under 'mean' has a zero vecto"):
        layer_geometry(
            [*TEXTS, ""], model=tiny, layers=1, poolings="mean", special_tokens=False
        )


def test_similarity_takes_one_pooling_and_a_known_measure(tiny):
    with pytest.raises(TypeError, match=r"pooling must be one name, such as 'mean'"):
        layer_similarity(TEXTS, model=tiny, pooling=["mean", "max"])
    with pytest.raises(ValueError, match=r"measure must be one of 'cka', 'cosine'"):
        layer_similarity(TEXTS, model=tiny, measure="svcca")


def test_tables_of_layers_have_a_row_per_cell(tiny):
    table = str(layer_geometry(TEXTS, model=tiny, layers=[0, 2])).splitlines()
    assert [line.split()[:2] for line in table[1:3]] == [["cls", "0"], ["cls", "2"]]
    assert len(table) == 1 + 6 + 1
    assert table[-1].startswith("36 texts, 32 features")
    similarity = LayerSimilarity("m", (0, 5), "mean", np.eye(2), "linear CKA", 9, 9)
    assert str(similarity).splitlines() == [
        "layer       0      5",
        "    0   1.000  0.000",
        "    5   0.000  1.000",
        "linear CKA, mean pooling, 9 texts",
    ]


# Pairs


def test_cosines_of_pairs_are_those_of_their_features(tiny, tmp_path):
    comparison = compare_pairs(
        SIMILAR, DISSIMILAR, model=tiny, layers=[1, 2], memory=tmp_path
    )
    assert comparison.similar.shape == (3, 2, 3)
    assert comparison.dissimilar.shape == (3, 2, 2)
    for p, pooling in enumerate(comparison.poolings):
        vectorizer = BertVectorizer(tiny, layer=2, pooling=pooling, memory=tmp_path)
        for pairs, cosines in (
            (SIMILAR, comparison.similar),
            (DISSIMILAR, comparison.dissimilar),
        ):
            expected = [
                cosines_of_all_pairs(vectorizer.fit_transform(list(pair)))[0]
                for pair in pairs
            ]
            np.testing.assert_allclose(cosines[p, 1], expected, atol=1e-5)


def test_margin_and_auc_tell_the_two_kinds_apart():
    similar = np.array([[[0.9, 0.5, 0.7]]])
    dissimilar = np.array([[[0.6, 0.5]]])
    comparison = PairComparison("a/b", (3,), ("mean",), similar, dissimilar, 9)
    assert comparison.margin[0, 0] == pytest.approx(0.7 - 0.55)
    labels, scores = [1, 1, 1, 0, 0], [0.9, 0.5, 0.7, 0.6, 0.5]
    assert comparison.auc[0, 0] == pytest.approx(roc_auc_score(labels, scores))
    assert comparison.auc[0, 0] == pytest.approx((2 + 0.5 + 2) / 6)
    assert str(comparison).splitlines() == [
        "pooling       layer  similar  dissimilar   margin    AUC",
        "mean              3    0.700       0.550    0.150  0.750",
        "mean cosines of 3 similar and 2 dissimilar pairs",
    ]


def test_pairs_encode_each_distinct_text_once(tiny, work):
    comparison = compare_pairs(SIMILAR, DISSIMILAR, model=tiny, layers="all")
    assert comparison.n_texts_encoded == work().n_texts == 6


@pytest.mark.parametrize("kind", ["array", "frame", "iterator"])
def test_pairs_may_come_as_arrays_frames_or_iterators(tiny, tmp_path, kind):
    pandas = pytest.importorskip("pandas")
    make = {"array": np.array, "frame": pandas.DataFrame, "iterator": iter}[kind]
    got = compare_pairs(
        make(SIMILAR), make(DISSIMILAR), model=tiny, memory=tmp_path
    ).similar
    expected = compare_pairs(SIMILAR, DISSIMILAR, model=tiny, memory=tmp_path).similar
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([], ValueError, r"similar holds no pairs; pass at least one"),
        ("ab", TypeError, r"similar must hold pairs of texts, got str in row 0"),
        (["ab", "cd"], TypeError, r"similar must hold pairs of texts, got str in row"),
        ([("a", "b"), ("a", "b", "c")], ValueError, r"texts, got 3 in row 1"),
        (
            [("a", "b"), ("a", None)],
            ValueError,
            r"second texts of similar: .* in row 1",
        ),
        ([(7, "b")], TypeError, r"first texts of similar: X must hold str.* in row 0"),
    ],
)
def test_what_is_no_pair_of_texts_is_refused(tiny, pairs, error, message):
    with pytest.raises(error, match=message):
        compare_pairs(pairs, DISSIMILAR, model=tiny)


def test_a_pair_without_direction_is_refused_with_its_row(tiny):
    pairs = [("oak", "elm"), ("oak", "")]
    with pytest.raises(ValueError, match=r"dissimilar has a text in row 1 whose vecto"):
        compare_pairs(SIMILAR, pairs, model=tiny, poolings="mean", special_tokens=False)


def test_parameters_that_pairs_decide_are_refused(tiny):
    with pytest.raises(TypeError, match=r"compare_pairs does not take 'normalize'"):
        compare_pairs(SIMILAR, DISSIMILAR, model=tiny, normalize=True)


# Pictures


def test_the_geometry_display_draws_a_line_per_pooling(tiny, pyplot):
    geometry = layer_geometry(TEXTS, model=tiny)
    display = LayerGeometryDisplay(geometry).plot()
    assert [line.get_label() for line in display.lines_] == ["cls", "mean", "max"]
    np.testing.assert_allclose(display.lines_[1].get_ydata(), geometry.anisotropy[1])
    assert len(display.ax_.collections) == 3
    display.plot(quantity="effective_rank")
    assert display.ax_.get_ylabel() == "effective rank, centred"
    assert not display.ax_.collections
    with pytest.raises(ValueError, match=r"quantity must be one of 'anisotropy', 'eff"):
        display.plot(quantity="rank")


def test_the_similarity_display_writes_values_where_there_is_room(pyplot):
    def of(n_layers):
        matrix = np.eye(n_layers)
        return LayerSimilarity("m", tuple(range(n_layers)), "mean", matrix, "x", 9, 9)

    few = LayerSimilarityDisplay(of(3)).plot()
    assert [text.get_text() for text in few.ax_.texts[:2]] == ["1.00", "0.00"]
    assert len(few.ax_.texts) == 9
    many = LayerSimilarityDisplay(of(25)).plot()
    assert not many.ax_.texts
    assert len(many.ax_.get_xticks()) == 13


def test_the_similarity_display_says_where_there_is_none(pyplot):
    matrix = np.array([[np.nan, np.nan], [np.nan, -0.1]])
    similarity = LayerSimilarity("m", (0, 1), "cls", matrix, "x", 9, 9)
    display = LayerSimilarityDisplay(similarity).plot()
    assert [text.get_text() for text in display.ax_.texts] == ["n/a"] * 3 + ["-0.10"]
    assert display.image_.get_clim() == (-0.1, 1.0)


def test_layer_displays_use_the_parameters_of_the_vectorizer(tiny, tmp_path, pyplot):
    vectorizer = BertVectorizer(tiny, pooling="max", memory=tmp_path, normalize=True)
    geometry = LayerGeometryDisplay.from_estimator(
        vectorizer, TEXTS, poolings="mean", quantity="mean_norm"
    )
    assert geometry.geometry.poolings == ("mean",)
    assert geometry.ax_.get_ylabel() == "mean norm"
    pipeline = make_pipeline(vectorizer, LogisticRegression())
    similarity = LayerSimilarityDisplay.from_estimator(pipeline, TEXTS, pooling="max")
    assert similarity.similarity.pooling == "max"
    assert similarity.similarity.n_texts_encoded == 0
    with pytest.raises(TypeError, match=r"estimator must be a BertVectorizer or a Pip"):
        LayerGeometryDisplay.from_estimator(LogisticRegression(), TEXTS)


def test_the_projection_is_that_of_pca_with_its_variance_on_the_axes(rng, pyplot):
    features = rng.normal(size=(40, 6)) * [9, 4, 1, 1, 1, 1] + 3
    display = ProjectionDisplay.from_features(features)
    pca = PCA(2, svd_solver="full")
    np.testing.assert_allclose(display.coordinates, pca.fit_transform(features))
    share = 100 * pca.explained_variance_ratio_[0]
    assert display.ax_.get_xlabel() == f"component 1 ({share:.1f} % of the variance)"
    assert display.ax_.get_legend() is None


def test_classes_differ_in_colour_and_marker(rng, pyplot):
    y = np.repeat([f"class {i:02d}" for i in range(20)], 3)
    display = ProjectionDisplay.from_features(rng.normal(size=(60, 5)), y)
    looks = {
        (tuple(s.get_facecolor()[0]), s.get_paths()[0].vertices.tobytes())
        for s in display.scatters_
    }
    assert len(looks) == 20
    assert [s.get_label() for s in display.scatters_[:2]] == ["class 00", "class 01"]


def test_the_legend_of_a_projection_covers_no_data(rng, pyplot):
    y = np.repeat(["a", "b"], 20)
    display = ProjectionDisplay.from_features(rng.normal(size=(40, 5)), y)
    display.figure_.canvas.draw()
    legend = display.ax_.get_legend().get_window_extent()
    assert legend.x0 >= display.ax_.get_window_extent().x1


def test_a_fitted_pipeline_is_projected_as_it_is(tiny, tmp_path, pyplot):
    vectorizer = BertVectorizer(tiny, memory=tmp_path)
    pipeline = make_pipeline(vectorizer, StandardScaler()).fit(TEXTS[:12])
    expected = PCA(2, svd_solver="full").fit_transform(pipeline.transform(TEXTS))
    display = ProjectionDisplay.from_estimator(pipeline, TEXTS)
    np.testing.assert_allclose(display.coordinates, expected, atol=1e-4)


def test_an_estimator_that_is_not_fitted_stays_so(tiny, pyplot):
    vectorizer = BertVectorizer(tiny)
    display = ProjectionDisplay.from_estimator(vectorizer, iter(TEXTS))
    assert display.coordinates.shape == (36, 2)
    assert not hasattr(vectorizer, "layers_")


def test_what_cannot_be_projected_is_refused(rng, pyplot):
    features = rng.normal(size=(30, 5))
    with pytest.raises(ValueError, match=r"y has 3 rows for 30 rows of features"):
        ProjectionDisplay.from_features(features, [0, 1, 2])
    with pytest.raises(ValueError, match=r"y has 30 classes, more than the 20 that"):
        ProjectionDisplay.from_features(features, range(30))
    with pytest.raises(ValueError, match=r"features has 1 column; a projection needs"):
        ProjectionDisplay.from_features(features[:, :1])
    with pytest.raises(ValueError, match=r"same vector in every row: there is nothing"):
        ProjectionDisplay.from_features(np.ones((9, 3)))


def test_the_histogram_counts_every_value_and_names_outliers(rng, pyplot):
    features = rng.normal(size=(50, 30))
    features[:, [4, 9]] += [30, 50]
    display = FeatureHistogramDisplay(features).plot(bins=40)
    np.testing.assert_array_equal(display.outliers_, [9, 4])
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["28 dimensions", "outlier dimensions 9, 4"]
    assert display.ax_.get_yscale() == "log"


def test_the_histogram_of_an_estimator_needs_no_outliers(tiny, pyplot):
    display = FeatureHistogramDisplay.from_estimator(BertVectorizer(tiny), TEXTS)
    assert display.ax_.get_title() == "36 texts, 32 dimensions"
    assert display.ax_.get_legend().get_texts()[1].get_text().endswith("dimension")
    many = FeatureHistogramDisplay(np.hstack([np.ones((3, 9)), 9 * np.ones((3, 6))]))
    labels = many.plot().ax_.get_legend().get_texts()
    assert labels[1].get_text() == "outlier dimensions 9, 10, 11, 12 and 2 more"


def test_the_pairs_display_draws_a_row_per_cell_with_its_auc(tiny, pyplot):
    vectorizer = BertVectorizer(tiny, layer=[1, 2], normalize=True)
    display = PairsDisplay.from_estimator(
        vectorizer, SIMILAR, DISSIMILAR, poolings=["mean", "max"]
    )
    labels = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert labels == [
        "mean, layer 1", "mean, layer 2", "max, layer 1", "max, layer 2",
    ]  # fmt: skip
    auc = display.comparison.auc[0, 1]
    assert display.ax_.texts[1].get_text() == f"AUC {auc:.3f}"
    with pytest.raises(
        TypeError, match=r"estimator must be a BertVectorizer or a Pip.* Log"
    ):
        PairsDisplay.from_estimator(LogisticRegression(), SIMILAR, DISSIMILAR)


def all_displays():
    matrix, pairs = np.eye(2), np.ones((1, 1, 3))
    similarity = LayerSimilarity("m", (0, 1), "mean", matrix, "x", 9, 9)
    return [
        LayerSimilarityDisplay(similarity),
        ProjectionDisplay(np.eye(4)[:, :2], [0.5, 0.2]),
        FeatureHistogramDisplay(np.eye(4)),
        PairsDisplay(PairComparison("m", (1,), ("mean",), pairs, pairs, 3)),
    ]


@pytest.mark.parametrize("display", all_displays(), ids=lambda d: type(d).__name__)
def test_displays_draw_where_they_are_told(display, pyplot):
    figure, ax = pyplot.subplots()
    assert display.plot(ax=ax) is display
    assert display.ax_ is ax
    assert display.figure_ is figure


@pytest.mark.parametrize("display", all_displays(), ids=lambda d: type(d).__name__)
def test_without_matplotlib_a_display_names_the_extra(display, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "sklearn-bert\[plot\]"'):
        display.plot()


def test_results_cannot_be_changed():
    result = anisotropy(np.eye(4))
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"cannot assign"):
        result.value = 0.0
