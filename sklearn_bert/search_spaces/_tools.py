"""The same space in the forms of tools, each imported when its function is called.

Imports `checkpoint`, `probe`, `vectorizer` and `_plain`, whose flat space of text and
numbers every form is made of.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone

from ..checkpoint import DEFAULT_MODEL
from ..probe import BertProbeClassifier
from ..vectorizer import BertVectorizer
from ._plain import FIRST_STRENGTH, plain_space

__all__ = [
    "flaml_learner", "flaml_space", "optuna_space", "skrub_choices", "suggest",
    "tpot_node",
]  # fmt: skip

# Optuna


def optuna_space(
    encoder: Any = DEFAULT_MODEL,
    *,
    size: str = "small",
    prefix: str = "bert__",
    C: str | None = "clf__C",
) -> dict[str, Any]:
    """Return the distributions of `plain_space` for `OptunaSearchCV`.

    They hold text and numbers only, so that any storage of Optuna's keeps them.

    Parameters
    ----------
    encoder : str or estimator, default="sentence-transformers/all-MiniLM-L6-v2"
        As in `grid_space`.
    size : {"small", "full"}, default="small"
        As in `plain_space`.
    prefix : str, optional
        As in `grid_space`.
    C : str or None, default="clf__C"
        As in `grid_space`.

    Returns
    -------
    dict
        Names of parameters and distributions of Optuna.

    Raises
    ------
    ImportError
        Optuna is not installed.

    See Also
    --------
    suggest : The same for an objective of one's own.
    """
    of = _tool("optuna", "optuna").distributions
    return _in_form(
        plain_space(encoder, size=size, prefix=prefix, C=C),
        lambda _, low, high: of.FloatDistribution(low, high, log=True),
        lambda _, values: of.CategoricalDistribution(values),
    )


def suggest(
    trial: Any,
    encoder: Any = DEFAULT_MODEL,
    *,
    size: str = "small",
    prefix: str = "bert__",
    C: str | None = "clf__C",
) -> dict[str, Any]:
    """Draw parameters in an objective of Optuna's.

    A combination of layers is drawn only where there are several. The trial keeps the
    values under the names of the parameters, so ``set_params(**study.best_params)``
    gives the best estimator.

    Parameters
    ----------
    trial : optuna.trial.Trial
        What the objective is called with.
    encoder : str or estimator, default="sentence-transformers/all-MiniLM-L6-v2"
        As in `grid_space`.
    size : {"small", "full"}, default="small"
        As in `plain_space`.
    prefix : str, optional
        As in `grid_space`.
    C : str or None, default="clf__C"
        As in `grid_space`.

    Returns
    -------
    dict
        Names of parameters and values, for ``set_params``.

    See Also
    --------
    optuna_space : The same for `OptunaSearchCV`.
    """
    params: dict[str, Any] = {}
    space = plain_space(encoder, size=size, prefix=prefix, C=C)
    for name, values in space.items():
        if isinstance(values, tuple):
            params[name] = trial.suggest_float(name, *values[:2], log=True)
        elif name != f"{prefix}layer_combination" or "," in params[f"{prefix}layer"]:
            params[name] = trial.suggest_categorical(name, values)
    return params


# FLAML


def flaml_space(
    encoder: Any = DEFAULT_MODEL,
    *,
    size: str = "small",
    prefix: str = "bert__",
    C: str | None = "clf__C",
) -> dict[str, Any]:
    """Return the domains of `plain_space` for ``flaml.tune.run(config=...)``.

    Parameters
    ----------
    encoder : str or estimator, default="sentence-transformers/all-MiniLM-L6-v2"
        As in `grid_space`.
    size : {"small", "full"}, default="small"
        As in `plain_space`.
    prefix : str, optional
        As in `grid_space`.
    C : str or None, default="clf__C"
        As in `grid_space`.

    Returns
    -------
    dict
        Names of parameters and domains of FLAML.

    Raises
    ------
    ImportError
        FLAML is not installed.
    """
    tune = _tool("flaml.tune", "flaml")
    return _in_form(
        plain_space(encoder, size=size, prefix=prefix, C=C),
        lambda _, low, high: tune.loguniform(low, high),
        lambda _, values: tune.choice(values),
    )


def flaml_learner(
    estimator: Any,
    *,
    size: str = "small",
    prefix: str = "bert__",
    C: str | None = "clf__C",
) -> type:
    """Return a learner for ``flaml.AutoML.add_learner`` that reads a column of texts.

    Pass ``skip_transform=True`` to ``AutoML.fit``. Without it, FLAML drops a column of
    texts of which no two are equal, and makes any other a category, in which all new
    texts are the same; the learner refuses both.

    Parameters
    ----------
    estimator : estimator
        Unfitted, for texts: a pipeline with a `BertVectorizer` under `prefix`, or a
        `BertProbeClassifier` with ``prefix=""`` and ``C="C"``.
    size : {"small", "full"}, default="small"
        As in `plain_space`.
    prefix : str, optional
        As in `grid_space`.
    C : str or None, default="clf__C"
        As in `grid_space`.

    Returns
    -------
    type
        A subclass of ``flaml.automl.model.BaseEstimator``. It is made here, so that
        ``pickle`` cannot find it by its name: keep ``automl.model.estimator``, the
        fitted pipeline.

    Raises
    ------
    ImportError
        FLAML is not installed, or without its part for AutoML.
    """
    domains = flaml_space(_of_pipeline(estimator), size=size, prefix=prefix, C=C)
    layers = domains[f"{prefix}layer"].categories
    first = {
        f"{prefix}layer": [layer for layer in layers if layer.isdigit()][-1],
        f"{prefix}layer_combination": "concat",
        f"{prefix}pooling": "mean",
        C: FIRST_STRENGTH,
    }
    base = _tool("flaml.automl.model", "flaml").BaseEstimator
    template = clone(estimator)

    class BertLearner(base):  # type: ignore[misc, valid-type]
        """Fits clones of one estimator with the parameters that FLAML draws."""

        def __init__(self, task: Any = "classification", **config: Any) -> None:
            super().__init__(task, **config)
            self.estimator_class = partial(_clone_with, template)

        def config2params(self, config: dict[str, Any]) -> dict[str, Any]:
            return {name: config[name] for name in domains if name in config}

        def _preprocess(self, X: Any) -> Any:
            types = {str(kind) for kind in getattr(X, "dtypes", ())}
            if "category" in types or np.shape(X)[1:] == (0,):
                raise ValueError(
                    "FLAML dropped the column of texts or made it a category, as it "
                    "does by default: pass skip_transform=True to AutoML.fit."
                )
            return X

        @classmethod
        def search_space(
            cls, data_size: Any, task: Any, **params: Any
        ) -> dict[str, Any]:
            return {
                name: {"domain": domain, "init_value": first[name]}
                for name, domain in domains.items()
            }

    return BertLearner


# skrub


def skrub_choices(
    encoder: Any = DEFAULT_MODEL,
    *,
    size: str = "small",
    prefix: str = "",
    C: str | None = "C",
) -> dict[str, Any]:
    """Return the choices of `plain_space` for skrub's DataOps.

    They are parameters like any other: ``BertVectorizer(model, memory="features",
    **choices)``, after `C` is taken out for the classifier. Each has its own name in
    the table of results.

    Parameters
    ----------
    encoder : str or estimator, default="sentence-transformers/all-MiniLM-L6-v2"
        As in `grid_space`.
    size : {"small", "full"}, default="small"
        As in `plain_space`.
    prefix : str, default=""
        As in `grid_space`; DataOps apply estimators one by one, so there is none.
    C : str or None, default="C"
        As in `grid_space`.

    Returns
    -------
    dict
        Names of parameters, and what ``skrub.choose_from`` and ``skrub.choose_float``
        return.

    Raises
    ------
    ImportError
        skrub is not installed.
    """
    skrub = _tool("skrub", "skrub")
    return _in_form(
        plain_space(encoder, size=size, prefix=prefix, C=C),
        lambda name, low, high: skrub.choose_float(
            low, high, log=True, name=name, default=FIRST_STRENGTH
        ),
        lambda name, values: skrub.choose_from(values, name=name),
    )


# TPOT


def tpot_node(encoder: Any = DEFAULT_MODEL, *, size: str = "small") -> Any:
    """Return a node of TPOT's search space: an estimator with what is searched of it.

    Begin a ``SequentialPipeline`` with it, and pass the texts as an array of objects
    with one column. All other parameters of the estimator, such as `memory`, stay as
    they are.

    Parameters
    ----------
    encoder : str or estimator, default="sentence-transformers/all-MiniLM-L6-v2"
        Name or directory of a model, an unfitted `BertVectorizer`, or a
        `BertProbeClassifier`, of which `C` is searched as well.
    size : {"small", "full"}, default="small"
        As in `plain_space`.

    Returns
    -------
    tpot.search_spaces.nodes.EstimatorNode
        For ``tpot.search_spaces.pipelines``.

    Raises
    ------
    ImportError
        TPOT is not installed, or setuptools is too new for it.
    """
    nodes = _tool("tpot.search_spaces.nodes", "tpot")
    config = _tool("ConfigSpace", "tpot")
    if isinstance(encoder, (str, os.PathLike)):
        encoder = BertVectorizer(str(encoder))
    is_probe = isinstance(encoder, BertProbeClassifier)
    space = plain_space(encoder, size=size, prefix="", C="C" if is_probe else None)
    searched = config.ConfigurationSpace(
        _in_form(
            space,
            lambda name, low, high: config.Float(name, (low, high), log=True),
            lambda _, values: values,
        )
    )
    params = encoder.get_params(deep=False)
    fixed = {name: value for name, value in params.items() if name not in space}
    return nodes.EstimatorNode(
        type(encoder), searched, hyperparameter_parser=partial(_beside, fixed)
    )


# What they share


def _in_form(
    space: dict[str, Any],
    to_range: Callable[[str, float, float], Any],
    to_choice: Callable[[str, list[Any]], Any],
) -> dict[str, Any]:
    """Return a plain space with its ranges, log-uniform, and lists as a tool's own."""
    return {
        name: (
            to_range(name, *values[:2])
            if isinstance(values, tuple)
            else to_choice(name, values)
        )
        for name, values in space.items()
    }


def _of_pipeline(estimator: Any) -> Any:
    """Return the estimator, refusing a mere name: something has to be fitted."""
    if isinstance(estimator, BaseEstimator):
        return estimator
    raise TypeError(
        "estimator must be an unfitted estimator for texts, such as a pipeline of a "
        f"BertVectorizer and a classifier, got {estimator!r}."
    )


def _clone_with(template: BaseEstimator, **params: Any) -> BaseEstimator:
    return clone(template).set_params(**params)


def _beside(fixed: dict[str, Any], drawn: Any) -> dict[str, Any]:
    return {**fixed, **drawn}


def _tool(module: str, extra: str) -> Any:
    """Import a tool, or say how it is installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} cannot be imported ({error}): "
            f'pip install "sklearn-bert[{extra}]".'
        ) from error
