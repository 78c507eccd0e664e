# Both variants from one file: docker build --build-arg VARIANT=cpu|gpu -t sscd-ops:VARIANT .
FROM python:3.11-slim-bookworm

ARG VARIANT=cpu
ENV AIRFLOW_HOME=/opt/airflow \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1

RUN apt-get update \
    && apt-get install -y --no-install-recommends curl postgresql-client \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --home-dir /opt/airflow --uid 50000 airflow

# What changes seldom first. requirements.lock pins the CPU build of faiss; the GPU image takes
# faiss-gpu in its place (both install the package `faiss`: never the two together). torch: the CPU
# image from PyTorch's own CPU index, the GPU image as PyPI has it, with its CUDA libraries.
COPY requirements.lock /tmp/requirements.lock
RUN python -m venv /opt/venv \
    && pip install --no-cache-dir uv==0.13.9 \
    && case "$VARIANT" in \
         cpu) torch="--torch-backend cpu" ;; \
         gpu) torch=""; sed -i 's/^faiss-cpu==/faiss-gpu==/' /tmp/requirements.lock ;; \
         *) echo "VARIANT must be cpu or gpu" >&2; exit 1 ;; \
       esac \
    && uv pip install --python /opt/venv/bin/python $torch -r /tmp/requirements.lock \
    && uv pip install --python /opt/venv/bin/python -c /tmp/requirements.lock \
         apache-airflow-providers-celery redis \
    && rm -rf /root/.cache

COPY pyproject.toml README.md /opt/sscd-ops/
COPY sscd_ops /opt/sscd-ops/sscd_ops
COPY dags /opt/sscd-ops/dags
COPY plugins /opt/sscd-ops/plugins
RUN uv pip install --python /opt/venv/bin/python --no-deps /opt/sscd-ops \
    && mkdir -p /opt/airflow/logs /opt/airflow/passwords /data \
    && chown -R airflow: /opt/airflow /data

USER airflow
WORKDIR /opt/airflow
CMD ["airflow", "version"]
