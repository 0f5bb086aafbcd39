"""Estimators as code to paste: calls spelt out, and a whole pipeline.

Imports `tables` and `vectorizer`, for the defaults that code need not spell out.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ..tables import read_labelled
from ..vectorizer import BertVectorizer

__all__ = ["call_of", "pipeline_code"]

_WIDTH = 88


def pipeline_code(params: dict[str, Any], *, source: Any = None, **reading: Any) -> str:
    """Spell out a pipeline around a vectorizer as code that runs.

    Parameters
    ----------
    params : dict
        Parameters of `BertVectorizer`, such as `LayerSweep.best`. Those that have their
        default value are left out.
    source : str or path-like, default=None
        A file that `sklearn_bert.tables.read_labelled` reads. None leaves ``X`` and
        ``y`` to be defined.
    **reading
        Other parameters of `read_labelled`.

    Returns
    -------
    str
        Python code that fits ``classifier``: the vectorizer, and what `layer_sweep`
        scores by default.

    Raises
    ------
    TypeError
        A parameter cannot be spelt out, such as an estimator, or is one of words.

    Examples
    --------
    >>> from sklearn_bert.inspection import pipeline_code
    >>> print(pipeline_code({"layer": 3, "pooling": "mean"}, source="reviews.csv"))
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    <BLANKLINE>
    from sklearn_bert import BertVectorizer
    from sklearn_bert.tables import read_labelled
    <BLANKLINE>
    X, y = read_labelled("reviews.csv")
    classifier = make_pipeline(
        BertVectorizer(layer=3, pooling="mean"),
        StandardScaler(),
        LogisticRegression(C=0.01, tol=1e-3, max_iter=1000),
    )
    classifier.fit(X, y)
    """
    if "subwords" in params:
        raise TypeError(
            "pipeline_code spells out pipelines of texts, and these are parameters of "
            "words; pass them to BertTokenProbeClassifier."
        )
    lines = [
        "from sklearn.linear_model import LogisticRegression",
        "from sklearn.pipeline import make_pipeline",
        "from sklearn.preprocessing import StandardScaler",
        "",
        "from sklearn_bert import BertVectorizer",
    ]
    if source is not None:
        lines.append("from sklearn_bert.tables import read_labelled")
    lines.append("")
    if source is not None:
        reading = {"source": source, **_unusual(read_labelled, reading)}
        lines.append("X, y = " + call_of("read_labelled", reading).lstrip())
    vectorizer = call_of("BertVectorizer", _unusual(BertVectorizer, params), indent=4)
    return "\n".join(
        [
            *lines,
            "classifier = make_pipeline(",
            f"{vectorizer},",
            "    StandardScaler(),",
            "    LogisticRegression(C=0.01, tol=1e-3, max_iter=1000),",
            ")",
            "classifier.fit(X, y)",
        ]
    )


def _unusual(function: Callable[..., Any], params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that do not have their default value."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
    }
    return {
        name: value
        for name, value in params.items()
        if name == "model" or _literal(name, value) != _literal(name, defaults[name])
    }


def call_of(name: str, params: dict[str, Any], *, indent: int = 0) -> str:
    """Return a call, with its arguments a line each where one line is too short."""
    first = [key for key in ("model", "source") if key in params]
    given = [_literal(key, params[key]) for key in first]
    given += [
        f"{key}={_literal(key, value)}"
        for key, value in params.items()
        if key not in first
    ]
    space = " " * indent
    call = f"{space}{name}({', '.join(given)})"
    if len(call) < _WIDTH:  # a comma may follow
        return call
    inner = "\n".join(f"{space}    {one}," for one in given)
    return f"{space}{name}(\n{inner}\n{space})"


def _literal(name: str, value: Any) -> str:
    if hasattr(value, "store_backend") and hasattr(value, "location"):  # joblib.Memory
        value = value.location
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple, range)):
        return f"[{', '.join(_literal(name, one) for one in value)}]"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    raise TypeError(f"{name}={value!r} cannot be spelt out as code.")
