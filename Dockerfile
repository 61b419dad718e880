# One image for both services; the command says which.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /app

# What changes seldom first: torch alone is most of the image.
COPY constraints.txt ./
COPY tools/torch_cpu.py tools/
RUN python tools/torch_cpu.py

COPY pyproject.toml ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    print(*project['dependencies'], *project['optional-dependencies']['otel'], sep='\n')" \
    > /tmp/requirements.txt \
    && pip install -c constraints.txt -r /tmp/requirements.txt \
    && rm /tmp/requirements.txt

COPY README.md ./
COPY shared shared
COPY intent_service intent_service
COPY dialogue_service dialogue_service
COPY tools/healthcheck.py tools/
COPY models/starter models/starter
# The compiler is for shared/native.c, and only while it is compiled.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && pip install --no-deps -e . \
    && apt-get purge --yes --auto-remove gcc libc6-dev \
    && rm -rf build /var/lib/apt/lists/*

# Downloaded models and model versions lie in volumes, which take over these folders' owner.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp parley \
    && install --directory --owner=10001 --group=10001 /models-cache /models-registry

# Inside a container 127.0.0.1 reaches nobody: who may call is decided by the ports that are published.
ENV HF_HOME=/models-cache \
    INTENT_HOST=0.0.0.0 \
    DIALOGUE_HOST=0.0.0.0

USER 10001:10001
EXPOSE 8000 8001
CMD ["python", "-m", "dialogue_service"]
