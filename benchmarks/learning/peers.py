"""lightly's SimCLR, BYOL and MAE in a plain torch loop, with everything else as ours has it.

Equal: data, split, batches, views with the same draws, optimiser, its parameter groups, learning rate of every step, number
of steps. SimCLR and BYOL: our ConvNet with the same initial weights; lightly's heads (same widths), losses, momentum update
and schedule. MAE: lightly's masked ViT and decoder on timm, with the width, depth, heads, patch and mask ratio of ours; its
own initial weights and masks. What lightly does otherwise stays lightly's: SimCLR's projector also normalises its output.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from learning import digits
from unlabeled.core.build import build_encoder, build_views, seeded
from unlabeled.core.contracts.batch import Batch, BatchInput
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.loading import Loader
from unlabeled.core.methods.base import Context, Views
from unlabeled.core.nn.base import Features
from unlabeled.core.streams import key
from unlabeled.core.training.optim import adamw, learning_rate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own dependencies' deprecations
    from lightly.loss import NegativeCosineSimilarity, NTXentLoss
    from lightly.models import utils
    from lightly.models.modules import MaskedVisionTransformerDecoderTIMM, MaskedVisionTransformerTIMM
    from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead, SimCLRProjectionHead
    from lightly.utils.scheduler import cosine_schedule
    from timm.models.vision_transformer import VisionTransformer


class Peer(Protocol):
    encoder: nn.Module

    def parameters(self) -> Any: ...

    def loss(self, batch: Batch, views: Views, ctx: Context) -> Tensor: ...


class SimCLR(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        options = recipe.method.options
        hidden, out = options["projector"]
        self.encoder = build_encoder(recipe, digits.DOMAIN, digits.SPECS, recipe.seed)
        self.head = SimCLRProjectionHead(self.encoder.width, hidden, out)
        self.criterion = NTXentLoss(options["temperature"])

    def loss(self, batch: Batch, views: Views, ctx: Context) -> Tensor:
        z1, z2 = (self.head(self.encoder(view.inputs).pooled) for view in _two(batch, views, ctx))
        return self.criterion(z1, z2)  # type: ignore[no-any-return]


class BYOL(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        options = recipe.method.options
        hidden, out = options["projector"]
        self.encoder = build_encoder(recipe, digits.DOMAIN, digits.SPECS, recipe.seed)
        self.head = BYOLProjectionHead(self.encoder.width, hidden, out)
        self.predictor = BYOLPredictionHead(out, hidden, out)
        self.teacher = copy.deepcopy(nn.ModuleList([self.encoder, self.head])).requires_grad_(False)
        self.momentum = options["teacher"]["momentum"]
        self.criterion = NegativeCosineSimilarity()

    def loss(self, batch: Batch, views: Views, ctx: Context) -> Tensor:
        if ctx.step > 0:  # lightly's examples move the teacher before the forward pass
            m = cosine_schedule(ctx.step - 1, ctx.max_steps, self.momentum, 1.0)
            utils.update_momentum(self.encoder, self.teacher[0], m)
            utils.update_momentum(self.head, self.teacher[1], m)
        both = _two(batch, views, ctx)
        p1, p2 = (self.predictor(self.head(self.encoder(view.inputs).pooled)) for view in both)
        with torch.no_grad():
            z1, z2 = (self.teacher[1](self.teacher[0](view.inputs).pooled) for view in both)
        return 0.5 * (self.criterion(p1, z2) + self.criterion(p2, z1))  # type: ignore[no-any-return]


class MaskedViT(nn.Module):
    """lightly's encoder under our interface: pooled is the mean of its tokens, as with ours."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        vit = VisionTransformer(
            img_size=digits.SIDE,
            patch_size=options["patch"][0],
            in_chans=1,
            num_classes=0,
            global_pool="",
            class_token=False,
            embed_dim=options["width"],
            depth=options["depth"],
            num_heads=options["heads"],
        )
        self.masked = MaskedVisionTransformerTIMM(vit)

    def forward(self, inputs: Mapping[str, BatchInput]) -> Features:
        tokens = self.masked.encode(inputs["x"].values)
        return Features(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), tokens.mean(1))


class MAE(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        options, width = recipe.method.options, recipe.encoder.options["width"]
        self.encoder = MaskedViT(recipe.encoder.options)
        self.patch, self.ratio = recipe.encoder.options["patch"][0], options["mask_ratio"]
        self.norm_target = options["norm_target"]
        decoder = options["decoder"]
        self.embed = nn.Linear(width, decoder["width"])
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=self.encoder.masked.sequence_length,
            num_prefix_tokens=0,
            embed_dim=decoder["width"],
            depth=decoder["depth"],
            num_heads=decoder["heads"],
        )
        self.predict = nn.Linear(decoder["width"], self.patch**2)

    def loss(self, batch: Batch, views: Views, ctx: Context) -> Tensor:
        images = views(batch, ctx.draw(batch, "view")).inputs["x"].values  # type: ignore[union-attr]
        keep, hide = utils.random_token_mask(
            (len(images), self.decoder.sequence_length), mask_ratio=self.ratio, mask_class_token=True
        )
        seen = self.embed(self.encoder.masked.encode(images, idx_keep=keep))
        everything = self.decoder.mask_token.repeat(len(images), self.decoder.sequence_length, 1)
        out = self.decoder(utils.set_at_index(everything, keep, seen.type_as(everything)))
        target = utils.get_at_index(utils.patchify(images, self.patch), hide)
        if self.norm_target:
            target = utils.normalize_mean_var(target)
        return nn.functional.mse_loss(self.predict(utils.get_at_index(out, hide)), target)


PEERS: dict[str, Callable[[Recipe], Any]] = {"mae": MAE, "simclr": SimCLR, "byol": BYOL}


def train(recipe: Recipe, loader: Loader) -> tuple[nn.Module, float]:
    """The trained encoder and the last loss."""
    with seeded(recipe.seed, "method"):
        peer = PEERS[recipe.method.name](recipe)
    views = build_views(recipe.views, digits.DOMAIN, digits.SPECS)
    optimiser = adamw(peer, recipe.optimiser)
    loss = torch.zeros(())
    with torch.random.fork_rng(devices=[]):
        for step, (epoch, batch) in enumerate(loader.batches(0, recipe.max_steps)):
            torch.manual_seed(key(recipe.seed, step))
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(recipe.schedule, recipe.optimiser.lr, step, recipe.max_steps)
            loss = peer.loss(batch, views, Context(recipe.seed, step, epoch, recipe.max_steps))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return peer.encoder, float(loss.detach())


def _two(batch: Batch, views: Views, ctx: Context) -> tuple[Batch, Batch]:
    return views(batch, ctx.draw(batch, "view1")), views(batch, ctx.draw(batch, "view2"))
