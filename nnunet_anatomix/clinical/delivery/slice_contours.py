"""Outlines of a mask on one slice, as closed polygons; holes are joined to their outline."""

from __future__ import annotations

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
        rings = [_drop_collinear(ring[:-1]) + offset for ring in find_contours(inside.astype(np.float32), 0.5)]
        rings.sort(key=_area, reverse=True)  # the outline encloses all holes
        polygon = rings[0]
        for hole in sorted(rings[1:], key=lambda ring: ring[:, 0].min()):
            polygon = _join_hole(polygon, hole)
        polygons.append(polygon)
    return polygons


def _drop_collinear(ring: np.ndarray) -> np.ndarray:
    """Drop the vertices of a closed polygon that lie on a line between their neighbours."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _area(ring: np.ndarray) -> float:
    rows, columns = ring.T
    return abs(float(rows @ np.roll(columns, -1) - columns @ np.roll(rows, -1))) / 2


def _join_hole(polygon: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Insert a hole into a polygon, at the vertices of both that are nearest to each other."""
    from scipy.spatial import cKDTree

    distances, nearest = cKDTree(polygon).query(hole)
    start = int(distances.argmin())
    at = int(nearest[start])
    around = np.roll(hole, -start, axis=0)
    return np.concatenate([polygon[: at + 1], around, around[:1], polygon[at:]])
