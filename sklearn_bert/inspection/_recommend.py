"""What to begin with: published facts and our measurements, turned into parameters.

`recommend` asks what is known before anything is run, and says where each reason comes
from. It encodes nothing and reads no texts: a sweep on one's own data decides.

Imports `_validation` and `checkpoint`, for the name of the default model.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any, NamedTuple

from .._validation import check_bool, check_choice, check_integer, check_positive
from ..checkpoint import DEFAULT_MODEL
from ._code import call_of

__all__ = ["Reason", "Recommendation", "recommend"]

_TASKS = {
    "classification": "classification", "similarity": "similarity", "tokens": "tokens",
    "ner": "tokens", "syntax": "syntax", "probing": "syntax",
}  # fmt: skip
_LAST_FOUR = [-4, -3, -2, -1]
_FEW_LABELS = 100  # below it, folds are too small to choose a layer by
_SOME_LABELS = 1000  # of pairs, to tune an encoder for similarity
_MANY_LABELS = 5000
_FEW_PER_CLASS, _MANY_CLASSES = 10, 20
_BIG_STORE = 1e9  # bytes


class _Measured(NamedTuple):
    """What docs/benchmarks.md says of an encoder, on two AMD EPYC cores, float32."""

    n_layers: int
    limit: int  # tokens that it declares to read
    short: float  # texts per second, of 41 tokens in the mean (BERT-base: 34)
    tokens_per_second: float  # of the longest texts measured
    stored_bytes: int  # of a text: every layer under [CLS], mean and max


_MEASURED = {
    DEFAULT_MODEL: _Measured(6, 256, 119, 13 * 325, 32_000),
    "google-bert/bert-base-uncased": _Measured(12, 512, 16, 5.3 * 101, 120_000),
}


class _Crossover(NamedTuple):
    """What docs/benchmarks.md says of training an encoder, beside frozen probes."""

    task: str  # of bench_frozen_vs_finetuned
    n_classes: int
    n_labels: int | None  # from which on all of it, trained, was a point ahead
    of_top: int | None  # the same of the top two blocks; None: with no number
    most: int  # labels measured
    times: float  # processor time of training all of it, of a probe's, with most labels


# Of the default model. `python benchmarks/bench_frozen_vs_finetuned.py` measures them.
_CROSSOVERS = (
    _Crossover("polarity", 2, 50, 8000, 8000, 14.6),
    _Crossover("subjectivity", 2, 8000, 8000, 8000, 15.3),
    _Crossover("intents", 150, 4500, 4500, 4500, 14.1),
)
_MACHINE = "measured: two AMD EPYC cores, float32 (Benchmarks, Encoding)"
_NINE_TASKS = (
    "measured: all-MiniLM-L6-v2, nine tasks, five times 800 texts (Benchmarks, Probes)"
)
_EIGHT_TASKS = (
    "measured: all-MiniLM-L6-v2, eight tasks of 1,200 texts, three folds (Benchmarks, "
    "Sweeps)"
)
_THREE_TASKS = (
    "measured: all-MiniLM-L6-v2, film reviews (Pang & Lee) and CLINC150, one or two "
    "seeds (Benchmarks, Frozen or fine-tuned)"
)
_RULE = "rule of thumb"
_BETTER = (
    'Weighting all layers ("mix") was better than the last one on 9 of 9 tasks, '
    'choosing one ("cv") on 8, by 1 to 38 points of accuracy.'
)


class Reason(NamedTuple):
    """A reason of a recommendation, and where it comes from.

    Attributes
    ----------
    text : str
    source : str
        A citation; "measured: " with the model and the data; or "rule of thumb".
    """

    text: str
    source: str


@dataclass(frozen=True, repr=False)
class Recommendation:
    """What to begin with, and why.

    Attributes
    ----------
    task : {"classification", "similarity", "tokens", "syntax"}
    approach : {"frozen", "freeze lower layers", "fine-tune"}
    estimator : str
        Name of the class that takes `params`.
    params : dict
        Parameters for its ``set_params``.
    layer, pooling, head : str
        The choices in words.
    reasons : tuple of Reason
    first : dict or None
        For an encoder that is trained: parameters of the frozen `BertProbeClassifier`
        to run before, as the baseline.
    """

    task: str
    approach: str
    estimator: str
    params: dict[str, Any]
    layer: str
    pooling: str
    head: str
    reasons: tuple[Reason, ...]
    first: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """Return the choices, the reasons with their sources, and what decides."""
        lines = [call_of(self.estimator, self.params), ""]
        for name in ("approach", "layer", "pooling", "head"):
            lines.append(f"{name:9} {getattr(self, name)}")
        lines += ["", "Why:"]
        for text, source in self.reasons:
            lines += textwrap.wrap(
                f"{text} [{source}]", 88, initial_indent="- ", subsequent_indent="  ",
                break_on_hyphens=False,
            )  # fmt: skip
        if self.first is not None:
            baseline = call_of("BertProbeClassifier", self.first)
            lines += ["", "First the frozen baseline that it has to beat:", baseline]
        return "\n".join([*lines, "", *textwrap.wrap(_DECIDES[self.task], 88)])


_DECIDES = {
    "classification": "Where to begin, from the data of others. "
    "print(layer_sweep(X, y)) on yours decides: it scores every layer and pooling from "
    "one pass, and compares the best with the default.",
    "similarity": "Where to begin, from the data of others. compare_pairs with "
    "pairs of your own that are similar, and pairs that are not, decides.",
    "tokens": "Where to begin, from the data of others. A grid over `layer` "
    "with sentences kept whole in one fold decides.",
    "syntax": "Where to look first, from the data of others. probe_layers on "
    "yours decides: trust a layer only as far as its selectivity and an untrained "
    "encoder (layer_sweep(untrained=True)) let you.",
}


def recommend(
    task: str = "classification",
    *,
    n_labels: int | None = None,
    n_classes: int | None = None,
    n_texts: int | None = None,
    n_tokens: int | None = None,
    texts_per_second: float | None = None,
    device: str = "cpu",
    reuses_features: bool = False,
    is_far_domain: bool = False,
    every_point_counts: bool = False,
    model: str = DEFAULT_MODEL,
) -> Recommendation:
    """Recommend where to begin: frozen or trained, which layer, pooling and head.

    Published facts and this project's measurements, each with its source, applied to
    what is known before anything is run. No text is read and nothing is encoded.

    Parameters
    ----------
    task : {"classification", "similarity", "tokens", "syntax"}, \
default="classification"
        What the features are for. "ner" is "tokens", "probing" is "syntax".
    n_labels : int, default=None
        Labelled texts (labelled pairs, for "similarity"). None is unknown and taken as
        few: training an encoder is recommended from as many on as it was ahead with
        when measured on a task with few or many classes, and no need for it from more.
    n_classes : int, default=None
        Distinct labels.
    n_texts : int, default=None
        Texts to encode, for time and disk.
    n_tokens : int, default=None
        Length of the longer texts in tokens; beyond the encoder's limit they are read
        in windows. None is a sentence or two.
    texts_per_second : float, default=None
        What must be reached for new texts. If a CPU is too slow for the whole encoder,
        a lower layer is recommended, which costs less.
    device : {"cpu", "cuda", "mps"}, default="cpu"
        Where the encoder runs; "cuda:1" and "gpu" are "cuda". Training it is
        recommended on a CPU only if `is_far_domain` or `every_point_counts`.
    reuses_features : bool, default=False
        Whether the same texts serve several classifiers, tasks or searches: then the
        encoder stays frozen, and features are kept.
    is_far_domain : bool, default=False
        Whether the texts are far from what encoders are trained on, and there is no
        encoder of their domain.
    every_point_counts : bool, default=False
        Whether the last point of accuracy is worth hours of training.
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        The encoder. Times and sizes are known of the default and of
        ``"google-bert/bert-base-uncased"``.

    Returns
    -------
    Recommendation
        ``print`` shows it with its reasons; its ``params`` suit ``set_params`` of the
        class named by ``estimator``.

    Raises
    ------
    ValueError, TypeError
        A parameter is not valid.

    See Also
    --------
    layer_sweep : Decides on your own data.

    Notes
    -----
    From how many labels on training may pay was measured, with the default model on
    three tasks; a reason says so. The bounds of 100 and 5,000 labels are rules of
    thumb; nothing happens there.

    Examples
    --------
    >>> from sklearn_bert import BertProbeClassifier
    >>> from sklearn_bert.inspection import recommend
    >>> advice = recommend("classification", n_labels=600)
    >>> advice.approach, advice.estimator, advice.params["layer"]
    ('frozen', 'BertProbeClassifier', 'mix')
    >>> probe = BertProbeClassifier().set_params(**advice.params)
    """
    task = _TASKS[check_choice("task", task, _TASKS)]
    for name, value in (
        ("n_labels", n_labels), ("n_classes", n_classes), ("n_texts", n_texts),
        ("n_tokens", n_tokens),
    ):  # fmt: skip
        if value is not None:
            check_integer(name, value, minimum=1)
    if texts_per_second is not None:
        check_positive("texts_per_second", texts_per_second)
    device = "cuda" if device == "gpu" else str(device).partition(":")[0]
    check_choice("device", device, ("cpu", "cuda", "mps"))
    for name, flag in (
        ("reuses_features", reuses_features), ("is_far_domain", is_far_domain),
        ("every_point_counts", every_point_counts),
    ):  # fmt: skip
        check_bool(name, flag)

    begin = {
        "classification": _classification,
        "similarity": _similarity,
        "tokens": _tokens,
        "syntax": _syntax,
    }[task]
    choice = begin(n_labels, n_classes, is_fast=texts_per_second is not None)
    choice.params = {"model": model, **choice.params}
    if task == "classification":
        _choose_training(
            choice, n_labels, n_classes, device, reuses_features, is_far_domain,
            every_point_counts,
        )  # fmt: skip
    facts = _MEASURED.get(model)
    _reach_speed(choice, facts, n_tokens, texts_per_second, device)
    _fit_lengths(choice, facts, n_tokens)
    _say_costs(choice, facts, n_texts, n_tokens, device)
    if choice.approach == "frozen" and (reuses_features or choice.is_chosen_by_labels):
        _keep_features(choice, facts, n_texts)
    return Recommendation(
        task, choice.approach, choice.estimator, choice.params, choice.layer,
        choice.pooling, choice.head, (*choice.of_layer, *choice.others), choice.first,
    )  # fmt: skip


class _Choice:
    """A recommendation in the making."""

    def __init__(
        self, estimator: str, params: dict[str, Any], *, layer: str, pooling: str,
        head: str,
    ) -> None:  # fmt: skip
        self.approach, self.estimator, self.params = "frozen", estimator, params
        self.layer, self.pooling, self.head = layer, pooling, head
        self.first: dict[str, Any] | None = None
        self.of_layer: list[Reason] = []
        self.others: list[Reason] = []

    def because(self, text: str, source: str) -> None:
        self.others.append(Reason(text, source))

    def take_layer(self, layer: Any, in_words: str, text: str, source: str) -> None:
        """Set the layer for a reason that replaces those for another one."""
        self.params["layer"], self.layer = layer, in_words
        self.of_layer = [Reason(text, source)]

    @property
    def is_chosen_by_labels(self) -> bool:
        return self.params.get("layer") in ("cv", "mix")


# By task


def _classification(
    n_labels: int | None, n_classes: int | None, *, is_fast: bool
) -> _Choice:
    choice = _Choice(
        "BertProbeClassifier",
        {"layer": "cv", "pooling": "mean"},
        layer="chosen by cross-validation",
        pooling="mean",
        head="logistic regression on standardised features, C=0.01",
    )
    choice.because(
        "The mean is the safe pooling: it was best in 6 of 8 tasks, [CLS] in 2.",
        _EIGHT_TASKS,
    )
    choice.because(
        "A small C suits hundreds of standardised features and up to a few thousand "
        "texts.",
        _RULE,
    )
    n_per_class = n_labels / n_classes if n_labels and n_classes else _FEW_PER_CLASS
    if n_per_class < _FEW_PER_CLASS and (n_classes or 0) >= _MANY_CLASSES:
        choice.take_layer(
            _LAST_FOUR,
            "the last four, concatenated",
            "Many classes with few texts each: concatenating the last four layers "
            "gained 5.9 points over the last one on 150 intents with five texts each, "
            '"mix" 3.6 and "cv" none.',
            "measured: all-MiniLM-L6-v2, CLINC150 (Benchmarks, Probes); one data set",
        )
    elif n_labels is not None and n_labels < _FEW_LABELS:
        choice.take_layer(
            -1,
            "the last",
            f"With fewer than {_FEW_LABELS} labels, folds are too small to choose a "
            "layer by: the best of several would be the luckiest.",
            _RULE,
        )
    elif n_labels is None or is_fast:
        choice.take_layer(
            "cv",
            "chosen by cross-validation",
            f'{_BETTER} "cv" names one layer, and those above it need not be run for '
            'new texts; "mix" runs all, and did as well within 2 points on 8.',
            _NINE_TASKS,
        )
    else:
        choice.take_layer(
            "mix",
            "all, weighted by what the labels say (ScalarMix)",
            f"{_BETTER} The two were within 2 points of each other on eight; on 150 "
            'intents "mix" was 3.6 ahead.',
            _NINE_TASKS,
        )
        choice.because(
            'pooling="learned_attention" is the next thing to try with "mix": it was '
            "2 to 11 points ahead of the mean on five tasks that hang on few words, "
            "and within a point of it on the other four. It reads the states of every "
            "token.",
            _NINE_TASKS,
        )
    return choice


def _similarity(
    n_labels: int | None, n_classes: int | None, *, is_fast: bool
) -> _Choice:
    choice = _Choice(
        "BertVectorizer",
        {"layer": -1, "pooling": "auto"},
        layer="the last",
        pooling="what the checkpoint declares, else the mean",
        head="cosine, after StandardScaler(with_std=False) fitted on your texts",
    )
    choice.because(
        "An encoder tuned for sentences was tuned for cosines of this layer under this "
        "pooling. Of a plain BERT, take the mean: its correlation with human "
        "similarity on STSb was 46.4, that of [CLS] 16.5.",
        "Reimers & Gurevych 2019, table 1: BERT-base, not fine-tuned",
    )
    choice.because(
        "Subtract the mean: the chance that a similar pair has the higher cosine went "
        "from .701 to .719 on topics of docstrings and from .983 to .989 on intents. "
        "Whitening and removing components did harm, or gained less.",
        "measured: all-MiniLM-L6-v2, last layer, docstrings and CLINC150 (guide, "
        "Geometry)",
    )
    choice.because(
        "Vectors of a plain BERT lie in a narrow cone, in which all cosines are high.",
        "Ethayarajh 2019",
    )
    if n_labels is not None and n_labels >= _SOME_LABELS:
        choice.because(
            "With thousands of labelled pairs, tuning the encoder on them is worth it: "
            "sentence-transformers does that, and what it saves is a `model` here.",
            _RULE,
        )
    return choice


def _tokens(n_labels: int | None, n_classes: int | None, *, is_fast: bool) -> _Choice:
    choice = _Choice(
        "BertTokenProbeClassifier",
        {"layer": _LAST_FOUR},
        layer="the last four, concatenated",
        pooling="none: a vector per word",
        head="logistic regression on standardised features",
    )
    choice.because(
        "Frozen, the last four layers concatenated gave an F1 of 96.1 for named "
        "entities, the last layer 94.9, the whole model fine-tuned 96.4.",
        "Devlin et al. 2019, table 7: BERT-base, CoNLL-2003, development set",
    )
    choice.because(
        "The last four had the best F1 on entities of WNUT-17 (.355; the best single "
        'layer .351, the last .268). On parts of speech layer="mix" was best (.949; '
        "the last four .943, the last layer .862).",
        "measured: all-MiniLM-L6-v2, WNUT-17 and UD English EWT (Benchmarks, Words)",
    )
    choice.because(
        "Tokens of one sentence resemble each other: keep a sentence in one fold.",
        _RULE,
    )
    if n_labels is not None and n_labels >= _MANY_LABELS:
        choice.because(
            "For the last points with many labels, fine-tune on tokens with "
            "transformers' Trainer; this package trains encoders for whole texts.",
            _RULE,
        )
    return choice


def _syntax(n_labels: int | None, n_classes: int | None, *, is_fast: bool) -> _Choice:
    choice = _Choice(
        "BertProbeClassifier",
        {"layer": "cv", "pooling": "mean"},
        layer="chosen by cross-validation; expect one in the lower half or the middle",
        pooling="mean, or a vector per word",
        head="logistic regression on standardised features, C=0.01",
    )
    choice.because(
        "In a BERT of 12 blocks, surface lies in layers 1 to 4, syntax in 5 to 8, "
        "meaning above.",
        "Jawahar et al. 2019; Tenney et al. 2019",
    )
    choice.because(
        "On six probing tasks the best layer was 1, 2 or 3 of 6, and the last layer "
        "lost 4 to 41 points to it.",
        _EIGHT_TASKS,
    )
    choice.because(
        "A strong probe learns the task by itself: use a linear one, and compare it "
        "with a control task.",
        "Hewitt & Liang 2019",
    )
    choice.because(
        "Random weights came within 3 points of the best layer, or above it, on three "
        "of these tasks: such a task says little about training.",
        _EIGHT_TASKS,
    )
    return choice


# Frozen or trained


def _choose_training(
    choice: _Choice,
    n_labels: int | None,
    n_classes: int | None,
    device: str,
    reuses_features: bool,
    is_far_domain: bool,
    every_point_counts: bool,
) -> None:
    """Decide whether the encoder is trained, and say why."""
    if reuses_features:
        choice.because(
            "Several classifiers share the features: one pass of a frozen encoder "
            "serves them all, and each trained encoder would need its own.",
            _RULE,
        )
        return
    alike = _crossovers_like(n_classes)
    ahead = [row.n_labels for row in alike if row.n_labels is not None]
    may_pay = max(_FEW_LABELS, min(ahead, default=_MANY_LABELS))
    pays = max(ahead) if len(ahead) == len(alike) else _MANY_LABELS
    if n_labels is None or n_labels < may_pay:
        number = "an unknown number of" if n_labels is None else f"{n_labels:,}"
        choice.because(
            f"Frozen, with {number} labels: fine-tuning on few of them varies much "
            "from seed to seed.",
            "Dodge et al. 2020",
        )
        choice.because(_what_was_measured(alike), _THREE_TASKS)
        return
    has_need = is_far_domain or every_point_counts
    if not has_need and (device == "cpu" or n_labels < pays):
        where = "On a CPU" if device == "cpu" else f"With {n_labels:,} labels"
        choice.because(
            f"{where} begin frozen: it takes minutes, and is the baseline that "
            "fine-tuning has to beat.",
            _RULE,
        )
        choice.because(_what_was_measured(alike), _THREE_TASKS)
        return
    model = choice.params["model"]
    choice.first = dict(choice.params)
    choice.of_layer, choice.others = [], []
    choice.estimator, choice.head = "BertFineTuneClassifier", "linear, begun as a probe"
    is_full = device != "cpu" or model == DEFAULT_MODEL
    choice.approach = "fine-tune" if is_full else "freeze lower layers"
    choice.layer = "the last, all trained" if is_full else "the last; top two trained"
    choice.params = {
        "model": model,
        "pooling": "mean",
        "num_layers_to_freeze": 0 if is_full else -2,
    }
    if is_far_domain:
        choice.because(
            "Texts far from what the encoder has read: its features fit less, and "
            "training moves them. An encoder of the domain (SciBERT, LegalBERT, "
            "BERTweet), frozen, is the cheaper answer where there is one.",
            _RULE,
        )
    choice.because(_what_was_measured(alike), _THREE_TASKS)
    if not is_full:
        choice.because(
            "On a CPU, a large encoder takes hours. Lower layers hold surface and "
            "syntax, which most tasks share; frozen, they are computed once for all "
            "epochs.",
            "Jawahar et al. 2019; Tenney et al. 2019",
        )
    choice.because(
        "The head is fitted on frozen features first: a head that knows nothing spoils "
        "what the encoder knows.",
        "Kumar et al. 2022",
    )


def _crossovers_like(n_classes: int | None) -> list[_Crossover]:
    """Return what was measured of tasks with few classes, or with many."""
    has_many = (n_classes or 0) >= _MANY_CLASSES
    return [row for row in _CROSSOVERS if (row.n_classes >= _MANY_CLASSES) == has_many]


def _what_was_measured(rows: list[_Crossover]) -> str:
    """Say from how many labels on training was ahead, and what it cost."""
    whole = _tasks_ahead([(row, row.n_labels) for row in rows])
    top = _tasks_ahead([(row, row.of_top) for row in rows])
    times = sorted({round(row.times) for row in rows})
    return (
        f"An encoder that was trained as a whole beat the better frozen probe by a "
        f"point or more {whole}. One whose top two blocks were trained did {top}. All "
        f"of it took {' to '.join(map(str, times))} times the processor time of a "
        "probe."
    )


def _tasks_ahead(rows: list[tuple[_Crossover, int | None]]) -> str:
    won = [f"on {row.task} from {n:,} labels on" for row, n in rows if n]
    lost = [f"not on {row.task} up to {row.most:,}" for row, n in rows if not n]
    return ", and ".join([*won, *lost])


# Speed, length, cost


def _rate(facts: _Measured, n_tokens: int | None) -> float:
    """Return texts per second of the whole encoder."""
    if n_tokens is None:
        return facts.short
    return min(facts.short, facts.tokens_per_second / n_tokens)


def _reach_speed(
    choice: _Choice,
    facts: _Measured | None,
    n_tokens: int | None,
    needed: float | None,
    device: str,
) -> None:
    if needed is None:
        return
    if facts is None or device != "cpu":
        what = "this encoder" if facts is None else "a GPU"
        choice.because(
            f"{needed:,.0f} texts per second: {what} was not measured here; time "
            "BertVectorizer.transform on yours.",
            _RULE,
        )
        return
    rate = _rate(facts, n_tokens)
    n_layers = int(facts.n_layers * rate / needed)
    if n_layers >= facts.n_layers:
        choice.because(
            f"{needed:,.0f} texts per second are within reach: about {rate:,.0f} of "
            "such length go through all layers.",
            _MACHINE,
        )
    elif n_layers >= 1 and choice.estimator == "BertProbeClassifier":
        choice.take_layer(
            n_layers,
            f"{n_layers} of {facts.n_layers}, the highest that is fast enough",
            f"All layers take about {rate:,.0f} texts per second, and {needed:,.0f} "
            f"are needed. The pass stops at layer {n_layers}; of BERT-base, half the "
            "layers took half the time and a quarter 28 %.",
            "measured: two AMD EPYC cores (Benchmarks, Encoding, and Fewer layers)",
        )
    else:
        choice.because(
            f"{needed:,.0f} texts per second are out of reach on two cores, where the "
            f"whole encoder takes about {rate:,.0f}: use more cores, a GPU, or a "
            "smaller encoder.",
            _MACHINE,
        )
    if n_layers < facts.n_layers:
        choice.because(
            'dtype="bfloat16" ran 1.6 to 2 times as many texts on a CPU with '
            "arithmetic for it (AVX-512 BF16); on others it is slower.",
            "measured: two AMD EPYC cores with AVX-512 (Benchmarks, Encoding)",
        )
    choice.because(
        "A text that was seen before costs nothing: 95,000 rows a second and more are "
        "read from the store.",
        "measured: two AMD EPYC cores (Benchmarks, The store)",
    )


def _fit_lengths(
    choice: _Choice, facts: _Measured | None, n_tokens: int | None
) -> None:
    limit = 512 if facts is None else facts.limit
    if n_tokens is None or n_tokens <= limit:
        return
    text = f"Texts of {n_tokens:,} tokens exceed the {limit} that the encoder reads"
    if choice.estimator in ("BertVectorizer", "BertProbeClassifier"):
        choice.params["overflow"] = "chunk"
        choice.because(
            f"{text}: windows are encoded and combined. Truncation is the cheaper "
            "choice, where the beginning says enough.",
            _RULE,
        )
    else:
        choice.because(f"{text}: the rest would be cut; split them first.", _RULE)


def _say_costs(
    choice: _Choice,
    facts: _Measured | None,
    n_texts: int | None,
    n_tokens: int | None,
    device: str,
) -> None:
    if n_texts is None or facts is None:
        return
    if device != "cpu" or choice.approach != "frozen":
        return
    seconds = n_texts / _rate(facts, n_tokens)
    long = f"{seconds / 3600:,.1f} hours" if seconds > 5400 else f"{seconds:,.0f} s"
    choice.because(
        f"One pass over {n_texts:,} texts takes about {long}; sweeps, searches and "
        "folds after it take none.",
        _MACHINE,
    )


def _keep_features(
    choice: _Choice, facts: _Measured | None, n_texts: int | None
) -> None:
    choice.params["memory"] = "features"
    choice.because(
        "`memory` keeps features on disk: another layer, fold or classifier costs no "
        "pass.",
        "measured: one forward pass per text for a grid of 106 fits (Benchmarks, Grid "
        "search)",
    )
    if choice.estimator == "BertTokenProbeClassifier":  # keeps what is used already
        return
    if n_texts and facts and n_texts * facts.stored_bytes > _BIG_STORE:
        choice.params["store_layers"] = "requested"
        choice.because(
            f"Every layer under three poolings would take "
            f"{n_texts * facts.stored_bytes / 1e9:,.1f} GB; "
            'store_layers="requested" keeps what is used.',
            "measured: bytes per text (Benchmarks, The store)",
        )
