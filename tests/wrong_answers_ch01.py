"""Named wrong answers to the exercises of chapter 1: each is a mistake that somebody would make."""

from math import prod
from typing import Any

import torch
from torch import nn

from pglearn.geometry import Layer, attention_counts, probe, receptive_field


def sees(layers: Any, cell: int) -> tuple[int, int]:
    first = last = cell
    for kernel, stride, padding in reversed(layers):
        first = first * stride - padding
        last = last * stride - padding + kernel - 1
    return first, last


def own_stride_first(layers: Any) -> tuple[int, int]:
    size, jump = 1, 1
    for kernel, stride, dilation in layers:
        jump *= stride
        size += (kernel - 1) * dilation * jump
    return size, jump


def dilated_by_k(layers: Any) -> tuple[int, int]:
    size, jump = 1, 1
    for kernel, stride, dilation in layers:
        size += (kernel * dilation - 1) * jump
        jump *= stride
    return size, jump


def stride_dilated(layers: Any) -> tuple[int, int]:
    size, jump = 1, 1
    for kernel, stride, dilation in layers:
        size += (kernel - 1) * dilation * jump
        jump *= stride * dilation
    return size, jump


def padding_without_jump(layers: Any, image: int, cell: int) -> tuple[int, int]:
    size, jump, offset = 1, 1, 0
    for kernel, stride, padding in layers:
        size, jump, offset = size + (kernel - 1) * jump, jump * stride, offset - padding
    start = offset + cell * jump
    return max(start, 0), min(start + size, image)


def first_layer_first(layers: list[tuple[int, int]]) -> list[int]:
    return attention_counts([Layer(k, s) for k, s in reversed(layers)])


def support(layers: list[tuple[int, int]]) -> list[int]:
    return [min(count, 1) for count in attention_counts([Layer(k, s) for k, s in layers])]


def by_size(model: nn.Module, layers: list[Layer], size: int) -> bool:
    found = probe(model, size, size)
    return max(found.rows.size, found.columns.size) > receptive_field(layers, size).size


def rows_only(model: nn.Module, layers: list[Layer], size: int) -> bool:
    claimed = receptive_field(layers, size).fields
    pairs = zip(probe(model, size, size).rows.fields, claimed, strict=True)
    return any(a < b and (a < low or b > high) for (a, b), (low, high) in pairs)


def one_end(model: nn.Module, layers: list[Layer], size: int) -> bool:
    found, claimed = probe(model, size, size), receptive_field(layers, size).fields
    return any(
        a < b and b > high
        for axis in (found.rows, found.columns)
        for (a, b), (_, high) in zip(axis.fields, claimed, strict=True)
    )


def some_cells(chosen: slice) -> Any:
    def leaks(model: nn.Module, layers: list[Layer], size: int) -> bool:
        found, claimed = probe(model, size, size), receptive_field(layers, size).fields
        pairs = [
            pair
            for axis in (found.rows, found.columns)
            for pair in list(zip(axis.fields, claimed, strict=True))[chosen]
        ]
        return any(a < b and (a < low or b > high) for (a, b), (low, high) in pairs)

    return leaks


def by_gradient(model: nn.Module, layers: list[Layer], size: int) -> bool:
    image = torch.rand(1, 3, size, size, requires_grad=True)
    maps, fields = model(image), receptive_field(layers, size).fields
    for i in range(maps.shape[2]):
        for j in range(maps.shape[3]):
            (grad,) = torch.autograd.grad(maps[0, :, i, j].sum(), image, retain_graph=True)
            rows, columns = grad[0].abs().sum(0).nonzero().T.tolist()
            for where, (low, high) in ((rows, fields[i]), (columns, fields[j])):
                if any(not low <= at < high for at in where):
                    return True
    return False


def any_difference(model: nn.Module, layers: list[Layer], size: int) -> bool:
    axis = receptive_field(layers, size)
    found = probe(model, size, size)
    return found.rows != axis or found.columns != axis


WRONG: dict[str, dict[str, Any]] = {
    "1.1": {
        "forgets the dilation": lambda layers: own_field(layers, lambda k, d: k - 1),
        "multiplies k - 1 by the layer's own stride too": own_stride_first,
        "a dilated kernel covers k * d cells": dilated_by_k,
        "dilation widens the stride": stride_dilated,
        "forgets the jump": lambda layers: (
            1 + sum((k - 1) * d for k, _, d in layers),
            prod(s for _, s, _ in layers),
        ),
    },
    "1.2": {
        "does not cut": lambda layers, image, cell: (sees(layers, cell)[0], sees(layers, cell)[1] + 1),
        "cuts the near border only": lambda layers, image, cell: (
            max(sees(layers, cell)[0], 0),
            sees(layers, cell)[1] + 1,
        ),
        "includes the last pixel instead of stopping behind it": lambda layers, image, cell: (
            max(sees(layers, cell)[0], 0),
            min(sees(layers, cell)[1], image - 1),
        ),
        "padding without the jump": padding_without_jump,
        "forgets padding": lambda layers, image, cell: (
            max(sees([(k, s, 0) for k, s, _ in layers], cell)[0], 0),
            min(sees([(k, s, 0) for k, s, _ in layers], cell)[1] + 1, image),
        ),
    },
    "1.3": {
        "walks from the first layer to the last": first_layer_first,
        "forgets the stride": lambda layers: attention_counts([Layer(k) for k, _ in layers]),
        "says only which pixels are looked at": support,
        "drops the pixels that no wire touches": lambda layers: [
            count for count in attention_counts([Layer(k, s) for k, s in layers]) if count
        ],
    },
    "1.4": {
        "kernels in the last layers": lambda strides, seeing: (
            1 + 2 * sum(prod(strides[:i]) for i in range(len(strides) - seeing, len(strides)))
        ),
        "a layer's own stride counts": lambda strides, seeing: (
            1 + 2 * sum(prod(strides[: i + 1]) for i in range(seeing))
        ),
        "forgets the jump": lambda strides, seeing: 1 + 2 * seeing,
        "a kernel of 3 costs three": lambda strides, seeing: (
            1 + 3 * sum(prod(strides[:i]) for i in range(seeing))
        ),
    },
    "1.5": {
        "compares sizes, not places": by_size,
        "rows only": rows_only,
        "looks at one end of the field": one_end,
        "trusts the gradient": by_gradient,
        "the middle cell stands for all": some_cells(slice(4, 5)),
        "inner cells only": some_cells(slice(1, -1)),
        "the corner stands for all": some_cells(slice(0, 1)),
        "calls a smaller field a leak": any_difference,
        "never": lambda model, layers, size: False,
        "asks only whether it sees everything": lambda model, layers, size: bool(
            probe(model, size, size).warning()
        ),
    },
}


def own_field(layers: Any, reach: Any) -> tuple[int, int]:
    size, jump = 1, 1
    for kernel, stride, dilation in layers:
        size += reach(kernel, dilation) * jump
        jump *= stride
    return size, jump
