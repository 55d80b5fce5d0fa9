# The demo's tool for places that build images with Docker and reach Docker Hub. The testbed makes the
# same image from the same Debian package without either: see tests/src/testbed/image.
FROM debian:bookworm-slim
# Whatever version the distribution has.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends seqkit \
    && rm -rf /var/lib/apt/lists/*
# CTS runs the entrypoint with the job's arguments appended; it must be the tool itself.
ENTRYPOINT ["/usr/bin/seqkit"]
