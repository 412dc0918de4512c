"""Earth observation: optical and radar scenes. Listing this package imports neither torch nor lightning."""

from unlabeled.core.contracts import Domain, Head

_HERE = "unlabeled.earth"

domain = Domain(
    name="earth",
    title="Earth observation",
    summary="optical and radar scenes: GeoTIFF, COG, VRT and JPEG 2000, in any number of zones",
    reader=f"{_HERE}.read:Reader",
    options=f"{_HERE}.options:ReaderOptions",
    axes=("y", "x"),
    formats=(".tif", ".tiff", ".vrt", ".jp2"),
    views={},
    heads=(
        Head("classify", "classification", "macro_f1", "one class for each chip or block"),
        Head("segment", "segmentation", "miou", "one class for each pixel, such as land cover"),
        Head("regress", "regression", "mae", "one value for each chip or block, such as a yield or a biomass"),
    ),
    recipes=f"{_HERE}.recipes",
)
