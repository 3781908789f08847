"""A trained network in the forms that other programs run: ONNX, torch.export, int8.

Makes files and checks them against the network. It trains nothing and scores nothing; `evaluation/backends.py` runs
what is made here.
"""
