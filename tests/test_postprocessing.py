"""RemoveTopComponents: what it removes, and scikit-learn's whole contract."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_bert.postprocessing import RemoveTopComponents


@pytest.fixture
def X():
    """Features with a mean, and with two directions far larger than the others."""
    rng = np.random.default_rng(0)
    scales = np.array([30.0, 10.0, *np.linspace(2, 1, 8)])
    rotation, _ = np.linalg.qr(rng.normal(size=(10, 10)))
    return rng.normal(size=(200, 10)) * scales @ rotation + 5


@parametrize_with_checks([RemoveTopComponents(), RemoveTopComponents(n_components=1)])
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


def test_it_leaves_what_all_other_components_rebuild(X):
    pca = PCA().fit(X)
    others = pca.transform(X)[:, 3:] @ pca.components_[3:]
    np.testing.assert_allclose(
        RemoveTopComponents(3).fit_transform(X), others, atol=1e-10
    )


def test_components_are_those_of_pca_up_to_sign(X):
    ours, pca = RemoveTopComponents(4).fit(X), PCA(4, svd_solver="full").fit(X)
    cosines = np.einsum("ij,ij->i", ours.components_, pca.components_)
    np.testing.assert_allclose(np.abs(cosines), 1.0)
    np.testing.assert_allclose(
        ours.explained_variance_ratio_, pca.explained_variance_ratio_
    )
    np.testing.assert_allclose(ours.mean_, pca.mean_)


def test_nothing_is_left_along_the_components(X):
    step = RemoveTopComponents(2).fit(X)
    other = np.random.default_rng(1).normal(size=(5, 10)) * 100
    np.testing.assert_allclose(
        step.transform(other) @ step.components_.T, 0, atol=1e-10
    )


def test_few_rows_of_many_features_give_the_same_as_many_rows(X):
    wide = np.hstack([X[:8], np.zeros((8, 20))])  # the other way of computing
    step = RemoveTopComponents(3).fit(wide)
    pca = PCA(3, svd_solver="full").fit(wide)
    cosines = np.einsum("ij,ij->i", step.components_, pca.components_)
    np.testing.assert_allclose(np.abs(cosines), 1.0)


def test_mean_and_components_are_those_of_the_training_fold(X):
    scores = cross_validate(
        make_pipeline(RemoveTopComponents(1), PCA(1)), X, cv=2, return_estimator=True
    )
    first, second = (pipeline[0] for pipeline in scores["estimator"])
    np.testing.assert_allclose(first.mean_, X[100:].mean(axis=0))
    np.testing.assert_allclose(second.mean_, X[:100].mean(axis=0))


@pytest.mark.parametrize(
    ("n_features", "expected"), [(1, 1), (99, 1), (199, 1), (384, 3), (768, 7)]
)
def test_auto_is_one_per_hundred_features_and_at_least_one(n_features, expected):
    X = np.random.default_rng(0).normal(size=(20, n_features))
    assert RemoveTopComponents().fit(X).n_components_ == expected


def test_auto_removes_no_more_than_the_rows_can_differ_in():
    X = np.random.default_rng(0).normal(size=(3, 768))
    step = RemoveTopComponents().fit(X)
    assert step.n_components_ == 2
    np.testing.assert_allclose(step.transform(X), 0, atol=1e-12)


def test_zero_components_only_subtracts_the_mean(X):
    step = RemoveTopComponents(0).fit(X)
    np.testing.assert_allclose(step.transform(X), X - X.mean(axis=0))
    assert step.components_.shape == (0, 10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_precision_is_kept(X, dtype):
    step = RemoveTopComponents(2).fit(X.astype(dtype))
    assert step.transform(X.astype(dtype)).dtype == dtype
    assert step.mean_.dtype == step.components_.dtype == dtype


def test_a_large_mean_does_not_drown_the_components_in_float32(X):
    shifted = (X + 1000).astype(np.float32)
    exact = RemoveTopComponents(2).fit(X).components_
    np.testing.assert_allclose(
        RemoveTopComponents(2).fit(shifted).components_, exact, atol=1e-3
    )


def test_rows_are_not_changed_in_place(X):
    before = X.copy()
    RemoveTopComponents(2).fit(X).transform(X)
    np.testing.assert_array_equal(X, before)


def test_constant_features_become_zeros():
    step = RemoveTopComponents().fit(np.ones((5, 3)))
    np.testing.assert_array_equal(step.transform(np.ones((2, 3))), np.zeros((2, 3)))
    np.testing.assert_array_equal(step.explained_variance_ratio_, [0.0])


def test_features_keep_their_names_in_a_frame(X):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdefghij"))
    out = RemoveTopComponents(1).set_output(transform="pandas").fit_transform(frame)
    assert list(out.columns) == list(frame.columns)


def test_the_cone_is_gone():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 50)) + 3
    X[:, 7] *= 30

    def mean_cosine(features):
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        return np.abs(unit @ unit.T).mean()

    assert mean_cosine(X) > 0.6
    assert mean_cosine(RemoveTopComponents(1).fit_transform(X)) < 0.15


@pytest.mark.parametrize(
    ("n_components", "error", "message"),
    [
        (11, ValueError, r"n_components=11 is out of range: 200 rows of 10 features"),
        (
            -1,
            ValueError,
            r"n_components=-1 is out of range: .* from 0 to 10, or 'auto'",
        ),
        ("all", TypeError, r"n_components must be an integer or 'auto', got 'all'"),
        (2.0, TypeError, r"n_components must be an integer or 'auto', got 2\.0"),
        (True, TypeError, r"n_components must be an integer or 'auto', got True"),
        (None, TypeError, r"n_components must be an integer or 'auto', got None"),
    ],
)
def test_a_wrong_number_of_components_is_refused(X, n_components, error, message):
    with pytest.raises(error, match=message):
        RemoveTopComponents(n_components).fit(X)


def test_components_beyond_the_rows_are_refused(X):
    with pytest.raises(ValueError, match=r"4 rows of 10 features vary in at most 3"):
        RemoveTopComponents(4).fit(X[:4])


def test_numbers_of_numpy_and_strings_of_numpy_are_taken(X):
    assert RemoveTopComponents(np.int64(2)).fit(X).n_components_ == 2
    assert RemoveTopComponents(np.str_("auto")).fit(X).n_components_ == 1


def test_one_row_and_missing_values_are_refused(X):
    with pytest.raises(ValueError, match=r"1 sample"):
        RemoveTopComponents().fit(X[:1])
    with pytest.raises(ValueError, match=r"Input X contains NaN"):
        RemoveTopComponents().fit(np.where(X > 0, X, np.nan))


def test_a_clone_forgets_what_was_fitted(X):
    assert not hasattr(clone(RemoveTopComponents(1).fit(X)), "components_")
