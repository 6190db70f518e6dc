"""Contestants' processes, and what a report says of the machine."""

import json
import os
import platform
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

# What would change how the contestants' threads wait; a benchmark is of their defaults.
THREADING = (
    "GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT", "KMP_AFFINITY", "KMP_BLOCKTIME", "MKL_NUM_THREADS",
    "OMP_DYNAMIC", "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_WAIT_POLICY", "RAYON_NUM_THREADS",
)


class Failed(Exception):
    """A contestant's process did not answer; the text is one line."""


def say(line):
    print(line, file=sys.stderr, flush=True)


def reason(code, lines):
    """What a process said of its failure: its error and the cause of it, or else its last line."""
    told = ("error:", "caused by:")
    said = [line.split(":", 1)[1] for line in lines if line.lstrip().startswith(told)]
    if said:
        return ":".join(said).strip()
    if code < 0:
        return f"ended by signal {-code}, as when memory runs out"
    return f"exit {code}: {lines[-1] if lines else 'no reason given'}"


def environment(variables):
    """This process's, without what would change its threads, and `variables`."""
    kept = {name: value for name, value in os.environ.items() if name not in THREADING}
    return kept | {name: str(value) for name, value in variables.items()}


def run(command, limit_s, **variables):
    """Runs a process to its end, or for `limit_s`; its exit code and the lines that it wrote."""
    process = subprocess.Popen(
        [str(part) for part in command],
        env=environment(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # with the compilers that torch starts
    )
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise Failed(f"no answer within {limit_s:.0f} s")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, out.splitlines(), err.splitlines()


def ask(command, limit_s, **variables):
    """Runs a contestant and returns what its last line says, or raises `Failed`."""
    code, out, err = run(command, limit_s, **variables)
    if code != 0:
        raise Failed(reason(code, err))
    return json.loads(out[-1]) if out else None


class Server:
    """A contestant that stays and answers lines with lines of JSON; `log` takes what else it says."""

    def __init__(self, command, log, **variables):
        self.log = log
        self.process = subprocess.Popen(
            [str(part) for part in command],
            env=environment(variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            start_new_session=True,
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def answer(self, limit_s):
        """The next line, or `Failed`."""
        try:
            line = self.lines.get(timeout=limit_s)
        except queue.Empty:
            raise Failed(f"no answer within {limit_s:.0f} s")
        if line is None:
            raise Failed(reason(self.process.wait(), self.log.read_text().splitlines()))
        try:
            return json.loads(line)
        except ValueError:
            raise Failed(f"it says {line.strip()[:80]!r}")

    def ask(self, line, limit_s):
        try:
            print(line, file=self.process.stdin, flush=True)
        except OSError:
            pass  # it has ended, which `answer` tells
        return self.answer(limit_s)

    def close(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # with the compilers that it has started
        except ProcessLookupError:
            pass  # all have ended
        self.process.wait()


def machine(commit):
    fields = (line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines())
    model = next((rest[0].strip() for name, *rest in fields if name.startswith("model name")), "")
    return {
        "cpu": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": commit,
    }


def write(folder, name, report, markdown):
    """Both files anew: what is there after an interruption is whole."""
    for suffix, content in (("json", json.dumps(report, indent=1)), ("md", markdown)):
        beside = folder / f"{name}.{suffix}.partial"
        beside.write_text(content + "\n")
        beside.replace(folder / f"{name}.{suffix}")


def on_signal():
    """Ends the contestant, too, when this process is ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
