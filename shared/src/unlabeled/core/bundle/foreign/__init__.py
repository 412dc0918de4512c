"""Weights of other libraries, one adapter a file: each brings a state dict to the names of timm.

An adapter is `adapt(state, notes) -> state`; what it left out and what it changed it adds to the notes, one line each.
"""

# how a file of a format is told: a tensor that every such file has and no other format's does
MARKS = {
    "hf-vit": "embeddings.patch_embeddings.projection.weight",
    "mae": "decoder_pos_embed",
    "dinov2": "blocks.0.ls1.gamma",
    "timm": "patch_embed.proj.weight",
    "torchvision-resnet": "layer1.0.conv1.weight",
}
# the tensor that stands under no wrapper of its own, by which wrappers are told from names
ANCHORS = {
    "timm": "patch_embed.proj.weight",
    "mae": "patch_embed.proj.weight",
    "dino": "patch_embed.proj.weight",
    "dinov2": "patch_embed.proj.weight",
    "hf-vit": "embeddings.patch_embeddings.projection.weight",
    "torchvision-resnet": "layer1.0.conv1.weight",
}
FORMATS = {name: f"unlabeled.core.bundle.foreign.{name.replace('-', '_')}:adapt" for name in ANCHORS}
