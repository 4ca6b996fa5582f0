"""Store the pictures of a folder: python index_folder.py FOLDER [COLLECTION]

The server is the one that LOOKALIKE_ADDRESS names, or that of this machine.
"""

import os
import sys
from pathlib import Path

from lookalike.client import Client, UploadProgress

ADDRESS = os.environ.get("LOOKALIKE_ADDRESS", "localhost:50051")


def about(path: Path) -> dict[str, object]:
    """Return what to attach to a picture."""
    return {"folder": path.parent.name, "suffix": path.suffix.lower()}


def show(now: UploadProgress) -> None:
    print(f"\r{now.done_count} done, {now.failed_count} failed", end="", file=sys.stderr)


def main(folder: str, collection: str = "") -> int:
    with Client(ADDRESS) as client:
        if collection:
            client.create_collection(collection, exist_ok=True)
        report = client.upload(folder, collection=collection, metadata=about, progress=show)
    print(file=sys.stderr)
    for failure in report.failures:
        print(f"failed: {failure.source}: {failure.error}", file=sys.stderr)
    print(
        f"{report.created} new, {report.updated} changed, {report.unchanged} as they were, "
        f"{report.failed} failed, in {report.seconds:.1f} s"
    )
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
