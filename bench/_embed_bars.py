"""What bench/embed.py tells, what it has to reach, and its chart."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _vit

Report = dict[str, Any]

_OVER_TUTORIAL = {"640x480": {"bf16": 6.5, "int8": 10.0}, "2000x1500": {"bf16": 7.0, "int8": 10.0}}
_OVER_INFINITY = {"bf16": 4.0, "int8": 6.0}
_READY = 0.9
"""Of the runtime's own rate on ready tensors, that our way in one process must reach."""
_BUSY = 3.0
"""Times its p99 in peace that a lone picture may take while bulk runs."""
_AGAIN = 3000.0
_MEMORY_MB = 400.0


def rate(report: Report, size: str, who: str) -> float | None:
    """Return the median of images/s of a contender."""
    rounds = report.get("rates", {}).get(size, {}).get(who)
    return statistics.median(r["images"] / r["seconds"] for r in rounds) if rounds else None


def cpu_ms(report: Report, size: str, who: str) -> float:
    """Return the median of milliseconds of processor time of one picture."""
    rounds = report["rates"][size][who]
    return statistics.median(r["cpu_s"] / max(r["images"], 1) for r in rounds) * 1e3


def told(report: Report) -> Iterator[str]:
    """Say what was measured, a line each."""
    precision = report["options"].get("precision", "default precision")
    for size, ways in report.get("rates", {}).items():
        yield f"{size}, {precision}, {report['cores']} cores: images/s, processor ms, x tutorial"
        base = rate(report, size, "tutorial")
        for who in ways:
            mine = rate(report, size, who)
            if mine is None or base is None:
                continue
            cost = cpu_ms(report, size, who)
            ratio = _ratio(report, size, who, "tutorial")
            yield f"  {who:9} {mine:7.1f}  {cost:7.1f}  {ratio:6.2f}"
    if "gflops" in report:
        limits = {kind: found / _vit.GFLOP for kind, found in report["gflops"].items()}
        shown = ", ".join(
            f"{kind} {report['gflops'][kind]:.0f} ({limit:.0f} images/s)"
            for kind, limit in limits.items()
        )
        yield f"matrix products, GFLOP/s (and what they would allow): {shown}"
        for size in report.get("rates", {}):
            ours = rate(report, size, "upload") or 0.0
            shares = ", ".join(f"{ours / limit:.0%} of {kind}" for kind, limit in limits.items())
            yield f"  upload of {size}: {shares}"
    if "memory_mb" in report:
        first, *later = report["memory_mb"]
        yield (
            f"server's memory: {first:.0f} MB with the model, at most "
            f"{max(later) - first:.0f} MB more during bulk; by round "
            + ", ".join(f"{peak - first:.0f}" for peak in later)
        )


def missed(report: Report) -> list[str]:
    """Name each bar that falls short; those of what was not measured are skipped."""
    out: list[str] = []
    precision = report["options"].get("precision", "fp32")
    for size in report.get("rates", {}):
        least = _OVER_TUTORIAL.get(size, {}).get(precision)
        if least and (found := _ratio(report, size, "upload", "tutorial")) < least:
            out.append(f"upload {size}: {found:.2f}x the tutorial's loop, wanted {least}x")
        least = _OVER_INFINITY.get(precision)
        found = _ratio(report, size, "embed", "infinity")
        if least and found and found < least:
            out.append(f"embed {size}: {found:.2f}x infinity-emb, wanted {least}x")
        if (found := _ratio(report, size, "inside", "ready")) and found < _READY:
            # both share the cores: what reading takes is not the model's to have
            share = _of_ready(report, size)
            if share < _READY:
                out.append(f"inside {size}: {share:.0%} of the model's rate, wanted {_READY:.0%}")
    for who, times in report.get("alone_s", {}).items():
        if who == "ours" and p99(times["busy"]) > _BUSY * p99(times["idle"]):
            out.append(
                f"lone picture: p99 {p99(times['busy']) * 1e3:.0f} ms beside bulk, wanted "
                f"{_BUSY} x {p99(times['idle']) * 1e3:.0f} ms"
            )
        if who == "infinity" and p99(report["alone_s"]["ours"]["busy"]) > p99(times["busy"]):
            out.append("lone picture beside bulk: infinity-emb's p99 is lower")
    if (again := report.get("again")) is not None:
        if again["again_images_per_s"] < _AGAIN:
            out.append(
                f"unchanged photographs: {again['again_images_per_s']:.0f}/s, wanted {_AGAIN:.0f}"
            )
        if again["embedded_again"]:
            out.append(f"{again['embedded_again']:.0f} known pictures went to the model again")
    if "memory_mb" in report:
        first, *later = report["memory_mb"]
        if max(later) - first > _MEMORY_MB:
            out.append(f"memory: {max(later) - first:.0f} MB over the model, wanted {_MEMORY_MB}")
    return out


def p99(times: list[float]) -> float:
    """Return the 99th percentile."""
    return sorted(times)[min(len(times) - 1, int(0.99 * len(times)))]


def _ratio(report: Report, size: str, who: str, over: str) -> float:
    """Return the median over the rounds of one rate divided by the other; 0 where absent."""
    rounds = report["rates"][size]
    if who not in rounds or over not in rounds:
        return 0.0
    return statistics.median(
        (mine["images"] / mine["seconds"]) / (other["images"] / other["seconds"])
        for mine, other in zip(rounds[who], rounds[over], strict=True)
    )


def _of_ready(report: Report, size: str) -> float:
    """Return the processor time of ready tensors plus reading, over what our way takes."""
    return cpu_ms(report, size, "ready") / cpu_ms(report, size, "inside")


def plot(report: Report, path: Path) -> None:
    """Draw images/s of everyone, one panel for each size of picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sizes = list(report["rates"])
    figure, panels = plt.subplots(1, len(sizes), figsize=(5 * len(sizes), 4), squeeze=False)
    for panel, size in zip(panels[0], sizes, strict=True):
        rates = {who: rate(report, size, who) or 0.0 for who in report["rates"][size]}
        names = sorted(rates, key=rates.__getitem__)
        panel.barh(names, [rates[name] for name in names])
        panel.set_title(size)
        panel.set_xlabel("images/s")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
