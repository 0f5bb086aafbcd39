"""Files of any format become features on disk, also if runs are killed."""

import errno
import gzip
import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from export_runs import LAYOUTS, made_up

from sklearn_bert import BertVectorizer
from sklearn_bert.claims import release, try_lock
from sklearn_bert.export import _output, _rows, _run, encode_files

WORDS = ["red", "green", "blue", "one", "two", "three", "house", "tree"]
TEXTS = [" ".join(pair) for pair in itertools.product(WORDS, WORDS[:5])]  # 40
IDS = [f"k{i}" for i in range(len(TEXTS))]
OUTS = {"a.npy": {}, "a": {}, "a.parquet": {}, "p": {"format": "parquet"}}


def rows_of(texts, ids=IDS):
    return [{"key": one, "text": text} for one, text in zip(ids, texts, strict=False)]


def csv_of(rows, delimiter=","):
    lines = [delimiter.join(map(str, row.values())) for row in rows]
    return "\n".join([delimiter.join(rows[0]), *lines]) + "\n"


def jsonl_of(rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def write(path, rows):
    """Write rows in the format that the name tells."""
    kind = path.suffixes[0]
    if kind == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    if kind == ".txt":
        content = "".join(row["text"] + "\n" for row in rows)
    elif kind == ".jsonl":
        content = jsonl_of(rows)
    else:
        content = csv_of(rows, "\t" if kind == ".tsv" else ",")
    raw = content.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def read(made):
    """Return ids, or numbers of rows, and features."""
    if made.features.suffix == ".npy":
        features = np.load(made.features, mmap_mode="r")
        if made.ids is None:
            return list(range(len(features))), features
        lines = made.ids.read_text(encoding="utf-8").splitlines()
        return list(map(json.loads, lines)), features
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(made.features)
    values = table["features"].combine_chunks()
    features = values.flatten().to_numpy(zero_copy_only=False)
    return table[0].to_pylist(), features.reshape(made.n_rows, made.n_features)


@pytest.fixture
def rows(tmp_path):
    return write(tmp_path / "rows.csv", rows_of(TEXTS))


@pytest.fixture
def encode(tiny, rows, tmp_path):
    """Return a function that encodes the rows, ten at a time."""

    def encode(out="a.npy", files=rows, *, parameters=None, **more):
        vectorizer = BertVectorizer(tiny, **(parameters or {}))
        given = {"part_rows": 10, **more}
        return encode_files(vectorizer, files, tmp_path / out, **given)

    return encode


@pytest.fixture
def stopped(encode, monkeypatch):
    """Return a function that encodes until so many parts are finished."""

    def stopped(n_parts=2, **more):
        transform, left = BertVectorizer.transform, [n_parts]

        def some(self, X):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return transform(self, X)

        with monkeypatch.context() as patch:
            patch.setattr(BertVectorizer, "transform", some)
            with pytest.raises(KeyboardInterrupt):
                encode(**more)

    return stopped


def feed(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))


# What comes out


@pytest.mark.parametrize("out", OUTS)
@pytest.mark.parametrize(
    "name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.parquet", "a.txt", "-"]
)
def test_every_format_in_and_out_equals_transform(
    tiny, encode, tmp_path, monkeypatch, name, out
):
    file = tmp_path / f"in-{name}"
    if name == "-":
        file = "-"
        feed(monkeypatch, csv_of(rows_of(TEXTS)))
    else:
        write(tmp_path / f"in-{name}", rows_of(TEXTS))
    id = None if name == "a.txt" else "key"
    made = encode(out, file, id=id, **OUTS[out])
    ids, features = read(made)
    assert ids == (list(range(len(TEXTS))) if id is None else IDS)
    assert features.dtype == np.float32
    expected = BertVectorizer(tiny).fit_transform(TEXTS)
    np.testing.assert_allclose(features, expected, atol=2e-6)
    assert (made.n_rows, made.n_features, made.n_rows_encoded) == (40, 32, 40)


PARAMETERS = [
    {"layer": [0, 2], "pooling": ["cls", "max"], "normalize": True},
    {"layer": "all", "layer_combination": [0.5, 0.25, 0.25], "special_tokens": False},
    {"max_length": 4, "overflow": "chunk", "stride": 1, "prompt": "red "},
]


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_the_vectorizers_parameters_decide_the_features(tiny, encode, parameters):
    _, features = read(encode(parameters=parameters))
    expected = BertVectorizer(tiny, **parameters).fit_transform(TEXTS)
    np.testing.assert_allclose(features, expected, atol=2e-6)


@pytest.mark.filterwarnings("ignore:.*third time")
def test_what_a_vectorizer_learned_is_applied(tiny, rows, tmp_path):
    mixing = BertVectorizer(tiny, layer="all", layer_combination="scalar_mix")
    with pytest.raises(ValueError, match="fit it on labelled texts first"):
        encode_files(mixing, rows, tmp_path / "a.npy")
    mixing.fit(TEXTS, [i % 2 for i in range(len(TEXTS))])
    _, features = read(encode_files(mixing, rows, tmp_path / "a.npy"))
    np.testing.assert_allclose(features, mixing.transform(TEXTS), atol=2e-6)
    mixing.fit(TEXTS, [i // 20 for i in range(len(TEXTS))])
    with pytest.raises(ValueError, match="made with other settings: learned was"):
        encode_files(mixing, rows, tmp_path / "a.npy")


def test_files_follow_one_another(encode, tmp_path):
    first = write(tmp_path / "1.jsonl", rows_of(TEXTS[:13]))
    second = write(tmp_path / "2.csv.gz", rows_of(TEXTS[13:], IDS[13:]))
    made = encode("two.npy", [first, second], id="key")
    ids, features = read(made)
    assert ids == IDS
    np.testing.assert_allclose(features, read(encode("one.npy"))[1], atol=2e-6)
    inputs = json.loads(made.manifest.read_text())["inputs"]
    assert [(Path(i["file"]).name, i["n_rows"]) for i in inputs] == [
        ("1.jsonl", 13), ("2.csv.gz", 27),
    ]  # fmt: skip


def test_whole_numbers_are_ids_too(encode, tmp_path):
    file = write(tmp_path / "n.jsonl", rows_of(TEXTS, range(100, 140)))
    assert read(encode("a.npy", file, id="key"))[0] == list(range(100, 140))
    assert read(encode("a.parquet", file, id="key"))[0] == list(range(100, 140))


def test_half_precision_halves_the_file_and_refuses_what_it_cannot_hold(
    encode, monkeypatch
):
    single = read(encode("single.npy"))[1]
    half = read(encode("half.npy", out_dtype="float16"))[1]
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, single.astype(np.float16))
    assert read(encode("half.parquet", out_dtype="float16"))[1].dtype == np.float16
    monkeypatch.setattr(
        BertVectorizer, "transform", lambda self, X: 1e5 * np.ones((len(X), 32), "f4")
    )
    message = r"row 1 of .*rows.csv has features up to 100000, beyond float16; pass out"
    with pytest.raises(ValueError, match=message):
        encode("large.npy", out_dtype="float16")


def test_no_rows_are_an_empty_output(encode, tmp_path):
    (tmp_path / "none.csv").write_text("key,text\n")
    for out in OUTS:
        made = encode(out, tmp_path / "none.csv", **OUTS[out])
        assert made.n_rows == 0
        assert len(read(made)[1]) == 0


def test_the_manifest_says_what_was_made_and_how(tiny, encode, rows):
    made = encode("a", parameters={"layer": [1, 2], "pooling": "cls"}, id="key")
    manifest = json.loads(made.manifest.read_text())
    assert (manifest["n_rows"], manifest["model"]) == (40, tiny)
    assert manifest["features"] == [
        {"name": "layer1_cls", "start": 0, "stop": 32},
        {"name": "layer2_cls", "start": 32, "stop": 64},
    ]
    assert manifest["inputs"][0]["n_bytes"] == rows.stat().st_size
    settings = manifest["settings"]
    assert (settings["layer"], settings["pooling"]) == ([1, 2], ["cls"])
    fingerprint = BertVectorizer(tiny).fit([]).fingerprint_
    assert settings["encoder"] == fingerprint
    assert "torch" in manifest["versions"]


def test_parquet_directories_are_cut_into_files(encode):
    made = encode("p", format="parquet", file_rows=15)
    names = [path.name for path in sorted(made.features.iterdir())]
    assert names == ["_manifest.json", "part-00000.parquet", "part-00001.parquet"]
    pandas = pytest.importorskip("pandas")
    assert pandas.read_parquet(made.features)["row"].tolist() == list(range(40))


# What it costs


def test_a_text_is_encoded_once_per_part(encode, tmp_path, work):
    write(tmp_path / "same.csv", rows_of([TEXTS[i % 2] for i in range(40)]))
    encode("a.npy", tmp_path / "same.csv", part_rows=20)
    assert work().n_texts == 4


def test_a_store_keeps_features_as_well(encode, tmp_path, work):
    parameters = {"memory": tmp_path / "memory"}
    encode("a.npy", parameters=parameters)
    encode("b.npy", parameters={**parameters, "layer": 1})
    assert work().n_texts == len(TEXTS)


class Counting(io.RawIOBase):
    """Lines of text that come into being as they are read."""

    def __init__(self, n_lines):
        self.lines = (f"text number {i}\n".encode() for i in range(n_lines))
        self.n_read, self.left = 0, b""

    def readable(self):
        return True

    def readinto(self, buffer):
        while len(self.left) < len(buffer) and (line := next(self.lines, b"")):
            self.left += line
            self.n_read += 1
        n = min(len(buffer), len(self.left))
        buffer[:n], self.left = self.left[:n], self.left[n:]
        return n


def test_rows_are_read_as_they_are_encoded(encode, monkeypatch):
    raw = Counting(20_000)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(raw)))
    n_encoded, ahead = [0], []

    def transform(self, X):
        assert len(X) <= 500
        ahead.append(raw.n_read - n_encoded[0])
        n_encoded[0] += len(X)
        return made_up(X)

    monkeypatch.setattr(BertVectorizer, "transform", transform)
    assert encode("a.npy", "-", input_format="text", part_rows=500).n_rows == 20_000
    # A part, a batch of the reader, and what streams have buffered.
    assert max(ahead) < 500 + 128 + 2000


def test_long_texts_make_small_parts(encode, tmp_path, monkeypatch):
    monkeypatch.setattr(_rows, "_PART_CHARACTERS", 1000)
    sizes = []

    def transform(self, X):
        sizes.append(len(X))
        return made_up(X)

    monkeypatch.setattr(BertVectorizer, "transform", transform)
    (tmp_path / "long.txt").write_text(f"{'word ' * 60}\n" * 10 + "short\n" * 30)
    encode("a.npy", tmp_path / "long.txt", part_rows=25)
    assert sizes == [4, 4, 25, 7]


# Going on


@pytest.mark.parametrize("out", OUTS)
def test_a_run_goes_on_after_the_last_finished_part(encode, stopped, tmp_path, out):
    more = {**OUTS[out], "id": "key"}
    if out == "p":
        more["file_rows"] = 15
    whole = encode(f"whole-{out}", **more)
    stopped(2, out=f"again-{out}", **more)
    assert not (tmp_path / f"again-{out}").exists()
    again = encode(f"again-{out}", **more)
    assert (again.n_rows, again.n_rows_encoded) == (40, 20)
    assert encode(f"again-{out}", **more).n_rows_encoded == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert not [name for name in names if name.endswith((".partial", ".replaced"))]
    for path in [whole.features, whole.manifest, whole.ids]:
        if path is not None:
            twin = Path(str(path).replace("whole-", "again-"))
            files = [path, *path.glob("*")] if path.is_dir() else [path]
            for file in filter(Path.is_file, files):
                assert (
                    file.read_bytes() == (twin / file.name).read_bytes()
                    if (twin.is_dir())
                    else twin.read_bytes() == path.read_bytes()
                )
    assert read(again)[0] == IDS


def test_an_interrupted_run_says_what_is_kept(encode, monkeypatch, tmp_path):
    n_calls = [0]

    def transform(self, X):
        n_calls[0] += 1
        if n_calls[0] == 3:
            raise RuntimeError("out of memory")
        return made_up(X)

    monkeypatch.setattr(BertVectorizer, "transform", transform)
    with pytest.raises(RuntimeError, match="out of memory") as raised:
        encode("a.npy")
    (note,) = raised.value.__notes__
    assert note.startswith("20 rows are finished and kept in ")
    assert (tmp_path / "a.npy.partial").is_dir()


def test_a_run_that_finished_nothing_leaves_nothing(encode, tmp_path):
    file = write(tmp_path / "bad.jsonl", [{"text": "fine"}, {"text": None}])
    with pytest.raises(ValueError, match="has no text"):
        encode("a.npy", file)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.jsonl", "rows.csv"]


def test_a_row_may_be_mended_before_a_run_goes_on(encode, tmp_path):
    rows = rows_of(TEXTS)
    rows[33]["text"] = None
    file = write(tmp_path / "bad.jsonl", rows)
    with pytest.raises(ValueError, match=r"row 34 of .*bad.jsonl has no text"):
        encode("a.npy", file)
    write(file, rows_of(TEXTS))
    made = encode("a.npy", file)
    assert made.n_rows_encoded == 10
    np.testing.assert_array_equal(read(made)[1], read(encode("b.npy"))[1])


def test_standard_input_goes_on_after_the_rows_that_are_finished(
    encode, stopped, monkeypatch
):
    feed(monkeypatch, csv_of(rows_of(TEXTS)))
    stopped(3, out="a.npy", files="-")
    feed(monkeypatch, csv_of(rows_of(TEXTS)))
    made = encode("a.npy", "-")
    assert made.n_rows_encoded == 10
    np.testing.assert_array_equal(read(made)[1], read(encode("b.npy"))[1])


CHANGES = {
    "another text": (lambda t: [*t[:4], "blue", *t[5:]], "rows 1 to 10 of .*rows.csv"),
    "a row less": (lambda t: [*t[:12], *t[13:]], "rows 11 to 20 of .* are not those"),
    "too short": (lambda t: t[:10], "20 rows are finished, and .* now has 10"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_changed_are_never_mixed(encode, stopped, rows, change):
    changed, message = CHANGES[change]
    stopped(2)
    write(rows, rows_of(changed(TEXTS)))
    with pytest.raises(
        ValueError, match=rf"a.npy.partial was made of other.*{message}"
    ):
        encode()
    made = encode(overwrite=True)
    assert made.n_rows_encoded == made.n_rows == len(changed(TEXTS))
    np.testing.assert_array_equal(read(made)[1], read(encode("b.npy"))[1])


FINISHED = {
    "another text": (
        lambda t: [*t[:4], "blue", *t[5:]],
        "as many rows, but other ones",
    ),
    "a row less": (lambda t: t[:-1], "it holds 40, and .*rows.csv now has 39 rows"),
    "a row more": (lambda t: [*t, "x"], "it holds 40, and .* now has more rows"),
}


@pytest.mark.parametrize("change", FINISHED)
def test_a_complete_output_of_other_rows_is_refused_or_replaced(
    encode, rows, change, tmp_path
):
    changed, message = FINISHED[change]
    before = encode("a").features.read_bytes()
    write(rows, rows_of(changed(TEXTS), [*IDS, "new"]))
    with pytest.raises(ValueError, match=rf"a was made of other rows: .*{message}"):
        encode("a")
    assert (tmp_path / "a" / "features.npy").read_bytes() == before
    made = encode("a", overwrite=True)
    assert made.n_rows == len(changed(TEXTS))
    assert not (tmp_path / "a.replaced").exists()


def test_ids_that_changed_are_other_rows(encode, rows):
    encode(id="key")
    write(rows, rows_of(TEXTS, reversed(IDS)))
    with pytest.raises(ValueError, match="as many rows, but other ones"):
        encode(id="key")


def test_standard_input_that_changed_cannot_be_read_again(encode, stopped, monkeypatch):
    feed(monkeypatch, csv_of(rows_of(TEXTS)))
    stopped(2, files="-")
    feed(monkeypatch, csv_of(rows_of(TEXTS[1:])))
    with pytest.raises(
        ValueError, match=r"are not those .* Remove it, and begin again"
    ):
        encode("a.npy", "-", overwrite=True)


@pytest.mark.parametrize("is_complete", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"layer": 1}}, r"layer was \[2\], is now \[1\]"),
        ({"parameters": {"max_length": 40}}, "max_length was 64, is now 40"),
        ({"id": "key"}, "id was None, is now 'key'"),
        ({"out_dtype": "float16"}, "out_dtype was 'float32', is now 'float16'"),
    ],
)
def test_other_settings_are_refused_by_name_or_replace(
    encode, stopped, is_complete, change, message
):
    if is_complete:
        encode()
    else:
        stopped(2)
    with pytest.raises(ValueError, match=rf"other settings: {message}\. Name another"):
        encode(**change)
    made = encode(**change, overwrite=True)
    assert made.n_rows_encoded == 40
    assert encode(**change).n_rows_encoded == 0


def test_ids_of_an_output_before_do_not_stay(encode, tmp_path):
    encode(id="key")
    assert (tmp_path / "a.npy.ids.jsonl").exists()
    encode(overwrite=True)
    assert not (tmp_path / "a.npy.ids.jsonl").exists()


def test_another_encoder_is_another_setting(encode, tmp_path, rows):
    from sklearn_bert.datasets import make_tiny_encoder

    encode()
    other = BertVectorizer(make_tiny_encoder(tmp_path / "other", width=64))
    with pytest.raises(ValueError, match=r"encoder was '[0-9a-f]+', is now"):
        encode_files(other, rows, tmp_path / "a.npy", part_rows=10)


def test_only_one_process_writes_an_output(encode, stopped, tmp_path):
    stopped(1)
    descriptor = os.open(tmp_path / "a.npy.partial" / "journal.jsonl", os.O_RDWR)
    assert try_lock(descriptor)
    with pytest.raises(BlockingIOError, match="Another process is writing"):
        encode()
    release(descriptor)
    assert encode().n_rows_encoded == 30


def test_a_writer_finds_another_where_no_file_can_be_locked(
    encode, tmp_path, monkeypatch
):
    def no_locks(descriptor):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_output, "try_lock", no_locks)
    append, n_parts = _output.Output.append, [0]

    def appended(self, *given):
        n_parts[0] += 1
        if n_parts[0] == 3:
            encode()
        append(self, *given)

    monkeypatch.setattr(_output.Output, "append", appended)
    with pytest.raises(BlockingIOError, match=r"is writing .*a.npy as well"):
        encode()
    expected = read(encode("b.npy"))[1]
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)


@pytest.mark.parametrize("out", ["a.npy", "a"])
def test_an_output_is_locked_until_it_has_its_name(encode, monkeypatch, out):
    replace, tried = os.replace, []

    def renamed(function):
        def rename(source, target):
            if not tried and ".tmp" not in str(source):
                tried.append(target)
                with pytest.raises(BlockingIOError, match="Another process is writing"):
                    encode(out)
            return function(source, target)

        return rename

    monkeypatch.setattr(os, "replace", renamed(replace))
    monkeypatch.setattr(os, "rename", renamed(os.rename))
    encode(out)
    assert len(tried) == 1
    assert encode(out).n_rows_encoded == 0


def test_a_resume_that_is_refused_or_interrupted_keeps_what_is_finished(
    encode, stopped, monkeypatch
):
    def interrupt(self, parts):
        raise KeyboardInterrupt

    stopped(2)
    with pytest.raises(ValueError, match="had other settings: pooling"):
        encode(parameters={"pooling": "max"})
    with monkeypatch.context() as patch:
        patch.setattr(_output.Output, "_whole_parts", interrupt)
        with pytest.raises(KeyboardInterrupt):
            encode()
    assert encode().n_rows_encoded == 20


@pytest.mark.parametrize(
    ("name", "n_left"), [("features.npy", 10), ("journal.jsonl", 10)]
)
def test_finished_rows_that_are_damaged_are_encoded_again(
    encode, stopped, tmp_path, name, n_left
):
    stopped(3)
    path = tmp_path / "a.npy.partial" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # in the second part of three
    path.write_bytes(content)
    if name == "features.npy":
        with pytest.warns(UserWarning, match="20 finished rows .* after the first 10"):
            made = encode()
    else:
        made = encode()
    assert made.n_rows_encoded == 40 - n_left
    np.testing.assert_array_equal(read(made)[1], read(encode("b.npy"))[1])


def test_a_complete_output_that_was_cut_is_noticed(encode, tmp_path):
    made = encode()
    os.truncate(made.features, 1000)
    with pytest.raises(ValueError, match=r"does not hold the 40 rows that .* tells of"):
        encode()
    assert encode(overwrite=True).n_rows_encoded == 40


def test_ids_that_are_gone_are_noticed(encode):
    made = encode(id="key")
    made.ids.unlink()
    with pytest.raises(ValueError, match=r"ids.jsonl, of which .* is not there"):
        encode(id="key")
    assert encode(id="key", overwrite=True).ids.is_file()


def test_an_overwrite_killed_between_two_files_is_completed(
    encode, tmp_path, monkeypatch
):
    encode(id="key")
    other = write(tmp_path / "other.csv", rows_of(TEXTS[::-1]))
    replace = os.replace

    def killed(source, target):
        if str(target).endswith("a.npy.manifest.json"):
            raise KeyboardInterrupt
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt) as raised:
            encode(files=other, id="key", overwrite=True)
    assert not hasattr(raised.value, "__notes__")  # nothing is to be encoded
    with pytest.raises(ValueError, match="was made of other rows"):
        encode(id="key")
    assert encode(files=other, id="key").n_rows_encoded == 0


# Killed


def run_and_kill(kind, tiny, place, name):
    if "par" in name:
        pytest.importorskip("pyarrow")
    (place / "out").mkdir()
    script = Path(__file__).with_name("export_runs.py")
    run = [sys.executable, script, kind, tiny, place, name]
    done = subprocess.run(run, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")


@forks
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_run_killed_at_any_step_goes_on_to_the_same_bytes(tiny, tmp_path, name):
    assert run_and_kill("steps", tiny, tmp_path, name) > 15


@forks
def test_a_run_killed_at_any_moment_goes_on_to_the_same_bytes(tiny, tmp_path):
    n_finished = run_and_kill("moments", tiny, tmp_path, "parts")
    assert n_finished == sorted(set(n_finished))  # each run got further
    assert len(n_finished) == 6


# What is said


def test_cut_and_empty_texts_are_counted_once(encode, tmp_path, recwarn):
    texts = ["x " * 8] * 12 + [""] * 3 + ["x y"] * 10
    write(tmp_path / "long.txt", rows_of(texts))
    encode("a.npy", tmp_path / "long.txt", parameters={"max_length": 6}, part_rows=5)
    cut, empty = (str(warning.message) for warning in recwarn)
    assert cut.startswith("12 of 25 texts are longer than max_length=6 tokens")
    assert "48 tokens are lost (the longest text has 10)" in cut
    assert empty.startswith("3 of 25 texts are empty")


def test_a_resumed_run_counts_what_was_cut_before(encode, stopped):
    stopped(2, parameters={"max_length": 3})
    with pytest.warns(UserWarning, match="40 of 40 texts are longer .* 264 tokens"):
        encode(parameters={"max_length": 3})


def test_other_warnings_come_once(encode, monkeypatch):
    import warnings

    def transform(self, X):
        warnings.warn(f"something about {X[0]}", UserWarning, stacklevel=1)
        return made_up(X)

    monkeypatch.setattr(BertVectorizer, "transform", transform)
    with pytest.warns(UserWarning, match="something about red red") as caught:
        encode()
    assert len(caught) == 1


def test_missing_texts_are_refused_by_row_or_read_as_empty(tiny, encode, tmp_path):
    rows = rows_of(["one", None, "two"])
    file = write(tmp_path / "m.jsonl", rows)
    with pytest.raises(ValueError, match=r"row 2 of .*m.jsonl has no text in column"):
        encode("a.npy", file)
    with pytest.warns(UserWarning, match="1 of 3 texts are empty"):
        made = encode("a.npy", file, parameters={"missing": "empty"})
    expected = BertVectorizer(tiny).fit_transform(["one", "", "two"])
    np.testing.assert_allclose(read(made)[1], expected, atol=2e-6)


def test_a_text_that_is_too_long_is_named_by_its_row(encode, tmp_path):
    texts = [*["x"] * 15, "x " * 8]
    file = write(tmp_path / "long.txt", rows_of(texts))
    with pytest.raises(ValueError, match=r"first in row 16 of .*long.txt, longest 10"):
        encode("a.npy", file, parameters={"max_length": 8, "overflow": "raise"})


BAD_IDS = [
    ([1, None], "row 2 of .* has no id in column 'key'"),
    ([1, "x"], "row 2 of .* has text, 'x', in column 'key', where rows before it have"),
    ([1, 1.5], r"has float '1.5' in column 'key'; ids must be text, or whole numbers"),
    ([1, 2**63], "whole numbers of at most 64 bits"),
    ([1, True], "has bool 'True'"),
    (["a", "\ud800"], "an id in column 'key' that is no valid text"),
]


@pytest.mark.parametrize(("ids", "message"), BAD_IDS)
def test_ids_that_cannot_be_a_column_are_refused(encode, tmp_path, ids, message):
    file = write(tmp_path / "i.jsonl", rows_of(["one", "two"], ids))
    with pytest.raises(ValueError, match=message):
        encode("a.npy", file, id="key")


def test_ids_of_two_files_are_compared_before_anything_is_encoded(
    encode, tmp_path, work
):
    numbers = write(tmp_path / "n.jsonl", rows_of(["one"], [7]))
    with pytest.raises(ValueError, match=r"row 1 of .*rows.csv has text, 'k0'"):
        encode("a.npy", [numbers, tmp_path / "rows.csv"], id="key")
    assert work().n_texts == 0


MISTAKES = [
    ({"out": "a.csv"}, ValueError, r"ends in .csv, which is not written: name a file"),
    ({"out": "no/a"}, FileNotFoundError, "there is no directory .*no"),
    (
        {"out": "rows.csv.npy", "format": "parquet"},
        ValueError,
        "is named like npy, but",
    ),
    ({"format": "xml"}, ValueError, r"format='xml' must be one of \('npy', 'parquet'"),
    ({"text": "review"}, ValueError, "has no column 'review'; it has 'key', 'text'"),
    ({"id": "number"}, ValueError, "has no column 'number'"),
    ({"id": "features"}, ValueError, "id='features' is the name of another column"),
    ({"files": []}, ValueError, "files must name at least one file"),
    ({"files": ["-", "-"]}, ValueError, "can be read only once"),
    ({"files": "none.csv"}, FileNotFoundError, "none.csv does not exist"),
    (
        {"out_dtype": "int8"},
        ValueError,
        "out_dtype must be one of 'float32', 'float16'",
    ),
    ({"part_rows": 0}, ValueError, "part_rows must be at least 1"),
    ({"file_rows": 5}, ValueError, "file_rows=5 is for a directory of Parquet"),
    ({"parameters": {"layer": 9}}, ValueError, "layer=9 is out of range"),
]


@pytest.mark.parametrize(("given", "error", "message"), MISTAKES)
def test_a_mistake_is_named_before_anything_is_encoded(
    encode, work, tmp_path, given, error, message
):
    with pytest.raises(error, match=message):
        encode(**given)
    assert work().n_texts == 0
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_only_a_vectorizer_encodes(rows, tmp_path):
    with pytest.raises(TypeError, match="vectorizer must be a BertVectorizer, got str"):
        encode_files("model", rows, tmp_path / "a.npy")


def test_what_others_wrote_is_not_replaced(encode, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match="holds files, but no manifest"):
        encode("a", overwrite=True)
    (tmp_path / "b.npy").write_text("x")
    with pytest.raises(FileExistsError, match="exists, without the manifest"):
        encode("b.npy")
    assert encode("b.npy", overwrite=True).n_rows == 40
    (tmp_path / "c.npy.partial").mkdir()
    (tmp_path / "c.npy.partial" / "thesis.txt").write_text("x")
    with pytest.raises(
        FileExistsError, match=r"c.npy.partial, in which .* other files"
    ):
        encode("c.npy")
    (tmp_path / "d").write_text("x")
    with pytest.raises(FileExistsError, match=r"is a file; name one that ends in .npy"):
        encode("d")
    (tmp_path / "e.npy").mkdir()
    with pytest.raises(IsADirectoryError, match="is a directory"):
        encode("e.npy")
    (tmp_path / "f").mkdir()
    assert encode("f").n_rows == 40  # an empty directory is a fine place


def test_files_of_others_beside_the_features_are_not_removed(encode, rows, tmp_path):
    encode("a")
    (tmp_path / "a" / "labels.csv").write_text("x")
    with pytest.raises(FileExistsError, match=r"beside the features: labels.csv\."):
        encode("a", [rows, rows], overwrite=True)
    assert encode("a").n_rows_encoded == 0
    (tmp_path / "b.replaced").mkdir()
    (tmp_path / "b.replaced" / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match=r"b.replaced, to which .* other files"):
        encode("b")
    assert (tmp_path / "b.replaced" / "thesis.txt").exists()


def test_an_output_may_be_a_link(encode, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "disk")
    (tmp_path / "b.npy").symlink_to(tmp_path / "there.npy")  # not yet
    assert encode("a").features == tmp_path / "disk" / "features.npy"
    assert encode("b.npy").features == tmp_path / "there.npy"
    assert (tmp_path / "a").is_symlink()
    assert (tmp_path / "b.npy").is_symlink()


@pytest.mark.parametrize("out", [".", ".."])
def test_the_working_directory_is_no_output(encode, tmp_path, monkeypatch, out):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    with pytest.raises(ValueError, match="is the working directory or holds it"):
        encode(Path(out).resolve())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no named pipes")
def test_a_pipe_by_name_is_refused(encode, tmp_path):
    os.mkfifo(tmp_path / "p.csv")
    with pytest.raises(ValueError, match=r"p.csv is a pipe, .*; pass '-'"):
        encode(files=tmp_path / "p.csv")


def test_a_fitted_vectorizer_keeps_its_output(tiny, rows, tmp_path):
    pytest.importorskip("pandas")
    vectorizer = BertVectorizer(tiny).set_output(transform="pandas").fit(TEXTS)
    encode_files(vectorizer, rows, tmp_path / "a.npy")
    assert list(vectorizer.transform(TEXTS[:1]).columns)


def test_an_encoding_of_another_name_is_the_same(encode):
    encode()
    assert encode(encoding="UTF8").n_rows_encoded == 0
    with pytest.raises(ValueError, match="encoding='utf-9' is not known to Python"):
        encode(encoding="utf-9")


def test_an_output_is_not_one_of_its_files(encode, tmp_path):
    file = write(tmp_path / "a.parquet", rows_of(TEXTS))
    with pytest.raises(ValueError, match="is one of the files to be read"):
        encode("a.parquet", file, overwrite=True)


def test_parquet_without_pyarrow_names_the_extra(encode, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "sklearn-bert\[parquet\]"'):
        encode("a.parquet")


def test_progress_goes_by_bytes_where_they_are_known(encode, monkeypatch, capsys):
    monkeypatch.setattr(_run, "_SECONDS_BETWEEN", (0.0, 0.0))
    monkeypatch.setattr(_run, "_SECONDS_BEFORE", 0.0)
    encode(verbose=True)
    shown = capsys.readouterr().err
    assert "100%" in shown
    assert re.search(
        r"encoding: 40 rows, [\d,]+ a second \[\d\d:\d\d<\d\d:\d\d\]", shown
    )
    feed(monkeypatch, csv_of(rows_of(TEXTS)))
    encode("b.npy", "-", verbose=True)
    shown = capsys.readouterr().err
    assert "%" not in shown
    assert re.search(r"encoding: 40 rows, [\d,]+ a second \[\d\d:\d\d\]", shown)


def test_the_header_is_that_of_any_npy_file(encode, tmp_path):
    made = encode()
    np.save(tmp_path / "numpy.npy", np.load(made.features))
    assert (
        made.features.read_bytes()[128:] == (tmp_path / "numpy.npy").read_bytes()[128:]
    )
    assert len(made.features.read_bytes()) == _output._HEADER_BYTES + 40 * 32 * 4


@pytest.mark.parametrize("files", [{"text": ["a"]}, 3, [3]])
def test_files_are_paths(tiny, tmp_path, files):
    if isinstance(files, dict):
        files = pytest.importorskip("pandas").DataFrame(files)
    with pytest.raises(TypeError, match=r"must be the path .* by the vectorizer's tra"):
        encode_files(BertVectorizer(tiny), files, tmp_path / "a.npy")
    with pytest.raises(TypeError, match=r"vectorizer must be a BertVectorizer, got s"):
        encode_files("a.csv", BertVectorizer(tiny), tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError, match=r"^a text does not exist\."):
        encode_files(BertVectorizer(tiny), ["a text"], tmp_path / "a.npy")


@pytest.mark.parametrize("suffix", ["ids.jsonl", "manifest.json"])
@pytest.mark.parametrize("id", [None, "key"])
def test_what_lies_beside_an_output_is_not_lost(encode, tmp_path, rows, suffix, id):
    other = tmp_path / f"a.npy.{suffix}"
    other.write_text("mine")
    with pytest.raises(FileExistsError, match=rf"a.npy.{suffix} exists, and is not"):
        encode("a.npy", id=id)
    assert other.read_text() == "mine"
    other.write_bytes(rows.read_bytes())
    with pytest.raises(ValueError, match=rf"replace .*a.npy.{suffix}, which is one of"):
        encode("a.npy", other, id=id, input_format="csv", overwrite=True)
    assert other.read_bytes() == rows.read_bytes()
    encode("a.npy", id=id, overwrite=True)
    encode("a.npy", id=id)  # as it is


def test_a_row_is_named_after_its_file_where_a_part_begins_with_it(encode, tmp_path):
    files = [tmp_path / "z.txt", tmp_path / "a.txt"]
    files[0].write_text("one\ntwo\n")
    files[1].write_text("three\n" + "four " * 90 + "\n")
    with pytest.raises(ValueError, match=r"row 2 of .*a\.txt"):
        encode(files=files, part_rows=2, parameters={"overflow": "raise"})
