"""Groups: hashed with a key of their own, split the same way on every machine."""

from pathlib import Path

import pytest

from unlabeled.core.contracts import Leakage, RequestError
from unlabeled.core.data.groups import check_disjoint, codes, folds, hashed, project_key, shuffled

PEOPLE = ["ann", "ben", "ann", "cem", "dan", "ben", "eve"]


def test_a_hash_is_an_hmac_and_depends_on_the_key() -> None:
    # HMAC-SHA256 of "what do ya want for nothing?" with the key "Jefe": RFC 4231, test case 2, first 16 digits
    assert hashed("what do ya want for nothing?", b"Jefe") == "5bdcc146bf60754e"
    assert hashed("ann", b"a" * 32) != hashed("ann", b"b" * 32)


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "folder" / "key"
    monkeypatch.setenv("UNLABELED_KEY", str(file))
    first = project_key()
    assert len(first) == 64 and project_key() == first
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("short")
    with pytest.raises(RequestError, match="holds no project key"):
        project_key()


def test_folds_do_not_depend_on_the_key() -> None:
    """Whoever is left out together stays together under any key: the lot is drawn over the order of the records."""
    plain = folds(PEOPLE, 2, seed=0)
    assert sorted(g for fold in plain for g in fold) == ["ann", "ben", "cem", "dan", "eve"]
    assert [len(fold) for fold in plain] == [2, 2, 1]
    for key in (b"a" * 32, b"b" * 32):
        keyed = folds([hashed(g, key) for g in PEOPLE], 2, seed=0)
        assert keyed == [tuple(hashed(g, key) for g in fold) for fold in plain]
    assert shuffled(PEOPLE, 0, "folds") != shuffled(PEOPLE, 1, "folds")


def test_too_few_groups_and_shared_groups_are_errors() -> None:
    with pytest.raises(RequestError, match="2 groups cannot be split with 2 left out"):
        folds(["a", "b"], 2, seed=0)
    check_disjoint(["a"], ["b"], "fold 0")
    with pytest.raises(Leakage, match="fold 0: 1 of 2 groups were also in training"):
        check_disjoint(["a", "b"], ["b", "c"], "fold 0")


def test_codes_count_by_first_appearance() -> None:
    assert codes(PEOPLE) == [0, 1, 0, 2, 3, 1, 4]
