"""Predictions as vector files: the areas of each class of a map, or the footprint of each record with what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unlabeled.core.contracts import RequestError
from unlabeled.core.downstream.model import Model
from unlabeled.core.downstream.write import Predictions

WGS84 = "EPSG:4326"


def geoparquet(model: Model, predictions: Predictions, out: Path) -> None:
    """`polygons.parquet` or `footprints.parquet`, in the scenes' CRS where they have one, else in longitude and latitude."""
    name, frame = _frame(predictions, out)
    frame.to_parquet(out / f"{name}.parquet")


def gpkg(model: Model, predictions: Predictions, out: Path) -> None:
    """The same as a GeoPackage."""
    name, frame = _frame(predictions, out)
    frame.to_file(out / f"{name}.gpkg", driver="GPKG", layer=name)


def geojson(model: Model, predictions: Predictions, out: Path) -> None:
    """The same as GeoJSON, which is always in longitude and latitude (RFC 7946) and cut at the antimeridian."""
    name, frame = _frame(predictions, out, WGS84)
    frame.to_file(out / f"{name}.geojson", driver="GeoJSON", RFC7946="YES")


def maps(model: Model, predictions: Predictions, out: Path) -> None:
    """Maps are written while they are made (`maps.segment`); here is only said where there can be none."""
    if predictions.head.kind != "segmentation":
        raise RequestError(
            f"--format: a model that does {predictions.head.kind} makes no maps; choose csv or geoparquet"
        )


def _frame(predictions: Predictions, out: Path, crs: str | None = None) -> tuple[str, Any]:
    """Name and GeoDataFrame, in `crs`, else in the one that all have, else in longitude and latitude."""
    import geopandas
    import pandas as pd  # type: ignore[import-untyped]

    mapped = predictions.head.kind == "segmentation"
    frames = [
        geopandas.GeoDataFrame(columns, geometry=shapes, crs=at.to_wkt())
        for columns, shapes, at in (_areas if mapped else _footprints)(predictions, out)
    ]
    target = crs or (frames[0].crs if all(f.crs == frames[0].crs for f in frames) else WGS84)
    return "polygons" if mapped else "footprints", pd.concat([_brought(f, target) for f in frames], ignore_index=True)


def _brought(frame: Any, crs: Any) -> Any:
    """In another CRS; in longitude and latitude, what crosses the antimeridian is cut there."""
    from rasterio.warp import transform_geom
    from shapely.geometry import mapping, shape

    if frame.crs == crs or frame.empty:
        return frame.to_crs(crs)
    moved = transform_geom(frame.crs.to_wkt(), crs, [mapping(g) for g in frame.geometry])
    return frame.set_geometry([shape(g) for g in moved]).set_crs(crs, allow_override=True)


def _areas(predictions: Predictions, out: Path) -> Iterator[tuple[dict[str, Any], list[Any], Any]]:
    """Of each map, one polygon for cells of one class that share edges; nodata belongs to none."""
    import rasterio
    from rasterio.features import shapes
    from shapely.geometry import shape

    from unlabeled.core.downstream.predict import codes

    names = dict(zip(codes(predictions.classes), predictions.classes, strict=True))
    for record in predictions.records:
        with rasterio.open(out / record.mask) as src:
            code = src.read(1)
            found = [(shape(g), int(v)) for g, v in shapes(code, mask=code != src.nodata, transform=src.transform)]
            said = [value for _, value in found]
            columns = {"key": [record.key] * len(found), "label": [names[v] for v in said], "code": said}
            yield columns, [g for g, _ in found], src.crs


def _footprints(predictions: Predictions, out: Path) -> Iterator[tuple[dict[str, Any], list[Any], Any]]:
    """Of each record its rectangle, with its row of the table."""
    from shapely import box

    from unlabeled.earth.labels import reader_of

    corpus = predictions.corpus
    assert corpus is not None
    _, columns, rows = predictions.rows()
    at = {row.key: row for row in corpus.rows}
    for values in rows:
        row = at[values[0]]
        place = reader_of(corpus).place(corpus.file(row), row.part)
        if place.crs is None:
            raise RequestError(f"{row.file} has no CRS, so it has no footprint; choose --format csv or parquet")
        yield {name: [value] for name, value in zip(columns, values, strict=True)}, [box(*place.bounds)], place.crs
