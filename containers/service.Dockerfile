# The service, in two images from one build:
#
#   docker build --file containers/service.Dockerfile --target service .
#   docker build --file containers/service.Dockerfile --target service-condor .
#
# `service` holds nothing but the static program and the two files that HTCondor workers download.
# `service-condor` is the same on Debian with HTCondor's client tools, for services that use a pool.
# containers/README.md says how to run them.

ARG RUST_IMAGE=rust:1.95.0-trixie
ARG DEBIAN_IMAGE=debian:13.2-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
# The commit to be told by the program: the build context has no .git.
ARG CTS_GIT_HASH=""
# What is downloaded and compiled is kept by the builder; /out is all that is used of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target \
    export CTS_GIT_HASH CARGO_TARGET_DIR=/target \
    && make archive static-service \
    && mkdir -p /out/bin /out/share /out/data /out/condor_workdir \
    && cp /target/static/cts-service /out/bin/ \
    && cp /target/static/cts-executor.tgz /target/static/executable.sh /out/share/

FROM scratch AS service
ARG CTS_VERSION="0.1.0"
ARG CTS_GIT_HASH=""
LABEL org.opencontainers.image.title="CDM Task Service" \
      org.opencontainers.image.description="Runs container jobs over files in S3: the service" \
      org.opencontainers.image.source="https://github.com/kbase/cdm-task-service" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${CTS_VERSION}" \
      org.opencontainers.image.revision="${CTS_GIT_HASH}"
COPY --from=build /out/bin/cts-service /usr/local/bin/cts-service
COPY --from=build /out/share/ /usr/local/share/cts/
COPY --from=build --chown=10001:10001 /out/data /var/lib/cts
ENV KBCTS_CODE_ARCHIVE_PATH=/usr/local/share/cts/cts-executor.tgz \
    KBCTS_HTC_EXE_PATH=/usr/local/share/cts/executable.sh
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
VOLUME /var/lib/cts
EXPOSE 5000
# No HEALTHCHECK: orchestrators ask /livez and /readyz themselves, and there is no shell to do it here.
ENTRYPOINT ["/usr/local/bin/cts-service"]
CMD ["serve"]

FROM ${DEBIAN_IMAGE} AS service-condor
ARG CTS_VERSION="0.1.0"
ARG CTS_GIT_HASH=""
LABEL org.opencontainers.image.title="CDM Task Service with HTCondor's client tools" \
      org.opencontainers.image.description="Runs container jobs over files in S3: the service, for HTCondor pools" \
      org.opencontainers.image.source="https://github.com/kbase/cdm-task-service" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${CTS_VERSION}" \
      org.opencontainers.image.revision="${CTS_GIT_HASH}"
# The tools want to know the name of the user that runs them. curl is for the health check.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends 'htcondor=23.9.6*' ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 cts \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/cts --no-create-home --shell /usr/sbin/nologin cts
COPY --from=build /out/bin/cts-service /usr/local/bin/cts-service
COPY --from=build /out/share/ /usr/local/share/cts/
COPY --from=build --chown=10001:10001 /out/data /var/lib/cts
# `HTCondor.initialdir` has to be there; the schedd writes into the directory of this name on the submit node.
COPY --from=build --chown=10001:10001 /out/condor_workdir /condor_workdir
ENV KBCTS_CODE_ARCHIVE_PATH=/usr/local/share/cts/cts-executor.tgz \
    KBCTS_HTC_EXE_PATH=/usr/local/share/cts/executable.sh
USER 10001:10001
VOLUME /var/lib/cts
EXPOSE 5000
HEALTHCHECK --start-period=30s \
    CMD ["sh", "-c", "curl --fail --silent --output /dev/null http://127.0.0.1:${KBCTS_PORT:-5000}/livez"]
ENTRYPOINT ["/usr/local/bin/cts-service"]
CMD ["serve"]
