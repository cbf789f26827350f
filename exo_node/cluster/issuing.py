"""Has certificates made by a child process, which a daemon that is to stay small can do without otherwise."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence

from exo_node.cluster.keys import ClusterKey
from exo_node.errors import ExoError
from exo_node.types import Papers

TIMEOUT_S = 30.0  # it takes a tenth of a second; a machine that swaps takes longer


async def issue(key: ClusterKey, lists: Sequence[Sequence[str]]) -> list[Papers]:
    """As `certificates.sign`, in a child. The key goes by its standard input. Raises `ExoError` when it fails."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *(["-P"] if sys.flags.safe_path else []),
        "-m",
        "exo_node.cluster.certificates",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    question = json.dumps({"key": key.secret.hex(), "names": [list(names) for names in lists]}).encode()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            answer, said = await child.communicate(question)
    except TimeoutError:
        raise ExoError(f"no certificate within {TIMEOUT_S:.0f} s: this machine is too busy") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        reason = said.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
        raise ExoError(f"cannot make a certificate: {reason[0][:300]}")
    return [Papers(**fields) for fields in json.loads(answer)]
