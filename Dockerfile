# For production: the service, and what requirements-production.txt locks. No build tools, no
# tests, no embedded PostgreSQL; an ordinary user, and a root file system that may be read-only
# (with a tmpfs at /tmp, where the workers keep their metrics).
FROM python:3.13-slim AS build

COPY requirements-production.txt scripts/install.sh ./
# The pip of this stage fills a virtual environment that has no pip. It takes wheels only, so
# that no compiler is needed.
RUN python -m venv --without-pip /venv \
 && PIP_PYTHON=/venv/bin/python PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: \
        sh install.sh requirements-production.txt python
WORKDIR /app
COPY manage.py .
COPY migrations migrations
COPY project project
# Now, since later the file system may be read-only.
RUN python -m compileall -q manage.py migrations project


FROM python:3.13-slim

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="eval-service" \
      org.opencontainers.image.description="Keeps the score: which learner solved which exercise, and how often anything happened." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

# The base image has programs that run as root for every user, such as su and mount. The
# service needs none of them.
RUN pip uninstall --yes --quiet --root-user-action=ignore pip \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
 && useradd --system --uid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin eval
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
# The standard library comes without bytecode, and each process would compile it anew: so what
# the service imports of it is compiled here.
RUN /venv/bin/python -c "import manage"

ENV APP_SETTINGS=project.config.ProductionConfig \
    HOST=0.0.0.0 \
    PATH=/venv/bin:$PATH \
    PORT=5000 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001
EXPOSE 5000
# That the process lives; it asks no database, for whose sake nothing should be restarted.
HEALTHCHECK --interval=5s --timeout=5s --start-period=120s --retries=5 \
    CMD ["python", "-I", "-S", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=2); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]
# Without a shell in between: the server is process 1, and SIGTERM is its own.
CMD ["python", "manage.py", "serve"]
