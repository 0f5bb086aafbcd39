"""Features of files: texts of any number and size in, features on disk out.

`encode_files` reads rows of files (`_rows`), encodes them part by part with a
`BertVectorizer` (`_run`) and hands them to an output (`_output`, `_parquet`). A run
that was killed goes on: rows are read again and compared with a digest of those that
are finished, so that features of two versions of a file never lie side by side. What a
part is depends on the rows alone; so an output is the same, byte for byte, whether or
not its run was interrupted.

How files are read is up to `tables`, and what features are up to the vectorizer.

Level 8 of the module map: the modules in here import `_validation`, `checkpoint`,
`claims` (for its locks), `features`, `tables` and `vectorizer`.
"""

from ._files import EncodedFiles, encode_files

__all__ = ["EncodedFiles", "encode_files"]
