"""Four domains and one method from outside, as a stranger would write them: they show that the contracts carry.

waves   1-D signals of variable length            blocks  3-D volumes with anisotropic cells
pairs   two token sequences per sample            rings   graphs, with an encoder and a method of their own
"""

from unlabeled.core.contracts import Domain, MethodCard

denoise = MethodCard(
    name="denoise",
    kind="method",
    family="predict what is hidden",
    target="toydomains.denoising:Denoise",
    summary="predict the noise that was added to node features",
    test="tests/contract/test_domains.py",
)


def _toy(name: str, axes: tuple[str, ...], **parts: dict[str, str]) -> Domain:
    return Domain(
        name=name,
        title=name,
        summary=f"toy domain {name}",
        reader=f"toydomains.read:{name.capitalize()}",
        options="toydomains.read:Options",
        axes=axes,
        recipes="toydomains",
        **parts,  # type: ignore[arg-type]
    )


waves = _toy("waves", ("time",), views={"noise": "toydomains.views:noise"})
blocks = _toy("blocks", ("depth", "height", "width"))
pairs = _toy("pairs", ("time",))
rings = _toy("rings", ("place",), encoders={"neighbours": "toydomains.graph:Neighbours"})
