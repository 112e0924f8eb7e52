"""Named wrong answers to lab 2: each replaces the solution cell of its task, and must earn nothing."""

EPOCH = """
def epoch(model, optimizer, images, labels, order, objective):
    model.train()
    losses = []
    for index in order.split(32):
        evidence = model(images[index])
        loss = objective(evidence, labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
"""

GAP = """
def gap_loss(evidence, labels, window, gap):
    evidence, each = evidence.relu(), torch.arange(len(labels))
    sums = evidence.mean((2, 3))
    own = evidence[each, labels]
    heaviest = box_sums(own, *window).flatten(1).amax(1) / own[0].numel()
    rivals = sums.masked_fill(F.one_hot(labels, sums.shape[1]).bool(), -torch.inf).amax(1)
    return (gap - (sums[each, labels] - heaviest - rivals)).relu().mean()
"""

PROFILE = """
def profile(evidence, labels, window):
    evidence, each = evidence.relu(), torch.arange(len(labels))
    own, sums = evidence[each, labels], evidence.sum((2, 3))
    share = box_sums(own, *window).flatten(1).amax(1) / sums[each, labels]
    rival = sums.masked_fill(F.one_hot(labels, sums.shape[1]).bool(), 0).amax(1) / sums[each, labels]
    return torch.stack([share, rival], 1)


medians = [profile(e, ten_labels, ten_window).median(0).values.tolist() for e in ten.values()]
verdict = "rivals"
"""

OBJECT = """
def on_object(evidence, rows, columns, region):
    total, on = float(evidence.sum()), 0.0
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            if region[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)].any():
                on += float(evidence[i, j])
    return on / total if total else 0.0
"""

INTACT = """
def intact(fields, row_cuts, column_cuts):
    def inside(cuts):
        return sum(any(a <= first and last <= b for a, b in pairwise(cuts)) for first, last in fields)

    return inside(row_cuts) * inside(column_cuts)
"""


def _but(source: str, old: str, new: str) -> str:
    assert source.count(old) == 1, old
    return source.replace(old, new)


WRONG = {
    "2.1": {
        "one axis": _but(INTACT, " * inside(column_cuts)", ""),
        "a field must end before the piece does": _but(INTACT, "last <= b", "last < b"),
        "the padding belongs to the first piece": _but(INTACT, "a <= first", "(a <= first or a == 0)"),
        "cells whose middle is inside": _but(
            INTACT, "a <= first and last <= b", "a <= (first + last) // 2 < b"
        ),
    },
    "2.2": {
        "gradients pile up": _but(EPOCH, "        optimizer.zero_grad()\n", ""),
        "labels of other pictures": _but(EPOCH, "labels[index]", "labels[: len(index)]"),
        "evaluation mode": _but(EPOCH, "model.train()", "model.eval()"),
        "drops the last batch": _but(EPOCH, "order.split(32)", "order.split(32)[:-1]"),
        "gradients thrown away before the step": _but(
            _but(EPOCH, "        optimizer.zero_grad()\n", ""),
            "backward()",
            "backward()\n        optimizer.zero_grad()",
        ),
    },
    "2.3": {
        "negative indices": _but(
            OBJECT, "max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)", "top:bottom, left:right"
        ),
        "all of the field on the object": _but(OBJECT, ".any()", ".all()"),
        "share of the cells": _but(
            _but(OBJECT, "float(evidence[i, j])", "1.0"), "float(evidence.sum())", "float(evidence.numel())"
        ),
        "the sum, not the share": _but(OBJECT, "on / total if total else 0.0", "on"),
    },
    "2.4": {
        "not clipped": _but(GAP, "evidence.relu(), ", "evidence, "),
        "rivals lose a window too": _but(
            GAP,
            "sums.masked_fill(",
            "(sums - box_sums(evidence, *window).flatten(2).amax(2) / own[0].numel()).masked_fill(",
        ),
        "all rivals together": _but(GAP, "-torch.inf).amax(1)", "0).sum(1)"),
        "a surplus pays for others": _but(GAP, ".relu().mean()", ".mean().relu()"),
        "no gradient": GAP.replace("relu().mean()\n", "relu().mean().detach().requires_grad_()\n"),
    },
    "2.5": {
        "not clipped": _but(PROFILE, "evidence.relu(), ", "evidence, "),
        "rival over everything": _but(
            PROFILE, "amax(1) / sums[each, labels]\n    return", "amax(1) / sums.sum(1)\n    return"
        ),
        "believes the name": _but(PROFILE, '"rivals"', '"spread"'),
        "masked first": _but(PROFILE, "ten.values()", "reversed(ten.values())"),
        "the label is its own rival": _but(PROFILE, "F.one_hot(labels, sums.shape[1]).bool()", "sums < 0"),
    },
}

RIGHT = {
    "2.1": {
        "dictionaries of fields": """
def intact(fields, row_cuts, column_cuts):
    number = 1
    for cuts in (row_cuts, column_cuts):
        piece = {f: any(a <= f[0] and f[1] <= b for a, b in pairwise(cuts)) for f in fields + []}
        number *= sum(piece.values())
    return number
""",
    },
    "2.2": {
        "losses as tensors": """
def epoch(model, optimizer, images, labels, order, objective):
    model.train()
    losses = []
    for index in order.split(32):
        losses.append(objective(model(images[index]), labels[index]))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    return losses
""",
    },
    "2.3": {
        "a product of floats, a tensor": """
def on_object(evidence, rows, columns, region):
    sees = {
        (r, c): float(region[max(r[0], 0) : max(r[1], 0), max(c[0], 0) : max(c[1], 0)].any())
        for r in rows
        for c in columns
    }
    seen = torch.tensor([[sees[r, c] for c in columns] for r in rows])
    return evidence.flatten() @ seen.flatten() / evidence.sum().clamp(min=1e-9)
""",
    },
    "2.4": {
        "a convolution": """
def gap_loss(evidence, labels, window, gap):
    evidence, costs = evidence.clamp(min=0), []
    for maps, label in zip(evidence, labels):
        heaviest = F.conv2d(maps[label][None, None], torch.ones(1, 1, *window)).max()
        rival = max(m.sum() for c, m in enumerate(maps) if c != label)
        costs.append((gap - (maps[label].sum() - heaviest - rival) / maps[0].numel()).clamp(min=0))
    return torch.stack(costs).mean()
""",
    },
    "2.5": {
        "arrays, medians as tensors": """
def profile(evidence, labels, window):
    evidence, found = evidence.clamp(min=0), []
    for maps, label in zip(evidence, labels):
        own = maps[label].sum()
        held = F.conv2d(maps[label][None, None], torch.ones(1, 1, *window)).max()
        found.append([held / own, max(m.sum() for c, m in enumerate(maps) if c != label) / own])
    return torch.tensor(found).numpy()
medians = [torch.tensor(profile(e, ten_labels, ten_window)).median(0).values for e in ten.values()]
medians = [list(each) for each in medians]
verdict = "rivals"
""",
    },
}
"""Right answers in other styles than the master's: visible checks and grading take them."""

REFUSED = {
    "2.5": {
        "a column for each image": PROFILE.replace("[share, rival], 1", "[share, rival]").replace(
            "median(0)", "median(1)"
        ),
    },
}
"""Answers of a kind that grading does not take: the visible checks say so."""
