"""Camera-aware contrast (CAP, Wang et al. 2021): each cluster has one proxy per camera that has seen it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from gcl_fast.losses.cluster_memory import Clusters, cluster_centres

INTER_WEIGHT = 0.5  # weight of the term between cameras (Wang et al. 2021, eq. 8)
HARD = 50  # nearest proxies of other clusters that the term between cameras compares with


class CameraProxies(NamedTuple):
    """Holds a partition of the bank's rows by cluster and camera, which is made once per clustering."""

    groups: Clusters  # P groups; each outlier is a cluster of one
    cluster: Tensor  # (P,) cluster of each group
    camera: Tensor  # (P,) camera of each group

    @classmethod
    def from_labels(cls, labels: Tensor, cameras: Tensor) -> CameraProxies:
        """Group the rows of the bank by pseudo-label and camera.

        Args:
            labels: (N,) int64 pseudo-labels; an outlier is below 0.
            cameras: (N,) int64, any values, on the device of `labels`.

        Returns:
            The partition into P groups.
        """
        clusters = Clusters.from_labels(labels).of_row
        names, camera = cameras.unique(return_inverse=True)
        groups = Clusters.from_labels(clusters * len(names) + camera)
        first = groups.order[groups.offsets]
        return cls(groups, clusters[first], cameras[first])


def camera_proxy_loss(
    f: Tensor, features: Tensor, proxies: CameraProxies, index: Tensor, temperature: float = 0.07
) -> Tensor:
    """Contrast crops with the proxies of their own camera and with the proxies of all other cameras.

    A proxy is the direction of the mean of its rows, and s = f . proxy / temperature. The term inside the camera is the
    cross-entropy over the camera's proxies, with the crop's own proxy as the target. The term between cameras is the
    mean over the proxies q of the crop's cluster in other cameras of

        -log( exp s_q / sum_{these q and the 50 nearest proxies of other clusters} exp s )

    It is 0 for a crop whose cluster no other camera has seen. Gradients reach f only (Wang et al. 2021, eq. 8).

    Args:
        f: (B, D) embeddings, before L2 normalization.
        features: (N, D) unit rows of the memory bank.
        proxies: partition of the N rows.
        index: (B,) int64 bank rows of the crops.
        temperature: of the softmax, above 0.

    Returns:
        Scalar float32: batch mean of the first term + 0.5 times the second.

    Example:
        >>> features = normalize(torch.randn(6, 8), dim=1)
        >>> labels, cameras = torch.tensor([0, 0, 0, 1, 1, -1]), torch.tensor([1, 1, 2, 1, 2, 1])
        >>> proxies = CameraProxies.from_labels(labels, cameras)
        >>> loss = camera_proxy_loss(torch.randn(2, 8), features, proxies, index=torch.tensor([0, 3]))
        >>> loss.shape
        torch.Size([])
    """
    with torch.autocast(f.device.type, enabled=False):
        s = normalize(f.float(), dim=1) @ cluster_centres(features, proxies.groups).T / temperature  # (B, P)
        target = proxies.groups.of_row[index]  # (B,) the proxy of the crop's cluster and camera
        other_camera = proxies.camera != proxies.camera[target][:, None]  # (B, P)
        inside = cross_entropy(s.masked_fill(other_camera, -torch.inf), target)
        same = proxies.cluster == proxies.cluster[target][:, None]
        positive = same & other_camera
        hard = s.masked_fill(same, -torch.inf).topk(min(HARD, s.shape[1]), dim=1).values
        # A crop without a positive proxy takes its own one: its terms stay finite, and `is_unpaired` sets them to zero.
        is_unpaired = ~positive.any(1)
        positive = positive.scatter(1, target[:, None], is_unpaired[:, None])
        normalizer = torch.cat((s.masked_fill(~positive, -torch.inf), hard), 1).logsumexp(1)
        between = normalizer - (s * positive).sum(1) / positive.sum(1)
        return inside + INTER_WEIGHT * between.masked_fill(is_unpaired, 0).mean()
