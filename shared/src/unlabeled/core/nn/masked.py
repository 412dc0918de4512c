"""Masked-dense convolution: a net of any make sees only the active sites (Tian et al. 2023, SparK, section 3.1).

with MaskedDense(sites) as masked:      # sites (B, *S) bool, at the resolution of the net's input
    maps = net(masked.hide(x))

The modules of the net are neither changed nor hooked: the context is a torch function mode, which sees the torch functions
that are called inside the block, by this thread. So two threads may run one net under different masks, an inner block
hides the outer one, and nothing is left behind.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from unlabeled.core.contracts import RequestError
from unlabeled.core.nn.norms import Places, alone, batch_norm

Function = Callable[..., Any]


def sites_at(sites: Tensor, shape: Sequence[int]) -> Tensor | None:
    """(B, *S) bool -> (B, *shape): a site of a coarser map is active where any cell it stands for is.

    None where `shape` is no whole fraction of S.
    """
    b, *cells = sites.shape
    if len(shape) != len(cells) or any(c % s for c, s in zip(cells, shape, strict=True)):
        return None
    pairs = [n for c, s in zip(cells, shape, strict=True) for n in (s, c // s)]
    return sites.reshape(b, *pairs).any(dim=tuple(range(2, 2 + 2 * len(shape), 2)))


def upsampled(active: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, *G) on a coarse grid -> (B, *shape), where `shape` is a multiple of G."""
    for axis, s in enumerate(shape, start=1):
        active = active.repeat_interleave(s // active.shape[axis], dim=axis)
    return active


class MaskedDense(TorchFunctionMode):
    """Inside the block, inactive sites of every map are 0 and count in no norm, no pool and no mean over space.

    sites  (B, *S) bool, or None: all, so that only batch norms change: in training they reduce over all ranks
    count  how many sites are active, where the host knows it and the sites are whole cells of the coarsest map: then
           batch norms of maps with channels last read the active sites alone, which costs less than a dense norm
    Maps are known by their shape: (B, C, *s), or (B, *s, C) in linear layers and layer norms, where s is a whole fraction
    of S, so S must be a multiple of the net's stride. Convolutions (also transposed), linear layers, pools, resizing,
    norms, added constants and activations with f(0) != 0 give 0 at inactive sites, to the bit. Batch norms take their
    moments over the active sites of all ranks, group, instance and layer norms over those of the item. Pools and global
    means (also over the space axes of `Tensor.mean`) are over active sites; a mean pool that counts its padding counts
    inactive cells alike. All other functions are left alone: what they write at an inactive site is a constant of the
    net, never something of the input. With every site active the net is unchanged.

    A net that recomputes in the backward pass (activation checkpoints) leaves the block; switch that off.
    Raises RequestError for a map that is no whole fraction of the input, and for products of activations (attention)
    and other functions that mix sites in ways of their own.
    """

    def __init__(self, sites: Tensor | None, count: int | None = None) -> None:
        super().__init__()
        self.sites, self.count = sites, count
        self._known: dict[tuple[int, ...], Tensor | None] = {}
        self._places: dict[tuple[int, ...], Places] = {}
        # maps whose inactive sites are still to be hidden, by id
        self._open: dict[int, weakref.ref[Tensor]] = {}
        self._maps = set() if sites is None else {tuple(sites.shape[1:])}

    def at(self, shape: Sequence[int]) -> Tensor | None:
        """The sites of a map of `shape`, (B, *shape) bool; None where there is no such map."""
        if self.sites is None:
            return None
        if tuple(shape) not in self._known:
            self._known[tuple(shape)] = sites_at(self.sites, shape)
        return self._known[tuple(shape)]

    def places(self, shape: Sequence[int]) -> Places | None:
        """The active sites of a map of `shape` where their number is known, else None."""
        sites = None if self.count is None else self.at(shape)
        if sites is None or self.sites is None or self.count is None:
            return None
        if tuple(shape) not in self._places:
            share = self.sites[0].numel() // math.prod(shape)
            self._places[tuple(shape)] = Places.of(sites, self.count // share)
        return self._places[tuple(shape)]

    def hide(self, x: Tensor) -> Tensor:
        """The map x (B, C, *s) with 0 at inactive sites, whatever was there."""
        sites = self._of(x)
        if self.sites is not None and sites is None and x.ndim == self.sites.ndim + 1 and len(x) == len(self.sites):
            raise RequestError(
                f"a masked net made a map of {_size(x.shape[2:])} from an input of {_size(self.sites.shape[1:])}; "
                "pad the input to a multiple of the net's stride and the convolutions to half their kernels"
            )
        if sites is None:
            return x
        self._maps.add(tuple(x.shape[2:]))
        return torch.where(sites.unsqueeze(1), x, 0)

    def __torch_function__(self, func: Function, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = RULES.get(func)
        if self._open and rule is not MaskedDense._batch_norm and func not in LOOKS:
            self._close((*args, *(kwargs or {}).values()))
        if rule is None:
            return func(*args, **(kwargs or {}))
        # what a rule calls is seen by no mode, so that an outer block does not mask a second time
        with torch._C.DisableTorchFunction():
            return rule(self, func, *args, **(kwargs or {}))

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._close([x for known in self._open.values() if (x := known()) is not None])

    def _close(self, values: Iterable[Any]) -> None:
        """Hide what convolutions have left open among these, in place: nothing has read it yet but norms of active sites."""
        for x in values:
            if isinstance(x, list | tuple):
                self._close(x)
            elif isinstance(x, Tensor) and (known := self._open.get(id(x))) is not None and known() is x:
                del self._open[id(x)]
                sites = self._of(x)
                assert sites is not None
                with torch._C.DisableTorchFunction():
                    x.masked_fill_(~sites.unsqueeze(1), 0)

    def _convolution(self, func: Function, *args: Any, **kwargs: Any) -> Tensor:
        """A norm that follows, and reads the active sites alone, saves the others' way through memory and back."""
        out: Tensor = func(*args, **kwargs)
        sites = self._of(out)
        if self.count is None or sites is None or not alone(out, out.requires_grad):
            return self.hide(out)
        self._maps.add(tuple(out.shape[2:]))
        self._open[id(out)] = weakref.ref(out)
        return out

    def _of(self, x: Tensor, last: bool = False) -> Tensor | None:
        """The sites of x, (B, *s); None where it is no map of this batch. `last`: channels are."""
        if self.sites is None or x.ndim != self.sites.ndim + 1 or len(x) != len(self.sites):
            return None
        return self.at(x.shape[1:-1] if last else x.shape[2:])

    def _hide_last(self, x: Tensor) -> Tensor:
        sites = self._of(x, last=True)
        return x if sites is None else torch.where(sites.unsqueeze(-1), x, 0)

    def _is_last(self, x: Tensor) -> bool | None:
        """Whether the channels of x are its last axis, by the maps that were made so far; None where that cannot be told."""
        first, last = (tuple(shape) in self._maps for shape in (x.shape[2:], x.shape[1:-1]))
        return None if first == last else last

    def _plain(self, func: Function, *args: Any, **kwargs: Any) -> Tensor:
        return self.hide(func(*args, **kwargs))

    def _linear(self, func: Function, *args: Any, **kwargs: Any) -> Tensor:
        return self._hide_last(func(*args, **kwargs))

    def _activation(self, func: Function, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = func(*args, **kwargs)
        last = self._is_last(out)
        if last is None:
            return out
        return self._hide_last(out) if last else self.hide(out)

    def _offset(self, func: Function, input: Any, other: Any, *args: Any, **kwargs: Any) -> Tensor:
        # two maps are 0 at inactive sites and so is their sum, but a constant is not
        if isinstance(input, Tensor) and isinstance(other, Tensor) and input.shape == other.shape:
            return func(input, other, *args, **kwargs)  # type: ignore[no-any-return]
        return self._activation(func, input, other, *args, **kwargs)

    def _max_pool(
        self,
        func: Function,
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Tensor:
        def pool(x: Tensor) -> Tensor:
            return func(x, kernel_size, stride, padding, dilation, ceil_mode)  # type: ignore[no-any-return]

        share = self._share(pool, input, stride or kernel_size)
        if share is None:
            return self.hide(pool(input))
        sites = self._of(input)
        assert sites is not None
        # not by masked_fill, which would put the channels first in memory
        highest = pool(torch.where(sites.unsqueeze(1), input, -torch.inf))
        return self.hide(torch.where(share > 0, highest, 0))

    def _avg_pool(
        self,
        func: Function,
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *divisor: Any,
    ) -> Tensor:
        def pool(x: Tensor) -> Tensor:
            return func(x, kernel_size, stride, padding, ceil_mode, count_include_pad, *divisor)  # type: ignore[no-any-return]

        # where padding counts as zeros, so do inactive cells
        counts = count_include_pad and any(n > 0 for n in _tuple(padding, 1))
        share = None if counts else self._share(pool, input, stride or kernel_size)
        if share is None:
            return self.hide(pool(input))
        whole = pool(input.new_ones(1, 1, *input.shape[2:]))
        return self.hide(pool(self.hide(input)) * whole / torch.where(share > 0, share, 1))

    def _share(self, pool: Callable[[Tensor], Tensor], input: Tensor, stride: Any) -> Tensor | None:
        """The sites pooled as the map is; None where the map was padded by hand, so that its cells are no sites."""
        sites = self._of(input)
        if sites is None:
            return None
        share = pool(sites.unsqueeze(1).to(input.dtype))
        steps = _tuple(stride, input.ndim - 2)
        same = all(s * n == m for s, n, m in zip(steps, share.shape[2:], input.shape[2:], strict=True))
        return share if same else None

    def _global_pool(self, func: Function, input: Tensor, output_size: Any, *args: Any, **kwargs: Any) -> Tensor:
        sites = self._of(input)
        if sites is None:
            return func(input, output_size, *args, **kwargs)  # type: ignore[no-any-return]
        if any(n != 1 for n in _tuple(output_size, sites.ndim - 1)):
            raise RequestError(
                f"adaptive pooling to {output_size} has no masked form; pool to 1 or with a kernel and a stride"
            )
        return _over_sites(input, sites.unsqueeze(1), tuple(range(2, input.ndim)), True, func in MAXIMA)

    def _over_space(
        self, func: Function, input: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any
    ) -> Tensor:
        if dim is None:
            return func(input, **kwargs)  # type: ignore[no-any-return]
        dims = tuple(sorted(d % input.ndim for d in _tuple(dim, 1)))
        last = bool(self._is_last(input))
        sites, axis = self._of(input, last), input.ndim - 1 if last else 1
        if sites is None or dims != tuple(d for d in range(1, input.ndim) if d != axis):
            return func(input, dim, keepdim, **kwargs)  # type: ignore[no-any-return]
        return _over_sites(input, sites.unsqueeze(axis), dims, keepdim, func in MAXIMA)

    def _batch_norm(
        self,
        func: Function,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
        valid: Tensor | None = None,
        places: Places | None = None,
    ) -> Tensor:
        known = (running_mean, running_var, weight, bias, training, momentum, eps)
        if valid is None and places is None and self._of(input) is not None:
            places = self.places(input.shape[2:])
        if places is not None and alone(input, training):
            return batch_norm(input, *known, valid, places)
        self._close([input])
        if self.sites is not None and len(input) == len(self.sites):
            sites = self._of(input)
            # of vectors, those of rows that have a site
            rows = self.sites.flatten(1).any(1).reshape(-1, *[1] * (input.ndim - 2))
            counted = rows.expand(-1, *input.shape[2:]) if sites is None else sites
            valid = counted if valid is None else torch.where(counted, valid, 0)
        return self.hide(batch_norm(input, *known, valid))

    def _group_norm(
        self,
        func: Function,
        input: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        sites = self._of(input)
        if sites is None:
            return func(input, num_groups, weight, bias, eps)  # type: ignore[no-any-return]
        grouped = input.reshape(len(input), num_groups, -1, *input.shape[2:])
        out = _standardised(grouped, sites[:, None, None], tuple(range(2, grouped.ndim)), eps).flatten(1, 2)
        column = (-1, *[1] * (input.ndim - 2))
        return self.hide(_affine(out, weight, bias, column).to(input.dtype))

    def _instance_norm(
        self,
        func: Function,
        input: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if running_mean is not None and self.sites is not None:
            raise RequestError(
                "instance norm with running statistics has no masked form; set track_running_stats to False"
            )
        if self._of(input) is None:
            return func(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)  # type: ignore[no-any-return]
        return self._group_norm(func, input, input.shape[1], weight, bias, eps)

    def _layer_norm(
        self,
        func: Function,
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        sites = self._of(input)
        if sites is None or tuple(normalized_shape) != tuple(input.shape[1:]):
            return self._hide_last(func(input, normalized_shape, weight, bias, eps))
        out = _standardised(input, sites.unsqueeze(1), tuple(range(1, input.ndim)), eps)
        return self.hide(_affine(out, weight, bias, normalized_shape).to(input.dtype))

    def _refuse(self, func: Function, *args: Any, **kwargs: Any) -> Any:
        if self.sites is None:
            return func(*args, **kwargs)
        raise RequestError(
            f"a masked net may not call {getattr(func, '__name__', func)}, which mixes sites in a way of its own; "
            "choose a net of convolutions, norms and pools, or the token encoder"
        )


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _tuple(n: Any, length: int) -> tuple[int, ...]:
    return (n,) * length if isinstance(n, int) else tuple(n)


def _over_sites(x: Tensor, sites: Tensor, dims: tuple[int, ...], keepdim: bool, highest: bool) -> Tensor:
    """Mean or maximum of x over the active ones of `dims`; 0 where there is none."""
    if highest:
        some = sites.any(dim=dims, keepdim=keepdim)
        return torch.where(some, x.masked_fill(~sites, -torch.inf).amax(dims, keepdim), 0)
    return torch.where(sites, x, 0).sum(dims, keepdim) / sites.sum(dims, keepdim).clamp_min(1)


def _standardised(x: Tensor, sites: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps), with the moments of each row over the active ones of `dims`; at least fp32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    sites = sites.expand_as(x)
    count = sites.sum(dims, keepdim=True).clamp_min(1)
    mean = torch.where(sites, wide, 0).sum(dims, keepdim=True) / count
    centred = torch.where(sites, wide - mean, 0)
    return centred * torch.rsqrt(centred.square().sum(dims, keepdim=True) / count + eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Tensor:
    x = x if weight is None else x * weight.reshape(*shape)
    return x if bias is None else x + bias.reshape(*shape)


# what looks at a map without reading its values
_known: Any = Tensor
LOOKS = {getattr(_known, name).__get__ for name in ("ndim", "shape", "dtype", "device")} | {Tensor.size, Tensor.dim}
MAXIMA = {F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.amax, Tensor.amax}
MAXIMA |= {F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d}

_BY_RULE: dict[Callable[..., Any], tuple[Function, ...]] = {
    MaskedDense._plain: (
        *(torch.conv1d, torch.conv3d),
        *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
        F.interpolate,
    ),
    MaskedDense._convolution: (torch.conv2d,),
    MaskedDense._activation: (
        *(torch.sigmoid, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid),
        *(F.hardsigmoid, F.softplus, F.logsigmoid),
    ),
    MaskedDense._linear: (F.linear,),
    MaskedDense._offset: (
        *(torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__),
        *(torch.sub, Tensor.sub, Tensor.sub_, Tensor.__sub__, Tensor.__rsub__, Tensor.__isub__),
    ),
    MaskedDense._max_pool: (F.max_pool1d, F.max_pool2d, F.max_pool3d),
    MaskedDense._avg_pool: (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    MaskedDense._global_pool: (
        *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
        *(F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
    ),
    MaskedDense._over_space: (torch.mean, Tensor.mean, torch.amax, Tensor.amax),
    MaskedDense._batch_norm: (F.batch_norm, batch_norm),
    MaskedDense._group_norm: (F.group_norm,),
    MaskedDense._instance_norm: (F.instance_norm,),
    MaskedDense._layer_norm: (F.layer_norm,),
    MaskedDense._refuse: (
        *(F.scaled_dot_product_attention, F.multi_head_attention_forward, F.unfold, F.grid_sample),
        *(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.einsum),
        *(F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices),
        *(F.lp_pool1d, F.lp_pool2d, F.lp_pool3d),
    ),
}
RULES = {function: rule for rule, functions in _BY_RULE.items() for function in functions}
