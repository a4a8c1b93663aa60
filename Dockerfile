# The service with the bundled model. It runs as a user without rights, on a read-only file system; its data are in
# /var/lib/augu-api. docs/operating.md says how to build and start it.

FROM debian:trixie-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends binutils python3-venv
ARG PIP_INDEX_URL PIP_CERT
COPY requirements.txt /src/
RUN python3 -m venv /opt/augu-api \
    && grep -v '^-e' /src/requirements.txt > /src/pinned.txt \
    && /opt/augu-api/bin/pip install --no-cache-dir --no-deps --only-binary :all: --requirement /src/pinned.txt
COPY LICENSE NOTICE README.md pyproject.toml setup.cfg setup.py /src/
COPY augu_api /src/augu_api
COPY weights /src/weights
# without what serving does not use: pip, tests, onnxruntime's tools for making models, and symbols for debuggers
RUN /opt/augu-api/bin/pip install --no-cache-dir --no-deps /src \
    && /opt/augu-api/bin/pip uninstall --yes pip \
    && cd /opt/augu-api/lib/python3*/site-packages \
    && rm -r onnxruntime/quantization onnxruntime/tools onnxruntime/transformers \
    && find . -type d -name tests -prune -exec rm -r {} + \
    && find . -name '*.so' -not -path '*.libs/*' -exec strip --strip-unneeded {} +

FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --home-dir /nonexistent augu \
    && install --directory --owner augu --group augu --mode 700 /var/lib/augu-api
COPY --from=build /opt/augu-api /opt/augu-api
ENV PATH=/opt/augu-api/bin:$PATH AUGU_DATA_DIR=/var/lib/augu-api
USER augu
VOLUME /var/lib/augu-api
EXPOSE 8000
HEALTHCHECK --start-period=30s CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/ready')"]
ENTRYPOINT ["augu-api"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
