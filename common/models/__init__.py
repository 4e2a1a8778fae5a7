"""The fusion model: one encoder file per kind of granularity, fusion, heads. Imports torch alone.

Layers have per-sample gradients (no batch norm, no bare parameter, no padding index), so that
private training needs no other model.
"""
