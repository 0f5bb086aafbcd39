"""Files of every format give the same rows; what is wrong is said in a line."""

import gzip
import io
import json
import os
import re
import sys

import numpy as np
import pytest

from sklearn_bert.tables import iter_batches, read_labelled

ROWS = [
    ("plain", "a"), ('with "quotes", and a comma', "b"), ("on two\nlines", "a"),
    ("žluťoučký 🐎", "b"), ("tab\there", "a"),
]  # fmt: skip


def quoted(value):
    return '"' + value.replace('"', '""') + '"'


def csv_of(rows, delimiter=","):
    lines = [delimiter.join(map(quoted, row)) for row in rows]
    return "\n".join([delimiter.join(("text", "label")), *lines]) + "\n"


def jsonl_of(rows):
    return "".join(f"{json.dumps({'text': t, 'label': y})}\n" for t, y in rows)


@pytest.fixture
def write(tmp_path):
    """Return a function that writes text or bytes into a file and names it."""

    def write(name, content):
        content = content.encode() if isinstance(content, str) else content
        if name.endswith(".gz"):
            content = gzip.compress(content)
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write


def parquet_of(rows):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts, labels = zip(*rows, strict=True)
    stream = io.BytesIO()
    table = pyarrow.table({"id": range(len(rows)), "text": texts, "label": labels})
    parquet.write_table(table, stream)
    return stream.getvalue()


FILES = {
    "a.csv": lambda: csv_of(ROWS),
    "a.CSV": lambda: csv_of(ROWS).replace("\n", "\r\n").replace("two\r\n", "two\n"),
    "bom.csv": lambda: "\ufeff" + csv_of(ROWS),
    "a.csv.gz": lambda: csv_of(ROWS),
    "a.tsv": lambda: csv_of(ROWS, "\t"),
    "a.jsonl": lambda: jsonl_of(ROWS),
    "blank.ndjson": lambda: jsonl_of(ROWS).replace("\n", "\n\n"),
    "a.jsonl.gz": lambda: jsonl_of(ROWS),
    "a.parquet": lambda: parquet_of(ROWS),
    "a.parquet.gz": lambda: parquet_of(ROWS),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_every_format_gives_the_same_rows(write, name, batch_rows):
    path = write(name, FILES[name]())
    batches = list(iter_batches(path, ["label", "text"], batch_rows=batch_rows))
    assert [len(batch["text"]) for batch in batches[:-1]] == [batch_rows] * (
        len(batches) - 1
    )
    rows = [
        pair
        for batch in batches
        for pair in zip(batch["text"], batch["label"], strict=True)
    ]
    assert rows == ROWS


def test_plain_text_is_a_row_a_line(write):
    path = write("a.txt", "one\n\ntwo\r\nthree")
    assert list(iter_batches(path)) == [{"text": ["one", "", "two", "three"]}]
    with pytest.raises(ValueError, match=r"has no column 'label': plain text has one"):
        list(iter_batches(path, ["text", "label"]))


def test_all_columns_come_without_a_list(write):
    (batch,) = iter_batches(write("a.csv", "n,text\n1,x\n"))
    assert batch == {"n": ["1"], "text": ["x"]}


@pytest.mark.parametrize(
    "name", ["a.csv", "a.csv.gz", "a.jsonl", "a.parquet", "a.parquet.gz"]
)
def test_standard_input_is_recognised(monkeypatch, name):
    content = FILES[name if name in FILES else name.removesuffix(".gz")]()
    content = content.encode() if isinstance(content, str) else content
    if name.endswith(".gz"):
        content = gzip.compress(content)
    stdin = io.TextIOWrapper(io.BytesIO(content))
    monkeypatch.setattr(sys, "stdin", stdin)
    format = "parquet" if "parquet" in name else None
    texts, labels = read_labelled("-", format=format)
    assert list(zip(texts, labels, strict=True)) == ROWS


def test_a_batch_at_a_time_is_in_memory(write):
    lines = (f"{i}\n" for i in range(50_000))
    batches = iter_batches(write("a.txt", "".join(lines)), batch_rows=10)
    assert next(batches) == {"text": [str(i) for i in range(10)]}
    assert sum(len(batch["text"]) for batch in batches) == 49_990


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.parquet"])
def test_what_was_read_of_a_file_is_reported_in_its_bytes(write, name):
    path, told = write(name, FILES[name]()), []
    for _ in iter_batches(path, ["text"], batch_rows=2, report=told.append):
        assert told
    assert told == sorted(told)
    assert len(told) == 3
    assert told[-1] == os.path.getsize(path)


def test_a_text_of_a_megabyte_is_a_field(write):
    import csv

    limit = csv.field_size_limit()
    path = write("a.csv", f"text\n{'x' * 1_000_000}\n")
    (batch,) = iter_batches(path)
    assert len(batch["text"][0]) == 1_000_000
    assert csv.field_size_limit() == limit


def test_another_delimiter_and_encoding(write):
    path = write("a.csv", "text;label\nč;a\nš;b\n".encode("cp1250"))
    texts, _ = read_labelled(path, delimiter=";", encoding="cp1250")
    assert texts == ["č", "š"]
    path = write("wide.csv", "text,label\nč,a\nš,b\n".encode("utf-16"))
    assert read_labelled(path, encoding="utf-16")[0] == ["č", "š"]


# What is wrong with a file

LATIN = "text,label\nfine,a\ncaf\xe9,b\n".encode("latin-1")
WRONG = [
    ("a.csv", "", "is empty"),
    ("a.csv", "\n\n", "has no column 'text'; it has"),
    ("a.xls", "x", "has no ending that tells its format; say which of"),
    ("a.csv", "text,y\n1,2\n", "has no column 'label'; it has 'text', 'y'"),
    ("a.csv", "text,Lable\n1,2\n", "it has 'text', 'Lable'. Did you mean 'Lable'\\?"),
    ("a.csv", "text,text,label\n1,2,3\n", "has several columns named 'text'"),
    ("a.csv", LATIN, "is not utf-8 text: byte 0xe9 in line 3. Pass its encoding"),
    ("a.csv", "text,label\na,b\nc\n", r"has 1 fields in line 3, and 2 in its header"),
    ("a.csv", 'text,label\n"a,b\n', r"has 1 fields in line 2"),
    ("a.csv", b"\x1f\x8b\x08\x00", "is not csv: it begins like gzip data; give its"),
    ("a.csv", b"PK\x03\x04zip", "begins like a zip archive or a spreadsheet"),
    ("a.csv", b"PAR1...", "begins like Parquet data"),
    ("a.csv", "text\n".encode("utf-16"), "begins like text in UTF-16; pass encoding"),
    ("a.jsonl", "text,label\n", "is not JSON lines: line 1: Expecting value"),
    ("a.jsonl", '{"text": "a", "label": 1}\n[]\n', "has list in line 2; JSON lines"),
    ("a.jsonl", '{"text": "a"}\n', "line 1 of .* has no column 'label'; it has 'text'"),
    ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', "line 2 of .*'label'"),
    ("a.parquet", "text,label\n", "is not Parquet data, although"),
    ("a.parquet", b"PAR1 and no more PAR1", "cannot be read as Parquet"),
    ("a.csv", "text,label\na,b\n ,b\n", "row 2 of .* has an empty text in column 't"),
    ("a.jsonl", '{"text": null, "label": 1}\n', "row 1 of .* has an empty text"),
    ("a.jsonl", '{"text": 7, "label": 1}\n', "has int in column 'text', which must"),
    ("a.jsonl", '{"text": "a", "label": [1]}\n', "has list in column 'label', which"),
    ("a.csv", "text,label\na,\n", "row 1 of .* has no label in column 'label'"),
    (
        "a.csv",
        "text,label\n" + "a,x\n,y\n" * 7,
        r"7 rows of .*a.csv \(rows 2, 4, 6, 8, 10, ...\) have an empty text in column",
    ),
    ("a.csv", "text,label\na,\nb,c\nd,\n", r"2 rows of .* \(rows 1, 3\) have no label"),
    ("a.csv", "text;label\na;b\n", r"separated by another .*; pass delimiter=';'"),
    ("a.csv", "text\tlabel\na\tb\n", r"pass delimiter='\\t'"),
    ("a.csv", "text,label\n", "has no rows in column 'label'"),
    ("a.csv", "text,label\na,b\nc,b\n", "has one label, 'b' in column 'label'"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG)
def test_what_is_wrong_with_a_file_is_said(write, name, content, message):
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    path = write(name, content)
    with pytest.raises(ValueError, match=message) as raised:
        read_labelled(path)
    assert path in str(raised.value)


def test_what_is_wrong_with_a_sample_is_said_of_the_sample(write):
    path = write("a.csv", "text,label\n" + "a,x\n,y\n" * 50)
    with pytest.raises(ValueError, match=r"rows of the sample of .*a.csv \(rows "):
        read_labelled(path, sample=20)


def test_one_quoted_column_is_no_other_separator(write):
    path = write("a.csv", '"text, long"\n"a, b"\n')
    with pytest.raises(ValueError, match=r"it has 'text, long'\.$"):
        read_labelled(path)


def test_a_file_that_is_not_there_or_a_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.csv does not exist"):
        read_labelled(tmp_path / "none.csv")
    with pytest.raises(IsADirectoryError, match="is a directory; name a file in it"):
        read_labelled(tmp_path)


@pytest.mark.parametrize("cut", [5, 30])
def test_gzip_data_that_is_cut_or_none(tmp_path, cut):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(csv_of(ROWS).encode())[:-cut])
    with pytest.raises(ValueError, match="is not whole gzip data"):
        read_labelled(path)
    path.write_text("text,label\n")
    with pytest.raises(ValueError, match="is not whole gzip data"):
        read_labelled(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"format": "xml"}, r"format='xml' must be one of \('csv'"),
        ({"delimiter": "::"}, "delimiter='::' must be one character"),
        ({"encoding": "utf-99"}, "encoding='utf-99' is not known to Python"),
        ({"sample": 0}, "sample=0 must be at least 1"),
        (
            {"min_per_label": 3},
            r"2 of 2 labels with fewer than 3 rows .* 'a' with 2; 3",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_refused(write, given, message):
    path = write("a.csv", csv_of(ROWS[:4]))
    with pytest.raises(ValueError, match=message):
        read_labelled(path, **given)


def test_a_missing_pyarrow_names_the_extra(write, monkeypatch):
    path = write("a.parquet", b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=re.escape('pip install "sklearn-bert[parq')):
        read_labelled(path)


# Rows that are kept


def test_labels_are_text_unless_all_are_numbers(write):
    texts, labels = read_labelled(write("a.jsonl", jsonl_of([("a", 1), ("b", 2)])))
    assert labels.dtype.kind == "i"
    _, labels = read_labelled(write("b.jsonl", jsonl_of([("a", 1), ("b", "2")])))
    assert labels.tolist() == [1, 2]
    assert texts == ["a", "b"]
    _, labels = read_labelled(write("c.jsonl", jsonl_of([("a", 1), ("b", "x")])))
    assert labels.tolist() == ["1", "x"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["0", "1"], [0, 1]), (["-1", "12"], [-1, 12]), (["007", "1"], ["007", "1"]),
        (["1", "1.5"], ["1", "1.5"]), (["1", "yes"], ["1", "yes"]),
    ],
)  # fmt: skip
def test_whole_numbers_of_a_text_file_are_numbers_as_in_a_frame(write, written, read):
    rows = list(zip("ab", written, strict=True))
    _, labels = read_labelled(write("a.csv", csv_of(rows)))
    assert labels.tolist() == read


def test_a_sample_is_seeded_in_order_and_even(write):
    path = write("a.csv", csv_of([(str(i), "ab"[i % 2]) for i in range(100)]))
    texts, labels = read_labelled(path, sample=20)
    numbers = [int(text) for text in texts]
    assert numbers == sorted(set(numbers))
    assert len(labels) == 20
    assert texts == read_labelled(path, sample=20)[0]
    assert texts != read_labelled(path, sample=20, random_state=1)[0]
    assert len(read_labelled(path, sample=500)[0]) == 100
    drawn = [
        int(text)
        for seed in range(200)
        for text in read_labelled(path, sample=20, random_state=seed)[0]
    ]
    assert np.mean(drawn) == pytest.approx(49.5, abs=1.5)
