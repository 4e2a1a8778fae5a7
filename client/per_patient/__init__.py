"""Sums of gradients of patients, each clipped on its own: what private training adds noise to."""

from client.per_patient.clipping import clipped_gradient_sum

__all__ = ["clipped_gradient_sum"]
