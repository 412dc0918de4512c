"""The offset in Sentinel-2's digital numbers: the whole truth table, and where it is read from."""

import json
import math

import numpy as np
import pytest

from unlabeled.core.contracts import BadInput
from unlabeled.earth.offsets import Evidence, add_offset, of_product, of_tags
from unlabeled.earth.options import ReaderOptions
from unlabeled.earth.read import Reader

from .data.scenes import raster, safe

S2 = "sentinel2-l2a"


def values(folder, **options):
    reader = Reader(ReaderOptions(sensor=S2, **options), folder)
    (sample,) = [s for f in reader.files(folder) for s in reader.read(f)]
    return sample.inputs["x"]


# baseline, whether metadata say that the offset was taken out, what is then added
TABLE = [
    (2.14, None, 0.0),
    (3.01, False, 0.0),
    (3.01, True, 0.0),
    (4.0, False, -1000.0),
    (5.09, False, -1000.0),
    (4.0, True, 0.0),
    (5.09, None, None),
    (None, True, 0.0),
    (None, False, None),
    (None, None, None),
]


@pytest.mark.parametrize(("baseline", "applied", "add"), TABLE)
def test_what_metadata_tell(baseline, applied, add):
    assert Evidence(baseline, applied).add("B4") == add


@pytest.mark.parametrize(("baseline", "applied", "add"), TABLE)
@pytest.mark.parametrize("option", ["auto", "applied", "raw", "none"])
@pytest.mark.parametrize("dn", [0, 1000, 3000])
def test_the_truth_table_on_pixels(tmp_path, baseline, applied, add, option, dn):
    """Baseline x applied x option x DN. What is read is (DN + add) / 10000, never for DN 0, which is nodata before.

    The option decides where metadata leave it open; where both speak they agree, or the file is refused. `none` says that
    the baseline is older, so it contradicts 04.00 and later also where the offset was taken out.
    """
    tags = {}
    if baseline is not None:
        tags["s2:processing_baseline"] = f"{baseline:05.2f}"
    if applied is not None:
        tags["earthsearch:boa_offset_applied"] = str(applied)
    pixels = np.full((1, 2, 2), dn, np.uint16)
    pixels[0, 0, 0] = 2000
    raster(tmp_path / "a.tif", pixels, ("B4",), tags=tags)
    said = {"auto": add, "applied": 0.0, "raw": -1000.0, "none": 0.0}[option]
    contradicts = option != "auto" and (
        (add is not None and add != said) or (option == "none" and (baseline or 0) >= 4)
    )
    if said is None or contradicts:
        with pytest.raises(BadInput, match=r"correct one of them" if contradicts else "set options.s2_offset to raw"):
            values(tmp_path, s2_offset=option)
        return
    x = values(tmp_path, s2_offset=option)
    assert x.units == ("1",)
    assert float(x.data[0, 0, 0]) == pytest.approx((2000 + said) / 10_000, rel=1e-6)
    if dn == 0:
        assert x.valid is not None and x.valid.sum() == 1 and (x.data[0, 1] == 0).all()
    else:
        assert x.valid is None
        assert float(x.data[0, 1, 1]) == pytest.approx((dn + said) / 10_000, rel=1e-6, abs=1e-9)


def test_the_same_ground_reads_alike_before_and_after_baseline_04(tmp_path):
    """A pixel of reflectance 0.2 is DN 2000 in an old product and 3000 in a new one."""
    for name, dn, baseline in (("old", 2000, "02.14"), ("new", 3000, "05.09")):
        tags = {"PROCESSING_BASELINE": baseline, "boa_offset_applied": "false"}
        raster(tmp_path / name / "a.tif", np.full((1, 2, 2), dn, np.uint16), ("B4",), tags=tags)
    old, new = values(tmp_path / "old"), values(tmp_path / "new")
    np.testing.assert_array_equal(old.data, new.data)
    assert old.data[0, 0, 0] == pytest.approx(0.2)


def test_without_evidence_the_error_names_the_mend(tmp_path):
    raster(tmp_path / "a.tif", np.full((1, 2, 2), 2000, np.uint16), ("B4",))
    with pytest.raises(BadInput) as caught:
        values(tmp_path)
    assert str(caught.value) == (
        "a.tif: the offset of Sentinel-2's digital numbers is unknown (no metadata name its processing baseline); set "
        "options.s2_offset to raw (baseline 04.00 or later, as ESA gives it), applied (the provider took it out) or none (older)"
    )


def test_a_baseline_alone_is_no_evidence_from_04_on(tmp_path):
    """Providers give both: raw numbers, and numbers from which 1000 was taken."""
    raster(tmp_path / "a.tif", np.full((1, 2, 2), 2000, np.uint16), ("B4",), tags={"PROCESSING_BASELINE": "05.00"})
    with pytest.raises(BadInput, match=r"names processing baseline 05.00 and not whether the offset was taken out"):
        values(tmp_path)


def test_a_stac_item_beside_the_file(tmp_path):
    raster(tmp_path / "a.tif", np.full((1, 2, 2), 3000, np.uint16), ("B4",))
    item = {"properties": {"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": False}}
    (tmp_path / "a.json").write_text(json.dumps(item))
    assert values(tmp_path).data[0, 0, 0] == pytest.approx(0.2)
    (tmp_path / "a.json").write_text("[1]")  # some other JSON
    with pytest.raises(BadInput, match=r"no metadata name"):
        Reader(ReaderOptions(sensor=S2), tmp_path).part(tmp_path / "a.tif", 0)


def test_scale_and_offset_tags_are_evidence(tmp_path):
    """DN * 0.0001 - 0.1 is (DN - 1000) / 10000: applied once, by tag and rule together."""
    about = {"scales": [1e-4], "names": ("B4",)}
    pixels = np.full((1, 2, 2), 3000, np.uint16)
    raster(tmp_path / "raw" / "a.tif", pixels, offsets=[-0.1], **about)
    raster(tmp_path / "old" / "a.tif", pixels, offsets=[0.0], **about)
    assert values(tmp_path / "raw").data[0, 0, 0] == pytest.approx(0.2)
    assert values(tmp_path / "old").data[0, 0, 0] == pytest.approx(0.3)
    assert values(tmp_path / "raw", s2_offset="raw").data[0, 0, 0] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("about", "options", "message"),
    [
        ({"scales": [1e-4], "offsets": [-0.1]}, {"s2_offset": "none"}, "says none, its offset tag says add -1000"),
        (
            {"scales": [1e-4], "offsets": [-0.1], "tags": {"PROCESSING_BASELINE": "02.14"}},
            {},
            "adds -1000 .* its tags 0",
        ),
        ({"scales": [1e-3], "offsets": [0.0]}, {"s2_offset": "none"}, r"DN \* 0.001 \+ 0, by the rule .* DN \* 0.0001"),
    ],
)
def test_tags_that_contradict_the_rule_are_refused(tmp_path, about, options, message):
    raster(tmp_path / "a.tif", np.full((1, 2, 2), 3000, np.uint16), ("B4",), **about)
    with pytest.raises(BadInput, match=message):
        values(tmp_path, **options)


def test_values_that_are_reflectance_already(tmp_path):
    """Float files have no offset once they are said to hold reflectance, and are refused while nothing is said."""
    raster(tmp_path / "a.tif", np.full((1, 2, 2), 0.25, np.float32), ("B4",))
    with pytest.raises(
        BadInput, match=r"float32 numbers in no stated unit; say options.units: {'.': '1'} where they are refl"
    ):
        values(tmp_path)
    assert values(tmp_path, units={"*": "1"}).data[0, 0, 0] == 0.25
    assert math.isclose(values(tmp_path, units={"*": "reflectance"}).data[0, 0, 0], 0.25)


def test_a_products_metadata(tmp_path):
    safe(tmp_path / "new.SAFE", "05.09", -1000)
    safe(tmp_path / "old.SAFE", "02.14", None)
    new, old = (of_product(tmp_path / f"{n}.SAFE" / "MTD_MSIL2A.xml", n) for n in ("new", "old"))
    assert (new.baseline, new.quantification) == (5.09, 10_000)
    assert [new.add(b) for b in ("B1", "B8A", "B12")] == [-1000.0] * 3
    assert (old.baseline, old.add("B4")) == (2.14, 0.0)
    with pytest.raises(BadInput, match=r"options.s2_offset says none, MTD_MSIL2A.xml says baseline 05.09"):
        add_offset("none", new, "B4", "new.SAFE")


@pytest.mark.parametrize(
    ("text", "message"), [("<a>", "not readable as XML"), ("<a/>", "names no PROCESSING_BASELINE")]
)
def test_broken_product_metadata(tmp_path, text, message):
    path = tmp_path / "MTD_MSIL2A.xml"
    path.write_text(text)
    with pytest.raises(BadInput, match=f"^x: .*{message}"):
        of_product(path, "x")


def test_tags_are_read_whatever_their_case():
    found = of_tags({"S2:PROCESSING_BASELINE": "04.00", "Boa_Offset_Applied": "1"})
    assert (found.baseline, found.applied) == (4.0, True)
    assert of_tags({"PROCESSING_BASELINE": "unknown"}).baseline is None
