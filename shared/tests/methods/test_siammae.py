from unlabeled.core.testing.method import CTX, Grids, MethodContract
DECODER = {"width": 16, "depth": 1, "heads": 2}

class TestSiamMAE(MethodContract):
    name = "siammae"
    shape = (6, 16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (1, 4, 4)})
    options = {"decoder": DECODER, "mask_ratio": 0.9, "gap": (1, 3)}
