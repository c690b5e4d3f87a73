#!/usr/bin/env bash
# Build the image of ./Dockerfile, then try it: who runs, what is absent, and shards and two training steps made with
# no network. Exit code 0: built and every check passed.
#
#   tests/container/build.sh                                        # docker, podman or buildah, whichever is there
#   TAG=streamgan:cpu PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" tests/container/build.sh
#   TOOL=buildah BASE=ubuntu:24.04 PIP_ARGS="--find-links /wheels" tests/container/build.sh \
#     --layers --volume "$PWD/wheels:/wheels:ro"
#
# TOOL      docker, podman or buildah
# TAG       name of the image (streamgan:dev)
# BASE, EXTRAS, PIP_ARGS   build arguments of the Dockerfile; unset: its defaults
# CHECK     0: build only
# Arguments go to the build command as they are.
# buildah inside a container: BUILDAH_ISOLATION=chroot, and STORAGE_DRIVER=vfs where overlay cannot be mounted.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tag=${TAG:-streamgan:dev}
tool=${TOOL:-}
if [[ -z $tool ]]; then
  for tool in docker podman buildah none; do
    command -v "$tool" > /dev/null && break
  done
fi

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$root/streamgan/__init__.py")
revision=$(git -C "$root" rev-parse HEAD 2> /dev/null || true)
options=(--file "$root/Dockerfile" --tag "$tag" --build-arg "VERSION=$version" --build-arg "REVISION=$revision")
for name in BASE EXTRAS PIP_ARGS; do
  [[ -v $name ]] && options+=(--build-arg "$name=${!name}")
done

echo "build.sh: $tool builds $tag" >&2
SECONDS=0
case $tool in
  docker) DOCKER_BUILDKIT=1 docker build "${options[@]}" "$@" "$root" ;;
  podman) podman build --format docker "${options[@]}" "$@" "$root" ;;
  buildah) buildah bud --format docker "${options[@]}" "$@" "$root" ;;
  *) echo "build.sh: cannot build with TOOL (got $tool); install docker, podman or buildah" >&2; exit 2 ;;
esac
echo "build.sh: built in ${SECONDS} s" >&2
[[ ${CHECK:-1} != 0 ]] || exit 0

# Runs the script on stdin in a fresh container, with the image's own user and environment.
in_image() {
  case $tool in
    docker | podman)
      "$tool" run --rm --interactive --network none --read-only --tmpfs /tmp --entrypoint bash "$tag" -s
      ;;
    buildah) # has no read-only root; that nothing but /work and /tmp is writable is checked below
      local container status=0
      container=$(buildah from --pull-never "$tag")
      buildah run "$container" -- bash -s || status=$?
      buildah rm "$container" > /dev/null
      return "$status"
      ;;
  esac
}

SECONDS=0
in_image << 'CHECKS'
set -euo pipefail
fail() { echo "build.sh: $*" >&2; exit 1; }

echo "== user"
id
[[ $(id -u) == 10001 ]] || fail "runs as uid $(id -u), not 10001"
writable=$(find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /work -o -path /tmp \
  -o -path /var/tmp \) -prune -o -writable -not -type l -print 2> /dev/null || true)
[[ -z $writable ]] || fail "the user may write $writable"

echo "== absent: compilers, build folders"
for program in gcc g++ cc c++ clang ld as make cmake nvcc; do
  ! command -v "$program" || fail "$program is in the image"
done
for path in /work/.cache /build /package /var/lib/apt/lists/*_Packages*; do
  [[ ! -e $path ]] || fail "$path is in the image"
done

echo "== commands"
streamgan --version
streamgan --help > help.txt
head -n 3 help.txt
accelerate launch --help > /dev/null
python - << 'PYTHON'
import sys
from importlib.metadata import version

import accelerate, datasets, simplejpeg, streamgan, torch, torchvision, webdataset

for module in (streamgan, torch, torchvision, webdataset, accelerate, simplejpeg, datasets):
    print(module.__name__, version(module.__name__), module.__file__)
print("python", sys.version.split()[0], "| CUDA of torch", torch.version.cuda, "| GPUs", torch.cuda.device_count())
assert streamgan.__file__.startswith("/opt/streamgan/lib"), "the package is not the installed wheel"
torchvision.ops.nms(torch.rand(1, 4), torch.rand(1), 0.5)  # the compiled half of torchvision fits torch
PYTHON

echo "== shards, and two steps by both ways to train"
python - << 'PYTHON'
import io
import random

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

random.seed(0)
rows = []
for number in range(40):
    corners = Image.frombytes("RGB", (2, 2), random.randbytes(12))
    buffer = io.BytesIO()
    corners.resize((48, 40), Image.Resampling.BILINEAR).save(buffer, "JPEG")
    rows.append({"bytes": buffer.getvalue(), "path": f"{number}.jpg"})
pq.write_table(pa.table({"image": rows}), "photos.parquet")
PYTHON
streamgan shard photos.parquet --out shards --workers 0
streamgan verify shards --full
settings=(data.shards=shards data.batch=4 data.size=32 data.workers=1 model.width=8 model.depth=3 loss.gan_weight=0
  run.steps=2)
streamgan train "${settings[@]}" run.dir=runs/command
accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
  /app/launch/train.py "${settings[@]}" run.dir=runs/launcher
for run in command launcher; do
  [[ -s runs/$run/config.yaml ]] || fail "runs/$run has no config.yaml"
done
echo "== all checks passed"
CHECKS
echo "build.sh: checked in ${SECONDS} s" >&2
