"""Samples kept one by one as Parquet, in the form in which public image datasets are exchanged. No torch."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from progdistill.evaluation.pictures import Pixels, encode_png


def write_parquet(path: Path, batches: Iterable[Pixels], labels: Sequence[int] | None) -> int:
    """Write a row an image as batches arrive, and return their count.

    Columns are `index`, `image` {bytes (PNG), path} and `label`. `labels` are those of all images, in order;
    the column is left out where there are none. The file appears whole or not at all.
    """
    import pyarrow as pa
    from pyarrow import parquet

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [("index", pa.int64()), ("image", image)]
    schema = pa.schema(fields if labels is None else [*fields, ("label", pa.int64())])
    draft, count = path.with_name(path.name + ".part"), 0
    try:
        with parquet.ParquetWriter(draft, schema) as writer:
            for batch in batches:
                indices = range(count, count + len(batch))
                pictures = [
                    {"bytes": encode_png(one), "path": f"{i:06d}.png"}
                    for i, one in zip(indices, batch, strict=True)
                ]
                columns = {"index": list(indices), "image": pictures}
                if labels is not None:
                    columns["label"] = list(labels[count : count + len(batch)])
                writer.write_table(pa.table(columns, schema=schema))
                count += len(batch)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return count
