"""The command line: ``python -m sklearn_bert`` and ``sklearn-bert``.

No logic of its own: it reads arguments, calls the public interface and prints. A
mistake of the user's is one line on the standard error and status 2; progress goes to
the standard error, results to the standard output.

Level 9 of the module map: nothing imports it.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, default=None
        None reads ``sys.argv``.

    Returns
    -------
    int
        Exit status.
    """
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    format_warning = warnings.formatwarning
    warnings.formatwarning = _one_line
    try:
        return run(options)
    except (ValueError, TypeError, ImportError, OSError) as error:
        print(f"sklearn-bert: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sklearn-bert: interrupted", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = format_warning


def _one_line(message: Any, *_: Any, **__: Any) -> str:
    return f"sklearn-bert: {message}\n"


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="sklearn-bert", description="Frozen BERT features for scikit-learn."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="sweep layers and poolings and grid-search a pipeline, on real text",
        description="The main job on texts that come with this machine: docstrings of "
        "the installed scientific packages, labelled by topic.",
    )
    demo.set_defaults(
        run=lambda given: _demo(given.out, given.model, given.n_per_class)
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("sklearn_bert_demo"),
        help="directory for the store and the picture (default: %(default)s)",
    )
    demo.add_argument(
        "--model", default=None, help="name on the hub or directory (default: MiniLM)"
    )
    demo.add_argument(
        "--n-per-class", type=int, default=100, help="texts per topic (default: 100)"
    )
    _add_sweep(commands)
    return parser


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser(
        "sweep",
        help="which layer and which pooling suit your labelled texts",
        description="Score a linear classifier on every layer under every pooling of "
        "an encoder, from one pass over your texts: a table, a picture, and the best "
        "pipeline as code to paste.",
    )
    sweep.set_defaults(run=_sweep)
    add = sweep.add_argument
    add(
        "file", metavar="FILE",
        help="CSV, TSV, JSON lines (these also with .gz) or Parquet; - is the standard "
        "input",
    )  # fmt: skip
    add("--text", metavar="COLUMN", default="text", help="texts (default: text)")
    add("--label", metavar="COLUMN", default="label", help="labels (default: label)")
    add("--model", default=None, help="name on the hub or directory (default: MiniLM)")
    add(
        "--layers", type=_numbers, default="all", metavar="K,K",
        help="layers, such as 0,3,6, or --layers=-2,-1 from the end (default: all)",
    )  # fmt: skip
    add(
        "--poolings", type=_names, default=["cls", "mean", "max"], metavar="NAME,NAME",
        help="such as mean,attention (default: cls,mean,max)",
    )  # fmt: skip
    add("--folds", type=int, default=5, help="of the cross-validation (default: 5)")
    add("--scoring", help="a scikit-learn score, such as f1_macro (default: accuracy)")
    add(
        "--memory", type=Path, metavar="DIR",
        help="where features are kept, so that nothing is encoded twice",
    )  # fmt: skip
    add("--plot", type=Path, metavar="FILE", help="a picture: .png, .svg or .pdf")
    add("--sample", type=int, metavar="N", help="rows to draw, for large files")
    add("--max-length", type=int, metavar="N", help="cut texts at so many tokens")
    add("--device", default="auto", help="cpu, cuda, mps (default: auto)")
    add("--jobs", type=int, metavar="N", help="processes for the classifiers")
    add("--format", help="csv, tsv, jsonl, parquet (default: by the name of FILE)")
    add("--delimiter", help="between the fields of CSV, such as ';'")
    add("--encoding", default="utf-8", help="of the file (default: %(default)s)")
    add("--quiet", action="store_true", help="no progress bar")


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",")]


def _numbers(given: str) -> Any:
    try:
        return given if given == "all" else [int(part) for part in given.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{given!r} must be 'all' or numbers with commas, such as 0,3,6"
        ) from None


def _sweep(options: argparse.Namespace) -> int:
    from sklearn.model_selection import StratifiedKFold

    from .checkpoint import DEFAULT_MODEL
    from .inspection import LayerSweepDisplay, layer_sweep, pipeline_code
    from .tables import read_labelled

    if options.plot is not None:
        _check_picture(options.plot)
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=0)
    reading = {
        name: getattr(options, name)
        for name in ("text", "label", "format", "delimiter", "encoding")
    }
    texts, labels = read_labelled(
        options.file, **reading, sample=options.sample, min_per_label=options.folds
    )
    sweep = layer_sweep(
        texts, labels, model=options.model or DEFAULT_MODEL, layers=options.layers,
        poolings=options.poolings, cv=folds, scoring=options.scoring,
        n_jobs=options.jobs, memory=options.memory, max_length=options.max_length,
        device=options.device, verbose=not options.quiet,
    )  # fmt: skip
    print(
        f"{sweep}\n\n{sweep.n_texts:,} texts; encoded: {sweep.n_texts_encoded:,}, in "
        f"{sweep.seconds_features:.1f} s; classifiers: {sweep.seconds_scoring:.1f} s"
    )
    if options.plot is not None:
        LayerSweepDisplay(sweep).plot().figure_.savefig(options.plot, dpi=150)
        print(f"picture: {options.plot}")
    best = {**sweep.best, "verbose": False}
    code = pipeline_code(best, source=options.file, **reading)
    print(f"\nThe best cell, as code that fits it to the whole file:\n\n{code}")
    return 0


def _check_picture(path: Path) -> None:
    """Refuse a picture that could not be saved, before anything is encoded."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('--plot: pip install "sklearn-bert[plot]".') from error
    endings = Figure().canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in endings:
        raise ValueError(f"--plot {path} must end in .png, .svg or .pdf.")
    if not path.parent.is_dir():
        raise ValueError(f"--plot {path}: there is no directory {path.parent}.")


def _demo(out: Path, model: str | None, n_per_class: int) -> int:
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
    return 0


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


if __name__ == "__main__":
    raise SystemExit(main())
