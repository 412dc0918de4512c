"""The way out: a bundle for timm, transformers, ONNX or torch.export, checked before it is there."""

from unlabeled.core.bundle.export.write import FORMATS, export

__all__ = ["FORMATS", "export"]
