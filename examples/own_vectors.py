"""Store and search vectors of one's own, without any model: python own_vectors.py

The server is the one that LOOKALIKE_ADDRESS names, or that of this machine.
"""

import os

import numpy as np

from lookalike.client import Client, NewItem

ADDRESS = os.environ.get("LOOKALIKE_ADDRESS", "localhost:50051")
COUNT, DIMENSION = 2000, 64


def main() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((COUNT, DIMENSION), dtype=np.float32)
    with Client(ADDRESS) as client:
        client.create_collection(
            "own-vectors", model="none", dimension=DIMENSION, metric="l2", exist_ok=True
        )
        items = (NewItem(id=f"v{i}", vector=v, metadata={"i": i}) for i, v in enumerate(vectors))
        report = client.upload(items, collection="own-vectors")
        print(f"{report.stored} vectors stored in {report.seconds:.1f} s")

        query = vectors[7] + 0.01 * rng.standard_normal(DIMENSION, dtype=np.float32)
        for hit in client.search(vector=query, k=3, collection="own-vectors"):
            print(f"{hit.score:9.3f}  {hit.id}")  # minus the squared distance

        stored = client.get("v7", view="full", collection="own-vectors").vector
        assert stored is not None
        print("kept as sent:", np.array_equal(stored, vectors[7]))


if __name__ == "__main__":
    main()
