# Build:  docker build -t flowserver .
# Run:    docker run --rm -p 8080:8080 --stop-timeout 330 -e FLOW_UPSTREAM=https://api.example.com flowserver
# Look:   docker run --rm flowserver demo
#
# Stopping: SIGTERM starts the drain, which lasts up to FLOW_DRAIN_TIMEOUT (5 minutes). Docker kills after 10 seconds
# unless --stop-timeout says more; in Kubernetes that is terminationGracePeriodSeconds.

FROM python:3.12-slim AS build

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src
RUN python -m venv /opt/flowserver

# The dependencies first: this layer stays while only the source changes.
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && /opt/flowserver/bin/pip install --requirement requirements.txt

RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

COPY README.md LICENSE NOTICE setup.py ./
COPY tools ./tools
COPY flowserver ./flowserver
RUN FLOWSERVER_COMPILE=1 /opt/flowserver/bin/pip install --no-deps . \
    && /opt/flowserver/bin/flowserver version


FROM python:3.12-slim

# By number, so that Kubernetes can see for itself that this is not root (runAsNonRoot).
RUN groupadd --gid 10001 flowserver \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin flowserver

COPY --from=build /opt/flowserver /opt/flowserver

# The admin listener (/healthz, /readyz, /metrics, /streams) asks for no password. Inside a container it cannot stay on
# loopback, where neither Kubernetes' probes nor Prometheus would reach it, so here it listens on the container's own
# addresses. Keep it to those who may see it: do not publish 9090 (it is not EXPOSEd, so that -P leaves it out), fence it
# by a NetworkPolicy, and with --network host set FLOW_ADMIN_LISTEN=127.0.0.1:9090. Scrapers may ask by address; one that
# asks by name (http://flowserver:9090/metrics) needs that name in FLOW_ADMIN_HOSTS.
ENV PATH=/opt/flowserver/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FLOW_LISTEN=:8080 \
    FLOW_ADMIN_LISTEN=:9090

USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM

# http.client and not urllib: a proxy named in the environment must not stand between. With FLOW_ADMIN_LISTEN=off there
# is nothing to ask, and the answer is healthy.
HEALTHCHECK --interval=15s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client, os, sys\nhost, colon, port = os.environ.get('FLOW_ADMIN_LISTEN', '').rpartition(':')\nif colon:\n    ask = http.client.HTTPConnection(host.strip('[]') or '127.0.0.1', int(port), timeout=2)\n    ask.request('GET', '/healthz')\n    sys.exit(ask.getresponse().status != 200)"]

ENTRYPOINT ["flowserver"]
CMD ["serve"]
