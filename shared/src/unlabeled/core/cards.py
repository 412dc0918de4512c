"""Cards of the core's methods: what `unlabeled methods` lists, without importing torch."""

from unlabeled.core.contracts import MethodCard

CARDS = (
    MethodCard(
        name="mae",
        kind="method",
        family="predict what is hidden",
        target="unlabeled.core.methods.mae:MAE",
        summary="encode the visible patches, predict the hidden ones",
        paper="He et al. 2022, Masked Autoencoders Are Scalable Vision Learners, arXiv 2111.06377",
        test="shared/tests/methods/test_mae.py",
    ),
    MethodCard(
        name="simclr",
        kind="method",
        family="agree across views",
        target="unlabeled.core.methods.simclr:SimCLR",
        summary="two views of one item agree, against all other items of the batch",
        paper="Chen et al. 2020, A Simple Framework for Contrastive Learning, arXiv 2002.05709",
        test="shared/tests/methods/test_simclr.py",
    ),
)
