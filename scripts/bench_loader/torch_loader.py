"""PyTorch's half of `bench.py`: a DataLoader over the same pictures.

    torch_loader.py SOURCE --side PIXELS --batch PAIRS --seconds S [--workers COUNT]

SOURCE is a CSV file with a column `path`, read in a new order each epoch, or a tar in WebDataset's
form, read from its beginning to its end as webdataset does. torchvision's transforms are those of
CLIP: the shorter side to PIXELS by bicubic interpolation, the middle cut out, normalised. Without
workers all happens in this process. Prints one line of JSON.
"""

import argparse
import csv
import io
import json
import resource
import tarfile
import time
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
# Pictures whose mean is compared.
COMPARED = 64


class Files(Dataset):
    def __init__(self, source, transform):
        with source.open(newline="") as file:
            self.paths = [source.parent / row["path"] for row in csv.DictReader(file)]
        self.transform = transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, number):
        with Image.open(self.paths[number]) as image:
            return self.transform(image.convert("RGB"))


class Shard(IterableDataset):
    def __init__(self, source, transform):
        self.source, self.transform = source, transform

    def __iter__(self):
        with tarfile.open(self.source, "r|") as shard:
            for member in shard:
                if member.name.lower().endswith(ENDINGS):
                    bytes_of = io.BytesIO(shard.extractfile(member).read())
                    yield self.transform(Image.open(bytes_of).convert("RGB"))


def cpu_seconds():
    """Of this process, and of workers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("--side", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transform = transforms.Compose([
        transforms.Resize(options.side, interpolation=InterpolationMode.BICUBIC),
        transforms.CenterCrop(options.side),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ])
    is_shard = options.source.suffix == ".tar"
    data = Shard(options.source, transform) if is_shard else Files(options.source, transform)
    first = [picture for _, picture in zip(range(COMPARED), data)]
    means = torch.stack(first).double().mean(dim=(0, 2, 3)).tolist()
    loader = DataLoader(
        data,
        batch_size=options.batch,
        shuffle=not is_shard,
        num_workers=options.workers,
    )
    images, began, cpu = 0, time.perf_counter(), cpu_seconds()
    while time.perf_counter() - began < options.seconds:
        for batch in loader:
            images += len(batch)
    seconds = time.perf_counter() - began
    print(json.dumps({
        "images": images,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds() - cpu,
        "means": means,
        "versions": {"torch": torch.__version__},
    }))


if __name__ == "__main__":
    main()
