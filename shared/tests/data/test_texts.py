"""Texts as ids, and as an input of a sample."""

import sys

import numpy as np
import pytest

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.data.loading import tokens
from unlabeled.core.data.texts import BYTES, text_input, tokenizer


def test_bytes():
    # "é" is 0xC3 0xA9 in UTF-8: 195 and 169
    assert BYTES.ids("aé") == [98, 196, 170] and BYTES.size == 257
    every = [BYTES.ids(chr(n)) for n in range(0x80)]
    assert every == [[n + 1] for n in range(0x80)]
    # 0xFF is no UTF-8, so the largest id is below 256; 0 is padding and no byte
    assert min(BYTES.ids("\x00")) > 0 and max(BYTES.ids("\U0010ffff")) < BYTES.size


def test_a_text_is_packed_tokens():
    x = text_input("abc")
    assert x.layout == "packed" and x.channels == ("id",) and x.units == ("id",) and x.unit == "token"
    assert x.data.tolist() == [[98], [99], [100]] and x.coords.tolist() == [[0], [1], [2]] and x.valid.all()
    assert text_input("abc", limit=2).data.tolist() == [[98], [99]]


def test_an_empty_text_is_one_token_that_is_not_valid():
    x = text_input("")
    assert x.shape == (1,) and not x.valid.any()
    packed = tokens(InputSpec.of(x, axes=("token",)), [text_input("ab"), x, None])
    assert packed.offsets.tolist() == [0, 2, 3, 4] and packed.valid.tolist() == [True, True, False, False]


def test_a_tokenizer_by_file(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "hill": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    found = tokenizer(tmp_path / "tokenizer.json")
    assert found.size == 3 and list(found.ids("a steep hill")) == [1, 0, 2]
    assert np.array_equal(text_input("a steep hill", found).data[:, 0], [1, 0, 2])


def test_what_a_tokenizer_lacks_is_said_in_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(RequestError, match=r"tokenizer\.json is absent here"):
        tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(RequestError, match=r"is no tokenizer\.json") as error:
        tokenizer(tmp_path / "tokenizer.json")
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(RequestError, match=r"needs the library tokenizers; pip install 'unlabeled-core\[export\]'"):
        tokenizer(tmp_path / "tokenizer.json")
