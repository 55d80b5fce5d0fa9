#!/bin/sh
# Starts HTCondor in the tree $1, with this run's data in $2, logs in $3, the directory $4 under the same
# path as here, and the container engine's socket $5. $6 is the user that owns the jobs.
#
# The first process of mount and process namespaces of its own: what is mounted here is seen by no one
# else, and all of it is gone when this process (condor_master in the end) is.
set -eu
tree=$1 data=$2 logs=$3 exchange=$4 socket=$5 user=$6

# The tree is used again by later runs: nothing may write to it.
mount --bind "$tree" "$tree"
mount -o remount,bind,ro "$tree"

mount -t proc proc "$tree/proc"
# The kernel's settings are the machine's, not the pool's.
mount --bind "$tree/proc/sys" "$tree/proc/sys"
mount -o remount,bind,ro "$tree/proc/sys"
# A sysfs without the machine's cgroups: the pool's would be left there. HTCondor then tracks processes
# by their parents.
mount -t sysfs -o ro sysfs "$tree/sys"
mount --rbind /dev "$tree/dev"
for dir in run tmp var/tmp; do
    mount -t tmpfs -o mode=1777 tmpfs "$tree/$dir"
done

for dir in etc/condor var/lib/condor var/spool/condor; do
    mount --bind "$data/$dir" "$tree/$dir"
done
mount --bind "$logs" "$tree/var/log/condor"
mkdir -p "$tree/run/condor" "$tree/run/lock/condor" "$tree$exchange"
chroot "$tree" chown condor:condor /run/condor /run/lock/condor /var/lib/condor \
    /var/lib/condor/execute /var/spool/condor /var/log/condor
mount --bind "$exchange" "$tree$exchange"
chroot "$tree" chown --recursive "$user:" "$exchange"

# Names mean what they mean outside.
mount --bind /etc/resolv.conf "$tree/etc/resolv.conf"
mount --bind /etc/hosts "$tree/etc/hosts"

# The group that may open the engine's socket has another number, or none, in the tree.
{ cat "$tree/etc/group"; echo "engine:x:$(stat --format=%g "$socket"):$user"; } > "$data/etc/group"
mount --bind "$data/etc/group" "$tree/etc/group"
: > "$tree/run/docker.sock"
mount --bind "$socket" "$tree/run/docker.sock"

# Still /proc of the outside: the number by which this process is known there.
read -r pid _ < /proc/self/stat
echo "$pid" > "$data/pid"
exec chroot "$tree" /usr/bin/env --chdir=/ /usr/sbin/condor_master -f
