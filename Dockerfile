# The image that Grand Challenge runs; no model in it. Built by scripts/build_image.sh.
# The default brings torch for CUDA 12.6, which runs on a T4. A base without torch gets the one of constraints.txt.
ARG BASE_IMAGE=docker.io/pytorch/pytorch:2.8.0-cuda12.6-cudnn9-runtime

FROM ${BASE_IMAGE} AS build
# A requirement for torch in a base without it, such as "torch==2.13.0+cpu"; empty for the one of constraints.txt.
ARG TORCH=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY . .
# Secrets leave no trace in any layer: pip's configuration (an index may carry a password) and a CA bundle.
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca sh container/install.sh /opt/venv "${TORCH}"

FROM ${BASE_IMAGE}
ARG API_METHOD=exec
# Some bases carry a compiler for triton, which nothing here uses.
RUN if command -v gcc >/dev/null; then apt-get purge -y gcc cpp && apt-get autoremove -y; fi
LABEL org.grand-challenge.api-method=${API_METHOD} \
      org.opencontainers.image.title="nnunet_ext" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/venv /opt/venv
# HOME may not be writable and the root may be read-only: whatever wants a cache finds /tmp.
ENV PATH=/opt/venv/bin:$PATH \
    API_METHOD=${API_METHOD} \
    HOME=/tmp XDG_CACHE_HOME=/tmp MPLCONFIGDIR=/tmp \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
WORKDIR /tmp
EXPOSE 4743
ENTRYPOINT ["python", "-m", "container"]
