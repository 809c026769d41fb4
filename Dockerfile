# A worker with everything inside: pinned packages, and the weights of its models.
#   docker build --tag cis-tasks .
#   docker run --gpus all --env-file environment cis-tasks worker image
# torch brings the CUDA libraries of its build along; the base image adds what finds the driver.
FROM nvidia/cuda:12.8.1-base-ubuntu24.04 AS packages
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12 python3.12-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
RUN python3.12 -m venv /opt/cis/venv
# The packages are a layer of their own: it stays as it is when only our code changes.
COPY pyproject.toml constraints.txt cis_tasks/deployment/requirements.py ./
RUN /opt/cis/venv/bin/python requirements.py pyproject.toml worker > requirements.txt \
    && /opt/cis/venv/bin/pip install --constraint constraints.txt --requirement requirements.txt \
    && /opt/cis/venv/bin/pip uninstall --yes pip

FROM nvidia/cuda:12.8.1-base-ubuntu24.04
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3.12 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin cis
COPY --from=packages /opt/cis/venv /opt/cis/venv
COPY celeryconfig.py /opt/cis/app/
COPY cis_tasks /opt/cis/app/cis_tasks
COPY scaling /opt/cis/app/scaling
COPY lambda_trigger /opt/cis/app/lambda_trigger
COPY deploy/healthcheck.sh /opt/cis/app/deploy/
ENV PATH=/opt/cis/venv/bin:$PATH PYTHONPATH=/opt/cis/app PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 XDG_CACHE_HOME=/tmp MPLCONFIGDIR=/tmp CIS_HEALTH_PORT=8100 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER 10001
WORKDIR /tmp
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m --retries=3 \
    CMD ["/opt/cis/app/deploy/healthcheck.sh"]
ENTRYPOINT ["tini", "--", "python", "-m", "cis_tasks"]
CMD ["worker", "spine"]
