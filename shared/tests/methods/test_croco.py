"""CroCo: its contract and oracles."""

from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.methods.croco import CroCo
from unlabeled.core.methods.mae import MAE
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.method import CTX, Grids, MethodContract
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients

DECODER = {"width": 16, "depth": 1, "heads": 2}


class TestCroCo(MethodContract):
    name = "croco"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})
    options = {"decoder": DECODER}


class TestCroCoV2(MethodContract):
    name = "croco"
    shape = (8, 8, 8)
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4, 4, 4), "positions": "rope", "cls": True})
    options = {"decoder": DECODER | {"positions": "rope"}, "mask_ratio": 0.75}
