#!/usr/bin/env bash
# Starts the executor in a job's scratch directory on an HTCondor worker. HTCondor runs it as
# `bash <this file>` there, with the variables of the submit description (docs/htcondor.md).
#
# It becomes the executor, which then gets the signals and whose exit status is the job's. Its own:
#   75        the worker cannot write, or the archive cannot be unpacked
#   78        no tar or gzip, no archive, or a program for other machines
#   143, 130  SIGTERM, SIGINT
set -Eeuo pipefail

# Without secrets: TOKEN, S3_SECRET and S3_ACCESS_KEY are left out on purpose.
readonly shown=(
    JOB_ID CONTAINER_NUMBER CODE_ARCHIVE GLOBAL_CACHE_DIR ADDITIONAL_PATH SERVICE_ROOT_URL TOKEN_PATH
    S3_URL S3_SECRET_PATH S3_ERROR_LOG_PATH S3_INSECURE JOB_UPDATE_TIMEOUT_MIN REFDATA_HOST_PATH
    CTS_REFDATA_DIR MOUNT_PREFIX_OVERRIDE CTS_LOG_LEVEL DOCKER_HOST DOCKER_CONFIG
)
readonly program=__executor__/cts-executor
container_err=

# fail STATUS SENTENCE: says it in HTCondor's error file and in the container's, where people look.
fail() {
    trap - ERR
    local line="cts wrapper on $HOSTNAME: $2"
    printf '%s\n' "$line" >&2 || true
    [[ -z $container_err ]] || printf '%s\n' "$line" >>"$container_err" || true
    exit "$1"
}

# A signal ends the wrapper at once. Not by the default action: the first process of a PID namespace has none.
# What it has in the background is asked for, not remembered: the signal may come right after the start.
# SIGKILL: another would be lost on a child that is still bash. To the group: tar has a gzip of its own.
stop() {
    local group
    for group in $(jobs -p); do
        kill -KILL -- "-$group" 2>/dev/null || true
    done
    exit $((128 + $1))
}

# assignments PREFIX: those variables that are set, one a line, quoted for the shell.
assignments() {
    local name
    for name in "${shown[@]}"; do
        [[ -z ${!name+set} ]] || printf '%s%s=%q\n' "$1" "$name" "${!name}"
    done
}

trap 'fail 75 "line $LINENO failed: $BASH_COMMAND"' ERR
trap 'stop 15' TERM
trap 'stop 2' INT

# HTCondor expects these two files back and holds a job that does not have them, with a reason (code 12)
# that hides what went wrong. So they come first. Only from words that cannot lead out of the directory.
if [[ ${JOB_ID:-} =~ ^[A-Za-z0-9-]+$ && ${CONTAINER_NUMBER:-} =~ ^[0-9]+$ ]]; then
    logs="cts-$JOB_ID-$CONTAINER_NUMBER-container"
    : >>"$logs.out"
    : >>"$logs.err"
    container_err=$logs.err
fi

# HTCondor gives jobs no path, so it is bash's own, which ends in the current directory: that is left out.
export PATH="${ADDITIONAL_PATH:+$ADDITIONAL_PATH:}${PATH%:.}"

for tool in tar gzip mkdir; do
    [[ -n $(type -P "$tool") ]] || fail 78 "$tool is not installed, or not in PATH=$PATH"
done
[[ -n ${CODE_ARCHIVE:-} ]] || fail 78 "CODE_ARCHIVE is not set; it should be the name of the executor's archive"
[[ -r $CODE_ARCHIVE ]] || fail 78 "the executor's archive $CODE_ARCHIVE (CODE_ARCHIVE) is not in $PWD"

echo "host:      $HOSTNAME"
echo "user:      $(id)"
echo "directory: $PWD"
echo "time:      $(date -u +%Y-%m-%dT%H:%M:%SZ)"
echo "PATH:      $PATH"
assignments ''

# To run the executor again by hand.
(
    umask 077
    {
        echo '# What the job was started with, but for secrets: S3_ACCESS_KEY must be set besides.'
        assignments 'export '
    } >job_envs.source
) || fail 75 "cannot write job_envs.source in $PWD"

# From standard input: whatever the file's name is, tar does not see it. In the background: a signal
# interrupts `wait`, but not a command. In a process group of its own (set -m), for `stop`.
# No cache: this takes a fraction of a second.
mkdir -p "${program%/*}"
set -m
tar -xz --no-same-owner -C "${program%/*}" "${program##*/}" <"$CODE_ARCHIVE" &
set +m
wait "$!" ||
    fail 75 "cannot unpack ${program##*/} from $CODE_ARCHIVE: it is damaged, another archive, or the disk is full; tar's message is in HTCondor's error file"

version=$("./$program" --version 2>&1) ||
    fail 78 "the executor does not run on this machine ($(uname -srm)); it is for Linux on x86_64, in a directory without noexec: $version"
echo "executor:  $version"

exec "./$program" run
