"""A method from outside: predict the noise added to node features."""

from dataclasses import replace

import torch
from pydantic import Field
from torch import nn

from unlabeled.core import ranks
from unlabeled.core.methods.base import Context, Method, Options, unchanged, weighted
from unlabeled.core.streams import Draw


class Denoise(Method):
    class Options(Options):
        sigma: float = Field(0.5, gt=0)

    def __init__(self, encoder, specs, options, views=unchanged):
        super().__init__(encoder, specs, options, views)
        self.head = nn.Linear(encoder.token_width, encoder.input_spec.width)

    def on_batch(self, batch, ctx: Context):
        graph = batch.inputs["x"]
        # keyed by the item and the node's place in it, so that it does not depend on the batch around it
        place = torch.arange(len(graph.values)) - graph.offsets[:-1][graph.owner]
        keys = batch.index[graph.owner] * 1_000_003 + place
        noise = Draw(ctx.seed, ctx.epoch, keys, "noise").normal("x", graph.values.shape[1])
        noisy = replace(graph, values=graph.values + self.options.sigma * noise)
        return noisy, noise, batch.weight[graph.owner] * graph.valid

    def step(self, batch, ctx: Context):
        noisy, noise, weight = batch
        h = self.encoder.nodes(noisy)
        loss = ranks.mean((self.head(h) - noise) ** 2, weight[:, None])
        return weighted({"mse": (1.0, loss)}, self.encoder({"x": noisy}).pooled)
