"""Export a trained model: python export.py MODEL --format onnx|torch_export [--quantize int8] --output_dir DIR"""

from slimresnet.cli.export import main

if __name__ == "__main__":
    main()
