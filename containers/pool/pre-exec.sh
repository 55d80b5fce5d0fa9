#!/bin/bash
# Makes the development pool (compose.yaml) fit for jobs of the service. The image htcondor/mini runs this as
# root each time before it starts HTCondor.
set -eu

# Jobs belong to this account; the service has the same number, so that it can read its token.
id cts &>/dev/null || {
    groupadd --gid 10001 cts
    useradd --uid 10001 --gid 10001 --create-home cts
}

# Whoever may use the engine's socket is a member of its group, whatever number that has.
engine=$(stat --format=%g /var/run/docker.sock)
getent group "$engine" >/dev/null || groupadd --gid "$engine" engine
usermod --append --groups "$(getent group "$engine" | cut -d: -f1)" cts

# `HTCondor.initialdir`, and the files with secrets that executors read (docs/htcondor.md).
install --directory --owner=cts --group=cts --mode=0755 /condor_workdir
install --directory /cts
install --owner=root --group=cts --mode=0640 /run/secrets/executor_token /cts/cts_token
install --owner=root --group=cts --mode=0640 /run/secrets/s3_secret /cts/s3_secret

# Volumes begin as root's.
install --directory --owner=condor --group=condor --mode=0755 /var/lib/condor/execute /var/lib/condor/spool

# The key that signs tokens is new at each start, and so is the service's token.
umask 077
mkdir -p /etc/condor/passwords.d
head --bytes=48 /dev/urandom | base64 >/etc/condor/passwords.d/POOL
install --directory --owner=cts --group=cts --mode=0700 /cts/pool_token
condor_token_create -identity cts@cts-dev -authz READ -authz WRITE >/cts/pool_token/service.new
chown cts:cts /cts/pool_token/service.new
mv /cts/pool_token/service.new /cts/pool_token/service
