"""URLBERT: Li et al. 2024, URLBERT, A Contrastive and Adversarial Pre-trained Model for URL Classification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.contrastive import nt_xent
from unlabeled.core.losses.ids import naming
from unlabeled.core.losses.virtual_adversarial import adversarial, divergence, symmetric
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.masked_tokens import MaskedTokens, Spoiled, holding
from unlabeled.core.methods.masking import draw_masks
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.ids import whole_numbers
from unlabeled.core.streams import Draw
from unlabeled.core.tokens.replace import replaced
from unlabeled.core.tokens.tokens import Tokens
from unlabeled.network.url.tokens import CHANNELS, PART_IDS, tokens
from unlabeled.network.url.urls import parse
from unlabeled.network.url.views import lookalike, rewrite


@dataclass(frozen=True)
class Rewritten(Spoiled):
    """With the rewritings: the first ones of N URLs, then the second ones; which count (N,); and a start (B, L, D) of VAT."""

    views: Tokens | None
    counts: Tensor
    start: Tensor


class URLBERT(MaskedTokens):
    """Name hidden tokens of a URL, know its rewritings from other URLs, and keep the names under a small perturbation.

    Naming: of 15 % of the tokens 80 % become the mask token, 10 % get random ids and 10 % stay; the part that a token
    stands in is always seen, and only its id is named. Contrast: NT-Xent between the pooled features of two rewritings of
    one URL (RFC 3986: escapes, default port, dot segments, order of parameters, ...); other URLs, and one that looks like
    it (homoglyph, typing error, other suffix), are its negatives. Adversarial: on the tokens hidden by the one and only
    mask the names stay as they are (KL both ways, without gradient to the unperturbed side) when the word vectors move by
    `epsilon` in the direction that changes them most, found by power iteration (Miyato et al. 2018, algorithm 1).

    The ids are turned back into URLs, rewritten and cut into tokens on the host, as parsers of URLs are: on_batch waits
    for the device, unless `contrast` is 0. Raises RequestError where the encoder reads anything but tokens of URLs.

    Deviations: the variants of a URL are written, where the authors' are two dropout passes; they are cut from what the
    reader has kept; the perturbation is added to word vectors before they get positions, and its length is a share of
    theirs for the item as a whole, where the code feeds embedded tokens back as words, normalises each token, and keeps
    the random start in the direction; divergences are means over the hidden tokens, where the code sums over all, so that
    one set of weights serves any batch; masks are drawn once a step and anew each epoch; ids are bytes or byte pairs that
    keep case, where theirs are lower-case word pieces; all terms share one optimiser step.
    """

    class Options(MaskedTokens.Options):
        tokenizer: str = Field("bytes", description="what the ids are: as data.options.tokenizer")
        length: int = Field(200, ge=8, description="of a rewriting, the first so many tokens: as data.options.length")
        contrast: float = Field(1.0, ge=0, description="weight of the contrast, beside the naming's 1; 0: none")
        temperature: float = Field(0.1, gt=0, description="divides the cosines (paper: 0.1)")
        lookalikes: bool = Field(True, description="whether URLs that look alike are negatives too: twice the rows")
        adversarial: float = Field(1.0, ge=0, description="weight of the adversarial term; 0: none")
        epsilon: float = Field(0.1, ge=0, description="size of the perturbation, root mean square over the channels")
        iterations: int = Field(1, ge=1, description="steps of the power iteration")

    couples = "every item of the batch is a negative of the others"
    name = "urlbert"

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        if len(specs) != 1 or next(iter(specs.values())).channels != CHANNELS:
            raise RequestError(f"method {self.name}: reads URLs and nothing else; name a folder of lists of URLs")
        super().__init__(encoder, specs, options, views)
        self.tokens, self.input = tokens(options.tokenizer), next(iter(specs))
        size = self.tokens.size, PART_IDS
        if self.sizes[self.input] != size:
            raise RequestError(
                f"method {self.name}: the tokenizer {options.tokenizer} has {size[0]} ids in {size[1]} parts; "
                f"set encoder.vocabulary: {list(size)}"
            )

    def on_batch(self, batch: Batch, ctx: Context) -> Rewritten:
        batch = self.views(batch, ctx.draw(batch, "view"))
        t = self.encoder.tokenise(batch.inputs)[self.input]
        o, draw, sizes = self.options, ctx.draw(batch, "mask"), self.sizes[self.input]
        mask = draw_masks(o, self.encoder, {self.input: t}, draw)[self.input]
        ids = whole_numbers(t.patches, sizes)
        chosen = torch.zeros_like(t.valid).scatter(1, mask.hide, mask.hide_valid)
        lot = draw.uniform("lot", *t.places).flatten(1)
        noise = draw.uniform("ids", *t.places, 1).flatten(1, -2)
        # without id 0, which is padding
        new, masked = replaced(ids[..., :1] - 1, chosen, (sizes[0] - 1,), lot, noise, o.masked, o.random)
        spoiled = holding(t, torch.cat([new + 1, ids[..., 1:]], -1))
        views, counts = self._rewritten(t, ids, batch.weight, ctx.draw(batch, "rewrite")) if o.contrast else (None, lot)
        start = draw.normal("start", *t.places, self.encoder.token_width).flatten(1, -2)
        name = self.input
        return Rewritten({name: spoiled}, {name: ids}, {name: mask}, {name: masked}, batch.weight, views, counts, start)

    def _rewritten(self, t: Tokens, ids: Tensor, weight: Tensor, draw: Draw) -> tuple[Tokens, Tensor]:
        """Two rewritings of every URL, and of one that looks like it; and which of these count."""
        keys = (draw.uniform("key", 2).double() * 2**24).long()
        # the wait: what follows is on the host
        host, valid = ids[..., 0].cpu().numpy(), t.valid.cpu().numpy()
        urls = [self.tokens.decode(row[ok].tolist()) for row, ok in zip(host, valid, strict=True)]
        lots = [(a << 24) + b for a, b in keys.tolist()]
        whole = [bool(url) for url in urls]
        if self.options.lookalikes:
            others = [lookalike(url, lot) for url, lot in zip(urls, lots, strict=True)]
            whole += [url != other for url, other in zip(urls, others, strict=True)]
            urls, lots = urls + others, lots * 2
        views = [self._view(rewrite(url, 2 * lot + i)) for i in range(2) for url, lot in zip(urls, lots, strict=True)]
        rows = np.zeros((len(views), max(1, *map(len, views)), 2), np.int64)
        for row, view in zip(rows, views, strict=True):
            row[: len(view)] = view
        made = torch.from_numpy(rows).to(t.patches.device)
        places = torch.arange(rows.shape[1], device=t.coords.device, dtype=t.coords.dtype)
        coords = places[None, :, None].expand(len(rows), -1, 1)
        elements = (made[..., :1] > 0).expand(-1, -1, 2)
        counts = torch.tensor(whole).to(weight) * weight.repeat(len(urls) // len(weight))
        return Tokens.of(made.to(t.patches.dtype), elements, coords), counts

    def _view(self, raw: bytes) -> Any:
        return self.tokens.rows(parse(raw), self.options.length)

    def step(self, batch: Spoiled, ctx: Context) -> dict[str, Any]:
        assert isinstance(batch, Rewritten)
        o, t, mask = self.options, batch.tokens[self.input], batch.masks[self.input]
        features, logits = self._logits(batch)
        ids = batch.ids[self.input].take_along_dim(mask.hide[..., None], 1)[..., :1]
        weight = mask.hide_valid * batch.weight[:, None]
        terms = {"naming": (1.0, naming([logits], ids, weight[..., None]))}
        if batch.views is not None:
            z = self.encoder.encode({self.input: batch.views}, summary=True).pooled
            one, two = z.chunk(2)
            terms["contrast"] = (o.contrast, nt_xent(one, two, o.temperature, batch.counts))
        if o.adversarial:

            def changed(r: Tensor) -> Tensor:
                return torch.where(weight > 0, divergence(logits, self._logits(batch, r)[1]), 0).sum()

            r = o.epsilon * adversarial(changed, batch.start, t.valid, o.iterations)
            terms["adversarial"] = (o.adversarial, symmetric(logits, self._logits(batch, r)[1], weight))
        return weighted(terms, features.pooled)

    def _logits(self, batch: Spoiled, r: Tensor | None = None) -> tuple[Features, Tensor]:
        """Features, and logits (B, M, V) of the ids of the chosen tokens, word vectors moved by r (B, L, D)."""
        embedding: Any = self.encoder.project[self.input]
        t, masked = batch.tokens[self.input], batch.masked[self.input][..., None]
        part = t.patches[..., 1].long() + self.sizes[self.input][0]

        def corrupt(name: str, x: Tensor) -> Tensor:
            hidden = self.mask_token + embedding.table[part] * embedding.table.shape[1] ** 0.5
            x = torch.where(masked, hidden.to(x.dtype), x)
            return x if r is None else x + r.to(x.dtype)

        features = self.encoder.encode(batch.tokens, corrupt)
        chosen = features.tokens.take_along_dim(batch.masks[self.input].hide[..., None], 1)
        return features, self.heads[self.input](chosen, embedding)[0]
