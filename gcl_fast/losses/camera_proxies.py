"""Camera-aware contrast (Wang et al. 2021, CAP): a proxy for each camera that has seen a cluster."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from gcl_fast.losses.cluster_memory import Clusters, cluster_centres

INTER_WEIGHT = 0.5  # of the term between cameras (Wang et al. 2021, eq. 8)
HARD = 50  # nearest proxies of other clusters in that term


class CameraProxies(NamedTuple):
    """A partition of the bank's rows by cluster and camera, made once per clustering."""

    groups: Clusters  # P groups; outliers are clusters of one
    cluster: Tensor  # (P,)
    camera: Tensor  # (P,)

    @classmethod
    def from_labels(cls, labels: Tensor, cameras: Tensor) -> CameraProxies:
        """Group rows by pseudo-label (outlier < 0) and camera.

        Args:
            labels: (N,) int64.
            cameras: (N,) int64, any values, on the device of `labels`.
        """
        clusters = Clusters.from_labels(labels).of_row
        names, camera = cameras.unique(return_inverse=True)
        groups = Clusters.from_labels(clusters * len(names) + camera)
        first = groups.order[groups.offsets]
        return cls(groups, clusters[first], cameras[first])


def camera_proxy_loss(
    f: Tensor, features: Tensor, proxies: CameraProxies, index: Tensor, temperature: float = 0.07
) -> Tensor:
    """Contrast crops with the proxies of their own camera, then with those of the others; gradients reach f only.

    A proxy is the direction of the mean of its rows. Inside the camera: cross-entropy over its proxies at the crop's
    own one. Between cameras: mean over the proxies q of the crop's cluster in other cameras of
    -log(exp s_q / (sum over these q and over the 50 nearest proxies of other clusters of exp s)), s = f . proxy /
    temperature; 0 for a crop whose cluster no other camera has seen.

    Args:
        f: (B, D) embeddings, before L2 normalization.
        features: (N, D) unit rows of the memory bank.
        proxies: partition of the N rows.
        index: (B,) int64 bank rows of the crops.

    Returns:
        Scalar float32: batch mean of the first term + 0.5 times the second.
    """
    with torch.autocast(f.device.type, enabled=False):
        s = normalize(f.float(), dim=1) @ cluster_centres(features, proxies.groups).T / temperature  # (B, P)
        own = proxies.groups.of_row[index]
        elsewhere = proxies.camera != proxies.camera[own][:, None]  # (B, P)
        inside = cross_entropy(s.masked_fill(elsewhere, -torch.inf), own)
        same = proxies.cluster == proxies.cluster[own][:, None]
        positive = same & elsewhere
        hard = s.masked_fill(same, -torch.inf).topk(min(HARD, s.shape[1]), dim=1).values
        # The crop's own proxy stands in where there is no positive one: all terms stay finite, and count nothing
        lonely = ~positive.any(1)
        positive = positive.scatter(1, own[:, None], lonely[:, None])
        against = torch.cat((s.masked_fill(~positive, -torch.inf), hard), 1).logsumexp(1)
        between = against - (s * positive).sum(1) / positive.sum(1)
        return inside + INTER_WEIGHT * between.masked_fill(lonely, 0).mean()
