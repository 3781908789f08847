"""BatchNorm with what follows it in one pass each way, as Triton kernels, and how a network gets them.

Only `kernels` imports Triton. Nothing here is imported where a plan does not ask for it.
"""
