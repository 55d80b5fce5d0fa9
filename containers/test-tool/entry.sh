# Entrypoint of the test tool's image. The arguments are commands, apart by the word `then`, that run in
# order; the functions below are the commands, besides those of the shell. The exit status is that of
# the last one, or of the first `exit`. Job arguments may hold neither spaces nor quotes, hence words.
#
# Example: copy_inputs then say hello then exit 3

IN=/input_files
OUT=/output_files

# Writes to the container's stdout or stderr.
say() { echo "$*"; }
complain() { echo "$*" >&2; }

# write NAME TEXT: an output file with that text and a newline.
write() {
    mkdir -p "$(dirname "$OUT/$1")"
    echo "$2" > "$OUT/$1"
}

# copy_inputs: every input file to the output, under the same path.
copy_inputs() { cp -R "$IN/." "$OUT/"; }

# big NAME MIB: an output file of that size that does not compress.
big() { dd if=/dev/urandom of="$OUT/$1" bs=1048576 count="$2" 2>/dev/null; }

# many COUNT: that many small files, a hundred to a directory.
many() {
    i=0
    while [ "$i" -lt "$1" ]; do
        dir="$OUT/many/$((i / 100))"
        [ $((i % 100)) -ne 0 ] || mkdir -p "$dir"
        echo "file $i" > "$dir/$i.txt"
        i=$((i + 1))
    done
}

# hog_memory MIB: holds that much memory in this process.
hog_memory() { hog=$(head -c "$(($1 * 1048576))" /dev/zero | tr '\0' x); }

# hog_memory_in_child MIB: the same in a child, whose death this process survives.
hog_memory_in_child() { (hog_memory "$1") || complain "the child ended with status $?"; }

# ignore_sigterm: only SIGKILL ends the container from here on.
ignore_sigterm() { trap '' TERM; }

# copy PATH...: those files to the output.
copy() { cp "$@" "$OUT/"; }

# annotate REFERENCE NUMBER: each line of the file that the variable MANIFEST names, with the first line of REFERENCE,
# to an output file with the number in its name.
annotate() {
    while read -r line; do
        echo "$line $(head -n 1 "$1")"
    done < "$MANIFEST" > "$OUT/annotated-$2.tsv"
}

# link NAME TARGET, hardlink NAME OUTPUT, fifo NAME: things that are no plain output files.
link() { ln -s "$2" "$OUT/$1"; }
hardlink() { ln "$OUT/$2" "$OUT/$1"; }
fifo() { mkfifo "$OUT/$1"; }

# bad_names: output names with a newline, with bytes that are not UTF-8, and with a semicolon.
bad_names() {
    echo newline > "$OUT/$(printf 'a\nb')"
    echo bytes > "$OUT/$(printf 'not-\377-utf8')"
    echo semicolon > "$OUT/semi;colon"
}

# unreadable NAME: an output file of mode 000.
unreadable() {
    echo secret > "$OUT/$1"
    chmod 000 "$OUT/$1"
}

# started_and_waiting: leaves a mark that the host can see, then waits for ever.
started_and_waiting() {
    echo started > "$OUT/started"
    # In short steps, so that a trap runs soon.
    while :; do sleep 1; done
}

status=0
while [ $# -gt 0 ]; do
    # The words up to the next `then`, each quoted: names may hold spaces.
    command=
    count=0
    for word in "$@"; do
        count=$((count + 1))
        [ "$word" != then ] || break
        command="$command \"\${$count}\""
    done
    eval "$command"
    status=$?
    shift "$count"
done
exit "$status"
