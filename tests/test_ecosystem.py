"""Search tools, each run for a few trials on real text: no text is encoded twice.

What is light runs with all other tests; `make test-ecosystem` runs everything, in an
environment of its own.
"""

import pickle
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_bert import BertProbeClassifier, BertVectorizer
from sklearn_bert import search_spaces as spaces
from sklearn_bert.datasets import load_docstrings, make_tiny_encoder

N_TOPICS = 4


@pytest.fixture(scope="module")
def docs():
    """Return summaries of docstrings on four topics, no two alike, and the topics."""
    docs = load_docstrings(12)
    chosen = np.flatnonzero(docs.target < N_TOPICS)
    names = np.array(docs.target_names)
    return [docs.data[i][:200] for i in chosen], names[docs.target[chosen]]


@pytest.fixture(scope="module")
def encoder(docs, tmp_path_factory):
    """Return the directory of a tiny encoder that knows the words of the texts."""
    words = sorted(set(re.findall("[a-z]+", " ".join(docs[0]).lower())))
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder"), vocabulary=words)


@pytest.fixture
def vectorizer(encoder, tmp_path):
    return BertVectorizer(encoder, memory=str(tmp_path / "features"))


@pytest.fixture
def pipeline(vectorizer):
    head = LogisticRegression(max_iter=1000)
    return Pipeline([("bert", vectorizer), ("scale", StandardScaler()), ("clf", head)])


def tool(name, group="ecosystem"):
    return pytest.importorskip(name, reason=f"{name}: install the group {group!r}")


def column(texts):
    """Return texts as an array of one column, for tools that count columns."""
    return np.array(texts, dtype=object).reshape(-1, 1)


# Optuna


optuna_warnings = pytest.mark.filterwarnings(
    "ignore:OptunaSearchCV is experimental",
    "ignore:.optuna.terminator. module:FutureWarning",
    "ignore:The OptunaSearchCV or classes:FutureWarning",  # scikit-learn 1.6
)


@optuna_warnings
@pytest.mark.parametrize("size", ["small", "full"])
def test_optuna_search_encodes_each_text_once(docs, pipeline, work, size):
    tool("optuna", "tests").logging.set_verbosity(30)
    integration = tool("optuna_integration", "tests")
    search = integration.OptunaSearchCV(
        pipeline, spaces.optuna_space(pipeline, size=size), n_trials=5, cv=2,
        random_state=0, error_score="raise",
    )  # fmt: skip
    search.fit(*docs)
    assert len(search.trials_) == 5
    assert set(search.best_params_) <= set(pipeline.get_params())
    assert search.predict(docs[0]).shape == (len(docs[0]),)
    assert work().n_texts == len(set(docs[0]))


def test_an_objective_of_optuna_keeps_its_trials_in_a_data_base(
    docs, pipeline, work, tmp_path
):
    optuna = tool("optuna", "tests")
    optuna.logging.set_verbosity(30)

    def objective(trial):
        params = spaces.suggest(trial, pipeline, size="full")
        return cross_val_score(pipeline.set_params(**params), *docs, cv=2).mean()

    where = {"storage": f"sqlite:///{tmp_path / 'trials.db'}", "study_name": "bert"}
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler, **where)
    study.enqueue_trial({"bert__layer": "0"})
    study.enqueue_trial({"bert__layer": "1,2"})
    study.optimize(objective, n_trials=5)
    again = optuna.load_study(**where)
    assert again.best_params == study.best_params
    best = cross_val_score(pipeline.set_params(**again.best_params), *docs, cv=2)
    assert best.mean() == pytest.approx(study.best_value)
    drawn = {("," in t.params["bert__layer"], len(t.params)) for t in again.trials}
    assert drawn == {
        (False, 3),
        (True, 4),
    }  # a combination only where there are several
    assert work().n_texts == len(set(docs[0]))


# skrub


@pytest.fixture
def frame(docs):
    pandas = tool("pandas", "tests")
    length = [len(text) for text in docs[0]]
    return pandas.DataFrame({"text": docs[0], "length": length, "topic": docs[1]})


def test_dataops_of_skrub_choose_layers_of_one_column(frame, vectorizer, work):
    skrub = tool("skrub", "tests")
    choices = spaces.skrub_choices(vectorizer, size="full")
    head = LogisticRegression(C=choices.pop("C"), max_iter=1000)
    classifier = make_pipeline(StandardScaler(), head)
    data = skrub.var("data", frame)
    X = data[["text", "length"]].skb.mark_as_X()
    y = data["topic"].skb.mark_as_y()
    vectors = X.skb.apply(vectorizer.set_params(**choices), cols="text", y=y)
    predictor = vectors.skb.apply(classifier, y=y)
    search = predictor.skb.make_randomized_search(
        n_iter=3, cv=2, random_state=0, fitted=True
    )
    assert {"layer", "layer_combination", "pooling", "C"} < set(search.results_.columns)
    assert search.results_["mean_test_score"].notna().all()
    assert work().n_texts == len(set(frame["text"]))


def test_skrub_applies_a_vectorizer_to_a_column(frame, vectorizer, work):
    skrub = tool("skrub", "tests")
    out = skrub.ApplyToCols(vectorizer, cols="text").fit_transform(frame)
    expected = [f"layer2_mean_{i}" for i in range(32)]
    assert [*expected, "length", "topic"] == sorted(out.columns, key=list(out).index)
    assert work().n_texts == len(set(frame["text"]))


def test_a_table_vectorizer_of_skrub_takes_it_for_columns_of_many_values(
    frame, vectorizer, work
):
    skrub = tool("skrub", "tests")
    table = skrub.TableVectorizer(high_cardinality=vectorizer, cardinality_threshold=20)
    out = table.fit_transform(frame)
    assert {"layer2_mean_0", "length", "topic_arrays"} <= set(out.columns)
    assert table.transform(frame).shape == out.shape
    assert work().n_texts == len(set(frame["text"]))


# FLAML

flaml_warnings = pytest.mark.filterwarnings(
    "ignore:.*inplace keyword:DeprecationWarning", "ignore:.*:FutureWarning:flaml"
)


@flaml_warnings
def test_flaml_tunes_a_pipeline(docs, pipeline, work):
    tune = tool("flaml.automl") and tool("flaml").tune

    def evaluate(config):
        scores = cross_val_score(pipeline.set_params(**config), *docs, cv=2)
        return {"accuracy": scores.mean()}

    analysis = tune.run(
        evaluate, config=spaces.flaml_space(pipeline), metric="accuracy", mode="max",
        num_samples=5, verbose=0,
    )  # fmt: skip
    assert set(analysis.best_config) == set(spaces.plain_space(pipeline))
    assert work().n_texts == len(set(docs[0]))


def automl(estimator, X, y, **options):
    AutoML = tool("flaml.automl").AutoML
    automl = AutoML()
    automl.add_learner("bert", spaces.flaml_learner(estimator, **options))
    automl.fit(
        X, y, task="classification", estimator_list=["bert"], max_iter=4, verbose=0,
        eval_method="cv", n_splits=2, metric="accuracy", skip_transform=True,
    )  # fmt: skip
    return automl


@flaml_warnings
def test_automl_of_flaml_searches_on_a_column_of_texts(frame, pipeline, work):
    X, y = frame[["text"]], frame["topic"].to_numpy()
    found = automl(pipeline, X, y)
    assert set(found.predict(X)) <= set(y)
    best = pickle.loads(pickle.dumps(found.model.estimator))
    assert best["bert"].layer == found.best_config["bert__layer"]
    assert work().n_texts == len(set(frame["text"]))


@flaml_warnings
def test_automl_of_flaml_searches_a_probe(docs, vectorizer, work):
    probe = BertProbeClassifier(vectorizer.model, memory=vectorizer.memory)
    found = automl(probe, column(docs[0]), docs[1], prefix="", C="C", size="full")
    assert isinstance(found.model.estimator, BertProbeClassifier)
    assert work().n_texts == len(set(docs[0]))


@flaml_warnings
def test_automl_of_flaml_searches_beside_other_columns(frame, vectorizer, work):
    X, y = frame[["text", "length"]], frame["topic"].to_numpy()
    columns = make_column_transformer(
        (vectorizer, "text"), (StandardScaler(), ["length"])
    )
    pipeline = Pipeline([("columns", columns), ("clf", LogisticRegression())])
    found = automl(pipeline, X, y, prefix="columns__bertvectorizer__")
    assert set(found.predict(X)) <= set(y)
    assert work().n_texts == len(set(frame["text"]))


@flaml_warnings
@pytest.mark.parametrize("times", [1, 2])
def test_texts_that_flaml_has_transformed_are_refused(frame, pipeline, times):
    AutoML = tool("flaml.automl").AutoML
    X = frame.loc[list(range(len(frame))) * times, ["text"]].reset_index(drop=True)
    y = np.tile(frame["topic"], times)
    automl = AutoML()
    automl.add_learner("bert", spaces.flaml_learner(pipeline))
    with pytest.raises(ValueError, match=r"pass skip_transform=True to AutoML\.fit"):
        automl.fit(
            X, y, task="classification", estimator_list=["bert"], max_iter=1,
            verbose=0, eval_method="cv", n_splits=2,
        )  # fmt: skip


# TPOT


tpot_warnings = pytest.mark.filterwarnings(
    "ignore:pkg_resources is deprecated",
    "ignore:Both generations and max_time_mins",
    "ignore:.*inplace keyword:DeprecationWarning",
    "ignore:Starting with pandas version:DeprecationWarning",
)


@tpot_warnings
@pytest.mark.parametrize("is_probe", [False, True])
def test_tpot_evolves_pipelines_that_begin_with_texts(docs, vectorizer, work, is_probe):
    tpot, distributed = tool("tpot"), tool("distributed")
    fixed = {"C": 0.1, "max_iter": 1000}
    head = tpot.search_spaces.nodes.EstimatorNode(LogisticRegression, fixed)
    node = spaces.tpot_node(vectorizer, size="full")
    space = tpot.search_spaces.pipelines.SequentialPipeline([node, head])
    if is_probe:
        probe = BertProbeClassifier(vectorizer.model, memory=vectorizer.memory)
        space = spaces.tpot_node(probe)
    y = np.unique(docs[1], return_inverse=True)[1]
    with (
        distributed.LocalCluster(  # in this process, where passes are counted
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        search = tpot.TPOTEstimator(
            search_space=space, scorers=["accuracy"], scorers_weights=[1],
            classification=True, cv=2, population_size=4, generations=2,
            client=client, random_state=0, verbose=0,
        )  # fmt: skip
        search.fit(column(docs[0]), y)
    assert search.evaluated_individuals["Eval Error"].isna().all()
    assert search.predict(column(docs[0][:3])).shape == (3,)
    assert work().n_texts == len(set(docs[0]))


# scikit-optimize, sklearn-genetic-opt


@pytest.mark.parametrize("size", ["small", "full"])
def test_bayes_search_of_scikit_optimize_encodes_each_text_once(
    docs, pipeline, work, size
):
    skopt = tool("skopt")
    search = skopt.BayesSearchCV(
        pipeline, spaces.plain_space(pipeline, size=size), n_iter=5, cv=2,
        random_state=0, error_score="raise",
    )  # fmt: skip
    search.fit(*docs)
    assert search.predict(docs[0]).shape == (len(docs[0]),)
    assert work().n_texts == len(set(docs[0]))


def test_genetic_search_encodes_each_text_once(docs, pipeline, work):
    sklearn_genetic, space = tool("sklearn_genetic"), tool("sklearn_genetic.space")
    grid = {
        name: (
            space.Continuous(*values[:2], distribution="log-uniform")
            if isinstance(values, tuple)
            else space.Categorical(values)
        )
        for name, values in spaces.plain_space(pipeline, size="full").items()
    }
    search = sklearn_genetic.GASearchCV(
        estimator=pipeline, param_grid=grid, population_size=4, generations=2, cv=2,
        error_score="raise", verbose=False,
    )  # fmt: skip
    search.fit(*docs)
    assert search.predict(docs[0]).shape == (len(docs[0]),)
    assert work().n_texts == len(set(docs[0]))


# Records and files


@pytest.mark.filterwarnings("ignore:The ``noload`` loader")
@pytest.mark.filterwarnings("ignore:.y_pred. was renamed:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")
def test_mlflow_logs_parameters_and_the_fitted_pipeline(docs, pipeline, work, tmp_path):
    mlflow = tool("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.create_experiment("bert", artifact_location=(tmp_path / "runs").as_uri())
    mlflow.set_experiment("bert")
    mlflow.sklearn.autolog()
    try:
        with mlflow.start_run() as run:
            pipeline.set_params(bert__layer="1,2").fit(*docs)
    finally:
        mlflow.sklearn.autolog(disable=True)
    data = mlflow.get_run(run.info.run_id).data
    assert data.params["bert__layer"] == "1,2"
    assert "training_accuracy_score" in data.metrics
    again = mlflow.sklearn.load_model(f"runs:/{run.info.run_id}/model")
    np.testing.assert_array_equal(again.predict(docs[0]), pipeline.predict(docs[0]))
    assert work().n_texts == len(set(docs[0]))


def test_skops_keeps_the_best_pipeline_of_a_search(docs, pipeline, work):
    io = tool("skops.io", "tests")
    from sklearn.model_selection import GridSearchCV

    search = GridSearchCV(pipeline, spaces.grid_space(pipeline), cv=2).fit(*docs)
    content = io.dumps(search.best_estimator_)
    trusted = io.get_untrusted_types(data=content)
    assert all(name.startswith("sklearn_bert.") for name in trusted)
    again = io.loads(content, trusted=trusted)
    np.testing.assert_array_equal(again.predict(docs[0]), search.predict(docs[0]))
    assert work().n_texts == len(set(docs[0]))


# The page


PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "automl.md"


@flaml_warnings
@tpot_warnings
@optuna_warnings
@pytest.mark.parametrize(
    "name", ["optuna_integration", "flaml.automl", "tpot", "skopt", "sklearn_genetic"]
)
def test_what_the_page_shows_of_a_tool_runs(
    name, docs, pipeline, tmp_path, monkeypatch, work
):
    tool(name, "tests" if name.startswith("optuna") else "ecosystem")
    if not PAGE.is_file():
        pytest.skip("the documentation is not beside these tests")
    monkeypatch.chdir(tmp_path)
    shown = re.findall(
        r"^```\{code-block\} python\n(.*?)^```$",
        PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL,
    )  # fmt: skip
    start = f"from {name.removesuffix('.automl')} import"
    (code,) = [block for block in shown if start in block]
    before = {
        "__name__": "__main__", "X": docs[0],
        "y": np.unique(docs[1], return_inverse=True)[1],
        "pipeline": pipeline, "plain_space": spaces.plain_space,
        "BertVectorizer": partial(BertVectorizer, pipeline["bert"].model),
    }  # fmt: skip
    exec(compile(code, str(PAGE), "exec"), before)
    is_elsewhere = name == "tpot"  # in processes of its own
    assert work().n_texts == (0 if is_elsewhere else len(set(docs[0])))
