"""Parity with the official implementation's arrays."""

import numpy as np
import pytest
import torch

from gcl_fast.pseudo_labels import cluster, k_reciprocal_jaccard
from gcl_fast.pseudo_labels.eps import eps_by_rho


@pytest.mark.parametrize("k1", [20, 30])
def test_official_distances_eps_and_labels(golden, k1):
    arrays = np.load(golden / "clustering.npz")
    features, official = torch.from_numpy(arrays["features"]), arrays[f"k1_{k1}_jaccard"]
    rho, eps = float(arrays[f"k1_{k1}_rho"]), float(arrays[f"k1_{k1}_eps"])
    distance = 1 - k_reciprocal_jaccard(features, k1, 6).to_dense().numpy()
    np.testing.assert_allclose(distance, official, atol=1e-6, rtol=0)
    assert eps_by_rho(torch.from_numpy(1 - official).to_sparse_csr(), rho) == pytest.approx(eps, abs=1e-6)
    # Pairs of equal neighbourhoods are at zero or one rounding error, and the rule leaves the zeros out: a BLAS that
    # rounds otherwise than the golden run's moves a few of 2,495 or 3,741 pairs across, and eps by up to 1e-3.
    rounded_alike = np.array_equal(distance, official)
    for backend in ("own", "sklearn"):
        by_rho = cluster(features, k1, 6, rho=rho, backend=backend)
        assert by_rho.eps == pytest.approx(eps, abs=1e-6 if rounded_alike else 2e-3)
        if abs(by_rho.eps - eps) <= 1e-6:
            np.testing.assert_array_equal(by_rho.labels, arrays[f"k1_{k1}_labels"])
        for radius, labels in ((eps, f"k1_{k1}_labels"), (0.5, f"k1_{k1}_labels_eps0.5")):
            found = cluster(features, k1, 6, eps=radius, backend=backend)
            np.testing.assert_array_equal(found.labels, arrays[labels])
            assert (found.engine, found.num_outliers) == (backend, int((found.labels < 0).sum()))
