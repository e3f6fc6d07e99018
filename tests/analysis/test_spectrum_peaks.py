"""Lines of spectra are where the trajectory has its frequencies, however near to zero."""

import numpy as np
import pytest

from pyg_schnet.analysis import infrared_spectrum, power_spectrum

LIGHT = 2.99792458e-5  # cm/fs


def moving(lines, frames, drift=0.0, timestep=1.0):
    """One atom of 1 u with lines of given amplitudes in Å/fs at given wave numbers in cm⁻¹."""
    time = timestep * np.arange(frames)
    speed = drift + sum(size * np.cos(2 * np.pi * LIGHT * wave * time + 0.3) for wave, size in lines.items())
    velocities = np.zeros((frames, 1, 3))
    velocities[:, 0, 0] = speed
    return velocities


def spectrum(*args, **options):
    return power_spectrum(moving(*args, **options), 1.0, masses=[1.0])


@pytest.mark.parametrize("wave", [104.0, 150.0, 1000.0, 3600.0])
def test_single_lines(wave):
    found = spectrum({wave: 0.01}, 940)
    assert 85.0 < found.resolution < 100.0  # twice that is the edge of a mask that would hide a line at 104
    assert found.peaks[0] == pytest.approx(wave, abs=0.15 * found.resolution)


def test_lines_are_sorted_by_height_and_found_to_a_part_of_the_grid():
    found = spectrum({500.0: 0.01, 1700.0: 0.02, 3000.0: 0.005}, 20_000)
    np.testing.assert_allclose(found.peaks[:3], [1700.0, 500.0, 3000.0], atol=0.02)


def test_motion_of_the_whole_is_no_line():
    assert len(spectrum({}, 4000, drift=0.02).peaks) == 0
    found = spectrum({900.0: 0.005}, 4000, drift=0.02)
    assert found.peaks[0] == pytest.approx(900.0, abs=0.5)


def test_infrared_lines():
    dipoles = np.cumsum(moving({800.0: 0.01, 1500.0: 0.02}, 8000)[:, 0], axis=0)
    found = infrared_spectrum(dipoles, 1.0, temperature=300.0)
    np.testing.assert_allclose(found.peaks[:2], [1500.0, 800.0], atol=0.1)
