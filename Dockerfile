# maml_app with the CPU's torch; for NVIDIA GPUs build with --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126
FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY requirements.txt requirements-dev.txt requirements-cluster.txt requirements-docs.txt requirements-openvino.txt \
  requirements-nninteractive.txt pyproject.toml README.md CHANGELOG.md LICENSE ./
RUN python -m venv /opt/maml \
  && grep '^torch' requirements.txt > torch.txt \
  && /opt/maml/bin/pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -r torch.txt \
  && /opt/maml/bin/pip install --no-cache-dir -r requirements.txt -r requirements-openvino.txt
COPY maml_app maml_app
COPY apps apps
RUN /opt/maml/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim-bookworm
COPY --from=build /opt/maml /opt/maml
# nobody's account but its own, and nothing of the image is written to: models, logs and caches are in the volume
RUN useradd --uid 10001 --create-home --home-dir /var/lib/maml maml
USER 10001
WORKDIR /var/lib/maml
VOLUME ["/var/lib/maml"]
ENV PATH=/opt/maml/bin:$PATH HOME=/var/lib/maml PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp \
  MONAI_LABEL_TRACKING_ENABLED=false
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/auth/', timeout=4)"]
ENTRYPOINT ["maml-app"]
CMD ["serve", "--studies", "/studies", "--home", "/var/lib/maml/home", "--host", "0.0.0.0"]
