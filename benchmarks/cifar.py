"""All 10,000 test images of CIFAR-10, from JPEG files to certificates, on two threads: under 30 s.

``python -m benchmarks.cifar data/cifar10-masked.safetensors --data cifar10-jpg`` prints what decoding, the
network and the certificates take (window masking, T = 0, a native 5x5 patch), and how many are certified.
"""

import argparse
import sys
import time

import torch

from pglearn.certify import certify, rate
from pglearn.data import load
from pglearn.defenses import Defense, Logits, WindowMask
from pglearn.geometry import malicious_windows
from pglearn.models import evidence_batches, geometry, load_model

MOST = 30


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cifar", description=__doc__)
    parser.add_argument("MODEL", help="a file that pglearn train wrote")
    parser.add_argument("--data", default="cifar10-jpg")
    parser.add_argument("--patch", type=int, default=5, help="side in pixels (default 5)")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clocks = [(time.perf_counter(), time.process_time())]

    def done(what: str, since: int = -1) -> float:
        clocks.append((time.perf_counter(), time.process_time()))
        wall, cpu = (now - then for now, then in zip(clocks[-1], clocks[since - 1], strict=True))
        print(
            f"{what:<13} {wall:6.1f} s, {cpu:6.1f} s of a core {len(images) / wall:12,.0f} images/s",
            flush=True,
        )
        return wall

    images = load(args.data, "test")
    done("decoding")
    model, about = load_model(args.MODEL)
    seen = geometry(model, images.image_size)
    windows = malicious_windows(args.patch, args.patch, seen)
    defense = Defense(Logits(about["step"], about["clip_high"]), WindowMask.against(windows, seen.wrap))
    maps = torch.cat([part for _, part in evidence_batches(model, images.images, 250, progress=None)])
    done("network")
    found = certify(maps, images.labels, defense, windows)
    done("certificates")
    spent = done("together", -4)
    for name, hits in (("clean", found.clean), ("certified", found.certified)):
        print(f"{name:<13} {rate(int(hits.sum()), len(images))}")
    if spent > MOST:
        sys.exit(f"slower than {MOST} s")


if __name__ == "__main__":
    main()
