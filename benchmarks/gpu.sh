#!/usr/bin/env bash
# Long training on one GPU in short runs. A call takes about MINUTES (default 9), stops after an epoch, and the
# same call goes on from the checkpoint in OUT. Exit code 0: all is there; 3: call again; else it went wrong.
#
#   PGLEARN_DATA=DIR bash benchmarks/gpu.sh cifar10 OUT
#   PGLEARN_DATA=DIR bash benchmarks/gpu.sh imagenette OUT
#
# More words go to `pglearn train` in both stages: `... OUT --epochs 1` for a trial. DATA names other images than
# cifar10-jpg or imagenette2-224. Copy OUT back before a machine is given away.
#
# Settings, and why. Times are ESTIMATES for one H100; nothing here has run on a GPU yet.
# cifar10     native 5x5 patch. The geometry of the shipped models (field 8, stride 4, windows 3x3 of 8x8),
#             with 4 times the width and twice the blocks. Masked first, then margin from its weights at half the
#             rate, as for the shipped models. Batch 512 fills the GPU; the peak rate is half of the small
#             network's: at 0.004 a wider one lost clean accuracy. 3 s an epoch, 200 epochs: 10 minutes.
# imagenette  224 px, 32x32 patch, BagNet-17 as published, without weights. Its evidence has no softplus, and
#             clipping at 0 can leave classes of a fresh network without gradient: so it learns with "softmax"
#             first, which does not clip, then margin. Batch 128: about 40 GiB, and enough steps for the first
#             batch normalization, whose momentum is 0.001. AdamW at 0.001, usual for a ResNet-50. 15 s an epoch,
#             decoding included, 120 epochs: 30 minutes.
set -euo pipefail

what=${1:?cifar10 or imagenette} out=${2:?folder for models and checkpoints}
shift 2
mkdir -p "$out"

left() { awk "BEGIN { print ${MINUTES:-9} - $SECONDS / 60 }"; }

stage() { # NAME, then words for pglearn train: one stage, unless it is done
    local file="$out/$1.safetensors"
    shift
    [ -e "$file" ] && return
    awk "BEGIN { exit ($(left) > 0) }" && exit 3
    pglearn train --data "$data" --patch "$patch" "$@" --out "$file" --minutes "$(left)"
    [ -e "$file" ] || exit 3
}

case $what in
cifar10)
    data=${DATA:-cifar10-jpg} patch=5x5
    stage masked --model bagnet-wide-32 --objective masked --epochs 120 --lr 0.002 --batch-size 512 --shift 2 "$@"
    stage margin --model "$out/masked.safetensors" --objective margin --epochs 80 --lr 0.001 --batch-size 512 --shift 2 "$@"
    ;;
imagenette)
    data=${DATA:-imagenette2-224} patch=32x32
    stage softmax --model bagnet17 --objective softmax --epochs 70 --lr 0.001 --batch-size 128 --shift 16 "$@"
    stage margin --model "$out/softmax.safetensors" --objective margin --epochs 50 --lr 0.0005 --batch-size 128 --shift 16 "$@"
    ;;
*)
    echo "gpu.sh: is $what, allowed: cifar10, imagenette" >&2
    exit 2
    ;;
esac
pglearn evaluate "$out/margin.safetensors" --data "$data" --patch "$patch" --out "$out/evidence.safetensors"
pglearn certify "$out/evidence.safetensors" --defense mask --patch "$patch"
