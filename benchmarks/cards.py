"""Write the card of a trained model, ``data/NAME.md``: every number on it is counted, read or measured here.

From the root, with the weights in ``data/`` and PGLEARN_DATA set, followed by the command that trained them::

    python -m benchmarks.cards --log LOG pglearn train --data cifar10-jpg ... --out data/NAME.safetensors

It writes the bank too, ``data/NAME-bank.safetensors``. Where there is a card, the words above its commands
are kept. ``--check`` counts all cards again, ``--readme`` puts Table 14 into the README, whole and in short.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from pglearn.cli import _parser
from pglearn.errors import InputError
from pglearn.evidence import EvidenceFile, sha256
from pglearn.geometry import malicious_windows
from pglearn.models import load_model
from pglearn.reproduce import SHIPPED, Card, bagnets, banks_of, table14

IMAGES = {
    "cifar10-jpg": ("CIFAR-10 (JPEG copy)", "a copy of CIFAR-10 re-encoded as JPEG (quality 75, 4:2:0)"),
    "imagenette2-224": ("ImageNette", "ImageNette v2, a copy resized to 224x224"),
    "shapes": ("Embedded data set", "drawn by `pglearn`, 10,000 to train"),
}
WHERE = {
    "cifar10-jpg": "`cifar10-jpg/train/<class>/NNNN.jpg` and `cifar10-jpg/test/<class>/NNNN.jpg`",
    "imagenette2-224": "`imagenette2-224/train/<class>/*.JPEG` and `imagenette2-224/val/<class>/*.JPEG`",
}
DEVICE = "one thread of two AMD EPYC cores (bfloat16 in hardware), shared with other work"
CARD = """\
{head}

```
{commands}
```
{where}
| fact | value |
|---|---|
{facts}

| defense of the bank | clean | certified |
|---|---|---|
| `{options}` | {clean} | {certified} |

The bank holds integers, evidence in steps of the model (`unit` in the file). From images, counts may differ
by a few between machines (floating point in the network); from the bank they may not.

| file | sha256 |
|---|---|
{files}
"""


PER_CLASS = 100  # images of a bank
NOISE = 0.002  # of the images: what a count from images may be off by on another machine


def run(words: Sequence[str]) -> None:
    """One ``pglearn`` command, in this process."""
    parsed = _parser().parse_args(words)
    parsed.run(parsed)


def counts(card: Card) -> dict[str, list[int]]:
    """What a card says each command counts: [right undefended, images], or [clean, certified, images]."""
    found, names = {}, iter((("clean", "certified"), ("Mask-DS clean", "Mask-DS certified")))
    for words in card.commands:
        wanted: tuple[str, ...] = ()
        if words[0] == "evaluate" and "--per-class" not in words:
            wanted = ("undefended",)
        if words[:2] == ["certify", "evidence.safetensors"]:
            wanted = next(names)
        if wanted:
            found[shlex.join(words)] = [int(card.facts[name]) for name in (*wanted, "test images")]
    rows = re.findall(
        r"^\| `(--.+)` \| (\d+) \| (\d+) \|$", card.path.read_text(encoding="utf-8"), flags=re.M
    )
    for options, *both in rows:
        line = f"certify data/{card.name}-bank.safetensors {options}"
        found[line] = [*map(int, both), int(card.facts["bank"].split()[0])]
    return found


def recount(card: Card, lines: Iterable[str], folder: str | os.PathLike[str]) -> dict[str, list[int]]:
    """What these commands of a card count, on its weights; evidence goes to ``folder``."""
    places = {
        name: str(Path(folder, name)) for name in ("evidence.safetensors", f"{card.name}-bank.safetensors")
    }
    places[f"{card.name}.safetensors"] = str(card.path.with_suffix(".safetensors"))
    found = {}
    for line in lines:
        words = [places.get(word.removeprefix("data/"), word) for word in shlex.split(line)]
        with redirect_stdout(StringIO()) as text:
            run(words)
        printed = re.findall(r"^(?:undefended|clean|certified) +(\d+) of (\d+)", text.getvalue(), flags=re.M)
        found[line] = [*(int(hits) for hits, _ in printed), int(printed[0][1])]
    return found


def everything(card: Card) -> list[str]:
    """What :func:`recount` has to run for all of :func:`counts`: evaluations first."""
    return list(dict.fromkeys([*(shlex.join(w) for w in card.commands if w[0] == "evaluate"), *counts(card)]))


def check() -> int:
    """Count every card again, from weights and images; the number of counts that are off."""
    wrong = 0
    for card in filter(counts, map(Card.read, sorted(SHIPPED.glob("*.md")))):
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = recount(card, everything(card), folder)
        except InputError as error:
            print(f"{card.name}: not counted: {error}", flush=True)
            continue
        for line, said in counts(card).items():
            off = max(abs(a - b) for a, b in zip(said, found[line], strict=True))
            wrong += off > said[-1] * NOISE
            print(f"{off} off: card {said}, found {found[line]}: pglearn {line}", flush=True)
    print(f"{wrong} counts are off by more than {NOISE:.1%} of the images")
    return wrong


def commit() -> str:
    """The last commit of the code that trains; refused while that code is not committed."""
    code = ["pglearn/training.py", "pglearn/models.py"]
    git = ["git", "-C", str(SHIPPED.parent)]
    if subprocess.run([*git, "status", "--porcelain", "--", *code], capture_output=True, check=True).stdout:
        raise InputError(f"commit: {', '.join(code)} differ from it, allowed: commit first, or --commit NAME")
    done = subprocess.run(
        [*git, "log", "-1", "--format=%h", "--", *code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def minutes(log: Path) -> str:
    """All minutes that the runs of ``pglearn train`` in a log took together."""
    found = re.findall(r"(?:epochs|of \d+), (\d+\.\d) minutes", log.read_text(encoding="utf-8"))
    if not found:
        raise InputError(f"log: {log} states no minutes, allowed: what pglearn train prints")
    return f"{sum(map(float, found)):.1f}"


def checked(words: list[str]) -> argparse.Namespace:
    """The options of a ``pglearn train``; refused unless the file it names was trained with just these."""
    args = _parser().parse_args(words)
    if words[0] != "train" or Path(args.out).parent != Path("data") or "/" in {word[0] for word in words}:
        raise InputError(
            f"command: is {shlex.join(words)}, allowed: pglearn train ... --out data/NAME.safetensors"
        )
    about = load_model(SHIPPED / Path(args.out).name)[1]
    for name, value in {**json.loads(about["training"]), "data": about["data"]}.items():
        if str(getattr(args, name, value)) != value:
            raise InputError(f"--{name}: is {getattr(args, name)} in the command, {value} in {args.out}")
    return args


def card(words: list[str], log: Path, device: str, made_by: str) -> str:
    """The card of the model that ``pglearn`` ``words`` trained, as text; writes its bank."""
    args, path = checked(words), SHIPPED / Path(words[words.index("--out") + 1]).with_suffix(".md").name
    name, size = path.stem, f" --size {args.size}" if args.size else ""
    patch = "x".join(map(str, args.patch))
    spent = f"{minutes(log)}, {'drawing' if args.data == 'shapes' else 'reading'} the images included"
    evaluate = f"evaluate data/{name}.safetensors --data {args.data}{size} --patch {patch}"
    bank, options = f"data/{name}-bank.safetensors", f"--defense mask --patch {patch}"
    lines = [
        f"{evaluate} --out evidence.safetensors",
        f"certify evidence.safetensors {options}",
        f"{evaluate} --per-class {PER_CLASS} --fixed-point --out {bank}",
        f"certify {bank} {options}",
    ]
    new = Card(path, {}, [words, *map(shlex.split, lines)])
    with tempfile.TemporaryDirectory() as folder:
        (undefended, images), (clean, certified, _), _, sample = recount(new, lines, folder).values()
        (path.parent / Path(bank).name).write_bytes(Path(folder, Path(bank).name).read_bytes())
    file = EvidenceFile(path.parent / Path(bank).name)
    assert file.geometry is not None
    (rows, columns), start = (file.geometry.rows, file.geometry.columns), new.start
    (window,) = {f"{w.height}x{w.width}" for w in malicious_windows(*args.patch, file.geometry)}
    title, source = IMAGES[args.data]
    facts = {
        "device": device,
        "commit": made_by,
        "minutes": spent
        + (f"; {start.name} before it: {start.facts['minutes'].split(',')[0]}" if start else ""),
        "epochs, seed": f"{args.epochs}, {args.seed}",
        "images": source + (f", then to {args.size}x{args.size}" if args.size else ""),
        "network": f"{new.network}: receptive field {rows.size}, stride {rows.stride}, "
        f"{rows.cells}x{columns.cells} features, windows and mask {window}",
        "test images": images,
        "undefended": undefended,
        "clean": clean,
        "certified": certified,
        "bank": f"{file.shape[0]} images, the first {PER_CLASS} of each class in file order",
    }
    if path.exists():
        head = path.read_text(encoding="utf-8").split("\n\n```")[0]
    else:
        kind = f"{'certificate-' * (args.objective == 'margin')}{args.objective} objective"
        native = "" if args.size or args.data == "shapes" else "native "
        begun = f"trained on from [{start.name}]({start.name}.md)" if start else "trained from scratch"
        against = "" if args.objective == "plain" else f" against a {patch} patch"
        about = f"A small BagNet, {begun} with the {kind}{against}, and evidence of it."
        about += " No image is in this folder, only weights and evidence."
        head = f"# {title}, {kind}, {native}{patch} patch\n\n{textwrap.fill(about, 120)}"
    text = CARD.format(
        head=head,
        commands="\n".join(f"pglearn {line}" for line in (shlex.join(words), *lines)),
        where=f"\n`PGLEARN_DATA` names the folder that holds {WHERE[args.data]}.\n"
        if args.data in WHERE
        else "",
        facts="\n".join(f"| {key} | {fact} |" for key, fact in facts.items()),
        options=options,
        clean=sample[0],
        certified=sample[1],
        files="\n".join(
            f"| {each.name} | {sha256(each)} |" for each in (path.with_suffix(".safetensors"), file.path)
        ),
    )
    path.write_text(text, encoding="utf-8")
    return text


def short(table: str) -> str:
    """Of Table 14 one line a data set: the paper's best training, and our best on all test images."""
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()[2:]]
    lines = ["| test images | paper: clean | certified | ours: clean | certified | our patch |"]
    lines += ["|---|--:|--:|--:|--:|---|"]

    def certified(row: Sequence[str]) -> float:
        return float(row[1].removesuffix(" %").replace("–", "-1"))

    for name in dict.fromkeys(row[0] for row in rows):
        of_it = [row for row in rows if row[0] == name]
        theirs = max((row[2:4] for row in of_it), key=certified)
        whole = ([*row[7:], row[5]] for row in of_it if row[6].startswith("all"))
        ours = max(whole, key=certified, default=["–"] * 3)
        shares = [f"{share} %".replace("– %", "–") for share in theirs]
        lines.append(f"| {' | '.join([name, *shares, *ours])} |")
    return "\n".join(lines)


def readme() -> None:
    """Put Table 14 of all cards where the README has one, and its short form where it has that."""
    path = SHIPPED.parent / "README.md"
    table = table14(banks_of(bagnets(SHIPPED), SHIPPED))[0].split("\n\n")[0].rstrip("\n")
    text = path.read_text(encoding="utf-8")
    for head, new in (("data set", table), ("test images", short(table))):
        text, count = re.subn(rf"^\| {head} .*?(?=\n\n)", lambda _, new=new: new, text, flags=re.M | re.S)
        assert count == 1, (head, count)
    path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log", type=Path, help="what pglearn train printed, over all its runs")
    parser.add_argument("--device", default=DEVICE)
    parser.add_argument(
        "--commit", help="of the library that trained it (default: the last that changed training)"
    )
    parser.add_argument(
        "--check", action="store_true", help="count every card again, from weights and images"
    )
    parser.add_argument("--readme", action="store_true", help="put Table 14 into the README")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="pglearn train ...")
    args = parser.parse_args()
    try:
        if args.command:
            if not args.log:
                raise InputError("--log: is missing, allowed: the log of the training")
            words = args.command[args.command[0] == "pglearn" :]
            print(card(words, args.log, args.device, args.commit or commit()))
        if args.check:
            return min(check(), 1)
        if args.readme:
            readme()
    except (InputError, OSError) as error:
        sys.exit(f"cards: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
