"""The picture at the head of the README, ``book/picture.png``: embedded data set, shipped network.

From the root: ``python -m benchmarks.picture``. It writes the picture, with what it says inside the file, and
puts the same words into the README as its alt text; a test makes it again and compares them.
"""

import re
from fractions import Fraction
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pglearn import shapes
from pglearn.attacks import Victim, attack, evidence_places
from pglearn.defenses import Defense, Logits, Sum, WindowMask
from pglearn.defenses.aggregate import Aggregate
from pglearn.figures import OTHER, WRONG, draw_image, draw_map, draw_window, subplots
from pglearn.geometry import malicious_windows, touched
from pglearn.models import geometry, load_model

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "book" / "picture.png"
IMAGE, PATCH = 64, (9, 9)


def picture() -> tuple[Figure, str]:
    """The figure, and what it says, in a few sentences."""
    network, about = load_model(ROOT / "data" / "shapes-bagnet-margin.safetensors")
    network.requires_grad_(False)
    pixels, labels = (each[IMAGE : IMAGE + 1] for each in shapes.dataset("test", IMAGE + 1))
    units, seen = Logits(about["step"], about["clip_high"]), geometry(network, 64)
    (windows,) = malicious_windows(*PATCH, seen)
    mask = WindowMask.against([windows])

    bare = Victim(network, Defense(units, Sum()))
    corners = evidence_places(bare, pixels, labels, PATCH, 3, [windows])
    found = attack(bare, pixels, labels, PATCH, corners)
    patched, corner = found.patched(pixels), found.corners[0, 0].tolist()
    clean, lied = units(network.double()(torch.cat([pixels, patched]) / 255.0))  # (C, H, W) each
    lie = int(lied.sum((1, 2)).argmax())
    answer = int(mask.scores(lied[None])[0].argmax())
    margins = Aggregate.margins(mask, clean[None], labels, units.top, windows)[0]  # exact in every window
    proved, places = int((margins > 0).sum()), len(margins)
    least = int(int(margins.min()) * Fraction(about["step"]))
    true, wrong, said = (shapes.CLASSES[c] for c in (int(labels), lie, answer))

    figure, axes = subplots(1, 4, 2.75, 3.45)
    draw_image(axes[0], patched[0], f"a {true}, and a patch of {PATCH[0]}x{PATCH[1]} pixels")
    draw_window(axes[0], *corner, *PATCH)
    start = [
        touched(axis, at, side)[0]
        for axis, at, side in zip((seen.rows, seen.columns), corner, PATCH, strict=True)
    ]
    boxes = lied[lie].unfold(0, mask.height, 1).unfold(1, mask.width, 1).sum((2, 3))
    for ax, title in zip(axes[1:3], (f"evidence for “{wrong}”", "its heaviest window masked"), strict=True):
        draw_map(ax, lied[lie], title, color=WRONG)
        draw_window(ax, *start, windows.height, windows.width)
    top, left = divmod(int(boxes.argmax()), boxes.shape[1])
    box = Rectangle((left - 0.5, top - 0.5), mask.width, mask.height, facecolor="white")
    axes[2].add_patch(box)
    draw_window(axes[2], top, left, mask.height, mask.width, "mask")
    grid = margins.view(len(windows.rows), len(windows.columns))
    draw_map(
        axes[3], grid * float(Fraction(about["step"])), f"lead left to “{said}”, place by place", color=OTHER
    )
    worst = divmod(int(margins.argmin()), grid.shape[1])
    draw_window(axes[3], *worst, 1, 1)
    lead = f"by {least} or more at {proved} of {places} places"
    cells = f"{windows.height}x{windows.width} cells"
    words = (
        f"the sum of all evidence\nsays “{wrong}”",
        f"but the lie stays\nin {cells}",
        f"masked so, every class:\nthe defense says “{said}”",
        f"whatever the patch shows, it leads\n{lead}",
    )
    for ax, text in zip(axes, words, strict=True):
        ax.set_xlabel(text, fontsize=10)
    return figure, (
        f"Four panels. A {true} with a patch of {PATCH[0]}x{PATCH[1]} pixels: the sum of all evidence says "
        f"{wrong}. The evidence for {wrong}: the lie stays in {cells}. The same map, its heaviest window "
        f"masked: masked so, every class, the defense says {said}. The places of the patch: whatever it "
        f"shows, {said} leads {lead}."
    )


def main() -> None:
    figure, words = picture()
    figure.savefig(PICTURE, dpi=160, metadata={"Software": None, "Description": words})
    readme = ROOT / "README.md"
    text, count = re.subn(
        r"!\[[^\]]*\]\(book/picture\.png\)",
        f"![{words}](book/picture.png)",
        readme.read_text(encoding="utf-8"),
    )
    assert count == 1, count
    readme.write_text(text, encoding="utf-8")
    print(words)


if __name__ == "__main__":
    main()
