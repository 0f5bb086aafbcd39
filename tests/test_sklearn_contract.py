"""BertVectorizer keeps scikit-learn's contract, alone and inside its tools.

scikit-learn's own checks feed numbers, and refuse to test an estimator that takes none.
So they run on a subclass that spells numbers out and changes nothing else; those that
need no data run on the real class too.
"""

import copy
import pickle
import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
import sklearn
from joblib.externals.loky import get_reusable_executor
from numeric import (
    SpellsNumbers,
    numeric_encoder,  # noqa: F401 - a fixture that works by being there
    with_default_model,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.stats import randint
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_val_score,
    cross_validate,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from threadpoolctl import threadpool_limits

from sklearn_bert import BertVectorizer
from sklearn_bert.datasets import make_tiny_encoder

SCALAR_MIX = {"layer": "all", "layer_combination": "scalar_mix"}
TEXTS = [
    f"{adjective} {noun}"
    for noun in ("film", "plot", "cast", "end", "joke", "song")
    for adjective in ("good", "fine", "bad", "dull")
]
LABELS = np.array([1, 1, 0, 0] * 6)

numpy2 = partial(pytest.importorskip, "numpy", minversion="2.0")
pandas = partial(pytest.importorskip, "pandas")
polars = partial(pytest.importorskip, "polars")
pyarrow = partial(pytest.importorskip, "pyarrow")


# scikit-learn's battery, through numbers that are spelled out


class NumericBertVectorizer(SpellsNumbers, BertVectorizer):
    __init__ = with_default_model(BertVectorizer.__init__)


KNOWN_BUGS = {}
FLOAT_NOISE = dict.fromkeys(
    ("check_methods_subset_invariance", "check_methods_sample_order_invariance"),
    "other batches move features by about 2e-7; batch_size=1 passes",
)
# Some checks encode the same rows many times, and are told how to avoid it.
encodes_often = pytest.mark.filterwarnings("ignore:.* encoded for the third time")


@encodes_often
@parametrize_with_checks(
    [
        NumericBertVectorizer(batch_size=1),
        NumericBertVectorizer(batch_size=1, **SCALAR_MIX),
    ],
    expected_failed_checks=lambda e: KNOWN_BUGS if e._learns_from_y() else {},
)
def test_every_scikit_learn_check_passes(estimator, check):
    check(estimator)


@encodes_often
@pytest.mark.parametrize("params", [{}, SCALAR_MIX], ids=["default", "scalar_mix"])
def test_at_least_45_checks_run_and_fail_by_float_noise_only(params):
    results = check_estimator(
        NumericBertVectorizer(**params),
        expected_failed_checks=FLOAT_NOISE | (KNOWN_BUGS if params else {}),
        on_skip=None,
    )
    statuses = Counter(result["status"] for result in results)
    assert statuses["passed"] + statuses["xfail"] >= 45


@encodes_often
@pytest.mark.filterwarnings("ignore:X .* feature names")
@pytest.mark.parametrize(
    "check",
    [
        # scikit-learn runs these on its own estimators, outside check_estimator
        "check_dataframe_column_names_consistency",
        "check_get_feature_names_out_error",
        "check_global_output_transform_pandas",
        "check_global_set_output_transform_polars",
        "check_inplace_ensure_writeable",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_set_output_transform_polars",
    ],
)
def test_checks_of_scikit_learns_own_transformers_pass(check):
    estimator = NumericBertVectorizer()
    getattr(estimator_checks, check)(type(estimator).__name__, estimator)


@pytest.mark.parametrize(
    "check",
    [
        "check_do_not_raise_errors_in_init_or_set_params",
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_get_feature_names_out_error",
        "check_get_params_invariance",
        "check_mixin_order",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
        "check_transformers_unfitted",
        "check_valid_tag_types",
    ],
)
@pytest.mark.parametrize("params", [{}, SCALAR_MIX], ids=["default", "scalar_mix"])
def test_checks_without_data_pass_on_the_real_class(check, params):
    getattr(estimator_checks, check)("BertVectorizer", BertVectorizer(**params))


def test_check_estimator_itself_has_one_check_for_texts(tiny):
    with pytest.warns(SkipTestWarning, match="Can't test estimator BertVectorizer"):
        results = check_estimator(BertVectorizer(tiny))
    assert [result["status"] for result in results] == ["passed"]


# Containers of texts

CONTAINERS = {
    "list": list,
    "tuple": tuple,
    "object array": lambda texts: np.array(texts, dtype=object),
    "str array": np.array,
    "StringDType array": lambda texts: numpy2().array(texts, np.dtypes.StringDType()),
    "array of one column": lambda texts: np.array(texts)[:, np.newaxis],
    "pandas Series": lambda texts: pandas().Series(
        texts, index=range(7, 7 + len(texts))
    ),
    "pandas string Series": lambda texts: pandas().Series(texts, dtype="string"),
    "pandas object Series": lambda texts: pandas().Series(texts, dtype=object),
    "pandas categorical": lambda texts: pandas().Series(texts, dtype="category"),
    "pandas frame": lambda texts: pandas().DataFrame({0: texts}, index=texts),
    "polars Series": lambda texts: polars().Series(texts),
    "polars categorical": lambda texts: polars().Series(
        texts, dtype=polars().Categorical
    ),
    "polars frame": lambda texts: polars().DataFrame({"title": texts}),
    "Arrow array": lambda texts: pyarrow().array(texts),
    "Arrow chunks": lambda texts: pyarrow().chunked_array([texts[:2], texts[2:]]),
    "Arrow table": lambda texts: pyarrow().table({"title": texts}),
}


@pytest.fixture(scope="module")
def features(tiny):
    return BertVectorizer(tiny).fit_transform(TEXTS)


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_give_the_same_features(tiny, features, container):
    X = CONTAINERS[container](TEXTS)
    assert_allclose(BertVectorizer(tiny).fit_transform(X), features, atol=1e-5)


def test_generator_gives_the_same_features(tiny, features):
    vectorizer = BertVectorizer(tiny).fit(text for text in TEXTS)
    assert_allclose(vectorizer.transform(iter(TEXTS)), features, atol=1e-5)


def test_fit_transform_reads_a_generator_once(tiny, features):
    assert_allclose(
        BertVectorizer(tiny).fit_transform(iter(TEXTS)), features, atol=1e-5
    )


ONE_COLUMN = "must be one column of texts, got {} of shape {}. Pass one column"
REFUSED = {
    "str": (lambda: "text", ValueError, "Iterable over raw text documents expected"),
    "np.str_": (
        lambda: np.str_("text"),
        ValueError,
        "string object received. Pass [text]",
    ),
    "bytes": (lambda: b"text", TypeError, "a column of texts, got bytes"),
    "dict": (lambda: {"a": "b"}, TypeError, "a column of texts, got dict"),
    "set": (lambda: {"a", "b"}, TypeError, "a column of texts, got set"),
    "int": (lambda: 3, TypeError, "a column of texts, got int"),
    "None": (lambda: None, TypeError, "a column of texts, got NoneType"),
    "frame of two columns": (
        lambda: pandas().DataFrame({"a": ["b"], "c": ["d"]}),
        ValueError,
        ONE_COLUMN.format("DataFrame", (1, 2)),
    ),
    "frame without columns": (
        lambda: pandas().DataFrame(index=[0, 1]),
        ValueError,
        ONE_COLUMN.format("DataFrame", (2, 0)),
    ),
    "polars frame of two columns": (
        lambda: polars().DataFrame({"a": ["b"], "c": ["d"]}),
        ValueError,
        ONE_COLUMN.format("DataFrame", (1, 2)),
    ),
    "array of two columns": (
        lambda: np.full((3, 2), "a"),
        ValueError,
        ONE_COLUMN.format("ndarray", (3, 2)),
    ),
    "3-D array": (
        lambda: np.full((3, 1, 1), "a"),
        ValueError,
        ONE_COLUMN.format("ndarray", (3, 1, 1)),
    ),
    "0-d array": (
        lambda: np.array("text"),
        ValueError,
        ONE_COLUMN.format("ndarray", ()),
    ),
    "sparse matrix": (
        lambda: sparse.csr_matrix(np.eye(3)),
        ValueError,
        ONE_COLUMN.format("csr_matrix", (3, 3)),
    ),
    "sparse column": (
        lambda: sparse.csr_matrix(np.ones((3, 1))),
        TypeError,
        "a column of texts, got csr_matrix",
    ),
    "lists": (lambda: [["a"], ["b"]], TypeError, "got list in row 0: ['a']. Pass one"),
    "pairs": (lambda: ["a", ("b", "c")], TypeError, "got tuple in row 1: ('b', 'c')"),
    "int row": (lambda: ["a", 1], TypeError, "got int in row 1: 1. Convert"),
    "float row": (lambda: ["a", "b", 1.5], TypeError, "got float in row 2: 1.5"),
    "bytes row": (lambda: [b"a"], TypeError, "got bytes in row 0: b'a'. Decode"),
    "bytes array": (lambda: np.array([b"a"]), TypeError, "got bytes in row 0: b'a'"),
    "number array": (lambda: np.arange(3.0), TypeError, "got float in row 0: 0.0"),
    "None row": (
        lambda: ["a", None],
        ValueError,
        "a missing value (None) in row 1; pass",
    ),
    "NaN row": (
        lambda: ["a", np.nan],
        ValueError,
        "a missing value (nan) in row 1; pass",
    ),
    "NA row": (
        lambda: pandas().Series(["a", None], dtype="string"),
        ValueError,
        'in row 1; pass missing="empty"',
    ),
}


@pytest.mark.parametrize("container", REFUSED)
def test_other_containers_are_refused_in_fit_and_transform(tiny, container):
    make, error, message = REFUSED[container]
    vectorizer = BertVectorizer(tiny)
    with pytest.raises(error, match=re.escape(message)):
        vectorizer.fit(make())
    with pytest.raises(error, match=re.escape(message)):
        vectorizer.fit(["text"]).transform(make())


# Composition: the same as scikit-learn on features computed beforehand


@pytest.fixture(scope="module")
def vectorizer(tiny, tmp_path_factory):
    return BertVectorizer(tiny, memory=tmp_path_factory.mktemp("memory"))


def regression(**params):
    return LogisticRegression(max_iter=1000, **params)


def test_pipeline_equals_its_classifier_on_features(vectorizer, features):
    pipeline = Pipeline([("texts", vectorizer), ("clf", regression())]).fit(
        TEXTS, LABELS
    )
    expected = regression().fit(features, LABELS).predict_proba(features)
    assert_allclose(pipeline.predict_proba(TEXTS), expected, atol=1e-4)


META_ESTIMATORS = {
    "calibrated": lambda clf: CalibratedClassifierCV(clf, cv=2),
    "calibrated ensemble=False": lambda clf: CalibratedClassifierCV(
        clf, cv=2, ensemble=False
    ),
    "one versus rest": OneVsRestClassifier,
    "stacking": lambda clf: StackingClassifier([("a", clf)], regression(), cv=2),
    "tuned threshold": lambda clf: TunedThresholdClassifierCV(clf, cv=2),
    "voting": lambda clf: VotingClassifier([("a", clf), ("b", clf)], voting="soft"),
    "halving": lambda clf: HalvingGridSearchCV(clf, {}, cv=2, min_resources=12),
}


@pytest.mark.parametrize("name", META_ESTIMATORS)
def test_meta_estimators_equal_themselves_on_features(vectorizer, features, name):
    make = META_ESTIMATORS[name]
    ours = make(make_pipeline(vectorizer, regression())).fit(TEXTS, LABELS)
    theirs = make(regression()).fit(features, LABELS)
    assert_allclose(
        ours.predict_proba(TEXTS), theirs.predict_proba(features), atol=1e-4
    )


def test_transformed_target_regressor_equals_itself_on_features(vectorizer, features):
    make = partial(TransformedTargetRegressor, func=np.log1p, inverse_func=np.expm1)
    lengths = np.array([len(text) for text in TEXTS], dtype=float)
    ours = make(make_pipeline(vectorizer, Ridge())).fit(TEXTS, lengths)
    theirs = make(Ridge()).fit(features, lengths)
    assert_allclose(ours.predict(TEXTS), theirs.predict(features), rtol=1e-4)


@pytest.mark.parametrize("container", ["list", "str array", "pandas Series"])
def test_cross_validation_splits_containers(vectorizer, features, container):
    X = CONTAINERS[container](TEXTS)
    pipeline = make_pipeline(vectorizer, regression())
    scores = cross_validate(pipeline, X, LABELS, cv=3)["test_score"]
    assert_allclose(scores, cross_val_score(regression(), features, LABELS, cv=3))


def test_union_equals_several_poolings(vectorizer):
    cls, largest = (clone(vectorizer).set_params(pooling=p) for p in ("cls", "max"))
    both = clone(vectorizer).set_params(pooling=["cls", "max"]).fit_transform(TEXTS)
    assert_array_equal(make_union(cls, largest).fit_transform(TEXTS), both)
    union = FeatureUnion([("a", cls), ("b", largest)], transformer_weights={"b": 2.0})
    assert_array_equal(union.fit_transform(TEXTS), both * np.repeat([1, 2], 32))


def test_pipeline_memory_gives_the_same(vectorizer, tmp_path):
    pipeline = make_pipeline(vectorizer, SelectKBest(k=4), memory=str(tmp_path))
    first = pipeline.fit_transform(TEXTS, LABELS)
    assert_array_equal(clone(pipeline).fit(TEXTS, LABELS).transform(TEXTS), first)


def test_sample_weight_is_routed_past_the_vectorizer(vectorizer, features):
    weight = np.linspace(1, 2, len(TEXTS))
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = regression().set_fit_request(sample_weight=True)
        pipeline = make_pipeline(vectorizer, classifier)
        pipeline.fit(TEXTS, LABELS, sample_weight=weight)
    expected = regression().fit(features, LABELS, sample_weight=weight)
    assert_allclose(pipeline[-1].coef_, expected.coef_, atol=1e-4)


# Columns and names


def frame_of_texts(kind="pandas"):
    columns = {"title": TEXTS, "body": TEXTS[::-1], "stars": list(range(len(TEXTS)))}
    return pytest.importorskip(kind).DataFrame(columns)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
@pytest.mark.parametrize("columns", ["title", ["title"]], ids=["string", "list"])
def test_column_transformer_takes_either_selector(vectorizer, features, kind, columns):
    transformer = ColumnTransformer([("text", vectorizer, columns)])
    assert_allclose(
        transformer.fit_transform(frame_of_texts(kind)), features, atol=1e-5
    )


def test_column_transformer_takes_several_text_columns(vectorizer, features):
    transformer = ColumnTransformer(
        [
            ("a", vectorizer, "title"),
            ("b", vectorizer, ["body"]),
            ("c", "passthrough", [2]),
        ]
    )
    X = transformer.fit_transform(frame_of_texts())
    expected = np.hstack([features, features[::-1], np.c_[range(len(TEXTS))]])
    assert_allclose(X, expected, atol=1e-5)


def test_column_transformer_with_two_columns_for_one_is_refused(vectorizer):
    transformer = ColumnTransformer([("text", vectorizer, ["title", "body"])])
    with pytest.raises(ValueError, match=re.escape(f"of shape ({len(TEXTS)}, 2)")):
        transformer.fit(frame_of_texts())


def test_names_pass_through_column_transformer_and_pipeline(vectorizer):
    columns = ColumnTransformer([("text", vectorizer, "title")])
    pipeline = make_pipeline(columns, SelectKBest(k=2)).fit(frame_of_texts(), LABELS)
    names = pipeline.get_feature_names_out()
    kept = pipeline[-1].get_support(indices=True)
    assert names.tolist() == [f"text__layer2_mean_{i}" for i in kept]


def test_every_feature_has_a_name_of_its_own(tiny):
    vectorizer = BertVectorizer(tiny, layer="all", pooling=["cls", "max"])
    X = vectorizer.fit_transform(TEXTS)
    names = vectorizer.get_feature_names_out()
    assert len(set(names)) == len(names) == X.shape[1] == 6 * 32


@pytest.mark.parametrize("container", ["pandas frame", "pandas Series"])
def test_pandas_output_keeps_the_index(vectorizer, features, container):
    if container == "pandas Series" and sklearn.__version__.startswith("1.6"):
        pytest.skip("scikit-learn 1.6 keeps the index of frames only")
    X = CONTAINERS[container](TEXTS)
    frame = clone(vectorizer).set_output(transform="pandas").fit_transform(X)
    assert frame.index.equals(X.index)
    assert list(frame.columns[[0, -1]]) == ["layer2_mean_0", "layer2_mean_31"]
    assert_allclose(frame.to_numpy(), features, atol=1e-5)


def test_polars_output_has_named_columns(vectorizer, features):
    polars()
    frame = clone(vectorizer).set_output(transform="polars").fit_transform(TEXTS)
    assert frame.columns[31] == "layer2_mean_31"
    assert_allclose(frame.to_numpy(), features, atol=1e-5)


def test_global_pandas_output_reaches_a_column_transformer(vectorizer):
    frame = frame_of_texts().set_index("stars", drop=False)[::-1]
    with sklearn.config_context(transform_output="pandas"):
        columns = ColumnTransformer(
            [("text", clone(vectorizer), ["title"]), ("rest", "passthrough", ["stars"])]
        )
        out = columns.fit_transform(frame)
    assert out.index.equals(frame.index)
    assert list(out.columns[[0, -1]]) == ["text__layer2_mean_0", "rest__stars"]


def test_html_repr_links_the_documentation(vectorizer):
    link = "https://sklearn-bert.readthedocs.io/en/stable/api/sklearn_bert.BertVectorizer.html"
    assert f'href="{link}"' in vectorizer._repr_html_()
    assert link in make_pipeline(vectorizer, regression())._repr_html_()


def test_repr_shows_changed_parameters_only():
    assert (
        repr(BertVectorizer("dir", layer=3)) == "BertVectorizer(layer=3, model='dir')"
    )


# Searches


def test_grid_equals_cross_validation_on_features_in_one_pass(tiny, tmp_path, work):
    pipeline = make_pipeline(BertVectorizer(tiny, memory=tmp_path), regression())
    grid = {
        "bertvectorizer__layer": [0, 1, 2],
        "bertvectorizer__pooling": ["cls", "max"],
    }
    search = GridSearchCV(pipeline, grid, cv=3).fit(TEXTS, LABELS)
    assert work().n_texts == len(TEXTS)
    best = {name.rpartition("__")[2]: v for name, v in search.best_params_.items()}
    X = BertVectorizer(tiny, **best).fit_transform(TEXTS)
    expected = cross_val_score(regression(), X, LABELS, cv=3).mean()
    assert search.best_score_ == pytest.approx(expected)


def test_grid_in_two_processes_gives_the_same_scores(vectorizer):
    pipeline = make_pipeline(vectorizer, regression())
    grid = {"bertvectorizer__layer": [0, 1, 2], "logisticregression__C": [0.01, 1.0]}
    one, two = (
        GridSearchCV(pipeline, grid, cv=2, n_jobs=n_jobs).fit(TEXTS, LABELS).cv_results_
        for n_jobs in (1, 2)
    )
    assert_allclose(two["mean_test_score"], one["mean_test_score"])


def test_processes_that_find_all_texts_stored_never_import_torch(vectorizer):
    vectorizer.fit_transform(TEXTS)
    get_reusable_executor().shutdown()  # other tests may have imported it there

    def has_torch(fitted, X, y):
        fitted.transform(X)
        return float("torch" in sys.modules)

    search = GridSearchCV(
        vectorizer, {"layer": [0, 1, 2]}, cv=2, n_jobs=2, scoring=has_torch, refit=False
    ).fit(TEXTS, LABELS)
    assert search.cv_results_["mean_test_score"].tolist() == [0.0, 0.0, 0.0]


def test_random_search_passes_numpy_scalars(vectorizer):
    space = {
        "layer": randint(0, 3),
        "pooling": np.array(["cls", "mean", "max"]),
        "normalize": np.array([True, False]),
        "max_length": np.array([16, 32]),
    }
    search = RandomizedSearchCV(
        vectorizer, space, n_iter=6, cv=2, random_state=0, error_score="raise",
        scoring=lambda fitted, X, y: float(fitted.transform(X).shape == (len(X), 32)),
    ).fit(TEXTS, LABELS)  # fmt: skip
    assert set(search.cv_results_["mean_test_score"]) == {1.0}


def test_halving_search_takes_texts(vectorizer):
    pipeline = make_pipeline(vectorizer, regression())
    grid = {"bertvectorizer__layer": [0, 1, 2]}
    search = HalvingGridSearchCV(pipeline, grid, cv=2, min_resources=8, random_state=0)
    assert search.fit(TEXTS, LABELS).n_resources_[0] == 8
    assert search.predict(TEXTS).shape == (len(TEXTS),)


def test_grid_over_models_changes_the_model(tiny, tmp_path):
    models = [tiny, make_tiny_encoder(tmp_path / "other", seed=1)]
    vectorizer = BertVectorizer(tiny, memory=tmp_path / "memory")
    search = GridSearchCV(
        vectorizer, {"model": models}, cv=2,
        scoring=lambda fitted, X, y: fitted.transform(TEXTS[:1])[0, 0],
    ).fit(TEXTS, LABELS)  # fmt: skip
    expected = [BertVectorizer(m).fit_transform(TEXTS[:1])[0, 0] for m in models]
    assert expected[0] != pytest.approx(expected[1], abs=1e-3)
    assert_allclose(search.cv_results_["mean_test_score"], expected, atol=1e-5)


# Copies, parameters and state

COPIES = {
    "pickle": lambda fitted, path: pickle.loads(pickle.dumps(fitted)),
    "deepcopy": lambda fitted, path: copy.deepcopy(fitted),
    "joblib": lambda fitted, path: joblib.load(joblib.dump(fitted, path / "fitted")[0]),
    "clone": lambda fitted, path: clone(fitted).fit(TEXTS, LABELS),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_give_the_same_features(tiny, tmp_path, name):
    memory = joblib.Memory(tmp_path, verbose=0)
    fitted = BertVectorizer(tiny, memory=memory, **SCALAR_MIX).fit(TEXTS, LABELS)
    copied = COPIES[name](fitted, tmp_path)
    assert_allclose(copied.transform(TEXTS), fitted.transform(TEXTS), rtol=1e-6)


@pytest.mark.parametrize("params", [{}, SCALAR_MIX], ids=["default", "scalar_mix"])
def test_pickle_holds_no_weights(vectorizer, params):
    fitted = clone(vectorizer).set_params(**params).fit(TEXTS, LABELS)
    fitted.transform(TEXTS)
    assert len(pickle.dumps(fitted)) < 10_000


def test_clone_is_not_fitted(vectorizer):
    copied = clone(clone(vectorizer).fit(TEXTS))
    assert vars(copied).keys() == copied.get_params().keys()
    with pytest.raises(
        NotFittedError, match="BertVectorizer instance is not fitted yet"
    ):
        copied.transform(TEXTS)
    with pytest.raises(
        NotFittedError, match="BertVectorizer instance is not fitted yet"
    ):
        copied.get_feature_names_out()


def test_fit_sets_nothing_but_fitted_attributes(vectorizer):
    fitted = clone(vectorizer)
    params = fitted.get_params()
    fitted.fit(TEXTS)
    assert all(fitted.get_params()[name] is value for name, value in params.items())
    new = vars(fitted).keys() - params.keys()
    assert all(name.startswith("_") or name.endswith("_") for name in new)


@pytest.mark.parametrize(
    "change",
    [
        {"layer": 1},
        {"layer_combination": "mean"},
        {"pooling": "cls"},
        {"special_tokens": False},
        {"normalize": True},
        {"max_length": 8},
        {"overflow": "raise"},
        {"stride": 1},
        {"prompt": "query: "},
        {"dtype": "bfloat16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_decisive_parameters_call_for_fit_again(vectorizer, change):
    fitted = clone(vectorizer).fit(TEXTS).set_params(**change)
    ((name, value),) = change.items()
    message = f"{name} was .* in fit and is {value!r} now; call fit again"
    with pytest.raises(ValueError, match=message):
        fitted.transform(TEXTS)


def test_other_parameters_may_change_after_fit(vectorizer, features):
    fitted = clone(vectorizer).fit(TEXTS)
    fitted.set_params(memory=None, batch_size=3, device="cpu", store_layers="requested")
    fitted.set_params(n_jobs=1, missing="empty", verbose=False, local_files_only=True)
    assert_allclose(fitted.transform(TEXTS), features, atol=1e-5)


def test_fit_again_leaves_the_old_encoder(tiny, tmp_path):
    other = make_tiny_encoder(tmp_path, n_layers=3, width=16)
    fitted = BertVectorizer(tiny).fit(TEXTS).set_params(model=other).fit(TEXTS)
    fresh = BertVectorizer(other).fit(TEXTS)
    assert fitted.fingerprint_ == fresh.fingerprint_
    assert_allclose(fitted.transform(TEXTS), fresh.transform(TEXTS), atol=1e-5)
    assert vars(fitted).keys() == vars(fresh).keys()


def test_numpy_scalars_are_valid_for_every_parameter(tiny, features):
    params = {
        "model": np.str_(tiny),
        "layer": np.int64(2),
        "layer_combination": np.str_("concat"),
        "pooling": np.str_("mean"),
        "special_tokens": np.True_,
        "normalize": np.False_,
        "max_length": np.int32(64),
        "overflow": np.str_("truncate"),
        "stride": np.int64(2),
        "prompt": np.str_(""),
        "missing": np.str_("raise"),
        "store_layers": np.str_("all"),
        "batch_size": np.int64(4),
        "device": np.str_("cpu"),
        "dtype": np.str_("float32"),
        "n_jobs": np.int64(1),
        "local_files_only": np.True_,
        "trust_remote_code": np.False_,
        "verbose": np.False_,
    }
    assert_allclose(BertVectorizer(**params).fit_transform(TEXTS), features, atol=1e-5)


def test_a_path_is_a_model(tiny, features):
    assert_allclose(
        BertVectorizer(Path(tiny)).fit_transform(TEXTS), features, atol=1e-5
    )


def test_fit_again_forgets_layer_weights(vectorizer):
    fitted = clone(vectorizer).set_params(**SCALAR_MIX).fit(TEXTS, LABELS)
    fitted.set_params(layer_combination="concat").fit(TEXTS)
    assert not hasattr(fitted, "layer_weights_")
    assert not hasattr(fitted, "gamma_")


def test_a_fit_that_failed_is_not_fitted(vectorizer):
    failed = clone(vectorizer).set_params(**SCALAR_MIX)
    with pytest.raises(ValueError, match="requires y to be passed"):
        failed.fit(TEXTS)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        failed.transform(TEXTS)


def test_an_equal_value_needs_no_fit_again(vectorizer, features):
    fitted = clone(vectorizer).set_params(layer=np.int64(2)).fit(TEXTS)
    assert_allclose(fitted.set_params(layer=2).transform(TEXTS), features, atol=1e-5)


def test_the_order_of_texts_changes_no_float():
    check = estimator_checks.check_methods_sample_order_invariance
    with threadpool_limits(2):  # threads share out rows by their position
        check("NumericBertVectorizer", NumericBertVectorizer())


def test_scalar_mix_encodes_once_in_fit_transform(tiny, work):
    BertVectorizer(tiny, **SCALAR_MIX).fit_transform(TEXTS, LABELS)
    assert work().n_texts == len(TEXTS)
