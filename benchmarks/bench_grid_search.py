"""Measure what a grid search over layers and poolings costs beyond its classifiers.

Protocol. The grid is every layer x [CLS], mean, max, five folds and the final refit, of
``Pipeline(encoder, StandardScaler, LogisticRegression)`` on docstring summaries and
their topics. Four processes do, in interleaved rounds: the search with an empty store
(cold); the search with a full one (warm); one forward pass over all texts that gives
every layer and pooling; and the same search where the first step looks ready features
up in an array, which is the classifiers' own time. Reported are cold / (one pass +
classifiers) and warm / classifiers within rounds, and the mean accuracy over settings,
which shows that the searches saw the same features.

Then the peers, which have no parameter for the layer: the same Pipeline over
sentence-transformers (in a step of ten lines), skrub and embetter, without and with
``Pipeline(memory=)``. Only their encoder counts: ``SentenceTransformer.encode``, which
all three call, is wrapped to count texts and seconds. Two grids, both of few settings
so that they end: over settings of the encoder (the model's directory spelt in other
ways stands for layers and poolings) and over settings of the classifier. "measured" is
what was run. "scaled" multiplies the measured number of texts per setting up to the
size of the whole grid, times the measured seconds per text; it was not run. With
``--peer-settings`` of the whole grid, nothing is scaled.

Command: ``python benchmarks/bench_grid_search.py [--models MiniLM BERT-base]
[--texts N] [--rounds N] [--peers NAME ...] [--peer-settings N] [--peer-texts N]
[--keep | --out FILE] [--short]``
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import common
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

POOLINGS = ["cls", "mean", "max"]
N_FOLDS = 5
PEERS = ["sentence-transformers", "skrub TextEncoder", "embetter SentenceEncoder"]


def read_texts(n_texts):
    from sklearn_bert.datasets import load_docstrings

    docs = load_docstrings(n_texts // 10)
    return docs.data, docs.target


def search(encoder, grid, pipeline_memory=None):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    steps = [
        ("encoder", encoder),
        ("scale", StandardScaler()),
        ("clf", LogisticRegression(C=0.01, max_iter=1000)),
    ]
    return GridSearchCV(
        Pipeline(steps, memory=pipeline_memory), grid, cv=N_FOLDS, error_score="raise"
    )


class Ready(TransformerMixin, BaseEstimator):
    """Look features up by row, as if encoding cost nothing."""

    blocks = {}  # noqa: RUF012 - (layer, pooling) to features, for all clones

    def __init__(self, layer=0, pooling="mean"):
        self.layer = layer
        self.pooling = pooling

    def fit(self, X, y=None):
        """Do nothing."""
        return self

    def transform(self, X):
        """Return the features of rows."""
        return self.blocks[self.layer, self.pooling][X[:, 0]]

    def __sklearn_is_fitted__(self):
        return True


# Our search, and what it is compared with


def prepare_ours(what, model, n_texts, place):
    from sklearn_bert import BertVectorizer
    from sklearn_bert.features import WORK

    texts, labels = read_texts(n_texts)
    n_layers = common.shape_of(model)["n_layers"]
    layers = list(range(n_layers + 1))
    everything = BertVectorizer(
        model, layer="all", pooling=POOLINGS, normalize=False
    ).fit([])
    is_normalized = BertVectorizer(model).fit([]).normalize_
    grid = {"encoder__layer": layers, "encoder__pooling": POOLINGS}
    warm = f"{place}/warm-{n_layers}"

    def run(encoder, X):
        before = WORK.copy()
        started = time.perf_counter()
        found = search(encoder, grid).fit(X, labels)
        seconds = time.perf_counter() - started
        work = WORK.since(before)
        scores = found.cv_results_["mean_test_score"]
        return {
            "seconds": seconds,
            "encoder_seconds": work.seconds,
            "n_encoded": work.n_texts,
            "best": [found.best_params_[name] for name in grid],
            "mean_score": float(scores.mean()),
        }

    def one_pass():
        started = time.perf_counter()
        everything.transform(texts)
        return {"seconds": time.perf_counter() - started}

    def cold():
        with tempfile.TemporaryDirectory(dir=place) as memory:
            return run(BertVectorizer(model, memory=memory), texts)

    if what == "classifiers":
        width = common.shape_of(model)["width"]
        block = everything.transform(texts).reshape(len(texts), 3, n_layers + 1, width)
        for p, pooling in enumerate(POOLINGS):
            for layer in layers:
                part = np.ascontiguousarray(block[:, p, layer])
                if is_normalized:  # each layer by itself, as in the grid
                    part /= np.linalg.norm(part, axis=1, keepdims=True)
                Ready.blocks[layer, pooling] = part
        rows = np.arange(len(texts))[:, None]
        return lambda: run(Ready(), rows)
    if what == "warm":
        BertVectorizer(model, memory=warm).fit(texts).transform(texts)
        return lambda: run(BertVectorizer(model, memory=warm), texts)
    everything.transform(texts[:32])  # load the encoder
    return {"cold": cold, "one pass": one_pass}[what]


def compare_ours(model: str, n_texts: int, rounds: int, place: Path) -> dict:
    parts = ["cold", "warm", "one pass", "classifiers"]
    answers, absent = common.race(
        __file__,
        {
            part: {
                "part": "ours", "what": part, "model": model, "n_texts": n_texts,
                "place": str(place),
            }
            for part in parts
        },
        rounds,
    )  # fmt: skip
    if absent:
        raise RuntimeError(f"our own part failed: {absent}")
    cold, warm, one_pass, own = (common.seconds_of(answers[part]) for part in parts)
    bare = [p + c for p, c in zip(one_pass, own, strict=True)]
    n_settings = len(POOLINGS) * (common.shape_of(model)["n_layers"] + 1)
    return {
        "n_texts": n_texts,
        "n_settings": n_settings,
        "n_fits": n_settings * N_FOLDS + 1,
        "rounds": rounds,
        "seconds": {
            part: common.rounded(common.seconds_of(answers[part])) for part in parts
        },
        "n_encoded": {part: answers[part][0]["n_encoded"] for part in ("cold", "warm")},
        "encoder_seconds": common.rounded(
            [answer["encoder_seconds"] for answer in answers["cold"]]
        ),
        "cold_to_pass_and_classifiers": common.ratios(cold, bare),
        "warm_to_classifiers": common.ratios(warm, own),
        "best": {p: answers[p][0]["best"] for p in ("cold", "warm", "classifiers")},
        "mean_score": {
            p: round(answers[p][0]["mean_score"], 6)
            for p in ("cold", "warm", "classifiers")
        },
    }


# Peers


class SentenceTransformersStep(TransformerMixin, BaseEstimator):
    """sentence-transformers as a step, loaded when it is fitted."""

    def __init__(self, model=None):
        self.model = model

    def fit(self, X, y=None):
        """Load the model."""
        from sentence_transformers import SentenceTransformer

        self.encoder_ = SentenceTransformer(self.model, device="cpu")
        return self

    def transform(self, X):
        """Encode texts."""
        return self.encoder_.encode(list(X))


def make_peer(peer, model):
    """Return the step and the name of its parameter that holds the model."""
    if peer == "skrub TextEncoder":
        from skrub import TextEncoder

        return TextEncoder(model, n_components=None, device="cpu"), "model_name"
    if peer == "embetter SentenceEncoder":
        from embetter.text import SentenceEncoder

        return SentenceEncoder(model, device="cpu"), "name"
    return SentenceTransformersStep(model), "model"


def prepare_peer(peer, model, n_texts, n_settings, place):
    import pandas as pd
    from sentence_transformers import SentenceTransformer

    texts, labels = read_texts(n_texts)
    X = pd.Series(texts, name="text")
    step, name_of_model = make_peer(peer, model)
    count = {"n_encoded": 0, "encoder_seconds": 0.0}
    encode = SentenceTransformer.encode

    def counted(self, sentences, *arguments, **named):
        started = time.perf_counter()
        result = encode(self, sentences, *arguments, **named)
        count["encoder_seconds"] += time.perf_counter() - started
        count["n_encoded"] += len(sentences)
        return result

    SentenceTransformer.encode = counted
    paths = [model + "/." * i for i in range(n_settings)]  # one directory, other names
    grids = {
        "encoder": {f"encoder__{name_of_model}": paths},
        "classifier": {"clf__C": list(np.geomspace(1e-3, 1, n_settings))},
    }

    def work():
        runs = []
        for over, grid in grids.items():
            for with_memory in (False, True):
                count.update(n_encoded=0, encoder_seconds=0.0)
                with tempfile.TemporaryDirectory(dir=place) as directory:
                    search(step, grid, directory if with_memory else None).fit(
                        X, labels
                    )
                runs.append({"over": over, "with_memory": with_memory, **count})
        return {"runs": runs}

    return work


def compare_peers(
    model: str, ours: dict, peers: list[str], n_settings: int, n_texts: int, place: Path
) -> tuple[list, dict]:
    answers, absent = common.race(
        __file__,
        {
            peer: {
                "part": "peer", "peer": peer, "model": model, "n_texts": n_texts,
                "n_settings": n_settings, "place": str(place),
            }
            for peer in peers
        },
        1,
    )  # fmt: skip
    is_whole = n_settings == ours["n_settings"] and n_texts == ours["n_texts"]
    our_seconds = float(np.median(ours["encoder_seconds"]))
    rows = []
    for peer, (answer,) in answers.items():
        for run in answer["runs"]:
            n_encoded, seconds = run["n_encoded"], run["encoder_seconds"]
            row = {
                "peer": peer,
                "grid_over": run["over"],
                "with_memory": run["with_memory"],
                "measured_settings": n_settings,
                "measured_texts": n_texts,
                "measured_encoded": n_encoded,
                "measured_encoder_seconds": round(seconds, 3),
                "ms_per_text": round(1000 * seconds / n_encoded, 4),
                "is_scaled": not is_whole,
            }
            whole = _whole_grid(n_encoded, n_settings, n_texts, ours)
            if whole is not None:
                row["grid_encoded"] = whole
                row["grid_encoder_seconds"] = round(whole * seconds / n_encoded, 1)
                row["ratio_to_ours"] = round(
                    whole * seconds / n_encoded / our_seconds, 1
                )
            rows.append(row)
    return rows, absent


def _whole_grid(n_encoded, n_settings, n_texts, ours):
    """Return how many texts the whole grid would encode, from the count of a small one.

    Either every setting encodes every fold anew, or the training folds are encoded once
    and the test folds for every setting. A count that fits neither is not scaled.
    """
    per_fold_anew = {n: N_FOLDS * n + 1 for n in (n_settings, ours["n_settings"])}
    training_once = {n: N_FOLDS - 1 + n + 1 for n in (n_settings, ours["n_settings"])}
    for passes in (per_fold_anew, training_once):
        if n_encoded == passes[n_settings] * n_texts:
            return passes[ours["n_settings"]] * ours["n_texts"]
    return None


def prepare(part, **arguments):
    return {"ours": prepare_ours, "peer": prepare_peer}[part](**arguments)


def report(results: dict) -> str:
    """Return the tables of results, in Markdown."""
    parts = []
    for case, facts in results["cases"].items():
        parts.append(
            f"**{case}**: {facts['n_settings']} settings, {N_FOLDS} folds, "
            f"{facts['n_fits']} fits, {facts['n_texts']:,} texts, {facts['rounds']} "
            "rounds."
        )
        rows = [
            (f"seconds, {part}", f"{np.median(values):.2f}")
            for part, values in facts["seconds"].items()
        ]
        rows += [
            (f"texts encoded, {part}", f"{n:,}")
            for part, n in facts["n_encoded"].items()
        ]
        rows += [
            (
                "cold / (one pass + classifiers)",
                common.with_range(facts["cold_to_pass_and_classifiers"], 3),
            ),
            ("warm / classifiers", common.with_range(facts["warm_to_classifiers"], 3)),
        ]
        rows += [
            (f"mean accuracy of all settings, {part}", f"{score:.5f}")
            for part, score in facts["mean_score"].items()
        ]
        parts.append(common.table(("our grid", "measured"), rows))
        if facts.get("peers"):
            parts.append(_report_peers(facts))
        parts.append("\n".join(common.absentees(facts.get("absent", {}))))
    return "\n\n".join(part for part in parts if part)


def _report_peers(facts: dict) -> str:
    first = facts["peers"][0]
    kind = "scaled, not run" if first["is_scaled"] else "measured"
    encoded = facts["n_encoded"]["cold"]
    seconds = float(np.median(facts["encoder_seconds"]))
    intro = (
        f"Peers, encoder only: measured on {first['measured_settings']} settings and "
        f"{first['measured_texts']} texts; the grid of {facts['n_settings']} settings "
        f"and {facts['n_texts']:,} texts is {kind}. Ours, measured on the whole grid: "
        f"{encoded:,} texts, {seconds:.2f} s."
    )
    header = (
        "peer", "grid over", "Pipeline memory", "texts encoded (measured)",
        "s (measured)", "ms per text", f"texts, whole grid ({kind})",
        f"s, whole grid ({kind})", "times ours",
    )  # fmt: skip
    rows = [
        (
            row["peer"],
            row["grid_over"],
            "yes" if row["with_memory"] else "no",
            f"{row['measured_encoded']:,}",
            f"{row['measured_encoder_seconds']:.2f}",
            f"{row['ms_per_text']:.2f}",
            *(
                f"{row[name]:,.0f}" if name in row else "not scaled"
                for name in ("grid_encoded", "grid_encoder_seconds", "ratio_to_ours")
            ),
        )
        for row in facts["peers"]
    ]
    return f"{intro}\n\n{common.table(header, rows)}"


def add_options(parser: argparse.ArgumentParser) -> None:
    models = ["MiniLM", "BERT-base"]
    parser.add_argument("--models", nargs="+", choices=models, default=models)
    parser.add_argument("--texts", type=int, default=1000, help="a multiple of 10")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--peer-settings", type=int, default=3)
    parser.add_argument(
        "--peer-texts", type=int, default=200, help="a quarter of it for BERT-base"
    )


def main() -> None:
    if common.is_worker():
        common.serve(prepare)
        return
    short = {
        "texts": 100, "rounds": 1, "models": ["MiniLM"], "peer_settings": 2,
        "peer_texts": 50, "peers": PEERS[:1],
    }  # fmt: skip
    options = common.parse(__doc__, add_options, short)
    keeper = common.Keeper("grid_search", options)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for model_name in options.models:
            common.say(f"{model_name}: our grid")
            model = common.find_model(model_name, place)
            facts = compare_ours(model, options.texts, options.rounds, place)
            keeper.add(model_name, facts)
            common.say(f"{model_name}: peers")
            n_texts = options.peer_texts
            if model_name == "BERT-base":  # eight times as slow; 50 is the least
                n_texts = max(50, n_texts // 40 * 10)
            facts["peers"], facts["absent"] = compare_peers(
                model, facts, options.peers, options.peer_settings, n_texts, place
            )
            keeper.add(model_name, facts)
            print(report({"cases": {model_name: facts}}), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
