"""Search spaces: what is in them, that every value works, and what a search costs."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    ParameterGrid,
    ParameterSampler,
    RandomizedSearchCV,
    StratifiedShuffleSplit,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_bert import (
    BertProbeClassifier,
    BertTokenProbeClassifier,
    BertTokenVectorizer,
    BertVectorizer,
)
from sklearn_bert import search_spaces as spaces
from sklearn_bert.datasets import make_tiny_encoder
from sklearn_bert.inspection import LayerSweepDisplay

TEXTS = ["good film", "bad film", "a good end", "a bad end", "good", "bad"] * 4
LABELS = np.array(["good", "bad"] * 12)
ONE_SPLIT = StratifiedShuffleSplit(1, random_state=0)
SIZES = ["small", "full"]


@pytest.fixture
def vectorizer(tiny, tmp_path):
    return BertVectorizer(tiny, memory=tmp_path)


@pytest.fixture
def pipeline(vectorizer):
    head = LogisticRegression()
    return Pipeline([("bert", vectorizer), ("scale", StandardScaler()), ("clf", head)])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Return a function that gives the directory of an encoder of so many layers."""
    made = {}

    def make(n_layers):
        if n_layers not in made:
            directory = tmp_path_factory.mktemp(f"layers{n_layers}")
            made[n_layers] = make_tiny_encoder(
                directory, n_layers=n_layers, width=4, n_heads=1
            )
        return made[n_layers]

    return make


def probe_like(vectorizer):
    return BertProbeClassifier(vectorizer.model, memory=vectorizer.memory)


# What is in a space


@pytest.mark.parametrize(
    ("n_layers", "single", "together"),
    [
        (1, [1], []),
        (2, [1, 2], [[1, 2]]),
        (3, [1, 2, 3], [[1, 2, 3]]),
        (6, [2, 3, 5, 6], [[3, 4, 5, 6]]),
        (12, [3, 6, 9, 12], [[9, 10, 11, 12]]),
    ],
)
def test_a_small_grid_spreads_layers_over_the_depth(
    encoder, n_layers, single, together
):
    first, *others = spaces.grid_space(encoder(n_layers))
    assert first["bert__layer"] == single
    assert [layer for part in others for layer in part["bert__layer"]] == together


@pytest.mark.parametrize("n_layers", [1, 2, 6])
def test_a_full_grid_has_every_layer_and_a_learned_mix(encoder, n_layers):
    first, *_, last = spaces.grid_space(encoder(n_layers), size="full")
    assert first["bert__layer"] == list(range(n_layers + 1))
    assert last["bert__layer"] == ["all"]
    assert last["bert__layer_combination"] == ["scalar_mix"]


@pytest.mark.parametrize(("size", "n_candidates"), [("small", 30), ("full", 288)])
def test_no_candidate_is_in_a_grid_twice(encoder, size, n_candidates):
    grid = ParameterGrid(spaces.grid_space(encoder(6), size=size))
    assert len({str(params) for params in grid}) == len(grid) == n_candidates


@pytest.mark.parametrize("size", SIZES)
def test_names_have_the_prefix_and_the_head_its_own(tiny, size):
    for part in spaces.grid_space(tiny, size=size, prefix="a__b__", C="end__C"):
        assert {"a__b__layer", "a__b__pooling", "end__C"} <= set(part)
        assert all(name.startswith("a__b__") for name in set(part) - {"end__C"})


def test_without_a_head_nothing_is_said_of_its_strength(tiny):
    for part in spaces.grid_space(tiny, C=None) + spaces.random_space(tiny, C=None):
        assert not [name for name in part if name.endswith("C")]


def test_strengths_are_drawn_between_bounds(tiny):
    drawn = ParameterSampler(spaces.random_space(tiny, size="full"), 50, random_state=0)
    strengths = [params["clf__C"] for params in drawn]
    assert 1e-4 <= min(strengths) < 1e-2 < 1 < max(strengths) <= 10


@pytest.mark.parametrize("size", SIZES)
def test_a_plain_space_holds_the_layers_of_the_grid_as_text(encoder, size):
    plain = spaces.plain_space(encoder(6), size=size)
    parts = spaces.grid_space(encoder(6), size=size)
    layers = [layer for part in parts for layer in part["bert__layer"]]
    as_text = [str(k).strip("[]").replace(" ", "") for k in layers if k != "all"]
    assert plain["bert__layer"] == as_text
    assert all(isinstance(v, str) for v in plain["bert__pooling"])


def test_changing_a_space_does_not_change_the_next(tiny):
    for part in spaces.grid_space(tiny, size="full"):
        for values in part.values():
            values.clear()
    assert all(part["bert__layer"] for part in spaces.grid_space(tiny, size="full"))


@pytest.mark.parametrize("size", SIZES)
def test_a_space_is_the_same_for_a_name_a_vectorizer_and_a_pipeline(pipeline, size):
    of_name = spaces.grid_space(pipeline["bert"].model, size=size)
    assert spaces.grid_space(pipeline["bert"], size=size) == of_name
    assert spaces.grid_space(pipeline, size=size) == of_name


@pytest.mark.parametrize("space", [spaces.grid_space, spaces.random_space])
def test_a_probe_by_itself_is_searched_by_its_own_names(tiny, tmp_path, space):
    probe = BertProbeClassifier(tiny, memory=tmp_path)
    for part in space(probe):
        assert set(part) <= {"layer", "pooling", "C"}
    search = GridSearchCV(probe, spaces.grid_space(probe)[0], cv=ONE_SPLIT)
    assert np.isfinite(search.fit(TEXTS, LABELS).cv_results_["mean_test_score"]).all()


def test_a_mix_is_a_layer_of_a_probe(vectorizer):
    options = {"size": "full", "prefix": "", "C": "C"}
    *_, last = spaces.grid_space(probe_like(vectorizer), **options)
    assert last["layer"] == ["mix"]
    assert "mix" in spaces.plain_space(probe_like(vectorizer), **options)["layer"]


# Every value works, and no text is encoded twice


@pytest.mark.parametrize("size", SIZES)
def test_a_grid_search_encodes_each_text_once(pipeline, work, size):
    grid = spaces.grid_space(pipeline, size=size, C=None)
    search = GridSearchCV(pipeline, grid, cv=ONE_SPLIT, error_score="raise")
    search.fit(TEXTS, LABELS)
    assert len(search.cv_results_["params"]) == len(ParameterGrid(grid))
    assert work().n_texts == len(set(TEXTS))


@pytest.mark.parametrize("size", SIZES)
def test_a_randomized_search_encodes_each_text_once(pipeline, work, size):
    space = spaces.random_space(pipeline, size=size)
    search = RandomizedSearchCV(
        pipeline, space, n_iter=12, cv=ONE_SPLIT, random_state=0, error_score="raise"
    )
    search.fit(TEXTS, LABELS)
    drawn = search.cv_results_["params"]
    assert len({str(params) for params in drawn}) == 12
    assert len({params["clf__C"] for params in drawn}) > 6
    assert work().n_texts == len(set(TEXTS))


@pytest.mark.parametrize("size", SIZES)
def test_every_strength_of_a_grid_is_taken(pipeline, size):
    strengths = spaces.grid_space(pipeline, size=size)[0]["clf__C"]
    for C in strengths:
        pipeline.set_params(clf__C=C).fit(TEXTS, LABELS)
    assert strengths == sorted(set(strengths))


@pytest.mark.parametrize("size", SIZES)
def test_every_value_of_a_plain_space_fits(pipeline, work, size):
    space = spaces.plain_space(pipeline, size=size, C=None)
    for values in itertools.product(*space.values()):
        params = dict(zip(space, map(np.str_, values), strict=True))
        pipeline.set_params(**params).fit(TEXTS, LABELS)
    assert work().n_texts == len(set(TEXTS))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", [spaces.grid_space, spaces.plain_space])
def test_every_value_fits_a_probe(vectorizer, work, size, form):
    probe = probe_like(vectorizer)
    space = form(probe, size=size, prefix="", C=None)
    for params in ParameterGrid(space):
        probe.set_params(**params).fit(TEXTS, LABELS)
    assert work().n_texts == len(set(TEXTS))


def test_a_space_is_made_without_torch(tiny):
    code = (
        "import sys; from sklearn_bert.search_spaces import grid_space, plain_space;"
        f"grid_space({tiny!r}); plain_space({tiny!r}, size='full');"
        "tools = {'torch', 'transformers', 'optuna', 'flaml', 'skrub', 'tpot'};"
        "assert not tools & set(sys.modules), tools & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Layers and poolings as text


def test_layers_and_poolings_may_be_text(tiny, work):
    as_text = BertVectorizer(tiny, layer="2,-2", pooling="max,cls").fit(TEXTS)
    as_lists = BertVectorizer(tiny, layer=[2, -2], pooling=["max", "cls"]).fit(TEXTS)
    np.testing.assert_array_equal(as_text.transform(TEXTS), as_lists.transform(TEXTS))
    names = as_text.get_feature_names_out()
    np.testing.assert_array_equal(names, as_lists.get_feature_names_out())
    assert BertVectorizer(tiny, layer="1").fit(TEXTS).layers_ == (1,)


def test_a_probe_reads_text_as_well(vectorizer):
    probe = probe_like(vectorizer).set_params(layer="1,2", pooling="cls,mean")
    assert probe.fit(TEXTS, LABELS).layers_ == (1, 2)


def test_estimators_of_words_read_text_as_well(tiny):
    words = [text.split() for text in TEXTS]
    assert BertTokenVectorizer(tiny, layer="0,1").fit(words).layers_ == (0, 1)
    tags = [["x"] + ["y"] * (len(w) - 1) for w in words]
    tagger = BertTokenProbeClassifier(tiny, layer="1,2")
    assert tagger.fit(words, tags).layers_ == (1, 2)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layer": "9"}, r"layer=9 is out of range"),
        ({"layer": "1,-2"}, r"names a layer twice"),
        ({"layer": "1,"}, r"layer must be an integer, a sequence .* got '1,'"),
        ({"layer": "1.5"}, r"layer must be an integer, a sequence .* got '1\.5'"),
        ({"pooling": "mean,avg"}, r"pooling\[1\] must be one of .* got 'avg'"),
        ({"pooling": "mean,mean"}, r"must not name a pooling twice"),
        ({"pooling": "mean,"}, r"pooling\[1\] must be one of .* got ''"),
    ],
)
def test_text_that_is_no_layer_and_no_pooling_is_refused(tiny, params, message):
    with pytest.raises(ValueError, match=message):
        BertVectorizer(tiny, **params).fit(TEXTS)


def test_a_sweep_reads_the_results_of_a_search_over_text(pipeline):
    space = {"bert__layer": ["1", "2", "1,2"], "bert__pooling": ["cls", "mean,max"]}
    search = GridSearchCV(pipeline, space, cv=2).fit(TEXTS, LABELS)
    sweep = LayerSweepDisplay.from_cv_results(search).sweep
    assert sweep.layers == (1, 2, (1, 2))
    assert sweep.poolings == ("cls", "mean+max")


# Refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": "large"}, ValueError, r"size must be one of 'small', 'full'"),
        ({"prefix": "bert"}, ValueError, r"prefix must be '' or .* got 'bert'"),
        ({"C": 1.0}, TypeError, r"C must be the name of a parameter, .* got 1\.0"),
        ({"encoder": 3}, TypeError, r"encoder must be the name or directory .* got 3"),
        ({"encoder": "./no"}, ValueError, r"'\./no' is not a directory"),
    ],
)
def test_a_bad_question_is_refused(tiny, options, error, message):
    with pytest.raises(error, match=message):
        spaces.grid_space(**{"encoder": tiny, **options})


def test_a_step_that_is_not_there_is_refused_with_those_that_are(pipeline):
    with pytest.raises(ValueError, match=r"prefix='text__' leads to .* \['bert__'\]"):
        spaces.grid_space(pipeline, prefix="text__")
    with pytest.raises(ValueError, match=r"C='svm__C' is no .* \['clf__C'\]"):
        spaces.grid_space(pipeline, C="svm__C")
    with pytest.raises(ValueError, match=r"prefix='' leads to .* has none"):
        spaces.grid_space(StandardScaler(), prefix="")


@pytest.mark.parametrize(
    ("function", "module", "extra"),
    [
        (spaces.optuna_space, "optuna", "optuna"),
        (spaces.flaml_space, "flaml", "flaml"),
        (spaces.flaml_learner, "flaml", "flaml"),
        (spaces.skrub_choices, "skrub", "skrub"),
        (spaces.tpot_node, "tpot", "tpot"),
    ],
)
def test_a_tool_that_is_missing_is_named_with_its_extra(
    pipeline, monkeypatch, function, module, extra
):
    for name in [module, *(n for n in sys.modules if n.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    estimator = pipeline if function is spaces.flaml_learner else pipeline["bert"]
    message = rf'pip install "sklearn-bert\[{extra}\]"'
    with pytest.raises(ImportError, match=message):
        function(estimator)


def test_a_learner_needs_an_estimator(tiny):
    with pytest.raises(TypeError, match=r"estimator must be an unfitted estimator"):
        spaces.flaml_learner(tiny)
