"""Predict classes: python predict.py MODEL INPUT --output FILE.csv [--tta …] [--labels names] [--probabilities]"""

from slimresnet.cli.predict import main

if __name__ == "__main__":
    main()
