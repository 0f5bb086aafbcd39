"""The command line."""

import csv
import io
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from sklearn_bert import BertVectorizer, __version__
from sklearn_bert.__main__ import _flags, _in_options, _parser, _size, main

WORDS = ["red", "green", "blue", "pink", "one", "two", "three", "four"]


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    """Make a directory with a small labelled file the current one."""
    monkeypatch.chdir(tmp_path)
    rows = [(f"{a} {b}", ["no", "yes"][i // 4]) for i, a in enumerate(WORDS)
            for b in WORDS]  # fmt: skip
    with (tmp_path / "notes.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("note", "is_number"), *rows])
    return tmp_path


COLUMNS = ["--text", "note", "--label", "is_number"]


def swept(tiny, *more, file="notes.csv"):
    return main(["sweep", file, "--model", tiny, "--folds", "2", *COLUMNS, *more])


# Sweep


def test_sweep_shows_table_picture_and_code_that_runs(tiny, labelled, capsys):
    given = ["--plot", "picture.png", "--memory", "kept", "--max-length", "16"]
    assert swept(tiny, *given) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("layer              cls            mean")
    assert "64 texts; encoded: 64, in " in shown.out
    assert "encoding: 100%" in shown.err
    assert "scoring: 100%" in shown.err
    assert (labelled / "picture.png").read_bytes().startswith(b"\x89PNG")

    code = shown.out.partition("as code that fits it to the whole file:\n\n")[2]
    namespace = {}
    exec(code, namespace)
    classifier = namespace["classifier"]
    assert classifier[0].get_params()["memory"] == "kept"
    assert classifier[0].max_length == 16
    assert set(classifier.predict(["red pink", "two one"])) <= {"yes", "no"}

    assert swept(tiny, *given, "--quiet") == 0
    again = capsys.readouterr()
    assert "64 texts; encoded: 0, in " in again.out
    assert again.err == ""


def test_sweep_takes_what_it_is_told(tiny, labelled, capsys):
    given = ["--layers", "0,2", "--poolings", "mean,max", "--sample", "40", "--quiet"]
    assert swept(tiny, *given, "--scoring", "f1_macro", "--jobs", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "mean", "max"]
    assert [line.split()[0] for line in lines[1:3]] == ["0", "2"]
    assert lines[3].startswith("f1_macro, mean")
    assert any(line.startswith("40 texts; encoded: 40") for line in lines)


def test_layers_may_count_from_the_end(tiny, labelled, capsys):
    assert swept(tiny, "--layers=-1", "--poolings", "cls", "--quiet") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "2"


def test_sweep_reads_standard_input_and_so_does_its_code(
    tiny, labelled, capsys, monkeypatch
):
    def from_input():
        content = (labelled / "notes.csv").read_bytes()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    from_input()
    assert swept(tiny, "--quiet", file="-") == 0
    code = capsys.readouterr().out.rpartition("\n\nfrom sklearn.linear")[2]
    from_input()
    exec(f"from sklearn.linear{code}", {})


def test_a_warning_is_one_line(tiny, labelled):
    run = [sys.executable, "-m", "sklearn_bert", "sweep", "notes.csv", *COLUMNS]
    run += ["--model", tiny, "--max-length", "4", "--folds", "2", "--layers", "2"]
    done = subprocess.run([*run, "--quiet"], capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert line.startswith("sklearn-bert: ")
    assert "longer than max_length=4" in line
    assert done.returncode == 0


HEADER = b"note,is_number\n"
MISTAKES = {
    "missing file": ([], None, "notes.csv does not exist"),
    "missing column": (
        ["--label", "topic"], HEADER, "no column 'topic'; it has 'note', 'is_number'",
    ),
    "one class": ([], HEADER + b"a,no\nb,no\n", "has one label, 'no' in column"),
    "too few rows": (
        [], HEADER + b"a,no\nb,no\nc,yes\n", "fewer than 2 rows in column 'is_number'",
    ),
    "not what its name says": ([], b"PAR1...", "begins like Parquet data"),
    "empty text": ([], HEADER + b"a,no\n,yes\n", "row 2 of notes.csv has an empty"),
    "undecodable": (
        [], HEADER + b"caf\xe9,no\n", "in line 2. Pass its encoding, such as --enc",
    ),
    "semicolons": (
        [], b"note;is_number\na;no\n",
        "it has 'note;is_number'. Its fields seem to be separated by another "
        "character; pass --delimiter ';'.",
    ),
    "misspelt": (
        ["--poolings", "meen"], HEADER + b"a,1\nb,1\nc,0\nd,0\n",
        "Did you mean 'mean'?",
    ),
    "empty file": ([], b"", "notes.csv is empty"),
    "no such model": (
        ["--model", "./no"], HEADER + b"a,1\nb,1\nc,0\nd,0\n", "--model ./no is no",
    ),
    "no such layer": (["--layers", "9"], HEADER + b"a,1\nb,1\nc,0\nd,0\n", "layer"),
    "no such score": (
        ["--scoring", "luck"], HEADER + b"a,1\nb,1\nc,0\nd,0\n", "--scoring luck is no",
    ),
    "no such picture": (["--plot", "a.doc"], HEADER, "must end in .png, .svg or .pdf"),
    "no such place": (["--plot", "x/a.png"], HEADER, "there is no directory x"),
    "one fold": (["--folds", "1"], HEADER, "--folds 2 or more"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(tiny, labelled, capsys, work, mistake):
    more, content, message = MISTAKES[mistake]
    file = labelled / "notes.csv"
    file.unlink() if content is None else file.write_bytes(content)
    assert swept(tiny, *more) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("sklearn-bert: ")
    assert shown.err.count("\n") == 1
    assert message in shown.err
    assert work().n_passes == 0


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Pass overflow='chunk' to use all.", "Pass --overflow chunk to use all."),
        ("layer=-1, prompt='a: '", "--layer -1, --prompt 'a: '"),
        ("layer=[1, 99] is out", "--layer 1,99 is out"),
        ('pass missing="empty" to', "pass --missing empty to"),
        ("special_tokens=False, n_jobs=2", "--no-special-tokens, --jobs 2"),
        ("part_rows must be at least 1", "--part-rows must be at least 1"),
        ("input_format must be", "--input-format must be"),
        ("pass overwrite=True (--overwrite)", "pass overwrite=True (--overwrite)"),
        ("of C=0.01 and estimator=Ridge()", "of C=0.01 and estimator=Ridge()"),
        ("layer=2/part.csv is", "layer=2/part.csv is"),
        ("data/text=en/part.csv is", "data/text=en/part.csv is"),
        ("column 'text' must hold", "column 'text' must hold"),
    ],
)
def test_a_mistake_names_options_not_parameters(message, shown):
    options = _parser().parse_args(["encode", "a.csv", "--out", "a.npy"])
    assert _in_options(message, _flags(options.parser)) == shown


def test_a_mistake_in_a_sweep_names_its_own_options():
    flags = _flags(_parser().parse_args(["sweep", "a.csv"]).parser)
    said = "layer=9, pooling[0] must be, n_splits=1 and n_jobs=0"
    shown = "--layers 9, --poolings must be, --folds 1 and --jobs 0"
    assert _in_options(said, flags) == shown


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["--layers", "-2,-1"],
            r"--layers: expected one argument; .* as in --layer=-4",
        ),
        (["--layers", "last"], r"argument --layers: 'last' must be 'all' or numbers"),
        (["--colour"], r"unrecognized arguments: --colour"),
    ],
)
def test_a_mistyped_option_is_one_line(tiny, labelled, capsys, given, said):
    with pytest.raises(SystemExit, match="2"):
        swept(tiny, *given)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.match(rf"sklearn-bert: .*{said}", error)


def test_sweep_takes_the_options_of_texts(tiny, labelled, capsys):
    given = ["--overflow", "chunk", "--max-length", "8", "--chunk-pooling", "max"]
    assert swept(tiny, *given, "--prompt", "of: ", "--no-normalize") == 0
    shown = capsys.readouterr().out
    for option in ('overflow="chunk"', 'chunk_pooling="max"', 'prompt="of: "',
                   "normalize=False", "max_length=8"):  # fmt: skip
        assert option in shown


def test_layers_that_are_no_numbers_are_refused_with_the_usage(labelled, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", "notes.csv", "--layers", "low"])
    assert "'low' must be 'all' or numbers with commas" in capsys.readouterr().err


def test_a_picture_without_matplotlib_names_the_extra(labelled, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["sweep", "notes.csv", "--plot", "a.png"]) == 2
    assert 'pip install "sklearn-bert[plot]"' in capsys.readouterr().err


# Encode


def test_encode_writes_what_the_vectorizer_gives(tiny, labelled, capsys):
    given = ["--text", "note", "--id", "is_number", "--model", tiny, "--out", "a.npy"]
    given += ["--layer", "1,2", "--pooling", "mean,max", "--normalize"]
    given += ["--layer-combination", "0.3,0.7", "--no-special-tokens", "--prompt", "a "]
    given += ["--max-length", "5", "--overflow", "chunk", "--stride", "1"]
    given += ["--chunk-pooling", "max"]
    given += ["--batch-size", "7", "--dtype", "float32", "--device", "cpu"]
    assert main(["encode", "notes.csv", *given, "--quiet"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("64 rows of 64 features: a.npy\nencoded now: 64, in ")
    assert "ids, a line each: a.npy.ids.jsonl" in shown.out
    assert shown.err == ""
    vectorizer = BertVectorizer(
        tiny, layer=[1, 2], pooling=["mean", "max"], normalize=True,
        layer_combination=[0.3, 0.7], special_tokens=False, prompt="a ",
        max_length=5, overflow="chunk", stride=1, chunk_pooling="max",
    )  # fmt: skip
    texts = [f"{a} {b}" for a in WORDS for b in WORDS]
    expected = vectorizer.fit_transform(texts)
    np.testing.assert_allclose(np.load("a.npy"), expected, atol=2e-6)


def test_encode_reads_standard_input(tiny, labelled, monkeypatch):
    given = ["--text", "note", "--model", tiny, "--quiet", "--format", "npy"]
    assert main(["encode", "notes.csv", *given, "--out", "file.npy"]) == 0
    content = (labelled / "notes.csv").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main(["encode", "-", *given, "--out", "piped.npy"]) == 0
    np.testing.assert_array_equal(np.load("piped.npy"), np.load("file.npy"))


def test_encode_takes_several_files_and_goes_on(tiny, labelled, capsys, work):
    lines = (labelled / "notes.csv").read_text().splitlines(keepends=True)
    (labelled / "1.csv").write_text("".join(lines[:31]))
    (labelled / "2.csv").write_text("".join([lines[0], *lines[31:]]))
    given = ["encode", "1.csv", "2.csv", "--text", "note", "--model", tiny, "--quiet"]
    given += ["--out", "all", "--format", "parquet", "--file-rows", "40"]
    given += ["--part-rows", "20", "--memory", "kept", "--store-layers", "requested"]
    assert main([*given, "--layer=-1"]) == 0
    assert main([*given, "--layer=-1"]) == 0
    assert "encoded now: 0, in" in capsys.readouterr().out
    assert main([*given, "--layer", "all"]) == 2
    message = "layer was [2], is now [0, 1, 2]. Name another out, or pass"
    assert message in capsys.readouterr().err
    assert main([*given, "--layer", "all", "--overwrite"]) == 0
    assert work().n_texts == 128


def test_a_killed_encode_goes_on_to_the_same_bytes(tiny, labelled):
    lines = [f"text number {i}\n" for i in range(1200)]
    (labelled / "many.txt").write_text("".join(lines))
    run = [sys.executable, "-m", "sklearn_bert", "encode", "many.txt", "--model", tiny]
    run += ["--part-rows", "100", "--quiet", "--out"]
    process = subprocess.Popen([*run, "killed.npy"])
    journal = labelled / "killed.npy.partial" / "journal.jsonl"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.01)
    process.kill()
    assert process.wait() != 0
    assert not (labelled / "killed.npy").exists()
    done = subprocess.run([*run, "killed.npy"], capture_output=True, text=True)
    encoded = re.search(r"1,200 rows .*\nencoded now: ([\d,]+), in", done.stdout)[1]
    assert 0 < int(encoded.replace(",", "")) < 1200
    subprocess.run([*run, "whole.npy"], check=True, capture_output=True)
    for name in ("npy", "npy.manifest.json"):
        whole = (labelled / f"whole.{name}").read_bytes()
        assert (labelled / f"killed.{name}").read_bytes() == whole


def test_an_interrupted_encode_says_how_to_go_on(tiny, labelled, capsys, monkeypatch):
    transform, n_calls = BertVectorizer.transform, [0]

    def interrupted(self, X):
        n_calls[0] += 1
        if n_calls[0] == 3:
            raise KeyboardInterrupt
        return transform(self, X)

    monkeypatch.setattr(BertVectorizer, "transform", interrupted)
    given = ["--text", "note", "--model", tiny, "--out", "a", "--part-rows", "10"]
    assert main(["encode", "notes.csv", *given, "--quiet"]) == 130
    first, second = capsys.readouterr().err.splitlines()
    assert first == "sklearn-bert: interrupted"
    assert second.startswith("sklearn-bert: 20 rows are finished and kept in a.partial")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--text", "review"], "has no column 'review'; it has 'note', 'is_number'"),
        (["--out", "a.csv"], "ends in .csv, which is not written"),
        (["--layer", "7"], "--layer 7 is out of range"),
        (["--out-dtype", "int8"], "--out-dtype must be one of"),
        (["--missing", "skip"], "--missing must be one of 'raise', 'empty'"),
        (["--batch-size", "few"], "--batch-size must be one of 'auto', got 'few'"),
        (["--layer-combination", "scalar_mix"], "fit it on labelled texts first"),
    ],
)
def test_a_mistake_in_encode_is_one_line(tiny, labelled, capsys, work, given, message):
    first = ["encode", "notes.csv", "--text", "note", "--model", tiny, "--out", "a"]
    assert main([*first, *given]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert work().n_passes == 0


# Store


@pytest.fixture
def kept(tiny, labelled):
    BertVectorizer(tiny, memory="kept").fit_transform(WORDS)
    return labelled / "kept"


def test_store_info_and_verify(tiny, kept, capsys):
    assert main(["store", "info", "kept"]) == 0
    shown = capsys.readouterr().out
    assert f"{tiny} (float32, encoder " in shown
    assert "texts      8\n" in shown
    assert "in 1 shards\n" in shown
    assert main(["store", "verify", "kept"]) == 0
    assert capsys.readouterr().out.startswith("1 of 1 shards are intact (")
    (kept / "joblib" / "sklearn_bert-features" / "v0-old").mkdir()
    file = next(kept.rglob("mean.npy"))
    file.write_bytes(file.read_bytes()[:-4])
    assert main(["store", "verify", "kept"]) == 1
    shown = capsys.readouterr().out
    assert f"damaged: {file.parent}: mean.npy is not what header.json says" in shown
    assert "0 of 1 shards are intact" in shown
    assert "another version's features, not read by this one: " in shown


def test_store_reduce_and_clear(kept, capsys, monkeypatch):
    assert main(["store", "reduce", "kept", "--bytes-limit", "1T"]) == 0
    assert capsys.readouterr().out.startswith("removed 0 bytes, left 1")
    assert main(["store", "reduce", "kept", "--bytes-limit", "much"]) == 2
    assert "--bytes-limit much must be a number" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["store", "clear", "kept"]) == 2
    message = capsys.readouterr().err
    assert "features of 8 texts" in message
    assert "Pass --yes to do it" in message
    for answer, status, said in (("n", 1, "nothing removed"), ("y", 0, "removed 1")):
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert main(["store", "clear", "kept"]) == status
        assert capsys.readouterr().out.startswith(said)
    assert main(["store", "clear", "kept", "--yes"]) == 0
    assert capsys.readouterr().out == "removed 0 bytes\n"


@pytest.mark.skipif(os.name == "nt", reason="pipes break otherwise")
def test_a_reader_that_has_seen_enough_is_no_error(kept):
    end, start = os.pipe()
    os.close(end)
    run = [sys.executable, "-m", "sklearn_bert", "store", "info", str(kept)]
    done = subprocess.run(run, stdout=start, stderr=subprocess.PIPE, text=True)
    os.close(start)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("n_bytes", "said"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"),
                          (10 * 2**30, "10.0 GiB"), (2**51, "2,048.0 TiB")]
)  # fmt: skip
def test_sizes_are_said_in_units(n_bytes, said):
    assert _size(n_bytes) == said


# Demo, and what all share


def test_demo_shows_tables_counts_and_a_picture(tiny, tmp_path, capsys):
    arguments = ["demo", "--model", tiny, "--n-per-class", "9", "--out", str(tmp_path)]
    with pytest.warns(UserWarning, match="longer than max_length"):
        assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "texts encoded: 90, in" in output
    assert "texts encoded: 0\n" in output
    assert "kB per text" in output
    assert "best: {" in output
    assert (tmp_path / "layer_sweep.png").stat().st_size > 10_000


def test_an_error_is_one_sentence_and_status_2(tmp_path, capsys):
    assert main(["demo", "--model", "./nowhere", "--out", str(tmp_path)]) == 2
    assert "sklearn-bert: --model ./nowhere is not a direc" in capsys.readouterr().err


def test_version_and_missing_command():
    run = [sys.executable, "-m", "sklearn_bert"]
    shown = subprocess.run([*run, "--version"], capture_output=True, text=True)
    assert shown.stdout.strip() == __version__
    assert subprocess.run(run, capture_output=True).returncode == 2
