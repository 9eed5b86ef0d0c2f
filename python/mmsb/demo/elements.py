"""From published Keplerian elements and masses to positions and velocities.

The figures are in ``planets.csv`` with their sources. Lengths are au, times days, angles degrees in
the file and radians here; the frame is the mean ecliptic and equinox of J2000.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

AU_KM = 149_597_870.7  # IAU 2012, resolution B2
DAY_S = 86_400.0
CENTURY_DAYS = 36_525.0

_COLUMNS = ("a", "e", "i", "l", "peri", "node")


@dataclass(frozen=True)
class Bodies:
    """The Sun first, then the planets outwards.

    Attributes
    ----------
    names
        One name a body.
    gm
        Gravitational parameters, au**3 / day**2.
    elements, rates
        One row a planet: a, e, and i, l, peri, node in degrees, at J2000; and their change in a
        Julian century.
    """

    names: tuple[str, ...]
    gm: Floats
    elements: Floats
    rates: Floats


@functools.cache
def bodies() -> Bodies:
    """Read ``planets.csv``.

    Examples
    --------
    >>> bodies().names[:4]
    ('Sun', 'Mercury', 'Venus', 'Earth')
    """
    text = resources.files(__package__).joinpath("planets.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    gm = np.array([float(row["gm_km3_s2"]) for row in rows]) * (DAY_S**2 / AU_KM**3)
    planets = rows[1:]
    return Bodies(
        names=tuple(row["name"] for row in rows),
        gm=gm,
        elements=np.array([[float(row[name]) for name in _COLUMNS] for row in planets]),
        rates=np.array([[float(row[name + "_cy"]) for name in _COLUMNS] for row in planets]),
    )


def heliocentric(day: float = 0.0) -> tuple[Floats, Floats]:
    """Positions and velocities of the planets relative to the Sun.

    The velocity is that of the Kepler orbit around the masses of Sun and planet together.

    Parameters
    ----------
    day
        Days since J2000 (2000-01-01 12:00 TT); the elements hold from 1800 to 2050.

    Returns
    -------
    tuple of ndarray
        Position in au and velocity in au/day, both (8, 3).

    Examples
    --------
    >>> position, _ = heliocentric()
    >>> round(float(np.linalg.norm(position[2])), 3)  # the Earth, three days before perihelion
    0.983
    """
    table = bodies()
    a, e, i, mean_longitude, peri, node = (table.elements + table.rates * (day / CENTURY_DAYS)).T
    i, mean_longitude, peri, node = (np.radians(x) for x in (i, mean_longitude, peri, node))
    mean_anomaly = np.remainder(mean_longitude - peri + np.pi, 2 * np.pi) - np.pi

    # Newton's method: the largest eccentricity is 0.21, so eight rounds reach the last bit.
    anomaly = mean_anomaly + e * np.sin(mean_anomaly)
    for _ in range(8):
        anomaly -= (anomaly - e * np.sin(anomaly) - mean_anomaly) / (1 - e * np.cos(anomaly))

    minor = np.sqrt(1 - e * e)
    motion = np.sqrt((table.gm[0] + table.gm[1:]) / a**3)
    speed = a * motion / (1 - e * np.cos(anomaly))
    in_plane = (a * (np.cos(anomaly) - e), a * minor * np.sin(anomaly))
    in_plane_velocity = (-speed * np.sin(anomaly), speed * minor * np.cos(anomaly))

    w = peri - node
    cos_w, sin_w, cos_n, sin_n = np.cos(w), np.sin(w), np.cos(node), np.sin(node)
    cos_i, sin_i = np.cos(i), np.sin(i)
    axis_x = (
        cos_w * cos_n - sin_w * sin_n * cos_i,
        cos_w * sin_n + sin_w * cos_n * cos_i,
        sin_w * sin_i,
    )
    axis_y = (
        -sin_w * cos_n - cos_w * sin_n * cos_i,
        -sin_w * sin_n + cos_w * cos_n * cos_i,
        cos_w * sin_i,
    )

    def to_space(plane: tuple[Floats, Floats]) -> Floats:
        return np.stack(
            [u * plane[0] + v * plane[1] for u, v in zip(axis_x, axis_y, strict=True)], axis=1
        )

    return to_space(in_plane), to_space(in_plane_velocity)


def barycentric(day: float = 0.0) -> tuple[Floats, Floats]:
    """Positions and velocities of all bodies, the Sun included, around their common centre of mass.

    Parameters
    ----------
    day
        Days since J2000.

    Returns
    -------
    tuple of ndarray
        Position in au and velocity in au/day, both (9, 3).

    Examples
    --------
    >>> position, velocity = barycentric()
    >>> bool(np.abs(bodies().gm @ velocity).max() < 1e-18)  # no momentum left
    True
    """
    gm = bodies().gm

    def around_centre(planets: Floats) -> Floats:
        everything = np.vstack([np.zeros(3), planets])
        centre = (gm[:, None] * everything).sum(axis=0) / gm.sum()
        return np.asarray(everything - centre, dtype=np.float64)

    position, velocity = heliocentric(day)
    return around_centre(position), around_centre(velocity)
