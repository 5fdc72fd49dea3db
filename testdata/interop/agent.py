#!/usr/bin/python3
"""agent.py DIR: runs the jobs that appear as DIR/jobs/NAME, several at once, inside the guest.

NAME.sh is a bash script. NAME.py is the body of a Python function that may use module guest and returns text: starting any program
costs this kernel a tenth of a second and more, so these run in threads of the agent. The result is DIR/results/NAME: the exit status
on the first line, then the job's output. Both kinds of file appear by rename, so neither side reads half of one."""
import os
import subprocess
import sys
import textwrap
import threading
import time
import traceback

import guest

POLL = 0.01  # seconds; a look at an empty queue costs the guest about a tenth of a millisecond


def run(name, text):
    """The exit status of a job and its output."""
    if name.endswith(".sh"):
        done = subprocess.run(["bash", "-c", text, "job"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout.decode(errors="replace")
    try:
        scope = {"guest": guest}
        exec(compile("def job():\n" + textwrap.indent(text, "    "), name, "exec"), scope)
        return 0, scope["job"]() or ""
    except Exception:
        return 1, traceback.format_exc()


def work(root, name, text):
    status, out = run(name, text)
    hidden = os.path.join(root, "results", "." + name)
    with open(hidden, "w") as f:
        f.write("%d\n%s" % (status, out))
    os.rename(hidden, os.path.join(root, "results", name))


def main(root):
    jobs = os.path.join(root, "jobs")
    while True:
        for name in sorted(os.listdir(jobs)):
            if name.startswith("."):
                continue
            path = os.path.join(jobs, name)
            with open(path) as f:
                text = f.read()
            os.unlink(path)
            threading.Thread(target=work, args=(root, name, text), daemon=True).start()
        time.sleep(POLL)


if __name__ == "__main__":
    main(sys.argv[1])
