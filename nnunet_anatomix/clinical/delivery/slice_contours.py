"""Outlines of a mask on one slice, as closed polygons; holes are joined to their outline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np


def trace_outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Trace the outlines of a mask, one polygon per component.

    The vertices lie halfway between the centres of inner and outer pixels, so that the pixels whose
    centres are inside of the polygons are exactly those of the mask.

    Args:
        mask: (Y, X) boolean.

    Returns:
        (N, 2) vertices each, as (row, column) of pixel centres, without a repeated first vertex.
            Diagonal neighbours are different components. A component with holes is one polygon: a
            channel without width leads to each hole and back (the keyhole technique of DICOM
            PS3.3, C.8.8.6.3), so that readers that know no holes fill it correctly too.
    """
    from scipy.ndimage import find_objects, label
    from skimage.measure import find_contours

    lines = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    if not len(lines[0]):
        return []
    first, last = zip(*((int(line[0]), int(line[-1]) + 1) for line in lines), strict=True)
    content = mask[first[0] : last[0], first[1] : last[1]]
    components, _ = label(content)  # neighbours by edges, as find_contours joins them
    polygons = []
    for number, box in enumerate(find_objects(components), 1):
        # The margin closes outlines at the edges of the image.
        inside = np.pad(components[box] == number, 1)
        offset = np.array([start + part.start - 1 for start, part in zip(first, box, strict=True)])
        rings = [ring[:-1] + offset for ring in find_contours(inside.astype(np.float32), 0.5)]
        rings.sort(key=_area, reverse=True)  # the outline encloses all holes
        polygons.append(_join_holes(rings) if len(rings) > 1 else rings[0][_is_corner(rings[0])])
    return polygons


def _is_corner(ring: np.ndarray) -> np.ndarray:
    """Return which vertices of a closed polygon are not on a line between their neighbours."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]


def _area(ring: np.ndarray) -> float:
    rows, columns = ring.T
    return abs(float(rows @ np.roll(columns, -1) - columns @ np.roll(rows, -1))) / 2


def _join_holes(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Join an outline, the first ring, and its holes by the shortest channels."""
    points = np.concatenate(rings)
    ends = np.cumsum([0, *map(len, rings)])
    kept = np.concatenate([_is_corner(ring) for ring in rings])
    channels: dict[int, list[int]] = defaultdict(list)  # vertex → vertices of holes that it leads to
    for start, end in _shortest_channels(points, np.repeat(np.arange(len(rings)), np.diff(ends))):
        channels[start].append(end)
        kept[[start, end]] = True

    def around(vertex: int) -> list[int]:
        """Return the kept vertices of a ring, from one of them."""
        ring = int(np.searchsorted(ends, vertex, side="right")) - 1
        indices = np.arange(ends[ring], ends[ring + 1])
        return np.roll(indices, ends[ring] - vertex)[np.roll(kept[indices], ends[ring] - vertex)].tolist()

    path: list[int] = []
    pending = [iter(around(int(np.flatnonzero(kept)[0])))]
    while pending:
        vertex = next(pending[-1], None)
        if vertex is None:
            pending.pop()
            continue
        path.append(vertex)
        for end in channels.pop(vertex, ()):  # around the hole and back
            pending.append(iter([*around(end), end, vertex]))
    return points[path]


def _shortest_channels(points: np.ndarray, ring_of: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the channels of least total length between rings, as (vertex, vertex farther inside).

    They form the minimum spanning tree of the rings, which is a part of the Delaunay triangulation
    of their vertices.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
    from scipy.spatial import Delaunay

    corners = Delaunay(points).simplices
    edges = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
    pairs = ring_of[edges]
    edges = np.where((pairs[:, 0] > pairs[:, 1])[:, None], edges[:, ::-1], edges)
    edges = edges[pairs[:, 0] != pairs[:, 1]]
    lengths = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    order = np.argsort(lengths, kind="stable")
    count = int(ring_of[-1]) + 1
    codes = ring_of[edges[order, 0]] * count + ring_of[edges[order, 1]]
    _, shortest = np.unique(codes, return_index=True)  # the first of equal pairs
    edges, lengths = edges[order[shortest]], lengths[order[shortest]]
    graph = coo_matrix((lengths, ring_of[edges].T), shape=(count, count))
    tree = minimum_spanning_tree(graph)
    between = {(int(low), int(high)): edge for (low, high), edge in zip(ring_of[edges], edges.tolist(), strict=True)}
    reached, predecessors = breadth_first_order(tree, 0, directed=False)
    for ring in reached[1:].tolist():
        parent = int(predecessors[ring])
        start, end = between[min(parent, ring), max(parent, ring)]
        yield (start, end) if parent < ring else (end, start)
