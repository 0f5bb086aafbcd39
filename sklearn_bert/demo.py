"""The demo: the main job on texts that come with the machine, told as it goes.

It prints; what it prints is made by the public interface. Level 9 of the module map:
only `__main__` imports it; imports `checkpoint`, `datasets`, `features`, `inspection`
and `vectorizer`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

__all__ = ["show_demo"]


def show_demo(out: Path, model: str | None, n_per_class: int) -> None:
    """Print tables, save a picture, and keep the features in `out`."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import StandardScaler

    from . import BertVectorizer
    from .checkpoint import DEFAULT_MODEL
    from .datasets import load_docstrings
    from .features import WORK
    from .inspection import layer_sweep

    model = model or DEFAULT_MODEL
    memory = out / "memory"
    started = time.perf_counter()
    docs = load_docstrings(n_per_class)
    texts = np.array(docs.data, dtype=object)
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    print(
        f"{len(texts):,} docstring summaries of the packages installed here, such as\n"
        f"  {texts[0]!r}\n"
        f"Topics: {', '.join(docs.target_names)}\n"
    )

    print(f"1. What is it about? Every layer x pooling of {model}")
    topic = layer_sweep(
        texts, docs.target, model=model, cv=cv, memory=memory, n_jobs=2, verbose=True
    )
    print(topic)
    before = time.perf_counter()
    BertVectorizer(model, memory=memory, layer="all").fit_transform(texts)
    warm = time.perf_counter() - before
    size = sum(f.stat().st_size for f in memory.rglob("*") if f.is_file())
    print(
        f"texts encoded: {topic.n_texts_encoded:,}, in {topic.seconds_features:.1f} s; "
        f"read again, all layers: {warm:.2f} s; classifiers: "
        f"{topic.seconds_scoring:.1f} s\n"
        f"stored: {size / 1e6:.1f} MB, {size / len(texts) / 1e3:.1f} kB per text\n"
    )

    print("2. Does it document a class, or a function? The same texts, the same pass")
    is_class = docs.kind == "class"
    form = layer_sweep(
        texts, is_class, model=model, cv=cv, memory=memory, n_jobs=2,
        scoring="balanced_accuracy",
    )  # fmt: skip
    print(f"{form}\ntexts encoded: {form.n_texts_encoded}\n")

    print("3. Choosing by cross-validation: GridSearchCV over the whole pipeline")
    n_layers = topic.layers[-1]
    top = list(range(max(1, n_layers - 3), n_layers + 1))
    search = GridSearchCV(
        Pipeline(
            [
                ("bert", BertVectorizer(model, memory=memory)),
                ("scale", StandardScaler()),
                ("clf", LogisticRegression(max_iter=1000)),
            ]
        ),
        {
            "bert__layer": [*range(1, n_layers + 1), top],
            "bert__pooling": ["cls", "mean", ["mean", "max"]],
            "clf__C": [0.003, 0.03],
        },
        cv=cv,
        n_jobs=2,
    )
    work, before = WORK.copy(), time.perf_counter()
    search.fit(texts, docs.target)
    n_fits = len(search.cv_results_["params"]) * search.n_splits_
    print(
        f"{n_fits} fits in {time.perf_counter() - before:.1f} s, "
        f"texts encoded: {WORK.since(work).n_texts}\n"
        f"best: {search.best_params_}\n"
    )

    print("4. Side by side, on the same splits (accuracy of question 1)")
    rows: list[tuple[str, Any]] = [
        (
            "TF-IDF + LogisticRegression(C=10)",
            make_pipeline(TfidfVectorizer(), LogisticRegression(C=10, max_iter=1000)),
        ),
        ("default BertVectorizer", _pipeline(BertVectorizer(model, memory=memory))),
        (
            f"last four layers, concatenated ({top[0]}-{top[-1]})",
            _pipeline(BertVectorizer(model, memory=memory, layer=top)),
        ),
        (
            "learned layer weights (scalar_mix)",
            _pipeline(
                BertVectorizer(
                    model, memory=memory, layer="all", layer_combination="scalar_mix"
                )
            ),
        ),
        ("the search's choice (optimistic)", search.best_estimator_),
    ]
    for label, estimator in rows:
        scores = cross_val_score(estimator, texts, docs.target, cv=cv, n_jobs=2)
        print(f"  {label:42s} {scores.mean():.3f} ±{scores.std():.3f}")
    print(f"texts encoded meanwhile: {WORK.since(work).n_texts}\n")

    _draw({"What is it about?": topic, "Class or function?": form}, out)
    print(
        f"total: {time.perf_counter() - started:.0f} s. Run it again: nothing is "
        "encoded twice.\n"
        "Next, on your own file: sklearn-bert sweep FILE --text COLUMN --label COLUMN"
    )


def _pipeline(vectorizer: Any) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    head = LogisticRegression(C=0.01, max_iter=1000)
    return make_pipeline(vectorizer, StandardScaler(), head)


def _draw(sweeps: dict[str, Any], out: Path) -> None:
    """Save the sweeps side by side, or say what is missing."""
    from .inspection import LayerSweepDisplay

    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('no picture: pip install "sklearn-bert[plot]"')
        return
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, len(sweeps))
    for ax, (title, sweep) in zip(axes, sweeps.items(), strict=True):
        LayerSweepDisplay(sweep).plot(ax=ax)
        ax.set_title(title)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "layer_sweep.png", dpi=150)
    print(f"picture: {out / 'layer_sweep.png'}")
