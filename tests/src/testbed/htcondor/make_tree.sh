#!/bin/sh
# Makes a Debian system with HTCondor in the directory $1; $2 is the id of the user $3 that owns its jobs.
# Runs in mount and process namespaces of its own, so that what installation scripts mount and start is
# gone in the end.
set -eu
tree=$1 user_id=$2 user=$3

# HTCondor by apt, not by --include: debootstrap configures its packages in an order they do not bear.
debootstrap --variant=minbase --include=procps,ca-certificates,curl trixie "$tree"
mount -t proc proc "$tree/proc"
export DEBIAN_FRONTEND=noninteractive
chroot "$tree" apt-get install -y -q --no-install-recommends htcondor
chroot "$tree" useradd --uid "$user_id" --create-home "$user"
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*

# What a run mounts its own directories on. The package makes some of them when systemd starts it.
mkdir -p "$tree/var/spool/condor" "$tree/var/lib/condor" "$tree/var/log/condor" "$tree/etc/condor"
