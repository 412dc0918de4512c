"""BEiT: Bao et al. 2022, BEiT: BERT Pre-Training of Image Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.losses.masked import masked_cross_entropy
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.simmim import Corrupted, SimMIM
from unlabeled.core.methods.taught import needed, token_teacher
from unlabeled.core.nn.base import Encoder
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.targets.codebooks.cosine import CosineCodebook
from unlabeled.core.targets.codebooks.kmeans import KMeans
from unlabeled.core.targets.codebooks.random_projection import RandomProjection
from unlabeled.core.targets.codebooks.use import counted, in_use, perplexity
from unlabeled.core.targets.features import layer_normed
from unlabeled.core.tokens.masks import Rounding
from unlabeled.core.tokens.schemes import Boxes, Scheme

CODEBOOKS = {"random": RandomProjection, "kmeans": KMeans, "cosine": CosineCodebook}


@dataclass(frozen=True)
class Coded(Corrupted):
    """And the codes of the hidden tokens, (B, M) int64 by input."""

    codes: dict[str, Tensor]


class BEiT(SimMIM):
    """Put a learned token in the place of the hidden patches, encode all, and name the code that each of them has in a
    codebook, with one layer and a softmax.

    From section 2.3: the cross-entropy on hidden patches, 40 % of them, hidden in rectangles (algorithm 1), and a head of
    one layer. What is coded is the patch, normalised by its own mean and deviation, or with `teacher` what a frozen
    encoder that sees the whole item makes of it, layer-normed. Raises RequestError where the encoder works on no tokens.

    Deviations: the paper's codes are those of DALL-E's tokenizer, which knows photographs and cannot be had for other
    fields. In its place stands a random projection (Chiu et al. 2022, BEST-RQ), or a codebook that k-means fits to hidden
    patches while training goes on, by their places or (`cosine`) their directions, so that a code's meaning may drift. The
    authors' code hides at most 75 of 196 patches; here it is int(0.4 * 196) = 78 in every image.
    """

    term = "cross_entropy"

    class Options(SimMIM.Options):
        mask_ratio: float = Field(0.4, gt=0, lt=1, description="share of the valid tokens that is hidden")
        mask: Scheme = Field(Boxes(), description="which tokens are hidden: a name, or a name with its options")
        rounding: Rounding = Field(
            "mask", description="of n tokens, int(n * mask_ratio) are hidden; keep: the others count"
        )
        norm_target: bool = Field(True, description="code patches normalised by their own mean and deviation")
        codebook: Literal["random", "kmeans", "cosine"] = Field(
            "random", description="random: a fixed random projection; kmeans, cosine: learned while training"
        )
        size: int = Field(1024, ge=2, description="codes in the codebook (paper: 8192)")
        smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target that is spread over all codes")
        teacher: str = Field(
            "",
            description="code the features of this frozen encoder: a bundle's folder, stage:NAME, timm:NAME or a weight file",
        )
        teacher_options: dict[str, Any] = Field(
            {}, description="what the teacher's weights leave open, as under encoder: heads, grid"
        )

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        self.teacher: TokenEncoder | None = None
        self.codebooks = nn.ModuleDict()
        if not options.teacher:
            self._make_codebooks(self.encoder.patch_widths)
        # what k-means has yet to learn from since the last optimiser step, which may see its batch in parts
        self._seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def _make_codebooks(self, widths: Mapping[str, int]) -> None:
        kind = CODEBOOKS[self.options.codebook]
        self.codebooks.update({name: kind(width, self.options.size) for name, width in widths.items()})

    def take_teacher(self, encoder: Encoder) -> None:
        """Take `encoder` as the teacher and freeze it. Raises Incompatible where its patches are not the student's."""
        self.teacher = token_teacher(encoder, self.encoder)
        self._make_codebooks(dict.fromkeys(self.encoder.patch_widths, self.teacher.token_width))

    def outputs(self) -> Mapping[str, int]:
        return dict.fromkeys(self.encoder.patch_widths, self.options.size)

    def step(self, batch: Corrupted, ctx: Context) -> dict[str, Any]:
        codes = {}
        for name, x in self._described(batch).items():
            codebook: Any = self.codebooks[name]
            codes[name] = codebook.codes(x)
            if isinstance(codebook, KMeans):
                self._seen.setdefault(name, []).append((x.flatten(0, 1), _counts(name, batch).flatten()))
        terms, features = self._terms(Coded(**vars(batch), codes=codes))
        used = torch.stack([counted(ids, _counts(name, batch), self.options.size) for name, ids in codes.items()])
        share = perplexity(used) / self.options.size
        return weighted(terms, features.pooled, prototype_use=share.mean(), codes_in_use=in_use(used).mean())

    @torch.no_grad()
    def _described(self, batch: Corrupted) -> dict[str, Tensor]:
        """What is coded of the hidden tokens, (B, M, D) by input."""
        if not self.options.teacher:
            return {name: SimMIM.target(self, name, batch)[0] for name in batch.tokens}
        x = layer_normed(needed(self.teacher, "beit").encode(batch.tokens).tokens)
        parts = torch.split(x, [t.valid.shape[1] for t in batch.tokens.values()], 1)
        hide = {n: batch.masks[n].hide[..., None] for n in batch.tokens}
        return {n: p.take_along_dim(hide[n], 1) for n, p in zip(batch.tokens, parts, strict=True)}

    def target(self, name: str, batch: Corrupted) -> tuple[Tensor, Tensor]:
        assert isinstance(batch, Coded)
        return batch.codes[name], batch.masks[name].hide_valid[..., None]

    def distance(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return masked_cross_entropy(pred, target, weight[..., 0], self.options.smoothing)

    def after_step(self, ctx: Context) -> None:
        for name, seen in self._seen.items():
            codebook = self.codebooks[name]
            assert isinstance(codebook, KMeans)
            x, weight = (torch.cat(parts) for parts in zip(*seen, strict=True))
            if ctx.step == 0:
                codebook.start(x, weight, ctx.shared(f"seeds/{name}"))
            codebook.update(x, weight, ctx.shared(f"codes/{name}"))
        self._seen = {}


def _counts(name: str, batch: Corrupted) -> Tensor:
    """(B, M) the weight of every hidden token."""
    return batch.masks[name].hide_valid * batch.weight[:, None]
