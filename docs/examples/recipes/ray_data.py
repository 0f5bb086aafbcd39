"""
Features of many texts with Ray Data: Parquet in, Parquet out.

Take it where a Ray cluster runs already, or where several GPUs are to be fed. Each
actor of the pool is a process with one encoder; Ray reads, hands out batches and writes
meanwhile. On one machine ``sklearn-bert encode`` does the same without Ray.

Set on a cluster:

- ``--actors`` x ``--threads`` to the cores that may encode, and ``--threads`` to 1
  unless memory is short. Ray reserves that many cores for an actor and sets
  OMP_NUM_THREADS to it; an OMP_NUM_THREADS of your own goes first. Leave two cores, to
  read and write and to look up what is finished: where actors hold all, a job waits for
  ever.
- ``--gpus 1`` for actors on GPUs, with ``--batch 8192``.
- ``--rows`` so that a block takes minutes, not hours: blocks are what is handed out,
  written, and encoded again when an actor or a node is lost.
- absolute paths that every node sees (``s3://...``, a network file system), also for
  the directory of a model. A name of the hub is downloaded once on each node.

If the job dies, start it again with the same arguments. Ids whose rows are written are
listed in ``<output>.checkpoint`` and left out; so an id must not occur twice. Another
model or other settings, than those in ``<output>.about``, are refused. Remove the three
to begin anew. Tested with Ray 2.60.
"""

import argparse
import json
import os

import pyarrow as pa
import ray
from pyarrow import fs
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig

from sklearn_bert import BertVectorizer


class Encode:
    """Replaces the texts of a batch by their features."""

    def __init__(self, text, out_dtype, **params):
        self.text, self.out_dtype = text, out_dtype
        self.vectorizer = BertVectorizer(**params).fit([])  # encodes nothing
        self.vectorizer.execution()  # loads the encoder: once per actor, and now

    def __call__(self, batch):
        features = self.vectorizer.transform(batch[self.text])
        values = pa.array(features.astype(self.out_dtype).ravel())
        column = pa.FixedSizeListArray.from_arrays(values, features.shape[1])
        return batch.drop_columns([self.text]).append_column("features", column)


def check_settings(output, about):
    """Note what the features are, or refuse to add others to them."""
    where = output.rstrip("/") + ".about"
    if "://" not in where:
        where = os.path.abspath(where)
        os.makedirs(os.path.dirname(where), exist_ok=True)
    files, path = fs.FileSystem.from_uri(where)
    if files.get_file_info(path).type == fs.FileType.NotFound:
        with files.open_output_stream(path) as file:
            file.write(about.encode())
    with files.open_input_stream(path) as file:
        if file.read().decode() != about:
            raise SystemExit(f"{where} notes another model or other settings.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--input", required=True, help="Parquet: a file or a directory")
    parser.add_argument("--output", required=True, help="directory")
    parser.add_argument("--text", default="text", help="column of the texts")
    parser.add_argument("--id", default="id", help="column that is kept; no id twice")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--layer", default="-1")
    parser.add_argument("--pooling", default="auto")
    parser.add_argument("--missing", default="raise", choices=["raise", "empty"])
    parser.add_argument(
        "--out-dtype", default="float32", choices=["float32", "float16"]
    )
    parser.add_argument("--actors", type=int, help="all cores but two, if not given")
    parser.add_argument("--threads", type=int, default=1, help="per actor")
    parser.add_argument("--gpus", type=float, default=0, help="per actor")
    parser.add_argument("--batch", type=int, default=2048, help="texts per call")
    parser.add_argument("--rows", type=int, default=50_000, help="texts per block")
    parser.add_argument("--cores", type=int, help="of Ray, where none runs already")
    args = parser.parse_args()

    # Any parameter of BertVectorizer may stand here. No memory: see the guide.
    params = {
        "model": args.model,
        "layer": args.layer,
        "pooling": args.pooling,
        "missing": args.missing,
    }
    ray.init(num_cpus=args.cores)
    cores = ray.cluster_resources()["CPU"]
    actors = args.actors or max(1, int((cores - 2) // args.threads))
    if actors * args.threads > cores - 2:
        parser.error(f"{actors} actors do not leave two of {cores:.0f} cores free")
    encoder = BertVectorizer(**params).fit([]).fingerprint_  # encodes nothing
    about = args.id, args.text, args.out_dtype, encoder, params
    check_settings(args.output, json.dumps(about))
    DataContext.get_current().checkpoint_config = CheckpointConfig(
        id_column=args.id,
        checkpoint_path=args.output.rstrip("/") + ".checkpoint",
        delete_checkpoint_on_success=False,  # so that a second run adds nothing
    )
    rows = ray.data.read_parquet(args.input).select_columns([args.id, args.text])
    rows = rows.repartition(target_num_rows_per_block=args.rows)
    encoded = rows.map_batches(
        Encode,
        fn_constructor_kwargs={
            "text": args.text,
            "out_dtype": args.out_dtype,
            **params,
        },
        batch_format="pyarrow",
        batch_size=args.batch,
        compute=ActorPoolStrategy(size=actors),
        num_cpus=args.threads,
        num_gpus=args.gpus or None,
    )
    encoded.write_parquet(args.output)


if __name__ == "__main__":
    main()
