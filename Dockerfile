# syntax=docker/dockerfile:1
# The server without a compiler, as an ordinary user. Build with
#   docker build -t lookalike .                       built-in embedder, no torch
#   docker build -t lookalike --build-arg EXTRAS=server,clip \
#     --build-arg TORCH_INDEX=<PyTorch's index of CPU builds> .
# Run with
#   docker run -e LOOKALIKE_ACCESS__INSECURE=true -p 127.0.0.1:50051:50051 -v lookalike:/data lookalike
# which this machine alone can reach; docs/access.md has it with TLS and keys for others.
# Without the one or the other the server does not start, as it listens on 0.0.0.0.

FROM python:3.11-slim-bookworm AS build
ARG EXTRAS=server
ARG TORCH_INDEX=
# hnswlib has no wheels and is built for the machine it is built on, unless told not to
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 HNSWLIB_NO_NATIVE=1
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY protos protos
COPY backends backends
COPY server server
COPY clients clients
RUN python -m venv /opt/lookalike \
 && case ",$EXTRAS," in *,clip,*) \
      /opt/lookalike/bin/pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0 ;; esac \
 && /opt/lookalike/bin/pip install -c constraints.txt ".[$EXTRAS,hnswlib]"

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --create-home lookalike && install -d -o lookalike -g lookalike /data
COPY --from=build /opt/lookalike /opt/lookalike
ENV PATH=/opt/lookalike/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    MALLOC_ARENA_MAX=2
USER 10001
VOLUME /data
EXPOSE 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["lookalike", "health"]
ENTRYPOINT ["lookalike"]
CMD ["serve", "--data", "/data", "--listen", "0.0.0.0:50051"]
