from unlabeled.core.testing.method import CTX, Grids, MethodContract
DECODER = {"width": 16, "depth": 1, "heads": 2}

class TestCropMAE(MethodContract):
    name = "cropmae"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})
    options = {"decoder": DECODER, "mask_ratio": 0.875}
