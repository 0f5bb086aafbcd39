"""
Features of many texts with Dask: Parquet in, Parquet out.

Take it where a Dask cluster runs already, or where the texts come out of a Dask
dataframe. What is sent to a worker is the vectorizer, less than a kilobyte; its encoder
lives in the worker process, which loads it for its first partition. On one machine
``sklearn-bert encode`` does the same without Dask.

Set on a cluster:

- ``--scheduler tcp://...``, with workers started by ``dask worker --nthreads 1
  --nworkers N``: processes, each with one task at a time.
- Threads: a worker has OMP_NUM_THREADS=1 unless you say otherwise, so take a process
  per core. Where memory is short, take fewer and give each more threads, through
  DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON__OMP_NUM_THREADS (here ``--threads``).
- Row groups of minutes: a partition is one row group, which Dask does not split.
- paths that every worker sees (``s3://...``, a network file system), also for the
  directory of a model. A name of the hub is downloaded once on each machine.

A partition whose worker is lost is encoded again. If the whole job dies, start it again
with the same arguments: partitions are written ``--slice`` at a time, and slices with a
file ``_SUCCESS`` are left alone. Files that changed are refused; name another output.
Tested with Dask 2026.8.
"""

import argparse
import json

import dask
import dask.dataframe as dd
import fsspec
import pandas as pd
import pyarrow as pa
from dask.distributed import Client

from sklearn_bert import BertVectorizer


def encode(part, vectorizer, text, dtype):
    """Replace the texts of a partition by their features."""
    features = vectorizer.transform(part[text]).astype(dtype)
    return part.drop(columns=text).assign(features=list(features))


def convert(args):
    """Write slice by slice, leaving alone those that are complete."""
    # Any parameter of BertVectorizer may stand here. No memory: see the guide.
    params = {
        "model": args.model,
        "layer": args.layer,
        "pooling": args.pooling,
        "missing": args.missing,
    }
    vectorizer = BertVectorizer(**params).fit([])  # encodes nothing
    n_features = len(vectorizer.get_feature_names_out())
    rows = dd.read_parquet(args.input, columns=[args.id, args.text], split_row_groups=1)
    ids = rows._meta[[args.id]]
    schema = pa.Schema.from_pandas(ids, preserve_index=False).append(
        pa.field("features", pa.list_(pa.from_numpy_dtype(args.out_dtype), n_features))
    )
    encoded = rows.map_partitions(
        encode,
        vectorizer,
        args.text,
        args.out_dtype,
        meta=ids.assign(features=pd.Series(dtype=object)),
    )

    files, output = fsspec.core.url_to_fs(args.output)
    files.makedirs(output, exist_ok=True)
    # The name of `rows` stands for the files and their versions.
    encoder = vectorizer.fingerprint_
    about = json.dumps((rows._name, args.slice, args.out_dtype, encoder, params))
    if not files.exists(f"{output}/_about"):
        files.write_text(f"{output}/_about", about)
    if files.read_text(f"{output}/_about") != about:
        raise SystemExit(f"{args.output} is of another input or other settings.")
    for start in range(0, rows.npartitions, args.slice):
        name = f"slice-{start:08}"
        if not files.exists(f"{output}/{name}/_SUCCESS"):
            some = encoded.partitions[start : start + args.slice]
            some.to_parquet(
                f"{args.output}/{name}",
                schema=schema,
                write_index=False,
                overwrite=True,
            )
            files.touch(f"{output}/{name}/_SUCCESS")


def parse(given=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--input", required=True, help="Parquet: a file or a directory")
    parser.add_argument("--output", required=True, help="directory")
    parser.add_argument("--text", default="text", help="column of the texts")
    parser.add_argument("--id", default="id", help="column that is kept")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--layer", default="-1")
    parser.add_argument("--pooling", default="auto")
    parser.add_argument("--missing", default="raise", choices=["raise", "empty"])
    parser.add_argument(
        "--out-dtype", default="float32", choices=["float32", "float16"]
    )
    parser.add_argument("--scheduler", help="address; without, a cluster of its own")
    parser.add_argument("--workers", type=int, default=2, help="of its own")
    parser.add_argument("--threads", type=int, default=1, help="of torch in each")
    parser.add_argument("--slice", type=int, default=64, help="partitions at a time")
    return parser.parse_args(given)


if __name__ == "__main__":
    args = parse()
    threads = "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS"
    own = {"n_workers": args.workers, "threads_per_worker": 1}
    with (
        dask.config.set({threads: args.threads}),
        Client(**({"address": args.scheduler} if args.scheduler else own)),
    ):
        convert(args)
