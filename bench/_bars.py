"""What bench/search.py has to reach, and its chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Medians = dict[str, dict[str, dict[str, float]]]


def missed(medians: Medians, facts: dict[str, dict[str, Any]], kind: str) -> list[str]:
    """Name each bar that falls short; those of contenders that took no part are skipped."""
    ours = f"lookalike {kind}"
    out: list[str] = []

    def rate(who: str, what: str) -> float | None:
        return medians.get(who, {}).get(what, {}).get("per_s")

    def ratio(what: str, who: str, least: float, over: str = "") -> None:
        top, base = rate(ours, what), rate(who, over or what)
        if top and base and top / base < least:
            out.append(f"{what}: {top:.0f}/s is {top / base:.2f}x {who}, wanted {least}x")

    unary = "unary, 8 clients"
    ratio(unary, "chroma", 6.0)
    ratio(unary, "milvus", 3.0)
    ratio(unary, "empty", 0.65)
    ratio("8 streams", ours, 1.6, over=unary)
    p99, empty = (medians.get(who, {}).get(unary, {}).get("p99_ms") for who in (ours, "empty"))
    if p99 and empty and p99 > 3 * empty:
        out.append(f"{unary}: p99 {p99:.1f} ms is more than 3 x {empty:.1f} of the empty server")
    batch = rate(ours, "batches of 256")
    if batch and batch < 9000:
        out.append(f"batches of 256: {batch:.0f}/s, wanted 9000")
    best = max((rate(w, "batches of 256") or 0 for w in ("faiss-hnsw", "hnswlib")), default=0)
    if batch and batch < 0.6 * best:
        out.append(f"batches of 256: {batch / best:.2f} of the best library, wanted 0.6")
    exact, flat = rate("lookalike exact", "batches of 256"), rate("faiss-flat", "batches of 256")
    if exact and flat and exact < 2 * flat:
        out.append(f"exact in batches: {exact / flat:.2f}x FAISS Flat, wanted 2x")
    out += _ingest(facts, ours)
    for name, known in facts.items():
        if name.startswith("lookalike") and known["recall"] < 0.98:
            out.append(f"{name}: recall@10 {known['recall']:.3f}, wanted 0.98")
    return out


def _ingest(facts: dict[str, dict[str, Any]], ours: str) -> list[str]:
    out: list[str] = []
    mine = facts[ours]["vectors_per_s"]
    if mine < 12_000:
        out.append(f"ingest: {mine:.0f} vectors/s, wanted 12000")
    for peer, least in (("chroma", 5.0), ("milvus", 0.8)):
        theirs = facts.get(peer, {}).get("vectors_per_s")
        if theirs and mine < least * theirs:
            out.append(f"ingest: {mine / theirs:.2f}x {peer}, wanted {least}x")
    idle, busy = facts[ours].get("idle_p99_ms"), facts[ours].get("ingest_p99_ms")
    if idle and busy and busy > 3 * idle:
        out.append(f"search during ingest: p99 {busy:.1f} ms, wanted 3 x {idle:.1f}")
    return out


def plot(medians: Medians, title: str, path: Path) -> None:
    """Draw queries/s of everyone, one panel for each kind of load."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = list(dict.fromkeys(what for rows in medians.values() for what in rows))
    figure, panels = plt.subplots(1, len(kinds), figsize=(4 * len(kinds), 4), squeeze=False)
    for panel, what in zip(panels[0], kinds, strict=True):
        rows = {n: r[what] for n, r in medians.items() if what in r}
        names = sorted(rows, key=lambda n: rows[n]["per_s"])
        panel.barh(names, [rows[n]["per_s"] for n in names])
        panel.set_title(what)
        panel.set_xlabel("queries/s")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
