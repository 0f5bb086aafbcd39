"""Measure how fast features are read and written, and how many bytes they take.

Protocol. Vectors of 384 random numbers stand for features, so that nothing is encoded.
Each way of keeping them has a process of its own per number of texts: it writes all
rows, then a fresh process reads all of them in random order, in rounds. Files lie in
the page cache of the system, as after any earlier run. The ways are:

- ``FeatureStore``: the store alone, keys ready, one layer and pooling; written in
  shards of 512 rows and merged, as `BertVectorizer` does.
- ``FeatureStore, 7 x 3``: the same with the 7 layers and 3 poolings that MiniLM keeps;
  one of them is read. Not above 10,000 texts without ``--large`` (32 kB a text).
- ``BertVectorizer``: the whole path of a warm `transform`, texts hashed, with a tiny
  random encoder of width 384 and ``store_layers="requested"``.
- ``joblib.Memory, a text a call``: `memory.cache` of a function of one text. Not above
  10,000 texts.
- ``joblib.Memory, a list a call``: `memory.cache` of a function of all texts. It knows
  the very same list only; another order, or one more text, is computed anew, so it is
  read in the order in which it was written.

Command: ``python benchmarks/bench_store.py [--texts N ...] [--rounds N] [--large]
[--keep | --out FILE] [--short]``. ``--large`` adds a million texts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import common

WIDTH = 384
_WINDOW = 512  # rows per shard as they are written

WAYS = {
    "FeatureStore": None,  # the largest number of texts without --large
    "FeatureStore, 7 x 3": 10_000,
    "BertVectorizer": None,
    "joblib.Memory, a text a call": 10_000,
    "joblib.Memory, a list a call": None,
}


def make_rows(n_texts):
    import numpy as np

    return np.random.default_rng(0).standard_normal((n_texts, WIDTH), dtype=np.float32)


def name_texts(n_texts):
    return [f"text {i}" for i in range(n_texts)]


def prepare(way, n_texts, place, is_read):
    import numpy as np

    order = np.random.default_rng(1).permutation(n_texts)
    if way.startswith("FeatureStore"):
        n_layers, columns = (
            (7, ("cls", "max", "mean")) if "7" in way else (1, ("mean",))
        )
        return _store_work(n_texts, place, is_read, order, n_layers, columns)
    if way == "BertVectorizer":
        return _vectorizer_work(n_texts, place, is_read, order)
    return _joblib_work(way, n_texts, place, is_read, order)


def _store_work(n_texts, place, is_read, order, n_layers, columns):
    import hashlib

    import numpy as np

    from sklearn_bert.store import FeatureStore

    keys = np.array(
        [
            hashlib.blake2b(t.encode(), digest_size=16).digest()
            for t in name_texts(n_texts)
        ],
        dtype="S16",
    )
    store = FeatureStore(place, "bench")

    def write():
        values = np.ascontiguousarray(
            np.broadcast_to(make_rows(_WINDOW), (n_layers, _WINDOW, WIDTH))
        )
        started = time.perf_counter()
        for start in range(0, n_texts, _WINDOW):
            part = keys[start : start + _WINDOW]
            block = (tuple(range(n_layers)), values[:, : len(part)])
            store.append(
                part, np.ones(len(part), np.int32), dict.fromkeys(columns, block)
            )
        store.merge()
        return {"seconds": time.perf_counter() - started}

    def read():
        started = time.perf_counter()
        store.reopen()
        wanted = keys[order]
        hits = store.find(wanted, {"mean": (n_layers - 1,)})["mean"]
        if not hits.found.all():
            raise RuntimeError(f"{(~hits.found).sum()} rows are missing")
        rows = hits.order(np.arange(n_texts))
        out = np.empty((n_texts, WIDTH), dtype=np.float32)
        for start in range(0, n_texts, 20_000):
            part = rows[start : start + 20_000]
            block = np.empty((len(part), 1, WIDTH), dtype=np.float32)
            if not store.read(hits, part, "mean", (n_layers - 1,), block):
                raise RuntimeError("a shard could not be read")
            out[part] = block[:, 0]
        return {"seconds": time.perf_counter() - started}

    return read if is_read else write


def _vectorizer_work(n_texts, place, is_read, order):
    from sklearn_bert import BertVectorizer
    from sklearn_bert.datasets import make_tiny_encoder
    from sklearn_bert.features import WORK

    encoder = f"{place}/encoder"
    if not is_read:
        make_tiny_encoder(encoder, n_layers=1, width=WIDTH, vocabulary=["text"])
    texts = name_texts(n_texts)
    if is_read:
        texts = [texts[i] for i in order]
    vectorizer = BertVectorizer(
        encoder, memory=f"{place}/memory", store_layers="requested"
    ).fit([])

    def work():
        before = WORK.n_texts
        started = time.perf_counter()
        vectorizer.transform(texts)
        seconds = time.perf_counter() - started
        if is_read and WORK.n_texts != before:
            raise RuntimeError("texts were encoded that should have been stored")
        return {"seconds": seconds}

    return work


def _joblib_work(way, n_texts, place, is_read, order):
    import joblib

    texts = name_texts(n_texts)
    if way.endswith("a text a call"):
        rows = dict(zip(texts, make_rows(n_texts), strict=True))
        cached = joblib.Memory(place, verbose=0).cache(
            _counted("one", rows.__getitem__)
        )
        given = [texts[i] for i in order]

        def run():
            return [cached(text) for text in given]
    else:
        rows = make_rows(n_texts)
        cached = joblib.Memory(place, verbose=0).cache(_counted("all", lambda _: rows))

        def run():
            return [cached(texts)]

    def work():
        started = time.perf_counter()
        run()
        seconds = time.perf_counter() - started
        if is_read and cached.func.n_calls:
            raise RuntimeError("a cached result was not found")
        return {"seconds": seconds}

    return work


def _counted(name, compute):
    """Return a function that joblib caches by its argument, and that counts calls."""

    def encode(text):
        encode.n_calls += 1
        return compute(text)

    encode.n_calls = 0
    encode.__name__ = encode.__qualname__ = f"encode_{name}"
    return encode


def bytes_of(place: Path) -> dict[str, int]:
    """Return the sizes of all files, and the blocks that they take up on the disk."""
    stats = [file.stat() for file in place.rglob("*") if file.is_file()]
    return {
        "bytes": sum(s.st_size for s in stats),
        "on_disk": sum(512 * getattr(s, "st_blocks", 0) for s in stats),
    }


def measure(way: str, n_texts: int, rounds: int) -> tuple[dict, str | None]:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        facts = {}
        for is_read in (False, True):
            arguments = {
                "way": way, "n_texts": n_texts, "place": name, "is_read": is_read,
            }  # fmt: skip
            answers, absent = common.race(
                __file__, {way: arguments}, rounds if is_read else 1
            )
            if absent:
                return {}, absent[way]
            seconds = common.seconds_of(answers[way])
            facts["read_seconds" if is_read else "write_seconds"] = common.rounded(
                seconds
            )
        sizes = bytes_of(place)
        if way == "BertVectorizer":  # less the encoder's own files
            own = bytes_of(place / "encoder")
            sizes = {key: sizes[key] - own[key] for key in sizes}
    rates = [n_texts / s for s in facts["read_seconds"]]
    return {
        **facts,
        "rows_per_second": {
            "median": round(statistics.median(rates)),
            "lowest": round(min(rates)),
            "highest": round(max(rates)),
        },
        "write_us_per_text": round(1e6 * facts["write_seconds"][0] / n_texts, 2),
        "bytes_per_text": round(sizes["bytes"] / n_texts, 1),
        "disk_bytes_per_text": round(sizes["on_disk"] / n_texts, 1),
    }, None


def report(results: dict) -> str:
    """Return the tables of results, in Markdown."""
    header = (
        "way", "texts", "rows read per second", "bytes per text", "on disk",
        "microseconds to write a text",
    )  # fmt: skip
    rows, absent = [], {}
    for case, facts in results["cases"].items():
        for way, row in facts["rows"].items():
            r = row["rows_per_second"]
            note = " (with encoding)" if way == "BertVectorizer" else ""
            rows.append(
                (
                    way,
                    f"{facts['n_texts']:,}",
                    f"{r['median']:,} ({r['lowest']:,}-{r['highest']:,})",
                    f"{row['bytes_per_text']:,.0f}",
                    f"{row['disk_bytes_per_text']:,.0f}",
                    f"{row['write_us_per_text']:,.1f}{note}",
                )
            )
        absent.update({f"{way}, {case}": w for way, w in facts["absent"].items()})
    lines = [common.table(header, rows), *common.absentees(absent)]
    return "\n\n".join([lines[0], "\n".join(lines[1:])]).strip()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--texts", type=int, nargs="+", default=[10**3, 10**4, 10**5])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="add a million texts")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))


def main() -> None:
    if common.is_worker():
        common.serve(prepare)
        return
    options = common.parse(__doc__, add_options, {"texts": [1000, 10_000], "rounds": 3})
    keeper = common.Keeper("store", options)
    for n_texts in [*options.texts, *([10**6] if options.large else [])]:
        rows, absent = {}, {}
        for way in options.ways:
            limit = WAYS[way]
            if "7 x 3" in way and options.large:
                limit = 10**5
            if limit is not None and n_texts > limit:
                absent[way] = f"more than {limit:,} texts"
                continue
            common.say(f"{way}, {n_texts:,} texts")
            row, why = measure(way, n_texts, options.rounds)
            if why:
                absent[way] = why
            else:
                rows[way] = row
        keeper.add(
            f"{n_texts} texts", {"n_texts": n_texts, "rows": rows, "absent": absent}
        )
    print(report(keeper.results))


if __name__ == "__main__":
    main()
