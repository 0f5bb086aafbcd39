"""Recommendations: parameters that fit, reasons with sources, code that runs."""

import importlib
import itertools
import json
from pathlib import Path

import joblib
import pytest

import sklearn_bert
from sklearn_bert import BertProbeClassifier, BertVectorizer
from sklearn_bert.checkpoint import DEFAULT_MODEL
from sklearn_bert.inspection import _recommend, pipeline_code, recommend

BASE = "google-bert/bert-base-uncased"
HOMES = {
    "BertFineTuneClassifier": "finetune",
    "BertTokenProbeClassifier": "token_probe",
}
SITUATIONS = [
    {"task": task, "n_labels": n_labels, "device": device, **options}
    for task, n_labels, device, options in itertools.product(
        ("classification", "similarity", "ner", "syntax"),
        (None, 50, 600, 2000, 20_000),
        ("cpu", "cuda"),
        (
            {},
            {"n_classes": 150, "n_texts": 100_000, "n_tokens": 1000},
            {"texts_per_second": 300, "n_tokens": 40},
            {"texts_per_second": 5000, "model": BASE, "reuses_features": True},
            {"is_far_domain": True, "n_texts": 10},
            {"every_point_counts": True, "model": "./mine", "texts_per_second": 1},
        ),
    )
]


def class_of(name):
    if name in sklearn_bert.__all__:
        return getattr(sklearn_bert, name)
    home = pytest.importorskip(f"sklearn_bert.{HOMES[name]}")
    return getattr(home, name)


@pytest.mark.parametrize("task", ["classification", "similarity", "ner", "syntax"])
def test_parameters_are_those_of_the_estimator(task):
    for situation in SITUATIONS:
        if situation["task"] != task:
            continue
        advice = recommend(**situation)
        estimator = class_of(advice.estimator)()
        estimator.set_params(**advice.params)
        assert estimator.model == situation.get("model", DEFAULT_MODEL)
        if advice.first is not None:
            BertProbeClassifier().set_params(**advice.first)


def test_every_reason_has_a_source_and_the_text_says_what_decides():
    for situation in SITUATIONS:
        advice = recommend(**situation)
        text = " ".join(str(advice).split())
        assert len(advice.reasons) >= 2
        for reason in advice.reasons:
            assert reason.source == "rule of thumb" or any(
                mark in reason.source for mark in ("measured: ", "19", "20")
            )
            assert " ".join(reason.text.split()) in text
        assert "decides" in text
        assert max(map(len, str(advice).splitlines())) <= 88


@pytest.mark.parametrize(
    ("given", "approach", "layer"),
    [
        ({}, "frozen", "cv"),
        ({"n_labels": 50}, "frozen", -1),
        ({"n_labels": 600}, "frozen", "mix"),
        ({"n_labels": 600, "texts_per_second": 1}, "frozen", "cv"),
        ({"n_labels": 750, "n_classes": 150}, "frozen", [-4, -3, -2, -1]),
        ({"n_labels": 20_000}, "frozen", "mix"),
        ({"n_labels": 20_000, "device": "cuda"}, "fine-tune", None),
        (
            {"n_labels": 20_000, "device": "cuda", "reuses_features": True},
            "frozen",
            "mix",
        ),
        ({"n_labels": 50, "is_far_domain": True}, "frozen", -1),
        ({"n_labels": 9000, "is_far_domain": True}, "fine-tune", None),
        ({"n_labels": 20_000, "every_point_counts": True}, "fine-tune", None),
        (
            {"n_labels": 9000, "is_far_domain": True, "model": BASE},
            "freeze lower layers",
            None,
        ),
        ({"task": "similarity"}, "frozen", -1),
        ({"task": "tokens"}, "frozen", [-4, -3, -2, -1]),
    ],
)
def test_what_is_recommended(given, approach, layer):
    advice = recommend(**given)
    assert (advice.approach, advice.params.get("layer")) == (approach, layer)
    assert (advice.first is not None) == (approach != "frozen")


def test_a_speed_that_is_needed_lowers_the_layer_and_replaces_its_reason():
    slow = recommend(n_labels=750, n_classes=150)
    fast = recommend(n_labels=750, n_classes=150, texts_per_second=300, n_tokens=30)
    assert fast.params["layer"] == 2  # 119 texts per second through 6
    assert "2 of 6" in fast.layer
    assert any("concatenating" in reason.text for reason in slow.reasons)
    assert not any("concatenating" in reason.text for reason in fast.reasons)
    assert recommend(texts_per_second=100).params["layer"] == "cv"
    long = recommend(texts_per_second=50, n_tokens=250)
    assert long.params["layer"] == 2
    assert long.reasons[0].text.startswith("All layers take about 17 texts")


def test_long_texts_are_read_in_windows():
    assert recommend(n_tokens=300).params["overflow"] == "chunk"
    assert "overflow" not in recommend(n_tokens=300, model=BASE).params
    assert recommend(n_tokens=600, model=BASE).params["overflow"] == "chunk"


def test_features_that_are_reused_are_kept_and_large_stores_bounded():
    assert "memory" not in recommend("similarity").params
    few = recommend("similarity", reuses_features=True, n_texts=1000)
    many = recommend("similarity", reuses_features=True, n_texts=100_000)
    assert few.params["memory"] == many.params["memory"] == "features"
    assert "store_layers" not in few.params
    assert many.params["store_layers"] == "requested"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"task": "poetry"}, ValueError, "task must be one of 'classification'"),
        ({"n_labels": 0}, ValueError, "n_labels must be at least 1"),
        ({"n_tokens": 2.5}, TypeError, "n_tokens must be an integer"),
        ({"texts_per_second": -1}, ValueError, "texts_per_second must be finite"),
        ({"device": "tpu"}, ValueError, "device must be one of 'cpu', 'cuda'"),
        ({"reuses_features": 1}, TypeError, "reuses_features must be True or False"),
    ],
)
def test_parameters_that_are_not_valid_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        recommend(**given)


def test_the_times_are_those_of_the_benchmarks():
    results = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
    if not results.is_dir():
        pytest.skip("the benchmarks are not beside an installed package")

    def rate(file, case):
        cases = json.loads((results / file).read_text(encoding="utf-8"))["cases"]
        return cases[case]["rows"]["sklearn_bert float32"]["texts_per_second"]

    small, base = (_recommend._MEASURED[name] for name in (DEFAULT_MODEL, BASE))
    assert small.short == pytest.approx(rate("encode.json", "MiniLM-short"), rel=0.1)
    long = rate("encode.json", "MiniLM-long")
    assert small.tokens_per_second == pytest.approx(325 * long, rel=0.1)
    of_base = rate("encode-bert-base.json", "BERT-base-short")
    assert base.short == pytest.approx(of_base, rel=0.1)


def test_the_crossovers_are_those_of_the_benchmark(monkeypatch):
    benchmarks = Path(__file__).resolve().parents[1] / "benchmarks"
    kept = benchmarks / "results" / "frozen_vs_finetuned.json"
    if not kept.is_file():
        pytest.skip("the benchmarks are not beside an installed package")
    monkeypatch.syspath_prepend(benchmarks)
    files = [kept, *sorted(kept.parent.glob("frozen_vs_finetuned-*.json"))]
    found = importlib.import_module("bench_frozen_vs_finetuned").measured(
        *(json.loads(file.read_text(encoding="utf-8")) for file in files)
    )
    told = {row.task: row._asdict() for row in _recommend._CROSSOVERS}
    assert told.keys() == found.keys()
    for task, numbers in found.items():
        assert numbers == {name: told[task][name] for name in numbers}, task


def test_training_is_recommended_from_the_labels_that_were_measured():
    rows = _recommend._CROSSOVERS
    few = [row for row in rows if row.n_classes < 20]
    bound = max(100, min(row.n_labels or 5000 for row in few))
    for n_labels, approach in ((bound - 1, "frozen"), (bound, "fine-tune")):
        advice = recommend(n_labels=n_labels, n_classes=2, every_point_counts=True)
        assert advice.approach == approach
        assert any(f"up to {row.most:,}" in r.text or f"on {row.task} from" in r.text
                   for row in few for r in advice.reasons)  # fmt: skip
    assert recommend(n_labels=bound, n_classes=2).approach == "frozen"


# Code to paste


def test_code_runs_and_gives_the_vectorizer_of_its_parameters(tiny, tmp_path):
    file = tmp_path / 'it\'s "quoted".csv'
    file.write_text("text,y\n" + "red,a\none,b\n" * 4, encoding="utf-8")
    params = {
        "model": tiny, "layer": (1, 2), "pooling": ["mean", "max"], "max_length": 20,
        "memory": joblib.Memory(tmp_path / "kept", verbose=0), "prompt": 'a "b"\n',
    }  # fmt: skip
    code = pipeline_code(params, source=file, label="y", encoding="utf-8")
    assert "encoding" not in code
    assert max(map(len, code.replace(str(tmp_path), "").splitlines())) <= 88
    namespace = {}
    exec(code, namespace)
    fitted = namespace["classifier"]
    assert fitted.predict(["red", "one"]).tolist() == ["a", "b"]
    made = fitted[0].get_params()
    assert made["prompt"] == params["prompt"]
    assert made["layer"] == [1, 2]
    assert any((tmp_path / "kept").iterdir())


def test_code_leaves_defaults_out_and_refuses_objects():
    code = pipeline_code({**BertVectorizer().get_params(), "layer": 3})
    assert f'    BertVectorizer("{DEFAULT_MODEL}", layer=3),' in code.splitlines()
    assert code.endswith("classifier.fit(X, y)")
    with pytest.raises(TypeError, match=r"memory=<.*> cannot be spelt out as code"):
        pipeline_code({"memory": importlib})
