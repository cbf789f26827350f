"""The process that fetches one model: `python -m exo_node.models.fetch REPO_ID --workers N`.

Kept apart from the daemon because huggingface_hub costs half a second and 60 MB. Says what it does in JSON lines on
standard output (see `download.ShardDownloader`); ends when its standard input does, that is, with its parent.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from exo_node.models.headers import INDEX, SINGLE
from exo_node.models.pooling import MODULES, POOLING

# Only what running a model needs, at the top of the repository: no .bin, .pth, .gguf, onnx, no original/ folder.
WANTED = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "chat_template*",
          "*.safetensors", INDEX, MODULES, POOLING)  # fmt: skip
_POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file of the repository; `blob` is its name in the cache (its hash), `sha256` is known for large files."""

    path: str
    size: int
    blob: str
    sha256: str | None


def choose(paths: Sequence[str]) -> list[str]:
    """Which of a repository's files to fetch. Raises `ValueError` when it lacks something that no model runs without.

    Where an index is, `consolidated.safetensors` (the same weights once more) and a lone file beside it stay out.
    """
    names = [
        p for p in paths if ("/" not in p or p == POOLING) and any(fnmatch.fnmatchcase(p, want) for want in WANTED)
    ]
    weights = [p for p in names if p.endswith(".safetensors")]
    if SINGLE in weights:
        keep = {SINGLE}
    elif INDEX in names:
        keep = {p for p in weights if not p.startswith("consolidated")}
    else:
        keep = set()
    names = [p for p in names if not p.endswith(".safetensors") or p in keep]
    if SINGLE in keep and INDEX in names:
        names.remove(INDEX)
    for needed in ("config.json", "tokenizer.json"):
        if needed not in names:
            raise ValueError(f"it has no {needed}")
    if not keep:
        raise ValueError("it has no safetensors weights")
    return names


def say(event: str, **fields: Any) -> None:
    """One line to the parent."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch and report; the exit status is 0 only after a `done` line."""
    parser = argparse.ArgumentParser(prog="exo_node.models.fetch")
    parser.add_argument("repo_id")
    parser.add_argument("--workers", type=int, default=8)
    args = parser.parse_args(argv)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    from huggingface_hub import constants, errors

    http_error = errors.HfHubHTTPError.__bases__[0]  # of the HTTP library that this version of the hub's client uses
    try:
        path = _fetch(args.repo_id, args.workers)
    except errors.GatedRepoError:
        return _fail("gated", f"{args.repo_id} is gated: accept its terms on the hub and set HF_TOKEN")
    except errors.RevisionNotFoundError:
        return _fail("not_found", f"{args.repo_id} has no branch 'main' on the hub")
    except errors.RepositoryNotFoundError:
        return _fail("not_found", f"there is no {args.repo_id} on the hub (a private one needs HF_TOKEN)")
    except errors.OfflineModeIsEnabled:
        return _fail("offline", f"{args.repo_id} is not on this machine and HF_HUB_OFFLINE forbids fetching")
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        kind = "gated" if status in (401, 403) else "network"
        return _fail(kind, f"the hub refused {args.repo_id} with status {status}" + _token_hint(status))
    except ValueError as error:
        return _fail("unusable", f"{args.repo_id} cannot be run: {_line(error)}")
    except (http_error, OSError, errors.EntryNotFoundError) as error:
        hub = urlsplit(constants.ENDPOINT).hostname  # not all of it: HF_ENDPOINT may hold a password
        problem = f"fetching {args.repo_id} from {hub} failed ({_line(error)})"
        return _fail("network", f"{problem}; what came is kept, try again")
    say("done", path=path)
    return 0


def _fetch(repo_id: str, workers: int) -> str:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.file_download import repo_folder_name

    api = HfApi()
    sha = api.repo_info(repo_id).sha
    tree = {f.path: f for f in api.list_repo_tree(repo_id, recursive=True, revision=sha) if hasattr(f, "size")}
    files = [
        WantedFile(f.path, f.size, f.lfs.sha256 if f.lfs else f.blob_id, f.lfs.sha256 if f.lfs else None)
        for f in (tree[path] for path in choose(list(tree)))
    ]
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model")
    fresh = [f for f in files if f.sha256 and not (folder / "blobs" / f.blob).exists()]
    total = sum(f.size for f in files)
    say("plan", files=len(files), done=_on_disk(folder, files), total=total)
    stop = threading.Event()
    reporter = threading.Thread(target=_report, args=(folder, files, total, stop), daemon=True)
    reporter.start()
    try:
        path = snapshot_download(repo_id, max_workers=workers, allow_patterns=[f.path for f in files])
    finally:
        stop.set()
        reporter.join()
    for file in fresh:
        _verify(Path(path) / file.path, file)
    say("progress", done=total, total=total)
    return str(path)


def _verify(path: Path, file: WantedFile) -> None:
    with path.open("rb") as handle:
        got = hashlib.file_digest(handle, "sha256").hexdigest()
    if got != file.sha256:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise OSError(f"{file.path} came with other bytes than the hub promised")


def _report(folder: Path, files: Sequence[WantedFile], total: int, stop: threading.Event) -> None:
    last = -1
    while not stop.wait(_POLL_SECONDS):
        done = _on_disk(folder, files)
        if done != last:
            say("progress", done=done, total=total)
            last = done


def _on_disk(folder: Path, files: Sequence[WantedFile]) -> int:
    """Bytes of `files` in the cache, unfinished ones included (their names begin with the blob's)."""
    try:
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder / "blobs")}
    except OSError:
        return 0
    done = 0
    for file in {f.blob: f for f in files}.values():
        done += min(file.size, max((size for name, size in sizes.items() if name.startswith(file.blob)), default=0))
    return done


def _end_with_parent() -> None:
    while os.read(0, 4096):  # not through sys.stdin: its lock, held here, would abort the interpreter's own exit
        pass
    os._exit(3)


def _fail(kind: str, message: str) -> int:
    say("error", kind=kind, message=message)
    return 1


def _token_hint(status: int) -> str:
    return "; set HF_TOKEN to a token that may read it" if status in (401, 403) else ""


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
