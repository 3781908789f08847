"""The forms that a trained network can take: PyTorch, torch.export, ONNX in float32 and int8.

Writes, reads and checks files. Nothing is trained or scored here.
"""
