"""Bundles: an encoder with its own input contract."""

from unlabeled.core.bundle.load import Bundle, LoadReport, load_bundle, read_bundle
from unlabeled.core.bundle.save import save_bundle
from unlabeled.core.bundle.starts import start_encoder

__all__ = ["Bundle", "LoadReport", "load_bundle", "read_bundle", "save_bundle", "start_encoder"]
