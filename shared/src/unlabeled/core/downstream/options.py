"""Options of fine-tuning: what `finetune` takes as key=value."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from unlabeled.core.contracts.recipe import Strict, View


class Finetune(Strict):
    start: str | None = Field(
        None, description="weights to begin from: random, timm:NAME or a file; none: the bundle's own, or random"
    )
    mode: Literal["full", "linear"] = Field(
        "full", description="linear: the encoder stays as it is, in evaluation mode"
    )
    steps: int = Field(300, ge=1, description="optimiser steps")
    batch_size: int = Field(
        64, ge=1, description="items per step, of equally many of each class where an item has one class"
    )
    lr: float = Field(1e-3, gt=0, description="peak learning rate of the last layers")
    head_lr: float | None = Field(None, gt=0, description="peak learning rate of the head; none: lr")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="factor of the learning rate from each layer to the one below"
    )
    weight_decay: float = Field(0.05, ge=0, description="not applied to biases, norms and tokens")
    warmup: float = Field(0.1, ge=0, le=1, description="share of the steps in which the learning rate rises")
    validation: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="share of the groups that choose the best step, first of those that pretraining has not seen; 0: none, "
        "the last step is kept",
    )
    looks: int = Field(10, ge=1, description="how often the validation groups are looked at")
    window: tuple[float, ...] | None = Field(
        None, description="size of an item in physical units; none: as the bundle evaluates"
    )
    stride: tuple[float, ...] | None = Field(None, description="step from item to item; none: as the bundle evaluates")
    views: tuple[View, ...] = Field((), description="augmentations of the training items; not for segmentation")
    label_augmentation: bool = Field(
        False,
        description="learn (class, quarter turn) of square images as one label, and predict by all four turns; for classification",
    )
    max_bad_fraction: float | None = Field(
        None, ge=0, le=1, description="largest share of unreadable records; none: as the bundle was made"
    )
    accelerator: Literal["auto", "cpu", "gpu"] = Field("auto", description="what it computes on")
    seed: int = Field(0, description="of the split, the order, the views and the new weights")
