"""The command line."""

import subprocess
import sys

import pytest

from sklearn_bert import __version__
from sklearn_bert.__main__ import main


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


def test_an_error_is_one_sentence_and_status_1(tmp_path, capsys):
    assert main(["demo", "--model", "./nowhere", "--out", str(tmp_path)]) == 1
    assert "sklearn-bert: model='./nowhere' is not a direc" in capsys.readouterr().err


def test_version_and_missing_command():
    run = [sys.executable, "-m", "sklearn_bert"]
    shown = subprocess.run([*run, "--version"], capture_output=True, text=True)
    assert shown.stdout.strip() == __version__
    assert subprocess.run(run, capture_output=True).returncode == 2
