"""Build a collection's index anew and watch it: python watch_rebuild.py [COLLECTION] [BACKEND]

The server is the one that LOOKALIKE_ADDRESS names, or that of this machine.
"""

import os
import sys

from lookalike.client import Client, Hnsw, IndexSpec

ADDRESS = os.environ.get("LOOKALIKE_ADDRESS", "localhost:50051")


def main(collection: str = "", backend: str = "faiss") -> int:
    with Client(ADDRESS) as client:
        asked = client.rebuild_index(collection, index=IndexSpec(backend, Hnsw(m=16)))
        for job in client.watch_job(asked.id):
            print(f"{job.state:10} {job.phase:10} {job.done_count} of {job.total_count or '?'}")
        for segment in client.collection(collection).index_status.segments:
            print(f"{segment.live_count} items in {segment.backend}: {segment.settings}")
    return 0 if job.state == "succeeded" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
