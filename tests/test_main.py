"""The command line."""

import csv
import io
import subprocess
import sys

import pytest

from sklearn_bert import __version__
from sklearn_bert.__main__ import main

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
    "undecodable": ([], HEADER + b"caf\xe9,no\n", "byte 0xe9 in line 2"),
    "empty file": ([], b"", "notes.csv is empty"),
    "no such model": (["--model", "./no"], HEADER + b"a,1\nb,1\nc,0\nd,0\n", "'./no'"),
    "no such layer": (["--layers", "9"], HEADER + b"a,1\nb,1\nc,0\nd,0\n", "layer"),
    "no such score": (
        ["--scoring", "luck"], HEADER + b"a,1\nb,1\nc,0\nd,0\n", "scoring='luck' is no",
    ),
    "no such picture": (["--plot", "a.doc"], HEADER, "must end in .png, .svg or .pdf"),
    "no such place": (["--plot", "x/a.png"], HEADER, "there is no directory x"),
    "one fold": (["--folds", "1"], HEADER, "n_splits=2 or more"),
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


def test_layers_that_are_no_numbers_are_refused_with_the_usage(labelled, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", "notes.csv", "--layers", "low"])
    assert "'low' must be 'all' or numbers with commas" in capsys.readouterr().err


def test_a_picture_without_matplotlib_names_the_extra(labelled, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["sweep", "notes.csv", "--plot", "a.png"]) == 2
    assert 'pip install "sklearn-bert[plot]"' in capsys.readouterr().err


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
    assert "sklearn-bert: model='./nowhere' is not a direc" in capsys.readouterr().err


def test_version_and_missing_command():
    run = [sys.executable, "-m", "sklearn_bert"]
    shown = subprocess.run([*run, "--version"], capture_output=True, text=True)
    assert shown.stdout.strip() == __version__
    assert subprocess.run(run, capture_output=True).returncode == 2
