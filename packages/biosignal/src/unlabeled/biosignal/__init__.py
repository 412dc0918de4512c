"""Biosignals: what a wearable measures. Listing this package imports neither torch nor lightning."""

from unlabeled.core.contracts import Domain, Head, MethodCard

_HERE = "unlabeled.biosignal"

domain = Domain(
    name="biosignal",
    title="Biosignals",
    summary="recordings of wearable sensors: accelerometers, gyroscopes and any other evenly sampled channels",
    reader=f"{_HERE}.read:Reader",
    options=f"{_HERE}.options:ReaderOptions",
    axes=("time",),
    formats=(".csv", ".parquet", ".npz"),
    conversions={"mirror": f"{_HERE}.conversions:mirror"},
    views={name: f"{_HERE}.views:{name}" for name in ("crop", "centre", "rotate", "scale", "jitter")},
    baselines=(
        MethodCard(
            name="hand+logreg",
            kind="baseline",
            family="hand features",
            target=f"{_HERE}.baselines:Hand",
            summary="window statistics and band energies, logistic regression",
            test="packages/biosignal/tests/test_baselines.py",
        ),
        MethodCard(
            name="hand+forest",
            kind="baseline",
            family="hand features",
            target=f"{_HERE}.baselines:Hand",
            summary="window statistics and band energies, random forest",
            paper="Breiman 2001",
            test="packages/biosignal/tests/test_baselines.py",
        ),
        MethodCard(
            name="minirocket+ridge",
            kind="baseline",
            family="random convolutions",
            target=f"{_HERE}.baselines:MiniRocket",
            summary="shares of positive responses of 9,996 fixed convolutions, ridge classifier",
            paper="Dempster, Schmidt, Webb 2021",
            test="packages/biosignal/tests/test_baselines.py",
        ),
    ),
    heads=(
        Head("classify", "classification", "macro_f1", "one class for each recording, voted over its windows"),
        Head("segment", "segmentation", "macro_f1", "one class for each moment of a recording, such as an activity"),
        Head("regress", "regression", "mae", "one value for each recording, such as a rate or an age"),
    ),
    writers={"annotations": f"{_HERE}.write:table", "mne": f"{_HERE}.write:mne"},
    recipes=f"{_HERE}.recipes",
    samples={"watch": f"{_HERE}.samples:watch"},
    demo=f"{_HERE}.demo:demo",
)
