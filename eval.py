"""Score a trained model: python eval.py MODEL [--split test|validation|…] [--tta none|flip|flip_shift|paper]"""

from slimresnet.cli.eval import main

if __name__ == "__main__":
    main()
