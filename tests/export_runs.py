"""Runs of `encode_files` to be killed, with features made up from texts.

Run as a script by the tests of `export`, without torch. "steps" kills a run, in a child
process, before its first change of a file, before its second, and so on, half of what
was to be written being there; each time it lets the same call go on, and compares every
file with those of a run that was left alone. "moments" kills runs from outside, by
SIGKILL and at random, that go on one after the other.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np

from sklearn_bert import BertVectorizer
from sklearn_bert.export import _output, encode_files

N_ROWS = 25
KILLED = 77
# What a run is given, and whether another output is there before.
LAYOUTS = {
    "file.npy": ({"id": "key"}, False),
    "file.parquet": ({}, False),
    "parts": ({"format": "parquet", "file_rows": 15, "id": "key"}, False),
    "replaced.npy": ({"overwrite": True, "id": "key"}, True),
    "replaced": ({"overwrite": True}, True),
}


def write_rows(path, n_rows=N_ROWS):
    lines = [json.dumps({"text": f"text {i % 17}", "key": i}) for i in range(n_rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def made_up(texts):
    digests = [hashlib.blake2b(t.encode(), digest_size=32).digest() for t in texts]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32).astype("f4")


def patch(seconds=0.0):
    def transform(self, X):
        time.sleep(seconds)
        return made_up(X)

    BertVectorizer.transform = transform
    os.fsync = lambda file: None  # what a kill leaves, the kernel keeps


def encode(encoder, place, name, **more):
    return encode_files(
        BertVectorizer(encoder, local_files_only=True), place / "rows.jsonl",
        place / "out" / name, part_rows=10, **more,
    )  # fmt: skip


def content_of(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    } | {str(p.relative_to(directory)): b"/" for p in directory.iterdir() if p.is_dir()}


def kill_before(number):
    """End this process before so many changes of files were made."""
    left = [number]

    def counted(function, half=None):
        def change(*args, **options):
            left[0] -= 1
            if left[0] < 0:
                if half is not None:
                    half(*args, **options)
                os._exit(KILLED)
            return function(*args, **options)

        return change

    extend, write = _output._extend, os.write
    _output._extend = counted(
        extend, lambda path, content: extend(path, bytes(content)[: len(content) // 2])
    )
    os.write = counted(write, lambda file, line: write(file, line[: len(line) // 2]))
    for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "ftruncate"):
        setattr(os, name, counted(getattr(os, name)))


def in_a_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            sys.stderr.flush()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_at_every_step(encoder, place, name):
    """Return at how many moments a run was killed; raise if it did not recover."""
    given, is_there_before = LAYOUTS[name]
    out = place / "out"

    def prepare():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        if is_there_before:
            write_rows(place / "rows.jsonl", 15)
            encode(encoder, place, name, **{**given, "overwrite": False})
        write_rows(place / "rows.jsonl")

    prepare()
    encode(encoder, place, name, **given)
    expected = content_of(out)
    number = 0
    while True:
        prepare()

        def killed(number=number):
            kill_before(number)
            encode(encoder, place, name, **given)

        status = in_a_child(killed)
        if status not in (0, KILLED):
            raise AssertionError(f"step {number}: status {status}")
        if in_a_child(lambda: encode(encoder, place, name, **given)):
            raise AssertionError(f"not recovered from a kill at step {number}")
        if content_of(out) != expected:
            names = sorted(content_of(out)), sorted(expected)
            raise AssertionError(f"step {number}: {names[0]} instead of {names[1]}")
        if status == 0:
            return number
        number += 1


def kill_at_moments(encoder, place, name, n_kills=6):
    """Return how many parts were finished at each kill; raise if content differs."""
    out, given = place / "out", LAYOUTS[name][0]
    write_rows(place / "rows.jsonl", 600)
    encode(encoder, place, name, **given)
    expected = content_of(out)
    shutil.rmtree(out)
    out.mkdir()
    patch(seconds=0.01)
    journal = out / f"{name}.partial" / "journal.jsonl"
    rng, n_finished = random.Random(0), [0]
    for _ in range(n_kills):
        pid = os.fork()
        if pid == 0:
            encode(encoder, place, name, **given)
            os._exit(0)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if journal.exists() and journal.read_bytes().count(b"\n") > n_finished[-1]:
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(pid, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != -signal.SIGKILL:
            raise AssertionError("a run ended before it was killed")
        n_finished.append(journal.read_bytes().count(b"\n"))
    made = encode(encoder, place, name, **given)
    if content_of(out) != expected:
        raise AssertionError(f"{sorted(content_of(out))} differ from a whole run")
    if made.n_rows_encoded != 600 - 10 * n_finished[-1]:
        raise AssertionError(f"{made.n_rows_encoded} rows after {n_finished}")
    return n_finished[1:]


def main():
    kind, encoder, place, name = sys.argv[1:]
    patch()
    run = {"steps": kill_at_every_step, "moments": kill_at_moments}[kind]
    sys.stdout.write(json.dumps(run(encoder, Path(place), name)))


if __name__ == "__main__":
    main()
