"""Plausible wrong answers to the exercises of chapter 12."""

from itertools import product

import torch
from torch import inf

from pglearn.defenses import WindowMask


def _sticker(rivals=lambda order: order[1:], wins=lambda rival, label: rival >= label, fill=(0, 255), step=1):
    """Floods of each window; which classes are asked, what counts as won, what is written."""

    def answer(image, p):
        order = image.sum((1, 2)).argsort(descending=True).tolist()
        for i in range(0, image.shape[1] - p + 1, step):
            for j in range(0, image.shape[2] - p + 1, step):
                attacked = image.clone()
                attacked[:, i : i + p, j : j + p] = fill[1]
                attacked[order[0], i : i + p, j : j + p] = fill[0]
                scores = attacked.sum((1, 2)).tolist()
                if any(wins(scores[c], scores[order[0]]) for c in rivals(order)):
                    return attacked
        return []

    return answer


def third_where_the_label_has_most(image, p):
    """Ignores what the third color loses there."""
    label, _, third = image.sum((1, 2)).argsort(descending=True).tolist()
    inside = image[label].unfold(0, p, 1).unfold(1, p, 1).sum((-2, -1))
    i, j = divmod(int(inside.argmax()), inside.shape[1])
    attacked = image.clone()
    attacked[label, i : i + p, j : j + p] = 0
    attacked[third, i : i + p, j : j + p] = 255
    scores = attacked.sum((1, 2))
    return attacked if scores[third] >= scores[label] else []


def in_place(image, p):
    image[:, :p, :p] = 255
    return image


def _cells(values, classes=lambda label, c: c == label):
    """One cell of some classes rewritten: the first content that wins."""

    def answer(maps, label, defense, top):
        for i in range(maps.shape[1]):
            for j in range(maps.shape[2]):
                for value in values(top):
                    attacked = maps.clone()
                    chosen = [c for c in range(len(maps)) if classes(label, c)]
                    attacked[chosen, i, j] = value
                    scores = defense.scores(attacked[None])[0]
                    if (scores >= scores[label]).sum() > 1:
                        return attacked
        return []

    return answer


def _praise(contents):
    """One cell rewritten, its value in the label and its value in the rivals from ``contents``."""

    def answer(maps, label, defense, top):
        for i in range(maps.shape[1]):
            for j in range(maps.shape[2]):
                for own, others in contents(top):
                    attacked = maps.clone()
                    attacked[:, i, j] = others
                    attacked[label, i, j] = own
                    scores = defense.scores(attacked[None])[0]
                    if (scores >= scores[label]).sum() > 1:
                        return attacked
        return []

    return answer


def _any_content(place):
    """Every content, but only of some cells."""

    def answer(maps, label, defense, top):
        values, (height, width) = torch.arange(top + 1), maps.shape[1:]
        for i, j in product(range(height), range(width)):
            tried = maps.repeat(top + 1, 1, 1, 1)
            tried[:, :, i, j] = values[:, None]
            scores = defense.scores(tried)
            best = scores.argmax(0)
            best[label] = scores[:, label].argmin()
            attacked = maps.clone()
            attacked[:, i, j] = best
            final = defense.scores(attacked[None])[0]
            if place(i, j, height, width) and (final >= final[label]).sum() > 1:
                return attacked
        return []

    return answer


def erase_and_flood(maps, label, defense, top):
    for i in range(maps.shape[1]):
        for j in range(maps.shape[2]):
            attacked = maps.clone()
            attacked[:, i, j] = top
            attacked[label, i, j] = 0
            scores = defense.scores(attacked[None])[0]
            if (scores >= scores[label]).sum() > 1:
                return attacked
    return []


def _forge(drowned, forged, place=(0, 0, 0)):
    def answer(maps, n):
        pair = maps.clone(), maps.clone()
        pair[0][place], pair[1][place] = drowned, forged
        return pair

    return answer


def whole_map(maps, n):
    drowned, forged = maps.clone(), maps.clone()
    drowned[0], forged[0] = 0, torch.nan
    return drowned, forged


def _masked(maps, n):
    return WindowMask(min(n, maps.shape[1]), min(n, maps.shape[2])).scores(maps[None])[0]


def _audit(sizes=range(1, 6), flood=True, tie=True, ask=True, random_content=False):
    """Floods of every window of random maps of 3 x 4 cells."""

    def answer(certifier):
        numbers = torch.Generator().manual_seed(0)
        for _ in range(30):
            maps = torch.randint(0, 4, (2, 3, 4), generator=numbers)
            maps[0] += torch.randint(0, 2, (3, 4), generator=numbers) * 3
            for n in sizes:
                if ask and not certifier(maps, 0, n, 6):
                    continue
                for i in range(max(1, 4 - n)):
                    for j in range(max(1, 5 - n)):
                        attacked = maps.clone()
                        attacked[1, i : i + n, j : j + n] = 6 if flood else 0
                        attacked[0, i : i + n, j : j + n] = 0
                        scores = _masked(attacked, n)
                        if scores[1] > scores[0] or (tie and scores[1] == scores[0]):
                            return maps, 0, n, 6, attacked
        return []

    return answer


def _spill(places, content=None, low=0.0, high=1.0, size=0):
    def answer(scores, image, p):
        side, p = image.shape[-1], p + size
        for i, j in places(side, p):
            attacked = image.clone()
            board = (torch.arange(p)[:, None] + torch.arange(p)) % 2
            patch = low + (high - low) * board.double() if content is None else content
            attacked[..., i : i + p, j : j + p] = patch
            label, rival = scores(attacked)[0].tolist()
            if rival >= label:
                return attacked
        return image

    return answer


def _everywhere(side, p):
    return [(i, j) for i in range(side - p + 1) for j in range(side - p + 1)]


WRONG = {
    "12.1": {
        "floods for the runner-up only": _sticker(lambda order: order[1:2]),
        "never": lambda image, p: [],
        "a tie is held": _sticker(wins=lambda rival, label: rival > label + 255),
        "a white sticker": _sticker(fill=(255, 255)),
        "a black sticker": _sticker(fill=(0, 0)),
        "almost white": _sticker(fill=(0, 254)),
        "almost none of the label": _sticker(fill=(1, 255)),
        "brighter than white": _sticker(wins=lambda rival, label: True, fill=(-255, 510)),
        "always a sticker": _sticker(wins=lambda rival, label: True),
        "in place": in_place,
        "helps the third where the label has most": third_where_the_label_has_most,
    },
    "12.2": {
        "praises all with the top": _praise(lambda top: [(top, top)]),
        "praises the label, erases the rivals": _praise(lambda top: [(top, 0)]),
        "any praise, floods the rivals": _praise(lambda top: [(own, top) for own in range(top + 1)]),
        "any praise, rivals all or nothing": _praise(
            lambda top: [(own, others) for own in range(top + 1) for others in (0, top)]
        ),
        "one value for all": _praise(lambda top: [(value, value) for value in range(top + 1)]),
        "only erases": _cells(lambda top: [0]),
        "cells of a square": _any_content(lambda i, j, height, width: max(i, j) < min(height, width)),
        "inner cells": _any_content(lambda i, j, height, width: 0 < i < height - 1 and 0 < j < width - 1),
        "erases and floods": erase_and_flood,
        "floods the rivals": _cells(lambda top: [top], lambda label, c: c != label),
        "above the top": _cells(lambda top: [10 * top]),
        "praises with half the top": _cells(lambda top: [top // 2]),
        "never": lambda maps, label, defense, top: [],
        "always": lambda maps, label, defense, top: maps,
    },
    "12.3": {
        "too small a number": _forge(1e3, inf),
        "infinity twice": _forge(inf, inf),
        "finite twice": _forge(1e30, 1e30),
        "the rival": _forge(1e30, inf, (1, 0, 0)),
        "negative": _forge(-1e30, -inf),
        "the whole map": whole_map,
        "one of two": lambda maps, n: _forge(1e30, inf)(maps, n)[0],
    },
    "12.4": {
        "windows that fit": _audit(range(1, 4)),
        "no ties": _audit(tie=False),
        "does not ask": _audit(ask=False),
        "only erases": _audit(flood=False),
        "single cells": _audit(range(1, 2)),
        "never": lambda certifier: [],
    },
    "12.5": {
        "in the corner": _spill(lambda side, p: [(0, 0)]),
        "black": _spill(_everywhere, 0.5),
        "too bright": _spill(lambda side, p: [(5, 5)], low=-9.0, high=9.0),
        "one pixel more": _spill(_everywhere, size=1),
        "the whole picture": lambda scores, image, p: torch.rand(image.shape, dtype=torch.float64),
        "the picture itself": lambda scores, image, p: image,
    },
    "12.6": {
        "a relaxed score decides": "PANPAN",
        "a failed attack is a proof": "PPPPAP",
        "not certified means beaten": "PAANAN",
        "failing is always weakness": "PAANAA",
        "squares are irrelevant": "PANNNN",
        "in words": "proof, attack, neither, neither, attack, neither",
    },
}
