"""Makes the sample that ships with the project: python -m examples.make_sample --dataset_name uoft-cs/cifar10

It takes the first images of each class in the order of the dataset, as many of every class, and writes them, PNG as
they are, to one Parquet file a split.
"""

import argparse
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Image, load_dataset

from slimresnet.data.sources.diagnosis import SAMPLE_FOLDER


def main() -> None:
    """Writes `train-00000-of-00001.parquet` and `test-00000-of-00001.parquet`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", default="uoft-cs/cifar10", help="CIFAR-10, on the Hub or in a folder.")
    parser.add_argument("--output_dir", type=Path, default=Path(SAMPLE_FOLDER))
    parser.add_argument("--num_train", type=int, default=2000)
    parser.add_argument("--num_test", type=int, default=500)
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for split, size in (("train", arguments.num_train), ("test", arguments.num_test)):
        dataset = load_dataset(arguments.dataset_name, split=split).cast_column("img", Image(decode=False))
        label: ClassLabel = dataset.features["label"]
        labels = np.array(dataset["label"])
        per_class = size // label.num_classes
        rows = np.sort(np.concatenate([np.flatnonzero(labels == k)[:per_class] for k in range(label.num_classes)]))
        file = arguments.output_dir / f"{split}-00000-of-00001.parquet"
        dataset.select(rows).cast_column("img", Image()).to_parquet(file)
        print(f"{file}: {len(rows)} images, {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
