"""Checks of chapter 1."""

from collections.abc import Callable
from itertools import combinations, product

import torch
from torch import Tensor, nn

from pglearn.geometry import Layer, attention_counts, receptive_field
from pglearn.learn import Wrong, compare, exercise, plain, same

__all__: list[str] = []

Triples = list[tuple[int, int, int]]


@exercise("1.1", stars=1, minutes=5)
def field(answer: Callable[[Triples], tuple[int, int]]) -> None:
    def reference(layers: Triples) -> tuple[int, int]:
        stack = [Layer(kernel, stride, dilation=dilation) for kernel, stride, dilation in layers]
        axis = receptive_field(stack, 1000)
        return axis.size, axis.stride

    some = [(1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (2, 3, 3), (4, 2, 2)]
    cases = [([a, b, c],) for a, b, c in product(some, repeat=3)]
    compare(answer, reference, [([layer],) for layer in some] + cases)


@exercise("1.2", stars=2, minutes=10)
def real_pixels(answer: Callable[[Triples, int, int], tuple[int, int]]) -> None:
    def axis_of(layers: Triples, image: int) -> tuple[tuple[int, int], ...]:
        return receptive_field([Layer(*layer) for layer in layers], image).fields

    def reference(layers: Triples, image: int, cell: int) -> tuple[int, int]:
        start, stop = axis_of(layers, image)[cell]
        return max(start, 0), min(stop, image)

    stacks: list[Triples] = [
        [(3, 1, 0), (3, 2, 0), (3, 1, 0)],
        [(3, 1, 1)],
        [(3, 1, 1), (3, 2, 1), (3, 1, 1)],
        [(4, 2, 1), (3, 1, 1)],
        [(5, 2, 2), (3, 2, 1), (3, 1, 1)],
        [(7, 2, 3), (3, 2, 1), (1, 1, 0), (3, 2, 1)],
    ]
    compare(
        answer,
        reference,
        [
            (stack, image, cell)
            for stack in stacks
            for image in (16, 24)
            for cell in range(len(axis_of(stack, image)))
        ],
    )


@exercise("1.3", stars=2, minutes=15)
def looks_with_strides(answer: Callable[[list[tuple[int, int]]], list[int]]) -> None:
    def reference(layers: list[tuple[int, int]]) -> list[int]:
        return attention_counts([Layer(kernel, stride) for kernel, stride in layers])

    some = [(1, 1), (3, 1), (3, 2), (2, 2), (4, 3), (2, 3)]
    cases = [(list(layers),) for n in (1, 2, 3) for layers in product(some, repeat=n)]
    compare(answer, reference, cases)


@exercise("1.4", stars=2, minutes=15)
def smallest_field(answer: Callable[[list[int], int], int]) -> None:
    def reference(strides: list[int], seeing: int) -> int:
        sizes = []
        for chosen in combinations(range(len(strides)), seeing):
            stack = [Layer(3 if i in chosen else 1, stride) for i, stride in enumerate(strides)]
            sizes.append(receptive_field(stack, 1000).size)
        return min(sizes)

    cases = [
        (strides, seeing)
        for strides in ([1, 2, 1], [2, 1, 1, 2], [1, 1, 1], [3, 1, 2, 1], [1, 2, 1, 1, 2, 1, 2, 1])
        for seeing in range(len(strides) + 1)
    ]
    compare(answer, reference, cases)


class _Scale(nn.Module):
    """Squeeze-and-excitation without its small layers."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x.mean(dim=(2, 3), keepdim=True))


def _zeroed(module: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(module.weight)
    return module


def _networks() -> list[tuple[str, nn.Module, list[Layer], bool]]:
    """Name, network, claim, and whether the claim is broken. All give maps as large as the claim says."""
    conv, seq = nn.Conv2d, nn.Sequential
    two = [Layer(3), Layer(3, 2)]
    body = conv(3, 4, 3), nn.ReLU(), conv(4, 2, 3, 2)
    padded = [Layer(3, padding=1), Layer(3, padding=1)]
    return [
        ("an honest network", seq(*body), two, False),
        ("batch norm in eval mode", seq(body[0], nn.BatchNorm2d(4), *body[1:]), two, False),
        ("a group norm in the middle", seq(body[0], nn.GroupNorm(2, 4), *body[1:]), two, True),
        ("squeeze-and-excitation", seq(*body, _Scale()), two, True),
        (
            "an honest network with padding",
            seq(conv(3, 4, 3, padding=1), conv(4, 2, 3, padding=1)),
            padded,
            False,
        ),
        (
            "a dilation that the list does not mention",
            conv(3, 2, 3, padding=2, dilation=2),
            [Layer(3, padding=1)],
            True,
        ),
        (
            "a kernel that is wide along columns only",
            conv(3, 2, (3, 5), padding=(1, 2)),
            [Layer(3, padding=1)],
            True,
        ),
        (
            "a kernel that is tall along rows only",
            conv(3, 2, (5, 3), padding=(2, 1)),
            [Layer(3, padding=1)],
            True,
        ),
        (
            "fields shifted left by one pixel",
            seq(nn.ZeroPad2d((2, 0, 2, 0)), conv(3, 2, 3)),
            [Layer(3, padding=1)],
            True,
        ),
        (
            "fields shifted right by one pixel",
            seq(nn.ZeroPad2d((0, 2, 0, 2)), conv(3, 2, 3)),
            [Layer(3, padding=1)],
            True,
        ),
        ("a claim larger than the truth", conv(3, 2, 3, padding=1), [Layer(5, padding=2)], False),
        (
            "a wide kernel whose weights are all zero",
            _zeroed(conv(3, 2, 5, padding=2)),
            [Layer(3, padding=1)],
            True,
        ),
        (
            "padding with the other end of the picture",
            conv(3, 2, 3, padding=1, padding_mode="circular"),
            [Layer(3, padding=1)],
            True,
        ),
        ("cells that read only padding", seq(conv(3, 2, 1, padding=1)), [Layer(1, padding=1)], False),
    ]


@exercise("1.5", stars=3, minutes=20)
def leaks(answer: Callable[[nn.Module, list[Layer], int], bool]) -> None:
    for name, model, layers, broken in _networks():
        model.eval()
        if name == "an honest network":
            compare(answer, lambda *_: False, [(model, layers, 9)])
        said = plain(answer(model, layers, 9))
        if type(said) is not bool:
            same(said, broken, f"for {name}")
        if said is not broken:
            reason = "some cell reads outside its claimed field" if broken else "no cell reads outside"
            raise Wrong(f"for {name}: {reason}, and your function says {said}")
