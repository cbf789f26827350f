"""Make `.venv` and install the locked packages and this checkout (editable) into it. Standard library only.

Called by scripts/environment. A lock on a file makes two starts at once safe: the second waits, then finds the work
done. A stamp in `.venv` is a copy of the lock that was installed and is written last, so a killed run is repeated.
"""

from __future__ import annotations

import argparse
import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = {"runtime": ("runtime",), "test": ("runtime", "test", "reference")}


def lock_file(name: str) -> Path:
    return ROOT / "locks" / f"{name}.txt"


def stamp_file(name: str) -> Path:
    return VENV / f".exo-{name}"


def is_current(kind: str) -> bool:
    """Whether `.venv` belongs to this folder (it may have been moved) and holds what the locks of `kind` name."""
    root_stamp = stamp_file("root")
    if not PYTHON.exists() or not root_stamp.exists() or root_stamp.read_text() != f"{ROOT}\n":
        return False
    return all(
        stamp_file(name).exists() and stamp_file(name).read_bytes() == lock_file(name).read_bytes()
        for name in STAMPS[kind]
    )


def say(message: str) -> None:
    print(f"exo: {message}", file=sys.stderr, flush=True)


def run(*arguments: str | Path) -> int:
    """Run with the output on stderr: stdout belongs to the command that the user typed."""
    return subprocess.run([str(argument) for argument in arguments], stdout=sys.stderr, check=False).returncode


def pip(*arguments: str | Path) -> int:
    options = ("--disable-pip-version-check", "-qq", "--progress-bar", "off", "--no-deps")
    return run(PYTHON, "-m", "pip", "install", *options, *arguments)


def has_pip() -> bool:
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([str(PYTHON), "-c", check], capture_output=True, check=False).returncode == 0
    except OSError:  # missing, or a link to an interpreter that is gone
        return False


def has_moved() -> bool:
    """Whether `.venv` was made elsewhere: the commands in its bin/ name the folder of that time."""
    stamp = stamp_file("root")
    return stamp.exists() and stamp.read_text() != f"{ROOT}\n"


def install(kind: str) -> None:
    """Raises `SystemExit` with a message that says what to do."""
    if not has_pip() or has_moved():
        say(f"making {VENV} with Python {sys.version.split()[0]}")
        if run(sys.executable, "-m", "venv", "--clear", VENV) != 0:
            shutil.rmtree(VENV, ignore_errors=True)
            raise SystemExit("exo: could not make .venv (on Debian and Ubuntu: apt install python3-venv)")
    stamp_file("root").unlink(missing_ok=True)
    say(f"installing the packages of locks/{kind}.txt (once; takes a minute or two)")
    if pip("--require-hashes", "-r", lock_file(kind)) != 0:
        raise SystemExit(f"exo: could not install locks/{kind}.txt; the lines above say why. Run again to repeat")
    if kind == "test" and pip("--require-hashes", "-r", lock_file("reference")) != 0:
        say("no CPU build of torch for this machine: tests that compare with it will be skipped")
    if pip("--no-build-isolation", "-e", ROOT) != 0:
        raise SystemExit("exo: could not install the checkout itself; the lines above say why")
    for name in STAMPS[kind]:
        stamp_file(name).write_bytes(lock_file(name).read_bytes())
    stamp_file("root").write_text(f"{ROOT}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(STAMPS))
    kind = parser.parse_args().kind
    held = ROOT / "build" / "environment.lock"
    held.parent.mkdir(exist_ok=True)
    with held.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not is_current(kind):
            install(kind)


if __name__ == "__main__":
    main()
