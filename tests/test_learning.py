"""Layer weights and token queries learned from labels."""

from functools import partial

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.special import softmax

from sklearn_bert import learning as module
from sklearn_bert import objective
from sklearn_bert.layers import coefficients
from sklearn_bert.learning import attend, fit_scalar_mix, fit_token_attention
from sklearn_bert.ragged import Ragged


def block(n_texts=5, n_poolings=2, n_layers=3, width=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_texts, n_poolings, n_layers, width)).astype(np.float32)


def informative(kind, *, layer=2, n_texts=300, seed=0):
    """Return a block in which only one layer carries the target, and the target."""
    rng = np.random.default_rng(seed)
    values = block(n_texts, 1, 4, 8, seed)
    values *= np.array([1, 30, 0.1, 5], dtype=np.float32)[:, np.newaxis]
    signal = values[:, 0, layer] @ rng.normal(size=(8, 3)) / values[:, 0, layer].std()
    if kind == "multiclass":
        return values, np.array(["a", "b", "c"])[signal.argmax(axis=1)]
    if kind == "multilabel":
        return values, (signal > 0).astype(int)
    return values, 7 + 3 * signal[:, 0] if kind == "number" else signal[:, 0] > 0


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "number"])
def test_scalar_mix_finds_the_layer_that_carries_the_target(kind):
    mix = fit_scalar_mix(*informative(kind, n_texts=3000), C=1.0)
    assert mix.weights[2] > 0.9
    assert mix.weights.sum() == pytest.approx(1)


def as_rows(values):
    """Return each text as two tokens, one half of the other."""
    pairs = np.stack([values[:, 0], values[:, 0] / 2], axis=1)
    return Ragged.end_to_end(
        pairs.reshape(-1, *values.shape[2:]), np.full(len(values), 2)
    )


@pytest.mark.parametrize("seed", range(10))
def test_a_layer_that_never_varies_changes_nothing(seed):
    """[CLS] before the first block is the same in every text, but for rounding."""
    rng = np.random.default_rng(seed)
    values, y = informative("binary", n_texts=int(rng.integers(50, 900)), seed=seed)
    values[:, :, 1] = rng.normal(size=8) / 7
    weights = rng.uniform(size=len(y))
    mix = fit_scalar_mix(values, y, C=1.0, sample_weight=weights)
    assert mix.scales[0, 1] == 1
    assert mix.weights[2] > 0.8
    rows = Ragged.end_to_end(values[:, 0], np.ones(len(y), dtype=int))
    _, mix = fit_token_attention(
        rows, y, learns_layers=True, C=1.0, sample_weight=weights
    )
    assert mix.scales[0, 1] == 1
    assert mix.weights[2] > 0.8


@pytest.mark.parametrize("fit", ["layers", "tokens"])
@pytest.mark.parametrize("shape", [(300,), (300, 3)])
def test_weights_may_be_of_any_size_and_0_is_left_out(fit, shape):
    values, y = informative("multilabel")
    weights = np.random.default_rng(0).uniform(0.5, 2, size=shape)

    def learned(values, y, weights, C):
        if fit == "layers":
            return fit_scalar_mix(values, y, C=C, sample_weight=weights)
        _, mix = fit_token_attention(
            as_rows(values), y, learns_layers=True, C=C, sample_weight=weights
        )
        return mix

    plain = learned(values, y, weights, 1.0)
    assert plain.weights[2] > 0.5
    for factor in (1e-6, 1e6):
        other = learned(values, y, factor * weights, 1 / factor)
        np.testing.assert_allclose(other.weights, plain.weights, atol=1e-3)
    more = [np.concatenate([part, part[::-1]]) for part in (values, y, 0 * weights)]
    more[2][: len(y)] = weights
    np.testing.assert_array_equal(learned(*more, 1.0).weights, plain.weights)


def test_many_whole_numbers_are_numbers_and_not_classes():
    values, y = informative("number", n_texts=1000)
    whole = fit_scalar_mix(values, np.round(1000 * y).astype(int))
    exact = fit_scalar_mix(values, y)
    np.testing.assert_allclose(whole.weights, exact.weights, atol=0.02)


def test_coordinates_of_the_minimiser_change_the_way_and_not_the_end(monkeypatch):
    values, y = informative("multiclass", n_texts=1000)
    values = values @ (1 + 0.1 * np.eye(8, dtype=np.float32))  # features are alike
    steps = []
    found = fit_scalar_mix(values, y, C=1.0, on_step=lambda now: steps.append(1))
    monkeypatch.setattr(
        "scipy.linalg.cholesky", lambda curvature, **_: 0.1 * np.eye(len(curvature))
    )
    slowly = []
    plain = fit_scalar_mix(values, y, C=1.0, on_step=lambda now: slowly.append(1))
    np.testing.assert_allclose(found.weights, plain.weights, atol=0.02)
    assert 2 * len(steps) < len(slowly)


@pytest.mark.parametrize("C", [0.1, 10.0])
def test_a_weak_penalty_hides_no_layer(C):
    values, y = informative("binary", n_texts=1000)
    assert fit_scalar_mix(values, y, C=C).weights[2] > 0.9


@pytest.mark.parametrize("C", [1.0, 1e6])
def test_features_that_repeat_each_other_are_learned_from(C):
    values, y = informative("binary")
    values = np.tile(values[:6], (50, 1, 1, 4)) * 30
    mix = fit_scalar_mix(values, np.tile(y[:6], 50), C=C, standardize=False)
    assert np.isfinite(mix.weights).all()


def test_very_many_features_are_scaled_each_for_itself(monkeypatch):
    values, y = informative("multiclass", n_texts=1000)
    whole = fit_scalar_mix(values, y, C=1.0)
    monkeypatch.setattr(objective, "_MAX_FEATURES", 1)
    alone = fit_scalar_mix(values, y, C=1.0)
    np.testing.assert_allclose(alone.weights, whole.weights, atol=0.02)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_mini_batches_find_what_full_batches_find(kind, monkeypatch):
    values, y = informative(kind, n_texts=6000)
    whole = fit_scalar_mix(values, y)
    monkeypatch.setattr(objective, "_FULL_BYTES", 0)
    monkeypatch.setattr(objective, "_TEXTS_PER_STEP", 16)
    epochs = []
    mix = fit_scalar_mix(values, y, on_step=lambda now: epochs.append(1))
    np.testing.assert_allclose(mix.weights, whole.weights, atol=0.03)
    np.testing.assert_array_equal(fit_scalar_mix(values, y).weights, mix.weights)
    assert len(epochs) == objective._EPOCHS


def test_mini_batches_of_tokens_find_the_one_that_decides(monkeypatch):
    monkeypatch.setattr(objective, "_FULL_BYTES", 0)
    monkeypatch.setattr(objective, "_TEXTS_PER_STEP", 8)
    rows, y, places = marked(n_texts=3000)
    query, _ = fit_token_attention(rows, y, C=1.0)
    _, weights = attend(rows, query)
    on_it = [part[place] for part, place in zip(weights, places, strict=True)]
    assert np.mean(on_it) > 0.8


@pytest.mark.filterwarnings("ignore:.* did not converge in 2 steps")  # the head's start
@pytest.mark.parametrize("max_iter", [1000, 2])
def test_a_step_of_mini_batches_is_an_epoch(monkeypatch, max_iter):
    values, y = informative("binary")
    monkeypatch.setattr(objective, "_FULL_BYTES", 0)
    calls = []
    fit_scalar_mix(values, y, max_iter=max_iter, on_step=lambda now: calls.append(1))
    assert len(calls) == min(objective._EPOCHS, max_iter)


def test_weights_of_each_label_are_those_of_texts_where_they_are_the_same():
    values, y = informative("multilabel")
    y = y[:, :2]
    weights = np.linspace(0.5, 2.0, len(y))
    rows, labels = (
        fit_scalar_mix(values, y, sample_weight=given)
        for given in (weights, np.column_stack([weights, weights]))
    )
    np.testing.assert_allclose(labels.weights, rows.weights, atol=1e-6)
    first = fit_scalar_mix(values, y[:, 0], sample_weight=weights, standardize=False)
    only = np.column_stack([weights, np.zeros_like(weights)])
    alone = fit_scalar_mix(values, y, sample_weight=only, standardize=False)
    np.testing.assert_allclose(alone.weights, first.weights, atol=0.01)


@pytest.mark.parametrize("full_bytes", [0, 2**32])
def test_what_a_step_is_given_is_what_ending_there_returns(monkeypatch, full_bytes):
    values, y = informative("binary")
    monkeypatch.setattr(objective, "_FULL_BYTES", full_bytes)
    given = []

    def end_after_four(now):
        given.append(now())
        return len(given) == 4

    mix = fit_scalar_mix(values, y, on_step=end_after_four)
    assert len(given) == 4
    np.testing.assert_array_equal(given[-1].weights, mix.weights)
    assert given[-1].gamma == mix.gamma
    assert np.abs(given[1].weights - mix.weights).max() > 0


def test_a_sparse_multilabel_target_is_read():
    values, y = informative("multilabel")
    sparse = fit_scalar_mix(values, csr_array(y))
    np.testing.assert_allclose(sparse.weights, fit_scalar_mix(values, y).weights)


def test_scalar_mix_does_not_favour_layers_of_large_norm():
    values, y = informative("binary")
    scaled = values * np.array([1, 1, 1000, 1], dtype=np.float32)[:, np.newaxis]
    mix, other = fit_scalar_mix(values, y), fit_scalar_mix(scaled, y)
    np.testing.assert_allclose(mix.weights, other.weights, atol=1e-3)


def test_a_loud_feature_hides_no_quiet_one():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1000, 1, 4, 8)).astype(np.float32)
    y = values[:, 0, 2, 0] > 0
    values[..., 7] *= 50
    assert fit_scalar_mix(values, y).weights[2] > 0.7  # near equal, unless standardized


def captured(monkeypatch, fit):
    """Return what is minimised, and where it begins."""
    calls = []

    def capture(function, start, **_):
        calls.append((function, start))
        raise InterruptedError

    monkeypatch.setattr("scipy.optimize.minimize", capture)
    with pytest.raises(InterruptedError):
        fit()
    return calls[0]


def check_gradient(function, start):
    theta = np.random.default_rng(1).normal(size=start.shape, scale=0.3)
    steps = 1e-2 * np.eye(len(theta))  # float32 matrices: larger steps, central
    loss = [[function(theta + s * d)[0] for d in steps] for s in (1, -1)]
    numeric = np.subtract(*loss) / 2e-2
    np.testing.assert_allclose(function(theta)[1], numeric, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "number"])
@pytest.mark.parametrize("few_outputs", [0, 16])
def test_scalar_mix_gradient_equals_finite_differences(kind, few_outputs, monkeypatch):
    monkeypatch.setattr(module, "_FEW_OUTPUTS", few_outputs)
    values, y = informative(kind, n_texts=20)
    pooled_twice = np.concatenate([values, values[::-1]], axis=1)
    function, start = captured(
        monkeypatch, lambda: fit_scalar_mix(pooled_twice, y, C=1.0)
    )
    check_gradient(function, start)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, r"learns from y, got y=None"),
        ([0] * 5, r"layer_combination='scalar_mix' needs at least two classes in y"),
        (["a", "b", "a", "b", None], r"missing label \(None\), first in row 4"),
        ([0, 1], r"y has 2 rows for 5 texts"),
        (3, r"y has 0 rows for 5 texts"),
        (
            [["a", "b"]] * 4 + [["b", "c"]],
            r"several columns that are no numbers|Unknown",
        ),
    ],
)
def test_scalar_mix_refuses_a_target_it_cannot_learn_from(y, message):
    with pytest.raises(ValueError, match=message):
        fit_scalar_mix(block(), y)


# Tokens


def marked(n_texts=400, n_layers=1, width=8, seed=0, dtype=np.float32):
    """Return texts of which one token decides the label, and where it is.

    That token is marked in its first features and carries the label in the last.
    """
    rng = np.random.default_rng(seed)
    counts = rng.integers(3, 12, size=n_texts)
    rows = Ragged.end_to_end(
        rng.normal(size=(counts.sum(), n_layers, width)).astype(dtype), counts
    )
    y = rng.integers(0, 2, size=n_texts)
    places = rng.integers(0, counts)
    for states, place, label in zip(rows, places, y, strict=True):
        states[place, -1, :2] = 4
        states[:, -1, -1] *= 3
        states[place, -1, -1] = 2 * label - 1
    return rows, y, places


def test_attention_finds_the_token_that_decides():
    rows, y, places = marked()
    query, mix = fit_token_attention(rows, y, C=1.0)
    assert mix is None
    vectors, weights = attend(rows, query)
    on_it = [part[place] for part, place in zip(weights, places, strict=True)]
    assert np.mean(on_it) > 0.9
    assert np.mean((vectors[:, -1] > 0) == y) > 0.97
    plain, _ = attend(rows, np.zeros_like(query))
    assert np.mean((plain[:, -1] > 0) == y) < 0.75


def test_attention_and_layer_weights_are_found_together():
    rows, y, places = marked(n_layers=3)
    query, mix = fit_token_attention(rows, y, learns_layers=True, C=1.0)
    factors = coefficients("scalar_mix", 1, 3, mix)
    _, weights = attend(rows, query, factors[0])
    on_it = [part[place] for part, place in zip(weights, places, strict=True)]
    assert np.mean(on_it) > 0.9
    assert mix.weights[2] > 0.9


def test_a_loud_feature_hides_no_token_that_decides():
    rows, y, places = marked(n_layers=2)
    rows.values[:, :, 3] *= 50
    query, mix = fit_token_attention(rows, y, learns_layers=True, C=1.0)
    _, weights = attend(rows, query, coefficients("scalar_mix", 1, 2, mix)[0])
    on_it = [part[place] for part, place in zip(weights, places, strict=True)]
    assert np.mean(on_it) > 0.9


def test_without_labels_that_say_anything_attention_stays_near_the_mean():
    rows, y, _ = marked()
    query, _ = fit_token_attention(rows, np.random.default_rng(1).permutation(y))
    _, weights = attend(rows, query)
    assert np.abs(weights.rows - np.repeat(1 / rows.counts, rows.counts)).mean() < 0.05


def test_attending_is_a_softmax_over_each_text():
    rng = np.random.default_rng(0)
    rows = Ragged.end_to_end(
        rng.normal(size=(9, 2, 4)).astype(np.float32), np.array([3, 0, 1, 5])
    )
    query, factors = rng.normal(size=4).astype(np.float32), np.array([0.5, 2.0])
    rows = rows[np.array([3, 1, 0, 0, 2])]  # any order; equal texts share rows
    vectors, weights = attend(rows, query, factors.astype(np.float32))
    for states, vector, part in zip(rows, vectors, weights, strict=True):
        mixed = np.tensordot(factors, states, axes=(0, 1))
        expected = softmax(mixed @ query) if len(mixed) else np.zeros(0)
        np.testing.assert_allclose(part, expected, atol=1e-6)
        np.testing.assert_allclose(vector, expected @ mixed, atol=1e-5)


def test_a_query_of_zero_is_the_mean():
    rows, _, _ = marked(n_texts=20)
    vectors, _ = attend(rows, np.zeros(8, dtype=np.float32))
    expected = [states[:, 0].mean(axis=0) for states in rows]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_mixing_layers_before_or_after_the_mean_is_the_same():
    rows, _, _ = marked(n_texts=20, n_layers=3)
    factors = np.array([0.2, 0.5, 3.0], dtype=np.float32)
    before, _ = attend(rows, np.zeros(8, dtype=np.float32), factors)
    after = [np.tensordot(factors, s.mean(axis=0), axes=1) for s in rows]
    np.testing.assert_allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("learns_layers", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("batch_bytes", [1, 2**22])
def test_attention_gradient_equals_finite_differences(
    learns_layers, standardize, batch_bytes, monkeypatch
):
    monkeypatch.setattr(module, "_BATCH_BYTES", batch_bytes)
    rows, _, _ = marked(n_texts=12, n_layers=3 if learns_layers else 1, width=4)
    rows.counts[3] = 0  # a text without a token
    y = np.arange(12) % 3
    weights = np.linspace(0, 2, 12)
    fit = partial(
        fit_token_attention, rows, y, learns_layers=learns_layers,
        standardize=standardize, sample_weight=weights, C=1.0,
    )  # fmt: skip
    check_gradient(*captured(monkeypatch, fit))


def naive_loss(vectors, head, intercepts, y):
    """Return the mean loss of a linear model, text by text in double precision."""
    total = 0.0
    for vector, label in zip(vectors, y, strict=True):
        scores = vector @ head + intercepts
        if len(intercepts) == 1:
            total += np.log1p(np.exp(-scores[0] if label else scores[0]))
        else:
            total += np.log(np.exp(scores).sum()) - scores[label]
    return total / len(y)


def naive_objective(logits, query, head, intercepts, rows, y, C, gamma=None):
    """Loss and penalties of a mix, a query and a head, text by text.

    Without a gamma, what the head sees is standardized.
    """
    flat = np.concatenate(list(rows)).astype(np.float64)
    scales, spreads = np.ones(3), 1.0
    if gamma is None:
        scales = np.sqrt(flat.var(axis=0).mean(axis=1))
        spreads = (flat.std(axis=0) / scales[:, np.newaxis]).mean(axis=0)
    factors = (gamma or 1.0) * softmax(logits) / scales
    vectors = []
    for states in rows:
        mixed = np.einsum("l,nlw->nw", factors, states.astype(np.float64))
        vectors.append(softmax(mixed @ (query / spreads)) @ mixed)
    vectors = np.array(vectors) - np.mean(vectors, axis=0)
    if gamma is None:
        vectors /= vectors.std(axis=0)
    squares = 0.1 * logits @ logits + 3 * query @ query + (head**2).sum()
    squares += 0 if gamma is None else np.log(gamma) ** 2
    loss = naive_loss(vectors, head, intercepts, y)
    return loss + 0.5 * squares / (C * len(rows))


def without_coordinates(monkeypatch):
    monkeypatch.setattr(objective, "_STRETCH", 1.0)
    monkeypatch.setattr(objective, "_STRETCH_BESIDE_QUERY", 1.0)
    monkeypatch.setattr(
        "scipy.linalg.cholesky", lambda curvature, **_: np.eye(len(curvature))
    )


@pytest.mark.parametrize("standardize", [True, False])
def test_the_objective_is_that_written_text_by_text(standardize, monkeypatch):
    without_coordinates(monkeypatch)
    rows, y, _ = marked(n_texts=30, n_layers=3)
    fit = partial(
        fit_token_attention, rows, y, learns_layers=True, C=0.5, standardize=standardize
    )
    function, start = captured(monkeypatch, fit)
    rng = np.random.default_rng(1)
    for _ in range(3):
        theta = rng.normal(size=start.shape, scale=0.3)
        logits, query, head, intercepts = np.split(theta, [3, 11, 19])
        head = head[:, np.newaxis]
        # Else query and head hold their product with the best gamma.
        expected = min(
            naive_objective(
                logits, query / (gamma or 1), head / (gamma or 1), intercepts, rows, y,
                0.5, gamma,
            )
            for gamma in ([None] if standardize else np.geomspace(0.5, 5, 400))
        )  # fmt: skip
        assert function(theta)[0] == pytest.approx(expected, abs=1e-5)


def naive_mix(logits, head, intercepts, block, y, C, gamma=None):
    """Return what `fit_scalar_mix` minimises, text by text in double precision."""
    flat = block.astype(np.float64)
    flat -= flat.mean(axis=0)
    if gamma is None:
        flat /= np.sqrt((flat**2).mean(axis=(0, 3)))[:, :, np.newaxis]
    mixed = (gamma or 1.0) * np.einsum("l,nplw->npw", softmax(logits), flat)
    if gamma is None:
        mixed /= mixed.std(axis=0)
    squares = 0.1 * logits @ logits + (head**2).sum()
    squares += 0 if gamma is None else np.log(gamma) ** 2
    loss = naive_loss(mixed.reshape(len(y), -1), head, intercepts, y)
    return loss + 0.5 * squares / (C * len(y))


@pytest.mark.parametrize(("kind", "n_outputs"), [("binary", 1), ("multiclass", 3)])
@pytest.mark.parametrize("few_outputs", [0, 16])
@pytest.mark.parametrize("standardize", [True, False])
def test_the_objective_of_a_mix_is_that_written_text_by_text(
    kind, n_outputs, few_outputs, standardize, monkeypatch
):
    monkeypatch.setattr(module, "_FEW_OUTPUTS", few_outputs)
    without_coordinates(monkeypatch)
    values, y = informative(kind, n_texts=30)
    values /= 1 if standardize else np.array([1, 30, 0.1, 5])[:, np.newaxis]
    block = np.concatenate([values, 3 * values[::-1] + 1], axis=1).astype("f4")
    y = np.unique(y, return_inverse=True)[1]
    fit = partial(fit_scalar_mix, block, y, C=0.5, standardize=standardize)
    function, start = captured(monkeypatch, fit)
    n_layers = block.shape[2]
    rng = np.random.default_rng(2)
    for _ in range(3):
        theta = rng.normal(size=start.shape, scale=0.3)
        logits, head, intercepts = np.split(theta, [n_layers, len(theta) - n_outputs])
        head = head.reshape(-1, n_outputs)  # its product with gamma, if there is one
        expected = min(
            naive_mix(logits, head / (gamma or 1), intercepts, block, y, 0.5, gamma)
            for gamma in ([None] if standardize else np.geomspace(0.5, 5, 400))
        )
        assert function(theta)[0] == pytest.approx(expected, abs=2e-5)


def test_scaling_a_layer_or_a_feature_changes_nothing():
    rows, y, _ = marked(n_texts=200, n_layers=2)
    one = Ragged.end_to_end(rows.values[:, 1:], rows.counts)
    factors = np.array([1, 100, 1, 1, 0.01, 1, 1, 1], dtype=np.float32)
    scaled = Ragged.end_to_end(one.values * factors, rows.counts)
    (_, a), (_, b) = (
        attend(each, fit_token_attention(each, y)[0]) for each in (one, scaled)
    )
    np.testing.assert_allclose(a.rows, b.rows, atol=1e-2)
    volumes = np.array([100, 1], dtype=np.float32)[:, np.newaxis]
    louder = Ragged.end_to_end(rows.values * volumes, rows.counts)
    _, mix = fit_token_attention(rows, y, learns_layers=True)
    _, other = fit_token_attention(louder, y, learns_layers=True)
    np.testing.assert_allclose(mix.weights, other.weights, atol=1e-2)


def test_half_precision_states_and_repeated_texts_are_learned_from():
    rows, y, _ = marked(n_texts=300)
    half = Ragged.end_to_end(rows.values.astype(np.float16), rows.counts)
    which = np.r_[:300, :50]
    whole = np.concatenate([list(rows)[i] for i in which])
    copied = Ragged.end_to_end(whole, rows.counts[which])
    query, _ = fit_token_attention(copied, y[which])
    for other in (rows[which], half[which]):
        again, _ = fit_token_attention(other, y[which])
        np.testing.assert_allclose(again, query, atol=2e-2)


@pytest.mark.parametrize("learns_layers", [False, True])
def test_a_text_of_no_weight_is_as_if_it_were_not_there(learns_layers):
    rows, y, _ = marked(n_texts=200, n_layers=2 if learns_layers else 1)
    kept = np.arange(200) % 3 > 0
    a, _ = fit_token_attention(rows[kept], y[kept], learns_layers=learns_layers, C=1.0)
    weights = kept * 200 / kept.sum()
    b, _ = fit_token_attention(
        rows, y, learns_layers=learns_layers, C=kept.mean(), sample_weight=weights
    )
    np.testing.assert_allclose(b, a, atol=2e-2)


def test_a_batch_of_texts_without_tokens_is_learned_from(monkeypatch):
    monkeypatch.setattr(module, "_BATCH_BYTES", 1)
    rows, y, _ = marked(n_texts=40)
    rows.counts[-3:] = 0
    query, _ = fit_token_attention(rows, y)
    assert np.isfinite(query).all()


def test_weights_of_texts_count_like_copies():
    rows, y, _ = marked(n_texts=100)
    which = np.r_[:100, :40]
    weights = np.r_[np.full(40, 2.0), np.ones(60)] * 100 / 140
    # Penalties are per text, so that C follows their number.
    a, _ = fit_token_attention(rows[which], y[which], C=1.0, standardize=False)
    b, _ = fit_token_attention(rows, y, C=1.4, sample_weight=weights, standardize=False)
    np.testing.assert_allclose(a, b, atol=5e-2)


@pytest.mark.parametrize(
    ("y", "message"),
    [(None, r"learns from y, got y=None"), ([0] * 5, r"at least two classes in y")],
)
def test_attention_refuses_a_target_it_cannot_learn_from(y, message):
    with pytest.raises(ValueError, match=f"pooling='learned_attention' .*{message}"):
        fit_token_attention(marked(n_texts=5)[0], y)
