# The streamgan image: training on NVIDIA GPUs, or on a CPU without any change.
#
#   docker build -t streamgan .
#   docker run --rm --init --gpus all --shm-size 8g -v "$PWD/photos:/work" streamgan \
#       train --config /app/launch/recipes/NAME.yaml data.shards=shards/photos run.dir=runs/photos
#   docker run --rm --init --gpus all --shm-size 8g -v "$PWD/photos:/work" --entrypoint accelerate streamgan \
#       launch --config_file /app/launch/accelerate/multi_gpu.yaml /app/launch/train.py \
#       --config /app/launch/recipes/NAME.yaml data.shards=shards/photos run.dir=runs/photos
#
# --shm-size  NCCL joins the GPUs of a machine through /dev/shm, of which a container has 64 MB by default.
# --init      forwards `docker stop` to training, which then finishes its step and saves (give it `--stop-timeout 120`).
# /work       is the working folder and the one place that is written; shards, runs and downloaded weights live there.
#             A folder of yours must be writable for uid 10001, or add --user "$(id -u):$(id -g)": any uid works.
# --read-only works too: add --tmpfs /tmp.
#
# Build arguments: BASE, EXTRAS, PIP_ARGS (below), VERSION and REVISION (labels only). tests/container/build.sh sets
# the labels, builds with docker, podman or buildah, and tries the image.

# The PyPI wheels of torch bring CUDA, cuDNN and NCCL of exactly the versions they were built with; the host gives the
# driver. A CUDA runtime base would carry a second set of those libraries that nothing loads, about 2 GB, and would tie
# the image to a CUDA release besides torch's own. So the base is plain Python, and the two NVIDIA_ variables below ask
# the container runtime for the driver, as they do in NVIDIA's images. Any Debian or Ubuntu base works whose python3 is
# 3.11 or newer (debian:bookworm-slim, ubuntu:24.04, nvidia/cuda:13.0.1-base-ubuntu24.04); it is installed if missing.
ARG BASE=docker.io/library/python:3.11.14-slim-bookworm


FROM ${BASE} AS base
# No version is pinned: the base decides it, and pyproject.toml says which ones work.
# hadolint ignore=DL3008
RUN { python3 --version || { \
        apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*; \
      }; } \
    && python3 -c "import sys; sys.version_info >= (3, 11) or sys.exit('BASE: python3 is ' + sys.version \
         + '; choose a base with python3 3.11 or newer')"


FROM base AS builder
# hadolint ignore=DL3008
RUN python3 -c "import ensurepip" || { \
      apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*; \
    }
RUN python3 -m venv /opt/streamgan
ENV PATH=/opt/streamgan/bin:${PATH} \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build


# Only the list of dependencies leaves this stage, so that an edit elsewhere in pyproject.toml installs nothing anew.
FROM builder AS requirements
# Optional dependencies of pyproject.toml to install, separated by spaces.
ARG EXTRAS="demo"
COPY pyproject.toml ./
RUN python -c "import os, tomllib; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = [project['optional-dependencies'][name] for name in os.environ['EXTRAS'].split()]; \
print(*sum(extras, project['dependencies']), sep='\n')" > requirements.txt


FROM builder AS dependencies
# More options for pip. The CPU builds of torch, for one, make the image some 4 GB smaller:
#   --build-arg PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
ARG PIP_ARGS=""
COPY --from=requirements /build/requirements.txt ./
# Wheels only: there is no compiler here, and a missing wheel is then said in one line.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --only-binary :all: ${PIP_ARGS} -r requirements.txt


# The package alone, laid out as in the environment that it will be copied over.
FROM builder AS package
ARG PIP_ARGS=""
COPY . ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps ${PIP_ARGS} --prefix /package .


FROM base
RUN groupadd --gid 10001 streamgan \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /work streamgan \
    && install -d -m 1777 /work
# Dependencies and package are two layers: a new version of the source changes the small one only.
COPY --from=dependencies /opt/streamgan /opt/streamgan
COPY --from=package /package /opt/streamgan
COPY launch /app/launch

# HOME and USER hold for every uid, also one without an entry in /etc/passwd. Caches (weights of torchvision and the
# Hub) are worth keeping, so they are in the volume.
ENV PATH=/opt/streamgan/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    USER=streamgan \
    XDG_CACHE_HOME=/work/.cache \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

ARG BASE
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.title="streamgan" \
      org.opencontainers.image.description="Train image colorization GANs on streamed photo sets" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"

# Commands run and end; what a training run is doing is in its log and its TensorBoard folder.
HEALTHCHECK NONE
USER 10001:10001
WORKDIR /work
VOLUME /work
ENTRYPOINT ["streamgan"]
CMD ["--help"]
