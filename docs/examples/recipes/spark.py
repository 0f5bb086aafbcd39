"""
Features of many texts with Spark: Parquet in, Parquet out.

Take it where the texts are in Spark already, or where rows are to be joined, filtered
or deduplicated on the way. Each Python worker of an executor loads the encoder once. On
one machine ``sklearn-bert encode`` does the same without Spark.

Set on a cluster (``spark-submit --conf ...``):

- spark.task.cpus to the cores of one task, 1 unless memory is short. Spark sets
  OMP_NUM_THREADS to it in the Python workers. An executor runs spark.executor.cores /
  spark.task.cpus workers, each with an encoder of its own: count their memory in
  spark.executor.memoryOverhead.
- spark.python.worker.reuse stays true, or each task loads the encoder again.
- ``--partitions`` so that a task takes minutes: what is lost with a task or an executor
  is encoded again.
- GPUs: spark.task.resource.gpu.amount=1, and ``--batch 8192``, which
  spark.sql.execution.arrow.maxRecordsPerBatch must allow.
- sklearn-bert on every node, and the directory of a model at the same path on every
  node. A name of the hub is downloaded once on each node.

If the job dies, start it again with the same arguments: input is taken ``--files``
files at a time, and what is finished is listed in ``<output>.checkpoint``. Files that
were added since are encoded too. Another model or other settings, than those in
``<output>.about``, are refused. Remove the three to begin anew. Tested with Spark 4.3.
"""

import argparse
import json

from pyspark.errors import AnalysisException
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, FloatType

from sklearn_bert import BertVectorizer


def make_encode(**params):
    """Return what Spark calls once in each Python worker."""

    def load():
        return BertVectorizer(**params).fit([]).transform

    return load


def check_settings(spark, output, about):
    """Note what the features are, or refuse to add others to them."""
    path = f"{output}.about"
    try:
        noted = spark.read.text(path, wholetext=True).first()
    except AnalysisException:  # nothing is there
        noted = None
    if noted is None:
        row = spark.createDataFrame([(about,)], "value string").coalesce(1)
        row.write.mode("overwrite").text(path)
    elif noted.value.rstrip("\n") != about:
        raise SystemExit(f"{path} notes another model or other settings.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--input", required=True, help="directory of Parquet files")
    parser.add_argument("--output", required=True, help="directory")
    parser.add_argument("--text", default="text", help="column of the texts")
    parser.add_argument("--id", default="id", help="column that is kept")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--layer", default="-1")
    parser.add_argument("--pooling", default="auto")
    parser.add_argument("--missing", default="raise", choices=["raise", "empty"])
    parser.add_argument("--batch", type=int, default=2048, help="texts per call")
    parser.add_argument("--files", type=int, default=100, help="input files at a time")
    parser.add_argument("--partitions", type=int, default=200, help="of such files")
    args = parser.parse_args()

    output = args.output.rstrip("/")
    # Any parameter of BertVectorizer may stand here. No memory: see the guide.
    params = {
        "model": args.model,
        "layer": args.layer,
        "pooling": args.pooling,
        "missing": args.missing,
    }
    spark = SparkSession.builder.appName("features").getOrCreate()
    encoder = BertVectorizer(**params).fit([]).fingerprint_  # encodes nothing
    check_settings(spark, output, json.dumps((args.id, args.text, encoder, params)))
    encode = predict_batch_udf(
        make_encode(**params),
        return_type=ArrayType(FloatType()),
        batch_size=args.batch,
    )

    def write(rows, number):
        rows = rows.repartition(args.partitions)
        features = rows.select(args.id, encode(args.text).alias("features"))
        features.write.mode("overwrite").parquet(f"{output}/files-{number:06}")

    schema = spark.read.parquet(args.input).select(args.id, args.text).schema
    rows = spark.readStream.schema(schema).option("maxFilesPerTrigger", args.files)
    job = rows.parquet(args.input).writeStream.foreachBatch(write)
    job = job.option("checkpointLocation", f"{output}.checkpoint")
    job.trigger(availableNow=True).start().awaitTermination()
    spark.stop()


if __name__ == "__main__":
    main()
