"""Demo texts with labels, and a tiny encoder, for work without a network.

`load_docstrings` reads short English texts, labelled by topic, out of the source files
of packages that are installed with this one. `make_tiny_encoder` writes a BERT
checkpoint with random weights, small enough to build inside an example or a test.

This module does not download, does not execute or import the packages whose sources it
reads, does not ship texts of its own, and does not train: features of the tiny encoder
mean nothing. It imports nothing of the package, and torch and transformers only inside
`make_tiny_encoder`.

Level 0 of the module map: any module may import it.
"""

from __future__ import annotations

import ast
import gc
import importlib.metadata
import importlib.util
import inspect
import json
import numbers
import os
import re
import string
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch, check_random_state

__all__ = ["load_docstrings", "make_tiny_encoder"]

# Topics span packages where possible, so that the house style of one package does not
# give its label away. Each holds well over the default 100 texts.
_TOPICS = {
    "arrays": ("numpy.lib", "numpy.ma", "numpy._core"),
    "clustering": (
        "scipy.cluster",
        "scipy.spatial",
        "sklearn.cluster",
        "sklearn.mixture",
        "sklearn.neighbors",
    ),
    "evaluation": ("sklearn.metrics", "sklearn.model_selection"),
    "linear algebra": ("numpy.linalg", "scipy.linalg", "scipy.sparse.linalg"),
    "neural networks": ("torch.nn",),
    "optimization": ("scipy.optimize", "torch.optim"),
    "signals": ("numpy.fft", "scipy.fft", "scipy.ndimage", "scipy.signal"),
    "special functions": ("scipy.special",),
    "statistics": ("scipy.stats", "torch.distributions"),
    "supervised learning": (
        "sklearn.ensemble",
        "sklearn.gaussian_process",
        "sklearn.linear_model",
        "sklearn.svm",
        "sklearn.tree",
    ),
}
_MIN_WORDS = 5

# Not public documentation: tests, vendored copies, scripts of the build.
_SKIPPED_PARTS = re.compile(
    r"_?(mp)?test.*|_tstutils\.py|conftest\.py|externals|_vendor|_precompute"
)

_SECTION = re.compile(
    r"\s*(\.\. |>>> |:(param|type|returns?|raises)\b"
    r"|(Parameters?|Arg(ument)?s?|Returns?|Yields|Raises|Examples?|Notes?|See Also"
    r"|Attributes?|Methods|Shape|Inputs?|Outputs?|Warnings?|Usage)\s*:{0,2}\s*$)"
)
_UNDERLINE = re.compile(r"\s*([-=~*^])\1{2,}\s*$")
_SIGNATURE = re.compile(r"[\w.]+\(")  # "airy(z, out=None)" in docs of C functions
_ROLE = re.compile(r"(?::[\w:+.-]+:)?`(~)?([^`<]*?)\s*(?:<[^`]*>)?`_*")
_FOOTNOTE = re.compile(r"\s*\[\w+\]_")

# What the tiny encoder can read in one text, [CLS] and [SEP] included.
_TINY_MAX_LENGTH = 64
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_docstrings(n_per_class: int | None = 100, *, random_state: Any = 0) -> Bunch:
    """Load the summaries of installed docstrings, labelled by topic.

    Real English on any machine that has this package, with no network: the first
    paragraph of the docstrings of public functions, classes and methods of NumPy,
    SciPy, scikit-learn and torch. The source files are parsed, never executed. The
    label is the topic of the subpackage, and the classes are balanced. The first call
    of a process takes one to two seconds, later ones milliseconds.

    Parameters
    ----------
    n_per_class : int or None, default=100
        Texts per class; there are 10 classes, so the default gives 1,000 texts. None
        takes as many as the smallest class has.
    random_state : int, RandomState instance or None, default=0
        Draws the texts of each class and the order of the rows. None gives another
        sample at every call.

    Returns
    -------
    sklearn.utils.Bunch
        With the attributes

        data : list of str, length n_texts
            The texts: at least five words each, no text twice, white space normalised
            and reStructuredText markup of names removed.
        target : ndarray of int, shape (n_texts,)
            Index into `target_names`.
        target_names : list of str, length n_classes
            The topics, in alphabetical order.
        kind : ndarray of str, shape (n_texts,)
            What each text documents: "class", "function" or "method". A second task on
            the same texts, of form rather than meaning; not balanced.
        DESCR : str
            Where the texts come from, in which versions, and how many there are.

    Raises
    ------
    TypeError
        `n_per_class` is neither an integer nor None.
    ValueError
        `n_per_class` is below 1 or above the size of the smallest class.
    ModuleNotFoundError
        A package that holds the texts is not installed.

    See Also
    --------
    make_tiny_encoder : An encoder to try the estimators on, with no network either.

    Notes
    -----
    The same versions of the four packages and the same `random_state` give the same
    texts; other versions document other objects, so accuracies move by a point or two
    between machines. Functions written in C count where their documentation lies in a
    Python file (``add_newdoc``). A text found in two classes is dropped from both.

    Examples
    --------
    >>> from sklearn_bert.datasets import load_docstrings
    >>> docs = load_docstrings(20)
    >>> len(docs.data), docs.target.shape
    (200, (200,))
    >>> docs.target_names[:4]
    ['arrays', 'clustering', 'evaluation', 'linear algebra']
    """
    available = _read_topics()
    largest = min(len(texts) for texts in available.values())
    if n_per_class is None:
        n_per_class = largest
    if not isinstance(n_per_class, numbers.Integral) or isinstance(n_per_class, bool):
        raise TypeError(f"n_per_class must be an integer or None, got {n_per_class!r}.")
    if not 1 <= n_per_class <= largest:
        raise ValueError(
            f"n_per_class={n_per_class} is out of range: it must lie between 1 and "
            f"{largest}, the size of the smallest class "
            f"({min(available, key=lambda topic: len(available[topic]))!r}) in the "
            "installed packages. Pass None for the largest possible."
        )

    rng = check_random_state(random_state)
    rows: list[tuple[str, str]] = []
    for texts in available.values():
        drawn = rng.permutation(len(texts))[:n_per_class]
        rows.extend(texts[i] for i in drawn)
    target = np.repeat(np.arange(len(available)), n_per_class)
    order = rng.permutation(len(rows))
    return Bunch(
        data=[rows[i][0] for i in order],
        target=target[order],
        target_names=list(available),
        kind=np.array([rows[i][1] for i in order]),
        DESCR=_describe(available),
    )


def make_tiny_encoder(
    directory: str | os.PathLike[str],
    *,
    n_layers: int = 2,
    width: int = 32,
    n_heads: int = 4,
    vocabulary: Iterable[str] | None = None,
    seed: int = 0,
    with_pooler: bool = True,
) -> str:
    """Write a tiny BERT checkpoint with random weights into a directory.

    `AutoModel` and `AutoTokenizer` of transformers load it like any local model, with
    no network. The features tell texts apart but mean nothing: it is for examples and
    tests, where a real encoder would cost seconds and a download.

    Parameters
    ----------
    directory : str or path-like
        Where to write ``config.json``, ``model.safetensors``, ``tokenizer.json`` and
        ``tokenizer_config.json``. Created if missing; such files are replaced.
    n_layers : int, default=2
        Number of blocks. The encoder has layers 0 to `n_layers`.
    width : int, default=32
        Number of features per token; a multiple of `n_heads`.
    n_heads : int, default=4
        Number of attention heads per block.
    vocabulary : iterable of str or None, default=None
        Words to keep whole, each one token of its own; case and accents are dropped.
        Any other word splits into single characters, so None makes a token per letter
        and fills the 64 tokens that the encoder reads after some ten words.
    seed : int, default=0
        Seed of the weights. The same seed and sizes give the same file. The global
        random state of torch and NumPy is neither read nor changed.
    with_pooler : bool, default=True
        Whether the checkpoint has weights for BERT's pooler. Without them, transformers
        reports them missing and gives the pooler new random weights at every load.

    Returns
    -------
    str
        `directory` as a string, to pass on as ``model=``.

    Raises
    ------
    TypeError
        A size is not an integer, or `vocabulary` is a bare string.
    ValueError
        A size is below 1, `width` is not a multiple of `n_heads`, or an entry of
        `vocabulary` is not a single word.

    See Also
    --------
    load_docstrings : Real texts with labels, with no network either.

    Notes
    -----
    The tokenizer is a lower-casing WordPiece over a-z, 0-9 and ASCII punctuation; a
    word with any other character becomes ``[UNK]``. Weights are drawn with standard
    deviation 0.3 instead of BERT's 0.02, so that texts differ clearly; biases and gains
    are random too, unlike those of an untrained BERT, so that a test notices an engine
    that ignores them.

    Examples
    --------
    >>> import tempfile
    >>> from transformers import AutoTokenizer
    >>> from sklearn_bert.datasets import make_tiny_encoder
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     model = make_tiny_encoder(directory, vocabulary=["good", "film"])
    ...     tokenizer = AutoTokenizer.from_pretrained(model)
    >>> tokenizer.tokenize("A good FILM, too!")
    ['a', 'good', 'film', ',', 't', '##o', '##o', '!']
    """
    for name, value in (("n_layers", n_layers), ("width", width), ("n_heads", n_heads)):
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, got {value!r}.")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}.")
    if width % n_heads:
        raise ValueError(
            f"width={width} must be a multiple of n_heads={n_heads}: every head takes "
            "an equal share of the features."
        )
    if isinstance(vocabulary, str):
        raise TypeError(
            f"vocabulary must be an iterable of words, got the string {vocabulary!r}. "
            "Pass a list of words, such as text.split()."
        )

    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    n_tokens = _write_tiny_tokenizer(path, () if vocabulary is None else vocabulary)
    _write_tiny_weights(
        path,
        seed=seed,
        with_pooler=with_pooler,
        vocab_size=n_tokens,
        hidden_size=int(width),
        num_hidden_layers=int(n_layers),
        num_attention_heads=int(n_heads),
        intermediate_size=2 * int(width),
        max_position_embeddings=_TINY_MAX_LENGTH,
        initializer_range=0.3,
    )
    return str(path)


@cache
def _read_topics() -> dict[str, tuple[tuple[str, str], ...]]:
    """Return (text, kind) of every topic, sorted, each text in one topic only."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    # Syntax trees are many objects and no garbage: collecting doubles the time.
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        for topic, modules in _TOPICS.items():
            rows = sorted(row for name in modules for row in _read_summaries(name))
            found[topic] = {text.casefold(): (text, kind) for text, kind in rows}
    finally:
        if was_collecting:
            gc.enable()
    n_topics = Counter(key for texts in found.values() for key in texts)
    return {
        topic: tuple(row for key, row in texts.items() if n_topics[key] == 1)
        for topic, texts in found.items()
    }


def _read_summaries(module: str) -> Iterator[tuple[str, str]]:
    """Yield (summary, kind) from the files of a module, submodules included."""
    package, *parts = module.split(".")
    root = _find_package(package)
    for file in sorted(root.joinpath(*parts).rglob("*.py")):
        if any(map(_SKIPPED_PARTS.fullmatch, file.relative_to(root).parts)):
            continue
        with warnings.catch_warnings():
            # Invalid escapes in the files of others are not the caller's business.
            warnings.simplefilter("ignore")
            try:
                tree = ast.parse(file.read_bytes())
            except SyntaxError:  # written for another version of Python
                continue
        for docstring, kind in _public_docstrings(tree.body, "function"):
            text = _summarise(docstring)
            is_prose = text[:1].isalpha() and "\\" not in text  # no LaTeX
            if is_prose and len(text.split()) >= _MIN_WORDS:
                yield text, kind


def _find_package(name: str) -> Path:
    """Return the directory of a top-level package without importing it."""
    # find_spec gives None for a package blocked by sys.modules[name] = None, as tests
    # of torch-free paths do; its files are still there to be read.
    spec = importlib.util.find_spec(name) or PathFinder.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"load_docstrings reads the source files of {name!r}, which is not "
            "installed. It is a dependency of sklearn-bert: reinstall that.",
            name=name,
        )
    return Path(spec.submodule_search_locations[0])


def _public_docstrings(
    body: list[ast.stmt], function_kind: str
) -> Iterator[tuple[str, str]]:
    """Yield (docstring, kind) of what has no leading underscore in its name."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if node.name.startswith("_"):
                continue
            is_class = isinstance(node, ast.ClassDef)
            if docstring := ast.get_docstring(node):
                yield docstring, "class" if is_class else function_kind
            if is_class:
                yield from _public_docstrings(node.body, "method")
        elif isinstance(node, (ast.If, ast.Try)):
            yield from _public_docstrings(node.body, function_kind)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _added_docstring(node.value)


def _added_docstring(call: ast.Call) -> Iterator[tuple[str, str]]:
    """Yield the text of ``add_newdoc([place,] name, text)``, and its kind."""
    if not (isinstance(call.func, ast.Name) and call.func.id == "add_newdoc"):
        return
    try:
        arguments = [ast.literal_eval(argument) for argument in call.args]
    except ValueError:  # a text that is computed
        return
    kind = "function"
    if arguments and isinstance(arguments[-1], tuple):  # (method, text) of a class
        arguments[-1:] = arguments[-1]
        kind = "method"
    if len(arguments) < 2 or not all(isinstance(part, str) for part in arguments):
        return
    *_, name, text = arguments
    if not name.startswith("_"):
        yield text, kind


def _summarise(docstring: str) -> str:
    """Return the first paragraph of prose on one line, or "" if there is none."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = paragraph.splitlines()
        if any(map(_UNDERLINE.match, lines)):
            return ""
        end = next((i for i, line in enumerate(lines) if _SECTION.match(line)), None)
        text = " ".join(" ".join(lines[:end]).split())
        if text and not _SIGNATURE.match(text):
            text = _FOOTNOTE.sub("", _ROLE.sub(_plain_name, text))
            return text.replace("`", "").replace("::", ":")
        if end is not None and not lines[end].startswith(".. "):
            return ""
    return ""


def _plain_name(role: re.Match[str]) -> str:
    """Return what Sphinx would show for :role:`~package.name`."""
    shortened, name = role.groups()
    return name.rpartition(".")[2] if shortened else name


def _describe(available: dict[str, tuple[tuple[str, str], ...]]) -> str:
    """Return the DESCR of the data set."""
    distributions = {
        "numpy": "numpy",
        "scipy": "scipy",
        "sklearn": "scikit-learn",
        "torch": "torch",
    }
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in distributions.values()
    )
    lines = [
        "Summaries of installed docstrings, labelled by topic",
        "",
        "The first paragraph of docstrings of public functions, classes and methods,",
        f"read from the source files of {versions}.",
        "The topic is that of the subpackage; a text found in two topics is left out.",
        "",
        *(
            f"{topic}: {len(texts)} texts from {', '.join(_TOPICS[topic])}"
            for topic, texts in available.items()
        ),
    ]
    return "\n".join(lines)


def _write_tiny_tokenizer(directory: Path, vocabulary: Iterable[str]) -> int:
    """Write a lower-casing WordPiece tokenizer and return its number of tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    normalizer = normalizers.BertNormalizer(lowercase=True)
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words = []
    for word in vocabulary:
        normal = normalizer.normalize_str(word)
        if [piece for piece, _ in pre_tokenizer.pre_tokenize_str(normal)] != [normal]:
            raise ValueError(
                f"vocabulary must hold single words, got {word!r}: the tokenizer would "
                "split it at white space or punctuation before it looks it up."
            )
        words.append(normal)

    letters = string.ascii_lowercase + string.digits
    tokens = [
        *_SPECIAL_TOKENS,
        *letters,
        *string.punctuation,
        *(f"##{letter}" for letter in letters),
        *words,
    ]
    ids = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
    tokenizer.save(str(directory / "tokenizer.json"))

    settings = {
        **{f"{token[1:-1].lower()}_token": token for token in _SPECIAL_TOKENS},
        "do_lower_case": True,
        "model_max_length": _TINY_MAX_LENGTH,
        "tokenizer_class": "BertTokenizer",
    }
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
    return len(ids)


def _write_tiny_weights(
    directory: Path, *, seed: int, with_pooler: bool, **config_values: Any
) -> None:
    """Write the configuration and random weights of a BERT."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    config = BertConfig(architectures=["BertModel"], dtype="float32", **config_values)
    with torch.device("meta"):  # names and shapes only: draws no random numbers
        model = BertModel(config, add_pooling_layer=with_pooler)
    generator = torch.Generator("cpu").manual_seed(seed)
    weights = {}
    for name, parameter in model.named_parameters():
        noise = torch.randn(
            parameter.shape, generator=generator, dtype=torch.float32, device="cpu"
        )
        weights[name] = config.initializer_range * noise
        if name.endswith("LayerNorm.weight"):
            weights[name] += 1.0  # a gain
    config.save_pretrained(directory)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
