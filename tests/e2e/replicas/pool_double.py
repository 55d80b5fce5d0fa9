#!/usr/bin/env python3
"""HTCondor's commands over a pool that only remembers what was submitted: each of them, by the name it is run as.

The pool is the file `pool` beside this one: a line `submitted CLUSTER JOB PROCS` or `removed CLUSTER.PROC` each.
Procs run until they are removed. Answers take their time, so that whoever asks may die meanwhile.
"""

import fcntl
import json
import os
import random
import re
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOOL = os.path.basename(sys.argv[0])


def pool():
    """The pool's lines, and the file to add to; nobody else has it meanwhile."""
    file = open(os.path.join(HERE, "pool"), "a+", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.seek(0)
    return [line.split() for line in file], file


def add(file, line):
    file.write(line + "\n")
    file.flush()


def selected(lines, left):
    """The procs that the constraint lets through, of those that have left the queue or of those in it."""
    constraint = sys.argv[sys.argv.index("-constraint") + 1]
    job = re.search(r'CTSJobID == "([^"]+)"', constraint)
    named = {
        (cluster, proc)
        for cluster, procs in re.findall(r"\(ClusterId == (\d+) && \(?([^()]*)", constraint)
        for proc in re.findall(r"ProcId == (\d+)", procs)
    }
    clusters = [] if named else re.findall(r"ClusterId == (\d+)", constraint)
    removed = {line[1] for line in lines if line[0] == "removed"}
    for line in lines:
        if line[0] != "submitted":
            continue
        _, cluster, id, procs = line
        for proc in range(int(procs)):
            if (f"{cluster}.{proc}" in removed) != left:
                continue
            if job and job.group(1) != id:
                continue
            if named and (cluster, str(proc)) not in named:
                continue
            if clusters and cluster not in clusters:
                continue
            yield int(cluster), proc, id


def submit():
    description = sys.stdin.read()
    job = re.search(r'^\+CTSJobID = "([^"]+)"$', description, re.M).group(1)
    procs = len(re.search(r"^queue .*\(\n((?:\d+\n)+)\)", description, re.M).group(1).split())
    time.sleep(random.uniform(0, 0.2))
    lines, file = pool()
    cluster = 1 + sum(line[0] == "submitted" for line in lines)
    add(file, f"submitted {cluster} {job} {procs}")
    file.close()
    time.sleep(random.uniform(0, 0.2))
    print(f"{cluster}.0 - {cluster}.{procs - 1}")


def ads(left, status):
    lines, _file = pool()
    return [
        {
            "ClusterId": cluster,
            "ProcId": proc,
            "CTSJobID": id,
            "CTSContainerNumber": proc,
            "JobStatus": status,
            "Owner": "cts",
        }
        for cluster, proc, id in selected(lines, left)
    ]


def queue():
    running = ads(left=False, status=2)
    if running:
        print(json.dumps(running))


def remove():
    lines, file = pool()
    for cluster, proc, _id in list(selected(lines, left=False)):
        add(file, f"removed {cluster}.{proc}")


def status():
    if "-schedd" in sys.argv:
        print(json.dumps([{"Name": "double", "Machine": "double"}]))


def history():
    read = ads(left=True, status=3)[::-1]
    if "-limit" in sys.argv:
        read = read[: int(sys.argv[sys.argv.index("-limit") + 1])]
    print(json.dumps(read))


COMMANDS = {
    "condor_version": lambda: print("a double of HTCondor"),
    "condor_status": status,
    "condor_submit": submit,
    "condor_q": queue,
    "condor_history": history,
    "condor_rm": remove,
}

COMMANDS[TOOL]()
