"""The command line: ``python -m sklearn_bert`` and ``sklearn-bert``.

No logic of its own: it reads arguments, calls the public interface and prints. A
mistake of the user's is one line on the standard error and status 2; progress goes to
the standard error, results to the standard output.

Level 10 of the module map: nothing imports it.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

_QUOTES = "'\""
# Parameters that a command sets by an option of another name.
_ALSO = {
    "layer": "--layers", "pooling": "--poolings", "n_splits": "--folds",
    "n_jobs": "--jobs",
}  # fmt: skip
# "name=value", or "name must"; not what is part of a path.
_PARAMETER = re.compile(
    r"(?<![\w/.=-])(?P<name>[a-z_]+)(?:=(?P<value>'[^']*'|\"[^\"]*\"|\[[-\d, ]+\]"
    r"|-?\w+(?![/\w]|\.\w))|(?:\[\d+\])?(?= must\b))"
)


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
        status = run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever reads has seen enough, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, TypeError, ImportError, OSError) as error:
        _complain(str(error), error, options)
        return 2
    except KeyboardInterrupt as error:
        _complain("interrupted", error, options)
        return 130
    finally:
        warnings.formatwarning = format_warning


def _complain(message: str, error: BaseException, options: argparse.Namespace) -> None:
    """Say what went wrong, and what the error adds to it, a line each."""
    flags = _flags(options.parser)
    for line in (message, *getattr(error, "__notes__", ())):
        line = _in_options(" ".join(line.split()), flags)
        print(f"sklearn-bert: {line}", file=sys.stderr)


def _in_options(message: str, flags: Mapping[str, str]) -> str:
    """Name parameters as a command does: "encoding='cp1252'" is --encoding cp1252."""

    def option(found: re.Match[str]) -> str:
        flag = flags.get(found["name"])
        if flag is None:
            return found[0]
        if found["value"] is None:
            return flag
        value = found["value"]
        if value in ("True", "False"):
            return flag if value == "True" else flag.replace("--", "--no-", 1)
        if value.startswith("["):
            value = value.strip("[]").replace(" ", "")
            return f"{flag}={value}" if value.startswith("-") else f"{flag} {value}"
        return f"{flag} {shlex.quote(value.strip(_QUOTES))}"

    return message if "--" in message else _PARAMETER.sub(option, message)


def _flags(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return which option of a command sets which parameter."""
    options = [action for action in parser._actions if action.option_strings]
    flags = {action.dest: action.option_strings[0] for action in options}
    also = {name: flag for name, flag in _ALSO.items() if flag in flags.values()}
    return also | flags


def _one_line(message: Any, *_: Any, **__: Any) -> str:
    return f"sklearn-bert: {message}\n"


class _Parser(argparse.ArgumentParser):
    """One that says in one line what is wrong, as the commands do."""

    def error(self, message: str) -> NoReturn:
        if "expected one argument" in message:
            message += "; a value that begins with '-' follows '=', as in --layer=-4,-3"
        self.exit(2, f"sklearn-bert: {message} ({self.prog} --help says more)\n")


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = _Parser(
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
    demo.set_defaults(run=_demo, parser=demo)
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
    _add_encode(commands)
    _add_store(commands)
    return parser


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser(
        "sweep",
        help="which layer and which pooling suit your labelled texts",
        description="Score a linear classifier on every layer under every pooling of "
        "an encoder, from one pass over your texts: a table, a picture, and the best "
        "pipeline as code to paste.",
    )
    sweep.set_defaults(run=_sweep, parser=sweep)
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
    add("--device", default="auto", help="cpu, cuda, mps (default: auto)")
    add("--jobs", type=int, metavar="N", help="processes for the classifiers")
    _add_reading(add, "--format", "--input-format")
    _add_texts(sweep.add_argument_group("features, as in BertVectorizer").add_argument)


def _add_reading(add: Callable[..., Any], *format_names: str) -> None:
    add(
        *format_names, metavar="NAME",
        help="of what is read: csv, tsv, jsonl, parquet (default: by the name of FILE)",
    )  # fmt: skip
    add(
        "--delimiter", type=lambda given: given.replace("\\t", "\t"), metavar="CHAR",
        help="between the fields of CSV, such as ';' or '\\t'",
    )  # fmt: skip
    add("--encoding", default="utf-8", help="of the file (default: %(default)s)")
    add("--quiet", action="store_true", help="no progress bar")


def _add_encode(commands: Any) -> None:
    encode = commands.add_parser(
        "encode",
        help="features of the texts in files of any size, on disk",
        description="Encode a column of files of any size in bounded memory, into a "
        ".npy file, a Parquet file or a directory of either. Rows keep their order. A "
        "run that was killed goes on when the same command is given again.",
    )
    encode.set_defaults(run=_encode, parser=encode)
    add = encode.add_argument
    add(
        "files", metavar="FILE", nargs="+",
        help="CSV, TSV, JSON lines or plain text, a text a line (these also with .gz), "
        "or Parquet; - is the standard input",
    )  # fmt: skip
    add("--text", metavar="COLUMN", default="text", help="texts (default: text)")
    add("--id", metavar="COLUMN", help="ids to keep beside the features")
    add(
        "--out", required=True, metavar="DIR|FILE",
        help="a directory, or a file that ends in .npy or .parquet",
    )  # fmt: skip
    add(
        "--format", choices=["npy", "parquet"],
        help="of what is written (default: by the name of --out; a directory: npy)",
    )  # fmt: skip
    add("--out-dtype", default="float32", metavar="TYPE", help="float32 or float16")
    add(
        "--part-rows", type=int, default=8192, metavar="N",
        help="rows encoded and kept at once, at most (default: %(default)s)",
    )  # fmt: skip
    add(
        "--file-rows", type=int, metavar="N",
        help="rows per file of a directory of Parquet (default: 256 MiB of them)",
    )  # fmt: skip
    add(
        "--overwrite", action="store_true",
        help="replace an output of other rows or other settings",
    )  # fmt: skip
    _add_reading(add, "--input-format")
    _add_features(
        encode.add_argument_group("features, as in BertVectorizer").add_argument
    )


def _add_texts(add: Callable[..., Any]) -> None:
    """Add what is decided about texts; what is not given is not passed."""
    boolean = argparse.BooleanOptionalAction
    give = partial(add, default=argparse.SUPPRESS)

    give("--special-tokens", action=boolean, help="whether [CLS] and [SEP] count")
    give("--normalize", action=boolean, help="to unit length, or never")
    give("--max-length", type=int, metavar="N", help="longest text in tokens")
    give("--overflow", metavar="WHAT", help="longer texts: truncate, chunk or raise")
    give("--stride", type=int, metavar="N", help="tokens that windows share (chunk)")
    give("--chunk-pooling", metavar="NAME", help="windows: auto, mean, max, first")
    give("--prompt", help="put before every text, such as 'query: '")
    give("--dtype", help="of the encoder: float32, bfloat16, float16, auto")


def _add_features(add: Callable[..., Any]) -> None:
    """Add the parameters of a vectorizer; what is not given is not passed."""
    give = partial(add, default=argparse.SUPPRESS)

    give("--model", help="name on the hub or directory (default: MiniLM)")
    give("--layer", type=_layer, metavar="K",
         help="such as 6, all, 3,4,5 or --layer=-4,-3 (default: -1)")  # fmt: skip
    give("--layer-combination", type=_combination, metavar="HOW",
         help="concat, mean, sum, or a weight per layer with commas")  # fmt: skip
    give("--pooling", type=_pooling, metavar="NAME",
         help="mean or cls,max, say (default: as the checkpoint declares)")  # fmt: skip
    _add_texts(add)
    give("--missing", metavar="WHAT", help="missing texts: raise or empty")
    give("--memory", metavar="DIR", help="keep features of layers in a store as well")
    give("--store-layers", metavar="WHAT", help="all or requested, for --memory")
    give("--batch-size", type=_batch_size, metavar="N", help="texts, or auto")
    give("--device", help="cpu, cuda, cuda:1, mps (default: auto)")
    give("--jobs", type=int, metavar="N", dest="n_jobs", help="processes that encode")
    give("--revision", help="branch, tag or commit on the hub")
    give("--local-files-only", action="store_true", help="never ask the hub")
    give("--trust-remote-code", action="store_true", help="run the checkpoint's code")


def _add_store(commands: Any) -> None:
    store = commands.add_parser(
        "store", help="what a store (--memory) holds, whether it is intact, less of it"
    )
    actions = store.add_subparsers(dest="action", required=True)

    def action(name: str, run: Callable[[argparse.Namespace], int], help: str) -> Any:
        parser = actions.add_parser(name, help=help, description=f"{help}.")
        parser.set_defaults(run=run, parser=parser)
        parser.add_argument("memory", metavar="DIR", help="what was given as memory")
        return parser.add_argument

    action("info", _store_info, "Show whose features are there, how many, last used")
    action("verify", _store_verify, "Read everything and compare it with checksums")
    add = action(
        "reduce", _store_reduce,
        "Remove what was not used for longest, other functions' results in the same "
        "joblib.Memory included",
    )  # fmt: skip
    add("--bytes-limit", metavar="SIZE", help="what may stay, such as 10G or 500M")
    add("--age-limit", metavar="AGE", help="longest time unused, such as 30d or 12h")
    add = action("clear", _store_clear, "Remove all features")
    add("--yes", action="store_true", help="do not ask")


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",")]


def _numbers(given: str) -> Any:
    try:
        return given if given == "all" else [int(part) for part in given.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{given!r} must be 'all' or numbers with commas, such as 0,3,6"
        ) from None


def _layer(given: str) -> Any:
    layers = _numbers(given)
    return layers[0] if isinstance(layers, list) and "," not in given else layers


def _pooling(given: str) -> Any:
    names = _names(given)
    return names if len(names) > 1 else names[0]


def _combination(given: str) -> Any:
    try:
        return [float(part) for part in given.split(",")]
    except ValueError:
        return given


def _batch_size(given: str) -> Any:
    return int(given) if given.isdecimal() else given


def _demo(options: argparse.Namespace) -> int:
    from .demo import show_demo

    show_demo(options.out, options.model, options.n_per_class)
    return 0


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
        n_jobs=options.jobs, memory=options.memory, device=options.device,
        verbose=not options.quiet, **_given(options, "model", "memory", "device"),
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


def _given(options: argparse.Namespace, *others: str) -> dict[str, Any]:
    """Return the parameters of a vectorizer that were given, without some others."""
    from . import BertVectorizer

    names = BertVectorizer().get_params().keys() - set(others)
    return {name: value for name, value in vars(options).items() if name in names}


def _encode(options: argparse.Namespace) -> int:
    from . import BertVectorizer
    from .export import encode_files

    parameters = _given(options)
    made = encode_files(
        BertVectorizer(**parameters), options.files, options.out, text=options.text,
        id=options.id, format=options.format, out_dtype=options.out_dtype,
        part_rows=options.part_rows, file_rows=options.file_rows,
        input_format=options.input_format, delimiter=options.delimiter,
        encoding=options.encoding, overwrite=options.overwrite,
        verbose=not options.quiet,
    )  # fmt: skip
    print(
        f"{made.n_rows:,} rows of {made.n_features:,} features: {made.features}\n"
        f"encoded now: {made.n_rows_encoded:,}, in {made.seconds:.1f} s"
    )
    if made.ids is not None:
        print(f"ids, a line each: {made.ids}")
    print(f"how they were made: {made.manifest}")
    return 0


def _store_info(options: argparse.Namespace) -> int:
    from .upkeep import describe_store

    info = describe_store(options.memory)
    print(f"{info.directory}: {_size(info.n_bytes)}")
    for space in info.spaces:
        used = f"{space.last_used:%Y-%m-%d %H:%M}" if space.last_used else "never"
        print(
            f"\n{space.model} ({space.dtype}, encoder {space.encoder[:8]})\n"
            f"  texts      {space.n_texts:,}\n"
            f"  size       {_size(space.n_bytes)} in {space.n_shards:,} shards\n"
            f"  last used  {used}\n"
            f"  directory  {space.directory.name}"
        )
    _tell_others(info.others)
    return 0


def _store_verify(options: argparse.Namespace) -> int:
    from .upkeep import check_store

    check = check_store(options.memory)
    for path, wrong in check.damaged:
        print(f"damaged: {path}: {wrong}")
    n_good = check.n_shards - len(check.damaged)
    print(
        f"{n_good:,} of {check.n_shards:,} shards are intact ({_size(check.n_bytes)})"
    )
    if check.damaged:
        print(
            "Damaged shards are never read; their texts are encoded again when they "
            "are needed. Their directories can be removed."
        )
    _tell_others(check.others)
    return 1 if check.damaged else 0


def _store_reduce(options: argparse.Namespace) -> int:
    from .upkeep import reduce_store

    gone, left = reduce_store(
        options.memory, bytes_limit=options.bytes_limit, age_limit=options.age_limit
    )
    print(f"removed {_size(gone)}, left {_size(left)}")
    return 0


def _store_clear(options: argparse.Namespace) -> int:
    from .upkeep import clear_store, describe_store

    info = describe_store(options.memory)
    n_texts = sum(space.n_texts for space in info.spaces)
    what = f"{_size(info.n_bytes)}, features of {n_texts:,} texts, in {info.directory}"
    if not options.yes:
        if not sys.stdin.isatty():
            raise ValueError(f"This removes {what}. Pass --yes to do it.")
        if input(f"Remove {what}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing removed")
            return 1
    print(f"removed {_size(clear_store(options.memory))}")
    return 0


def _tell_others(others: Sequence[Path]) -> None:
    for path in others:
        print(f"another version's features, not read by this one: {path}")


def _size(n_bytes: float) -> str:
    if n_bytes < 1024:
        return f"{n_bytes} bytes"
    exponent = min(int(math.log2(n_bytes)) // 10, 4)
    return f"{n_bytes / 1024**exponent:,.1f} {'KMGT'[exponent - 1]}iB"


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


if __name__ == "__main__":
    raise SystemExit(main())
