"""A graph encoder under the core's interface: the mean over neighbours, twice."""

from dataclasses import replace

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from unlabeled.core.contracts.batch import Graph
from unlabeled.core.nn.base import Encoder, Features
from unlabeled.core.nn.pooling import mean_pool
from unlabeled.core.tokens.packed import packed_tokens


class Neighbours(Encoder):
    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        width: int = 16

    def __init__(self, specs, options):
        super().__init__(specs, options.width, options.width)
        first = self.input_spec.width
        self.layers = nn.ModuleList([nn.Linear(2 * first, options.width), nn.Linear(2 * options.width, options.width)])

    def nodes(self, graph: Graph) -> Tensor:
        """(N, width) features of nodes."""
        h = graph.values
        for layer in self.layers:
            h = layer(torch.cat([h, self.neighbours(h, graph)], 1)).relu()
        return h

    @staticmethod
    def neighbours(h: Tensor, graph: Graph) -> Tensor:
        source, target = graph.edges
        total = torch.zeros_like(h).index_add(0, target, h[source])
        count = torch.zeros(len(h), 1, dtype=h.dtype, device=h.device).index_add(0, target, h.new_ones(len(source), 1))
        return total / count.clamp_min(1)

    def forward(self, inputs):
        graph = inputs["x"]
        tokens = packed_tokens(replace(graph, values=self.nodes(graph)))
        return Features(tokens.patches, tokens.valid, mean_pool(tokens.patches, tokens.valid))
