"""Whatever bytes a file of the store holds, reading it is right or one known error.

`Target` is what is tried; pytest replays the inputs that lie in corpus/. Run as a
script, it looks for new ones, guided by which lines they reach. That needs atheris::

    python -m pip install atheris
    mkdir found
    python tests/torture/fuzz.py -max_total_time=3600 found

It starts from corpus/ and writes what leads to new lines into found/; what it fails on
belongs into corpus/, with the mend.

An input is: which file; how it is changed; and its new content, without checksums or
with right ones, or else pairs of a field of the header and its new value.
"""

import contextlib
import itertools
import json
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

try:
    import atheris
except ImportError:  # pytest does without
    following = contextlib.nullcontext()
else:
    read = ["sklearn_bert.shard", "sklearn_bert.claims", "sklearn_bert.ragged"]
    following = atheris.instrument_imports(include=read)

sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (1, 2)]
with following:
    import rows

    from sklearn_bert.claims import Claims
    from sklearn_bert.shard import Unreadable, open_shard, write_shard

CORPUS = Path(__file__).with_name("corpus")
NAMES = ("header.json", "keys.npy", "n_tokens.npy", "n_rows.npy", "checksums.npy")
FILES = (*NAMES, "tokens.npy", "claim")
KEYS = np.sort(rows.keys_of(range(3)))
COUNTS = np.array([0, 2, 1])
VALUES = rows.values_of(np.repeat(KEYS, COUNTS), "tokens", (0, 1))


FIELDS = ("format", "space", "dtype", "columns", "crcs", "n_texts", "n_rows", "width")
FIELDS += ("n_block_rows", "another")
FORGED = [
    *[None, True, -1, 0, 1, 2, 3, 4, 5, 8, 1.5, 2**31, 2**63, 10**40, "", "3", [], {}],
    *["<f4", "<f2", "<f8", "|O", ">f4", rows.SPACE, ["x"], {"x": 1}, [[0]], [None]],
    *[{"tokens": [0]}, {"tokens": [0, 0]}, {"tokens": [1, 0]}, {"tokens": []}],
    *[{"tokens": [0, 1], "keys": [0]}, {"keys": [0]}, {"../x": [0]}, {"": [0]}],
    *[{"tokens": [-1]}, {"tokens": [10**30]}, {"tokens": "01"}, {"tokens": [0] * 999}],
    *[{"keys": 0, "n_tokens": 0}, {"n_rows": 0}, {"header": 0}, {"n_rows": None}],
]


class Target:
    """A shard and a claim of which one file at a time is replaced."""

    def __init__(self, place):
        self.path, self.claims = place / "shard", place / "claims"
        self.path.mkdir()
        self.claims.mkdir()
        columns = {"tokens": ((0, 1), VALUES.__getitem__)}
        n_tokens = rows.n_tokens_of(KEYS)
        write_shard(self.path, rows.SPACE, KEYS, n_tokens, columns, COUNTS)
        (self.claims / f"{'a' * 32}.claim").write_bytes(KEYS.tobytes())
        self.spare = {file: self.file(file).read_bytes() for file in FILES}

    def file(self, name):
        if name == "claim":
            return self.claims / f"{'a' * 32}.claim"
        return self.path / name

    def seeds(self):
        """Yield the inputs that change nothing."""
        for i, name in enumerate(FILES):
            yield bytes([i, 0]) + self.spare[name]
            yield bytes([i, 1]) + self.spare[name].partition(b"\n")[0]
        for field, value in itertools.product(range(len(FIELDS)), range(len(FORGED))):
            yield bytes([0, 2, field, value])

    def try_input(self, data):
        """Replace a file and read everything; raise if that goes wrong."""
        if len(data) < 2:
            return
        name, is_forged = FILES[data[0] % len(FILES)], data[1] % 3 > 0
        try:
            if data[1] % 3 == 2:
                name = "header.json"
                self._replace(name, self._changed_header(data[2:]), is_forged)
            else:
                self._replace(name, data[2:], is_forged)
            if name == "claim":
                with Claims(self.claims).claim(KEYS, 3) as mine:
                    assert mine is not None
                    assert len(mine) == 3
                return
            with contextlib.suppress(Unreadable, OSError):
                shard = open_shard(self.path, rows.SPACE)
                self._read(shard, is_forged)
        finally:
            for each in {name, "header.json", "claim"}:
                self.file(each).write_bytes(self.spare[each])

    def _changed_header(self, data):
        header = json.loads(self.spare["header.json"].splitlines()[0])
        for field, value in zip(data[::2], data[1::2], strict=False):
            header[FIELDS[field % len(FIELDS)]] = FORGED[value % len(FORGED)]
        return json.dumps(header).encode()

    def _replace(self, name, content, is_forged):
        if is_forged and name == "header.json":
            content += b"\n%08x\n" % zlib.crc32(content)
        self.file(name).write_bytes(content)
        if is_forged and name in NAMES[1:]:
            header = json.loads(self.spare["header.json"].splitlines()[0])
            header["crcs"][name.removesuffix(".npy")] = zlib.crc32(content)
            raw = json.dumps(header).encode()
            raw += b"\n%08x\n" % zlib.crc32(raw)
            self.file("header.json").write_bytes(raw)

    def _read(self, shard, is_forged):
        for column, layers in shard.columns.items():
            texts = np.arange(len(shard.keys))
            counts = shard.counts(texts)
            if counts.sum() * len(layers) > 10**5:
                continue
            out = np.full((counts.sum(), len(layers), rows.WIDTH), 7, np.float32)
            shard.read(column, layers, texts, out, np.cumsum(counts) - counts)
            if not is_forged:  # who makes checksums right can forge numbers
                assert (shard.keys == KEYS).all()
                assert out.tobytes() == VALUES.swapaxes(0, 1).tobytes()


def main():
    place = Path(
        tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    )
    target = Target(place)
    seeds = place / "seeds"
    seeds.mkdir()
    for i, seed in enumerate(target.seeds()):
        (seeds / f"{i:03}").write_bytes(seed)
    try:
        atheris.Setup([*sys.argv, str(CORPUS), str(seeds)], target.try_input)
        atheris.Fuzz()
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
