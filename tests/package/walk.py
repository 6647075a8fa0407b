"""Runs each `bash` block of a document in order on a machine, in one folder, and compares what it prints with the `text` block
that follows it. `…` there stands for any text.

usage: walk.py DOCUMENT FOLDER COMMAND…    COMMAND…: runs what follows it on the machine
"""

import re
import subprocess
import sys

document, folder, *on = sys.argv[1:]
parts = re.split(r"^```(\w*)\n(.*?)^```\n", open(document).read(), flags=re.M | re.S)
# Prose, kind and text of each block in turn.
blocks = [(parts[at].strip(), parts[at + 1], parts[at + 2]) for at in range(0, len(parts) - 1, 3)]
told, checked = "", 0
for number, (prose, kind, text) in enumerate(blocks):
    match kind:
        case "bash":
            run = [*on, "HOME=/root", "bash", "-c", f"set -eu; cd {folder}; {text}"]
            done = subprocess.run(run, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
            told = done.stdout.decode()
            if done.returncode:
                sys.exit(f"FAILED: {text}{told}")
        case "text":
            if prose or blocks[number - 1][1] != "bash":
                sys.exit(f"FAILED: this is not behind the commands that print it:\n{text}")
            if not re.fullmatch(re.escape(text).replace("…", ".*"), told, re.S):
                sys.exit(f"FAILED: {blocks[number - 1][2]}prints\n{told}instead of\n{text}")
            checked += 1
        case _:
            sys.exit(f"FAILED: a block of the kind {kind!r} is not run by anything")
if checked < 5:
    sys.exit(f"FAILED: only {checked} outputs are compared")
