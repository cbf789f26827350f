"""Make `.venv` and install the locked packages and this checkout (editable) into it. Standard library only.

Called by scripts/environment. A lock on a file makes two starts at once safe: the second waits, then finds the work
done. A stamp in `.venv` is a copy of the lock that was installed and is written last, so a killed run is repeated.
The kinds `clients*` and `schemathesis` are environments of their own below build, without this checkout.
"""

from __future__ import annotations

import argparse
import fcntl
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Kind:
    """An environment: its folder, the locks whose copies it keeps, whether the checkout is part of it."""

    venv: Path
    stamps: tuple[str, ...]
    checkout: bool = True

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    def stamp_file(self, name: str) -> Path:
        return self.venv / f".exo-{name}"


KINDS = {
    "runtime": Kind(ROOT / ".venv", ("runtime",)),
    "test": Kind(ROOT / ".venv", ("runtime", "test", "reference")),
    "clients": Kind(ROOT / "build" / "clients", ("clients",), checkout=False),
    "schemathesis": Kind(ROOT / "build" / "schemathesis", ("schemathesis",), checkout=False),
    "clients-litellm": Kind(ROOT / "build" / "clients-litellm", ("clients-litellm",), checkout=False),
}


def lock_file(name: str) -> Path:
    return ROOT / "locks" / f"{name}.txt"


def is_current(kind: Kind) -> bool:
    """Whether it belongs to this folder (it may have been moved) and holds what its locks name."""
    root_stamp = kind.stamp_file("root")
    if not kind.python.exists() or not root_stamp.exists() or root_stamp.read_text() != f"{ROOT}\n":
        return False
    return all(
        kind.stamp_file(name).exists() and kind.stamp_file(name).read_bytes() == lock_file(name).read_bytes()
        for name in kind.stamps
    )


def say(message: str) -> None:
    print(f"exo: {message}", file=sys.stderr, flush=True)


def run(*arguments: str | Path) -> int:
    """Run with the output on stderr: stdout belongs to the command that the user typed."""
    return subprocess.run([str(argument) for argument in arguments], stdout=sys.stderr, check=False).returncode


def pip(kind: Kind, *arguments: str | Path) -> int:
    options = ("--disable-pip-version-check", "-qq", "--progress-bar", "off", "--no-deps")
    return run(kind.python, "-m", "pip", "install", *options, *arguments)


def has_pip(kind: Kind) -> bool:
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([str(kind.python), "-c", check], capture_output=True, check=False).returncode == 0
    except OSError:  # missing, or a link to an interpreter that is gone
        return False


def has_moved(kind: Kind) -> bool:
    """Whether it was made elsewhere: the commands in its bin/ name the folder of that time."""
    stamp = kind.stamp_file("root")
    return stamp.exists() and stamp.read_text() != f"{ROOT}\n"


def install(name: str, kind: Kind) -> None:
    """Raises `SystemExit` with a message that says what to do."""
    if not has_pip(kind) or has_moved(kind):
        say(f"making {kind.venv} with Python {sys.version.split()[0]}")
        if run(sys.executable, "-m", "venv", "--clear", kind.venv) != 0:
            shutil.rmtree(kind.venv, ignore_errors=True)
            raise SystemExit(f"exo: could not make {kind.venv} (on Debian and Ubuntu: apt install python3-venv)")
    kind.stamp_file("root").unlink(missing_ok=True)
    say(f"installing the packages of locks/{name}.txt (once; takes a minute or two)")
    if pip(kind, "--require-hashes", "-r", lock_file(name)) != 0:
        raise SystemExit(f"exo: could not install locks/{name}.txt; the lines above say why. Run again to repeat")
    if name == "test" and pip(kind, "--require-hashes", "-r", lock_file("reference")) != 0:
        say("no CPU build of torch for this machine: tests that compare with it will be skipped")
    if kind.checkout and pip(kind, "--no-build-isolation", "-e", ROOT) != 0:
        raise SystemExit("exo: could not install the checkout itself; the lines above say why")
    for stamp in kind.stamps:
        kind.stamp_file(stamp).write_bytes(lock_file(stamp).read_bytes())
    kind.stamp_file("root").write_text(f"{ROOT}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(KINDS))
    name = parser.parse_args().kind
    kind = KINDS[name]
    held = ROOT / "build" / "environment.lock"
    held.parent.mkdir(exist_ok=True)
    with held.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not is_current(kind):
            install(name, kind)


if __name__ == "__main__":
    main()
