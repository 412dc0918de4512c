"""The peers' side: lightly's modules as its documentation puts them together, torch's AdamW as it comes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.ours import BETAS, DECAY, LR
from bench.row import Work

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own dependencies' deprecations
    from lightly.loss import DINOLoss, NTXentLoss
    from lightly.loss.swav_loss import sinkhorn as sinkhorn
    from lightly.models import utils
    from lightly.models.modules import MaskedVisionTransformerDecoderTIMM, MaskedVisionTransformerTIMM
    from lightly.models.modules.heads import DINOProjectionHead, SimCLRProjectionHead
    from timm.models.vision_transformer import VisionTransformer


class MAE(nn.Module):
    """lightly's example of MAE on timm's ViT: width of the decoder 512, depth 1, 16 heads.

    Without a class token, as ours has none; with targets normalised by patch, as ours are.
    """

    def __init__(self, side: int, width: int, depth: int, heads: int, decoder: dict[str, int]) -> None:
        super().__init__()
        self.patch, self.ratio = 16, 0.75
        vit = VisionTransformer(
            img_size=side,
            patch_size=self.patch,
            num_classes=0,
            global_pool="",
            class_token=False,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
        )
        self.encoder = MaskedVisionTransformerTIMM(vit)
        self.embed = nn.Linear(width, decoder["width"])
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=vit.patch_embed.num_patches,
            num_prefix_tokens=0,
            embed_dim=decoder["width"],
            depth=decoder["depth"],
            num_heads=decoder["heads"],
        )
        self.predict = nn.Linear(decoder["width"], self.patch**2 * 3)

    def masks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        size = (len(images), self.decoder.sequence_length)
        return utils.random_token_mask(size, self.ratio, mask_class_token=True, device=images.device)

    def forward(self, images: Tensor, keep: Tensor, hide: Tensor) -> Tensor:
        seen = self.embed(self.encoder.encode(images, idx_keep=keep))
        everything = utils.repeat_token(self.decoder.mask_token, (len(images), self.decoder.sequence_length))
        out = self.decoder(utils.set_at_index(everything, keep, seen.type_as(everything)))
        target = utils.normalize_mean_var(utils.get_at_index(utils.patchify(images, self.patch), hide))
        return nn.functional.mse_loss(self.predict(utils.get_at_index(out, hide)), target)


class SimCLR(nn.Module):
    """lightly's example of SimCLR on torchvision's ResNet-18."""

    def __init__(self, hidden: int, out: int, temperature: float) -> None:
        super().__init__()
        from torchvision.models import resnet18

        self.backbone = nn.Sequential(*list(resnet18().children())[:-1])
        self.head = SimCLRProjectionHead(512, hidden, out)
        self.criterion = NTXentLoss(temperature)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        z1, z2 = (self.head(self.backbone(x).flatten(start_dim=1)) for x in (first, second))
        return self.criterion(z1, z2)  # type: ignore[no-any-return]


class DINO(nn.Module):
    """lightly's example of DINO on timm's ViT, which takes crops of any size."""

    def __init__(self, side: int, width: int, depth: int, heads: int, head: tuple[int, int, int]) -> None:
        super().__init__()
        vit = VisionTransformer(
            img_size=side,
            patch_size=16,
            num_classes=0,
            global_pool="token",
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            dynamic_img_size=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's former weight norm
            projectors = [DINOProjectionHead(width, *head) for _ in range(2)]
        self.student, self.teacher = (
            nn.Sequential(*x) for x in zip((vit, copy.deepcopy(vit)), projectors, strict=True)
        )
        utils.deactivate_requires_grad(self.teacher)
        self.criterion = DINOLoss(head[-1])

    def forward(self, wide: list[Tensor], crops: list[Tensor]) -> Tensor:
        targets = [self.teacher(x) for x in wide]
        return self.criterion(targets, [self.student(x) for x in crops], epoch=0)  # type: ignore[no-any-return]

    def follow(self) -> None:
        utils.update_momentum(self.student, self.teacher, m=0.99)


def stepper(
    model: nn.Module, loss: Callable[[], Tensor], device: torch.device, after: Callable[[], None] = lambda: None
) -> Work:
    """One optimiser step after the other; `after` is called behind each."""
    model.to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY)

    def work() -> Tensor:
        value = loss()
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        after()
        return value.detach()

    return work
