"""What the FAISS index builds for a spec: the factory strings it takes, and what they need.

FAISS parses factory strings itself, but a wrong number can end the process
("HNSW0" aborts in an assertion) or take all memory, and some kinds answer without
selectors or scores that could be made exact. So there is a grammar of our own:

    [OPQm[_d], | PCAd, | PCARd, | RRd,] [IVFn[_HNSWm],] codec [,RFlat]
    codec: Flat | SQ4 SQ6 SQ8 SQfp16 SQbf16 | PQm[xbits][fs|fsr][np] | HNSWm[,SQ...]
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from enum import Enum

from lookalike.backends.errors import IndexSpecInvalid
from lookalike.backends.index._params import DEFAULT_M, MAX_NLIST, check_algorithm
from lookalike.backends.types import HnswParams, IndexSpec, IvfParams

POINTS_PER_CENTRE = 39
"""FAISS's own bound (ClusteringParameters.min_points_per_centroid), below which it warns."""
HNSW_FROM = 5_000
"""Without an algorithm: a graph from so many vectors on; below, comparing all takes
at most 0.3 ms (5000 x 256, one thread), as much as a walk through a graph."""
MAX_TRANSFORM_DIM = 4096
"""OPQ and PCA hold and factorise a (dim, dim) matrix: 64 MiB here."""


class Kind(Enum):
    """The ways to search."""

    FLAT = "Flat"
    HNSW = "HNSW"
    IVF = "IVF"
    CODES = "codes"
    """All codes are compared, then the best with the vectors."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One index to build."""

    kind: Kind
    factory: str = ""
    """For faiss.index_factory; without RFlat: the vectors themselves refine."""
    lossy: bool = False
    """True if it holds codes that are not the vectors."""
    selects: bool = True
    """True if a search is kept to live rows. A graph could be, but then does not tell
    how far it saw."""
    nlist: int = 0
    m: int = 0
    points: int = 1
    """Vectors needed to train it."""
    because: str = ""
    """Why it is Flat instead of what was asked for."""


_FACTORY = re.compile(
    r"(?:(?:OPQ(?P<opq>\d{1,4})(?:_(?P<opq_dim>\d{1,4}))?|PCAR?(?P<pca>\d{1,4})|RR(?P<rr>\d{1,4})),)?"
    r"(?:IVF(?P<nlist>\d{1,6})(?:_HNSW(?P<coarse>\d{1,3}))?,)?"
    r"(?P<codec>Flat|SQ(?:[468]|fp16|bf16)|PQ(?P<pq>\d{1,4})(?:x(?P<bits>\d))?(?P<fs>fsr?)?(?:np)?"
    r"|HNSW(?P<m>\d{1,3})(?:[,_](?P<store>Flat|SQ(?:[468]|fp16|bf16)))?)"
    r"(?P<refine>,RFlat)?"
)


def plan(spec: IndexSpec, count: int, dim: int) -> Plan:
    """Choose what to build over `count` vectors; Flat where they are too few to train."""
    if "factory" in spec.options:
        wanted = parse(str(spec.options["factory"]), dim)
    else:
        wanted = _from_algorithm(spec, count)
    if count < wanted.points:
        name = wanted.factory or f"IVF{wanted.nlist}"
        return Plan(Kind.FLAT, because=f"{name} needs {wanted.points} vectors to train")
    return wanted


def _from_algorithm(spec: IndexSpec, count: int) -> Plan:
    match spec.algorithm:
        case IvfParams(nlist=asked):
            nlist = min(asked or round(4 * math.sqrt(count)), count // POINTS_PER_CENTRE)
            nlist = max(nlist, 1)
            return Plan(Kind.IVF, f"IVF{nlist},Flat", nlist=nlist, points=nlist * POINTS_PER_CENTRE)
        case HnswParams(m=m):
            return _graph(m or DEFAULT_M)
        case None if count >= HNSW_FROM:
            return _graph(DEFAULT_M)
        case _:
            return Plan(Kind.FLAT)


def _graph(m: int) -> Plan:
    return Plan(Kind.HNSW, f"HNSW{m},Flat", selects=False, m=m)


def check(spec: IndexSpec, dim: int) -> Plan | None:
    """Raise IndexSpecInvalid for what can never be built; return the factory's plan if any."""
    check_algorithm(spec.algorithm)
    if strange := sorted(set(spec.options) - {"factory"}):
        raise IndexSpecInvalid(
            f'The index "faiss" has no option {strange[0]!r}; it knows "factory".',
            field="index.options",
        )
    if "factory" not in spec.options:
        return None
    factory = spec.options["factory"]
    if not isinstance(factory, str):
        raise IndexSpecInvalid("The option factory must be a string.", field="index.options")
    if spec.algorithm is not None:
        raise IndexSpecInvalid(
            "A factory string stands in place of an algorithm; leave one of them out.",
            field="index.algorithm",
        )
    return parse(factory, dim)


def parse(factory: str, dim: int) -> Plan:
    """Read a factory string; raise IndexSpecInvalid with what is wrong about it."""
    match = _FACTORY.fullmatch(factory)
    if not match:
        raise _invalid(
            factory,
            "it is not of the form [OPQm,|PCAd,|RRd,][IVFn,]Flat|SQ8|PQmx4fs|HNSWm[,RFlat]",
        )
    part = {name: int(value) for name, value in match.groupdict().items() if _is_number(value)}
    _check_numbers(factory, part, dim)
    if "m" in part and "nlist" in part:
        raise _invalid(factory, "HNSW cannot be the codec of IVF; write IVFn_HNSWm,Flat")
    fast, bits = match["fs"], part.get("bits", 8)
    if fast and bits != 4:
        raise _invalid(factory, "fast-scan codes have 4 bits: PQmx4fs")
    made = Plan(
        _kind(part, match["codec"]),
        factory.removesuffix(match["refine"] or ""),
        lossy=not match["codec"].endswith("Flat") and match["codec"] != f"HNSW{part.get('m')}",
        selects="nlist" in part or not part.keys() & {"pq", "m"},
        nlist=part.get("nlist", 0),
        m=part.get("m", 0),
        points=_points(part, bits, dim),
    )
    transformed = part.keys() & {"opq", "pca", "rr"}
    return replace(made, lossy=True) if transformed else made


def _is_number(value: str | None) -> bool:
    return value is not None and value.isdecimal()


def _kind(part: dict[str, int], codec: str) -> Kind:
    if "nlist" in part:
        return Kind.IVF
    if "m" in part:
        return Kind.HNSW
    if codec == "Flat" and not part:
        return Kind.FLAT
    return Kind.CODES


def _check_numbers(factory: str, part: dict[str, int], dim: int) -> None:
    limits = {
        "nlist": (1, MAX_NLIST),
        "coarse": (4, 128),
        "m": (4, 128),
        "pq": (1, dim),
        "bits": (4, 8),
        "opq": (1, dim),
        "opq_dim": (1, dim),
        "pca": (1, dim),
        "rr": (1, dim),
    }
    for name, value in part.items():
        least, most = limits[name]
        if not least <= value <= most:
            raise _invalid(factory, f"the number {value} must be {least} to {most} there")
    if part.keys() & {"opq", "pca", "rr"} and dim > MAX_TRANSFORM_DIM:
        raise _invalid(factory, f"a rotation of {dim} dimensions; {MAX_TRANSFORM_DIM} is the most")


def _points(part: dict[str, int], bits: int, dim: int) -> int:
    centres = [part.get("nlist", 0)]
    if "pq" in part:
        centres.append(2**bits)
    if "opq" in part:
        centres.append(256)  # OPQ trains a product quantizer of 8 bits to find its rotation
    least = dim if part.keys() & {"opq", "pca"} else 1
    return max(least, POINTS_PER_CENTRE * max(centres))


def _invalid(factory: str, why: str) -> IndexSpecInvalid:
    return IndexSpecInvalid(
        f"The factory string {factory[:80]!r} cannot be used: {why}.", field="index.options"
    )
