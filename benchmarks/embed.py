"""Time JPEG files to embeddings by the paper's ResNet-50 at 256x128: `Model.embed` and its peers.

    python benchmarks/embed.py                      # 512 generated crops of 128x64, two threads
    python benchmarks/embed.py --data-root DIR      # any folder of crops

The peers decode and resize by Pillow in a DataLoader of torchvision, once without workers and once with two. One runs
torchvision's ResNet-50 of the same weights in eager float32. The other runs our exported ONNX file by onnxruntime; it
needs the extra `export`. The weights are random, with running statistics of these crops. The limit is
a 3x3 convolution of 128 channels in the precision of `Model.embed`, in FLOP/s.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader
from torchvision.models import resnet50

from gcl_fast.data import ExtractLoader, Records, open_dataset
from gcl_fast.inference.model import Model
from gcl_fast.models import GCL, IdentityEncoder
from gcl_fast.optim.precision import choose
from gcl_fast.process import prepare_process
from gcl_fast.settings import preset
from lib.ceilings import convolution
from lib.epoch_readers import PeerDataset, write_crops
from lib.flops import Flops
from lib.reporting import measure_all, report

BATCH = 64


def encoder_for(records: Records, size: tuple[int, int]) -> IdentityEncoder:
    """Return the paper's identity encoder, with random weights and the running statistics of some crops."""
    torch.manual_seed(0)
    encoder = GCL(preset("paper").model).identity.train().to(memory_format=torch.channels_last)
    with torch.no_grad():
        for _, (images, _) in zip(range(3), ExtractLoader(records, size, "cpu", BATCH)):
            encoder(images)
    return encoder.requires_grad_(False).eval()


class EagerEncoder(nn.Module):
    """Computes the same rows as an identity encoder by torchvision's ResNet-50.

    Args:
        encoder: the paper's identity encoder.
    """

    def __init__(self, encoder: IdentityEncoder) -> None:
        super().__init__()
        self.backbone = resnet50()
        self.backbone.fc = nn.Identity()
        last = self.backbone.layer4[0]
        last.conv2.stride = last.downsample[0].stride = (1, 1)
        weights = {k: v for k, v in encoder.state_dict().items() if not k.startswith("feat")}
        self.backbone.load_state_dict(weights)
        self.feat, self.feat_bn = encoder.feat, encoder.feat_bn

    def forward(self, images: Tensor) -> Tensor:
        """Return unit rows (B, D) of normalized images (B, 3, H, W)."""
        return normalize(self.feat_bn(self.feat(self.backbone(images))), dim=1)


def through_loader(records: Records, size: tuple[int, int], workers: int, embed: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the rows of all crops by a DataLoader of torchvision and `embed`, which takes its batches."""
    with torch.no_grad():
        batches = DataLoader(PeerDataset(records, size), BATCH, num_workers=workers)
        return torch.cat([embed(images) for images, _ in batches])


def onnx_session(encoder: IdentityEncoder, size: tuple[int, int]) -> Callable[[Tensor], Tensor] | None:
    """Return a call of the exported encoder by onnxruntime, for normalized images; None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    images = torch.zeros(2, 3, *size)
    dynamic = {"image": {0: torch.export.Dim("batch")}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "encoder.onnx"
        torch.onnx.export(EagerEncoder(encoder).eval(), (images,), file, dynamo=True, verbose=False,
                          dynamic_shapes={"images": dynamic["image"]}, external_data=False)  # fmt: skip
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: torch.from_numpy(session.run(None, {name: batch.numpy()})[0])


def main() -> None:
    prepare_process()  # as the commands do
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of crops; --crops are generated if it is not given")
    parser.add_argument("--crops", type=int, default=512, help="to generate")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    config, device = preset("paper"), torch.device("cpu")
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.data_root is None:
            write_crops(Path(temporary), arguments.crops)
        records = open_dataset("folder", arguments.data_root or temporary).train
        encoder = encoder_for(records, config.size)
        models = {
            "ours": Model(encoder, None, config.size, {}, choose(True, device)),
            "ours, float32": Model(encoder, None, config.size, {}, choose(False, device)),
        }
        contenders: dict[str, Callable[[], Tensor]] = {
            name: lambda model=model: model.embed(records.paths, progress=False)  # type: ignore[misc]
            for name, model in models.items()
        }
        eager, session = EagerEncoder(encoder).eval(), onnx_session(encoder, config.size)
        for workers in (0, 2):
            for name, embed in (("eager float32", eager), ("onnxruntime float32", session)):
                if embed is not None:
                    contenders[f"DataLoader with {workers} workers, {name}"] = (
                        lambda workers=workers, embed=embed: through_loader(records, config.size, workers, embed)  # type: ignore[misc]
                    )
        rows = {name: work() for name, work in contenders.items()}
        cosines = {name: float((made * rows["ours, float32"]).sum(1).min()) for name, made in rows.items()}
        measured = measure_all(contenders, arguments.repeats)
    with Flops() as flops, torch.no_grad():
        eager(torch.zeros(1, 3, *config.size))
    limit = convolution("cpu", models["ours"].precision.dtype or torch.float32)
    count = len(records)
    results = [
        {
            "what": name,
            "images": count,
            **figures,
            "images_per_s": round(count / figures["median"], 1),
            "least_cosine": round(cosines[name], 6),
            "gflops": round(flops.total * count / figures["median"] / 1e9, 1),
            "limit_gflops": round(limit / 1e9, 1),
        }
        for name, figures in measured.items()
    ]
    print(f"appended to {report('embed', results)}")
    ours = measured["ours"]["median"]
    for kind in ("eager float32", "onnxruntime float32"):
        if times := [figures["median"] for name, figures in measured.items() if name.endswith(kind)]:
            print(f"ours is {min(times) / ours:.2f}x as fast as the faster DataLoader with {kind}")


if __name__ == "__main__":
    main()
