"""The layer table: python -m modeling_slimresnet [MODEL]"""

import argparse
import sys

import torch

from . import SlimResNetConfig, SlimResNetForImageClassification

try:
    from torchinfo import summary
    from torchinfo.layer_info import LayerInfo
except ImportError:
    sys.exit("python -m modeling_slimresnet needs a package: pip install torchinfo.")


def layer_table(config: SlimResNetConfig) -> str:
    """Each layer in the order that an image passes it, with the totals and the memory for one image, as text."""
    model = SlimResNetForImageClassification(config)
    pixel_values = torch.zeros(1, config.num_channels, config.image_size, config.image_size)
    statistics = summary(model, input_data={"pixel_values": pixel_values}, verbose=0)
    layers = [layer for layer in statistics.summary_list if layer.is_leaf_layer and layer.class_name != "Identity"]
    rows: list[tuple[str, ...]] = [("Layer", "Where", "Output shape", "Parameters", "Multiply-adds")]
    for number, layer in enumerate(layers, start=1):
        counts = (f"{count:,}" if count else "" for count in (layer.num_params, layer.macs))
        rows.append((f"{layer.class_name}-{number}", _path(layer), str(layer.output_size), *counts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if column > 2 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    memory = [
        ("input", statistics.total_input),
        ("outputs of layers with parameters, and their gradients", statistics.total_output_bytes),
        ("parameters, float32", statistics.total_param_bytes),
    ]
    totals = [
        f"parameters     {statistics.total_params:,}, all of them trainable",
        f"multiply-adds  {statistics.total_mult_adds:,} for one image forward",
        *(f"memory         {name}: {size / 2**20:.2f} MiB" for name, size in memory),
        f"memory         in all: {sum(size for _, size in memory) / 2**20:.2f} MiB",
    ]
    return "\n".join([lines[0], rule, *lines[1:], rule, *totals])


def _path(layer: "LayerInfo") -> str:
    """The name of the module in the state dict."""
    names = []
    while layer.parent_info is not None:
        names.append(layer.var_name)
        layer = layer.parent_info
    return ".".join(reversed(names))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m modeling_slimresnet", description="Print the layers, parameters, multiply-adds and memory."
    )
    parser.add_argument(
        "model", nargs="?", help="A trained folder, a config.json or a model on the Hub; default: ours."
    )
    model = parser.parse_args().model
    try:
        # Not AutoConfig, which would ask whether to run the code that comes with another kind of model.
        content = SlimResNetConfig.get_config_dict(model)[0] if model else SlimResNetConfig().to_dict()
        if not content:
            raise ValueError("it holds no config.json")
        kind = content.get("model_type")
        config = SlimResNetConfig.from_dict(content) if kind == SlimResNetConfig.model_type else None
    except Exception as error:  # OSError, ValueError, huggingface_hub's own
        sys.exit(f"MODEL {model} has no config that can be read: {' '.join(str(error).split())}")
    if config is None:
        sys.exit(f"MODEL {model} is a {kind}: give a SlimResNet.")
    print(layer_table(config))


if __name__ == "__main__":
    main()
