"""Earth observation: optical and radar scenes. Listing this package imports neither torch nor lightning."""

from unlabeled.core.contracts import Domain, Head, MethodCard

_HERE = "unlabeled.earth"


def _baseline(name: str, family: str, features: str, summary: str, paper: str = "") -> MethodCard:
    target, test = f"{_HERE}.baselines:{features}", "packages/earth/tests/test_baselines.py"
    return MethodCard(name, "baseline", family, target, summary, paper, test=test)


domain = Domain(
    name="earth",
    title="Earth observation",
    summary="optical and radar scenes: GeoTIFF, COG, VRT and JPEG 2000, in any number of zones",
    reader=f"{_HERE}.read:Reader",
    options=f"{_HERE}.options:ReaderOptions",
    axes=("y", "x"),
    formats=(".tif", ".tiff", ".vrt", ".jp2"),
    views={
        **{name: f"{_HERE}.views:{name}" for name in ("crop", "resized_crop", "flip", "rotate90")},
        **{
            name: f"{_HERE}.photometry:{name}"
            for name in ("brightness", "scale_bands", "contrast", "grey", "blur", "drop_bands")
        },
        "speckle": f"{_HERE}.speckle:speckle",
    },
    methods=(
        MethodCard(
            name="sar_jepa",
            kind="method",
            family="predict what is hidden",
            target=f"{_HERE}.methods.sar_jepa:SARJEPA",
            summary="in local windows, predict the gradient by ratio of the hidden patches, which speckle does not move",
            paper="Li et al. 2024, Predicting Gradient is Better: Exploring SSL for SAR ATR, arXiv 2311.15153",
            seeds=("S173",),
            test="packages/earth/tests/methods/test_sar_jepa.py",
        ),
    ),
    heads=(
        Head("classify", "classification", "macro_f1", "one class for each chip or block"),
        Head("tag", "multilabel", "macro_map", "any number of labels for each chip or block, such as its land covers"),
        Head("segment", "segmentation", "miou", "one class for each pixel, such as land cover"),
        Head("regress", "regression", "mae", "one value for each chip or block, such as a yield or a biomass"),
    ),
    baselines=(
        _baseline(
            "windows+logreg",
            "statistics",
            "WindowStatistics",
            "cells: mean and deviation of each band in windows of 3, 7 and 15 px, logistic regression",
        ),
        _baseline(
            "statistics+logreg",
            "statistics",
            "Statistics",
            "windows: mean, deviation, minimum and maximum of each band, logistic regression",
            "Corley et al. 2024",
        ),
        _baseline("bands+logreg", "bands", "Bands", "cells: the values of the cell itself, logistic regression"),
        _baseline(
            "bands+forest", "bands", "Bands", "cells: the values of the cell itself, random forest", "Breiman 2001"
        ),
        _baseline(
            "windows+forest",
            "statistics",
            "WindowStatistics",
            "cells: mean and deviation of each band in windows of 3, 7 and 15 px, random forest",
            "Breiman 2001",
        ),
        _baseline(
            "mosaiks+ridge",
            "random convolutions",
            "Mosaiks",
            "cells and windows: mean responses to 512 whitened patches of 3 x 3 px, ridge classifier",
            "Rolf et al. 2021",
        ),
    ),
    normalisers={
        "div10000": f"{_HERE}.normalisers:div10000",
        "ssl4eo-s12": f"{_HERE}.normalisers:ssl4eo_s12",
        "ssl4eo-s12-l2a": f"{_HERE}.normalisers:ssl4eo_s12_l2a",
        "ssl4eo-s12-v1.1": f"{_HERE}.normalisers:ssl4eo_s12_v11",
        "ssl4eo-s1": f"{_HERE}.normalisers:ssl4eo_s1",
        "imagenet": f"{_HERE}.normalisers:imagenet",
    },
    starts={"torchgeo": f"{_HERE}.weights:start"},
    exports={"torchgeo": f"{_HERE}.torchgeo_export:write"},
    cells=f"{_HERE}.labels:cells",
    mapper=f"{_HERE}.maps:segment",
    writers={
        "cog": f"{_HERE}.write:maps",
        "probabilities": f"{_HERE}.write:maps",
        "geoparquet": f"{_HERE}.write:geoparquet",
        "gpkg": f"{_HERE}.write:gpkg",
        "geojson": f"{_HERE}.write:geojson",
    },
    recipes=f"{_HERE}.recipes",
    samples={
        "landsat": f"{_HERE}.samples:landsat",
        "sar": f"{_HERE}.synthetic:sar",
        "scenes": f"{_HERE}.synthetic:scenes",
    },
    verbs={"inputs": f"{_HERE}.inputs:inputs"},
    demo=f"{_HERE}.demo:demo",
)
