"""Train a SlimResNet: accelerate launch train.py --config configuration/paper.yaml [--flag value …]"""

from slimresnet.cli.train import main

if __name__ == "__main__":
    main()
