"""Without an extra everything else works (`tools/release` imports every module so), and its use names what to install."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import Named
from unlabeled.core.testing.bundles import install, made, make_bundle, spec


def export(to: str) -> Callable[[Path], Any]:
    def use(folder: Path) -> None:
        from unlabeled.core import export

        sizes = {"width": 8, "depth": 1, "heads": 2, "patch": [2]}
        bundle = make_bundle(folder / "bundle", made("tokens", {"x": spec(1)}, **sizes))
        export(bundle, to, folder / "out")

    return use


def torchgeo_start(folder: Path) -> None:
    from unlabeled.earth.weights import start

    start("ResNet18_Weights.SENTINEL2_ALL_MOCO", {}, Named(name="timm"))


USES = [
    ("transformers", export("hf"), "unlabeled-core[export]"),
    ("onnx", export("onnx"), "unlabeled-core[export]"),
    ("onnxruntime", export("onnx"), "unlabeled-core[export]"),
    ("onnxscript", export("onnx"), "unlabeled-core[export]"),
    ("torchgeo", torchgeo_start, "unlabeled-earth[torchgeo]"),
]


@pytest.mark.parametrize(("library", "use", "extra"), USES, ids=[name for name, *_ in USES])
def test_the_use_of_an_absent_extra_names_it(
    library: str, use: Callable[[Path], Any], extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for name in {library, *sys.modules}:  # also what other tests imported
        if name == library or name.startswith(f"{library}."):
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RequestError, match=library) as caught:
        use(tmp_path)
    assert f"pip install '{extra}'" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
